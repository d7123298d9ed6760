"""The leaky integrator: equations, time constants fixed and learnt, J = (1 − α)I + α D W."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transcribed import (
    CLOSE,
    IN,
    XS,
    H,
    assert_follows,
    assert_keeps_its_types,
    noisy,
    random_carry,
    sigmoid,
)

import rnn_jax as rj
from refusing import refuses, table
from rnn_jax.cells.leaky import LeakyIntegratorCell
from rnn_jax.cells.structure import fused_form

TAUS = [2.0, 5.0, 20.0]
FORMS = {
    "default": {},
    "by_unit": {"time_constant": TAUS, "activation": "relu"},
    "step": {"time_constant": 3.0, "time_step": 0.5},
    "learnt": {"time_constant": TAUS, "learn_time_constant": True},
}
EVERY = pytest.mark.parametrize("name", FORMS)


def make(size=H, **options):
    return LeakyIntegratorCell(IN, size, rngs=nnx.Rngs(0), **options)


def alpha_of(name, w, xp):
    if "rate_logit" in w:
        return sigmoid(w["rate_logit"], xp)
    form = FORMS[name]
    return form.get("time_step", 1.0) / np.asarray(form.get("time_constant", 10.0))


def oracle(name):
    def step(w, h, x, xp):
        pre = x @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"]
        phi = xp.maximum(pre, 0) if name == "by_unit" else xp.tanh(pre)
        alpha = alpha_of(name, w, xp)
        h = (1 - alpha) * h + alpha * phi
        return h, h

    return step


@EVERY
def test_it_is_its_equations(name):
    cell = noisy(make(**FORMS[name]))
    assert_follows(cell, oracle(name))


@pytest.mark.parametrize("name", ["by_unit", "learnt"])
def test_products_may_be_narrower_than_the_carry(name):
    assert_keeps_its_types(lambda **types: make(**FORMS[name], **types))


def test_fixed_time_constants_are_no_weights_and_learnt_ones_are():
    fixed, learnt = make(**FORMS["by_unit"]), make(**FORMS["learnt"])
    assert fixed.rate_logit is None
    assert len(jax.tree.leaves(fixed)) == 3
    assert len(jax.tree.leaves(learnt)) == 4
    for cell in (fixed, learnt):
        np.testing.assert_allclose(cell.time_constants, TAUS, rtol=1e-12)
    np.testing.assert_allclose(make(**FORMS["step"]).time_constants, 3.0, rtol=1e-12)
    far = make(**FORMS["learnt"])
    far.rate_logit[...] = jnp.asarray([40.0, 0.0, -40.0])
    taus = np.asarray(far.time_constants)
    assert np.all(taus >= 1)
    np.testing.assert_allclose(taus, [1, 2, np.exp(40.0)])


def test_a_step_as_long_as_the_time_constant_is_the_simple_network():
    cell, simple = make(time_constant=1.0), rj.SimpleRNNCell(IN, H, rngs=nnx.Rngs(0))
    for name in ("kernel", "recurrent_kernel", "bias"):
        getattr(simple, name)[...] = getattr(cell, name)[...]
    np.testing.assert_allclose(
        rj.unroll(cell, jnp.asarray(XS))[1], rj.unroll(simple, jnp.asarray(XS))[1], **CLOSE
    )


def test_the_jacobian_is_what_is_kept_and_what_comes_back():
    cell = noisy(make(**FORMS["learnt"]))
    carry = random_carry(cell)
    run = rj.linearize(cell, jnp.asarray(XS), carry)
    alpha = sigmoid(np.asarray(cell.rate_logit[...]), np)
    kernel = np.asarray(cell.recurrent_kernel[...])
    for a, h, x in zip(run.state_jacobians, run.carries, XS, strict=False):
        pre = np.asarray(x @ cell.kernel[...] + h @ cell.recurrent_kernel[...] + cell.bias[...])
        slopes = 1 - np.tanh(pre) ** 2
        expected = np.diag(1 - alpha) + (alpha * slopes)[:, None] * kernel.T
        np.testing.assert_allclose(a, expected, **CLOSE)


def test_without_recurrence_memory_decays_with_the_time_constants():
    """log‖∂h_t/∂h_0‖ falls by −log(1 − α) a step, which is 1/τ for long τ."""
    cell = make(time_constant=[100.0, 200.0, 400.0], gain=0.0)
    steps = 50
    _, ys = rj.unroll(cell, jnp.zeros((steps, IN)), jnp.ones(H))
    rates = -np.log(np.asarray(ys[-1])) / steps
    np.testing.assert_allclose(rates, -np.log1p(-1 / np.asarray([100.0, 200, 400])), rtol=1e-10)
    np.testing.assert_allclose(rates, 1 / np.asarray([100.0, 200, 400]), rtol=0.01)


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_initial_weights_fill_a_disc_of_the_gain(gain):
    """Eigenvalues of W lie in a disc of radius g, those of a step about 0 in one around 1 − α."""
    size, tau = 300, 4.0
    cell = make(size, gain=gain, time_constant=tau)
    kernel = np.asarray(cell.recurrent_kernel[...])
    np.testing.assert_allclose(kernel.var() * size, gain**2, rtol=0.02)
    a = np.asarray(rj.linearize(cell, jnp.zeros((1, IN))).state_jacobians[0])
    radius = np.max(np.abs(np.linalg.eigvals(a) - (1 - 1 / tau)))
    np.testing.assert_allclose(radius, gain / tau, rtol=0.1)
    assert not np.any(cell.bias[...])
    np.testing.assert_allclose(np.var(cell.kernel[...]), 1 / IN, rtol=0.15)


def test_other_activations_run_without_the_fused_form():
    cell = noisy(make(activation=jax.nn.softmax))
    assert fused_form(cell) is None
    carry, x = random_carry(cell), jnp.asarray(XS[0])
    pre = x @ cell.kernel[...] + carry @ cell.recurrent_kernel[...] + cell.bias[...]
    np.testing.assert_allclose(cell(carry, x)[0], 0.9 * carry + 0.1 * jax.nn.softmax(pre), **CLOSE)


@table(
    dt=(lambda: make(time_step=0.0), ValueError, "time_step must be above 0", "got 0", "Pass"),
    short=(
        lambda: make(time_constant=0.5),
        ValueError,
        "time_constant must be at least time_step=1",
        "got 0.5",
        "Pass a longer",
    ),
    learnt=(
        lambda: make(time_constant=1.0, learn_time_constant=True),
        ValueError,
        "time_constant must be above time_step=1",
        "got 1",
        "Pass a longer",
    ),
    count=(
        lambda: make(time_constant=[2.0, 3.0]),
        ValueError,
        "time_constant must be one number or one for each of the 3 units",
        "got 2",
        "Pass a float",
    ),
    word=(
        lambda: make(time_constant="long"),
        TypeError,
        "time_constant must be a number",
        "'long'",
    ),
    nan=(
        lambda: make(time_constant=[2.0, 3.0, np.nan]),
        ValueError,
        "time_constant must be finite",
    ),
    flag=(
        lambda: make(learn_time_constant="yes"),
        TypeError,
        "learn_time_constant must be True or False",
        "'yes'",
        "Pass a bool",
    ),
    gain=(lambda: make(gain=-0.1), ValueError, "gain must be at least 0", "got -0.1", "Pass"),
)
def test_what_it_refuses(call, error, words):
    refuses(call, error, *words)
