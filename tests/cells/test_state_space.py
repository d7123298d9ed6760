"""LRU, S5 and RG-LRU: equations, initial weights, and what they claim of gradients."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from state_spaces import H, assert_keeps_its_types, assert_refuses_bad_calls, build, carry_of, xs_of
from transcribed import CLOSE, IN, assert_follows, jacobian_of_call, sigmoid

import rnn_jax as rj
from rnn_jax.cells import LRUCell, RGLRUCell, S5Cell
from rnn_jax.cells.s5 import hippo_eigenvectors


def lru(w, carry, x, xp):
    lam = xp.exp(-xp.exp(w["nu"]) + 1j * xp.exp(w["theta"]))
    b = w["kernel"][:, :H] + 1j * w["kernel"][:, H:]
    c = w["output_kernel"][:H] + 1j * w["output_kernel"][H:]
    h = lam * (carry[0] + 1j * carry[1]) + xp.exp(w["gamma"]) * (x @ b)
    y = xp.real(h @ c)
    return (xp.real(h), xp.imag(h)), y + w["skip"] * x if "skip" in w else y


def s5(w, carry, x, xp, stable=False):
    rate = -xp.exp(w["rate"][0]) if stable else w["rate"][0]
    rate = rate + 1j * w["rate"][1]
    lam = xp.exp(rate * xp.exp(w["log_step"]))
    b = w["kernel"][:, :H] + 1j * w["kernel"][:, H:]
    c = w["output_kernel"][:H] + 1j * w["output_kernel"][H:]
    h = lam * (carry[0] + 1j * carry[1]) + (lam - 1) / rate * (x @ b)
    y = 2 * xp.real(h @ c)
    return (xp.real(h), xp.imag(h)), y + w["skip"] * x if "skip" in w else y


def rg_lru(w, carry, x, xp):
    u = x @ w["kernel"] if "kernel" in w else x
    pre = []
    for gate, bias in zip(w["gate_kernel"], w["gate_bias"], strict=True):
        width = gate.shape[-1]
        blocks = [u[n * width : (n + 1) * width] @ block for n, block in enumerate(gate)]
        pre.append(xp.concatenate(blocks) + bias)
    r, i = (sigmoid(p, xp) for p in pre)
    a = xp.exp(-8 * r * xp.log(1 + xp.exp(w["decay"])))
    h = a * carry + xp.sqrt(1 - a**2) * (i * u)
    return h, h


MAKERS = {
    "lru": (LRUCell, {"r_min": 0.5, "r_max": 0.95}, lru),
    "lru_skip": (LRUCell, {"out_features": IN}, lru),
    "s5": (S5Cell, {}, s5),
    "s5_skip": (S5Cell, {"out_features": IN}, s5),
    "s5_stable": (S5Cell, {"stable": True}, functools.partial(s5, stable=True)),
    "rg_lru": (RGLRUCell, {"num_blocks": 2}, rg_lru),
}
ONE_OF_EACH = ("lru_skip", "s5_stable", "rg_lru")


def built(name):
    make, options, _ = MAKERS[name]
    return build(make, **options)


# Whether inputs go past the state is the same code in both complex cells.
@pytest.mark.parametrize("name", ["lru", "s5_skip", "s5_stable", "rg_lru"])
def test_they_follow_their_equations(name):
    make, options, equations = MAKERS[name]
    cell = build(make, **options)
    assert_follows(cell, equations, carry_of(cell))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_they_keep_their_types_and_refuse_bad_calls(name):
    make, options, _ = MAKERS[name]
    cell = build(make, **options)
    assert_keeps_its_types(make, **options)
    assert_refuses_bad_calls(cell)


# ---- Initial weights.

MANY = 4096


def test_lru_starts_uniform_in_the_ring():
    cell = LRUCell(3, MANY, out_features=1, r_min=0.4, r_max=0.9, max_phase=0.5, rngs=nnx.Rngs(0))
    lam = cell.eigenvalues()
    modulus, phase = np.hypot(*lam), np.arctan2(lam[1], lam[0])
    area = (modulus**2 - 0.4**2) / (0.9**2 - 0.4**2)
    for uniform in (area, phase / 0.5):
        assert uniform.min() > -1e-12
        assert uniform.max() < 1 + 1e-12
        np.testing.assert_allclose([uniform.mean(), uniform.var()], [1 / 2, 1 / 12], atol=0.02)
    np.testing.assert_allclose(np.exp(cell.gamma[...]), np.sqrt(1 - modulus**2), rtol=1e-9)
    np.testing.assert_allclose(cell.kernel[...].var(), 1 / (2 * 3), rtol=0.05)
    np.testing.assert_allclose(
        LRUCell(2, 512, rngs=nnx.Rngs(0)).output_kernel[...].var(), 1 / 512, rtol=0.05
    )


def test_lru_keeps_the_variance_of_white_inputs():
    """Its gain: states have the inputs' variance, whatever the modulus."""
    cell = LRUCell(1, 64, r_min=0.8, r_max=0.98, rngs=nnx.Rngs(0))
    # |B|² has mean 1/I, here of one input.
    cell.kernel[...] = jnp.concatenate([jnp.ones((1, 64)), jnp.zeros((1, 64))], axis=1)
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(20_000, 1)))
    _, _, (real, imaginary) = rj.unroll(cell, xs, return_carries=True)
    variance = np.mean(np.square([real, imaginary]).sum(axis=0)[500:], axis=0)
    np.testing.assert_allclose(variance, 1, rtol=0.25)


def test_s5_starts_at_hippo():
    n = 2 * H
    a = np.zeros((n, n))
    for i in range(n):
        for k in range(i + 1):
            a[i, k] = -(i + 1) if i == k else -np.sqrt(2 * i + 1) * np.sqrt(2 * k + 1)
    p = np.sqrt(np.arange(n) + 0.5)
    normal = a + np.outer(p, p)
    phases, vectors = hippo_eigenvectors(H)
    assert (phases > 0).all()
    np.testing.assert_allclose(normal @ vectors, vectors * (-0.5 + 1j * phases), atol=1e-12)
    cell = S5Cell(IN, H, out_features=3, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(cell.rate[...], np.stack([np.full(H, -0.5), phases]), **CLOSE)
    steps = S5Cell(IN, 64, rngs=nnx.Rngs(0)).log_step[...]
    assert math.log(0.001) <= steps.min() < steps.max() <= math.log(0.1)
    # The pair of conjugates is a real system: y = C₀ V h, and B = V* B₀ for real B₀ and C₀.
    kernel, out = np.asarray(cell.kernel[...]), np.asarray(cell.output_kernel[...])
    b, c = (kernel[:, :H] + 1j * kernel[:, H:]).T, (out[:H] + 1j * out[H:]).T
    whole = np.concatenate([vectors, vectors.conj()], axis=1)
    real_b = whole @ np.concatenate([b, b.conj()])
    real_c = np.concatenate([c, c.conj()], axis=1) @ whole.conj().T
    np.testing.assert_allclose(real_b.imag, 0, atol=1e-12)
    np.testing.assert_allclose(real_c.imag, 0, atol=1e-12)
    big = S5Cell(5, 256, rngs=nnx.Rngs(1))
    # |V* B₀|² has the mean of B₀², of its real and imaginary parts together.
    np.testing.assert_allclose(2 * big.kernel[...].var(), 1 / 5, rtol=0.1)


def test_rg_lru_starts_between_its_decays():
    cell = RGLRUCell(2, 1024, num_blocks=128, rngs=nnx.Rngs(0))
    a = np.exp(-8 * np.log1p(np.exp(np.asarray(cell.decay[...]))))
    uniform = (a - 0.9) / 0.099
    assert uniform.min() > -1e-9
    assert uniform.max() < 1 + 1e-9
    np.testing.assert_allclose([uniform.mean(), uniform.var()], [1 / 2, 1 / 12], atol=0.02)
    np.testing.assert_allclose(cell.gate_kernel[...].var(), 1 / 8, rtol=0.05)
    assert not cell.gate_bias[...].any()


def test_rg_lru_scales_its_input_to_the_last_digit():
    """√(1 − a²) where a is near 1, in float32, and its derivative where a is 1."""
    cell = RGLRUCell(1, 1, input_map=False, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    by_weights = jax.jit(jax.grad(lambda cell: cell.project(jnp.ones((1,), jnp.float32))[1]))
    for gate in (-30.0, -100.0):
        cell.gate_bias[...] = jnp.asarray([[gate], [0.0]], jnp.float32)
        cell.gate_kernel[...] = 0 * cell.gate_kernel[...]
        z = np.asarray(cell.project(jnp.ones((1,), jnp.float32)), np.float64)
        s = math.log1p(math.exp(float(cell.decay[...][0])))
        expected = 0.5 * math.sqrt(-math.expm1(-16 * s * math.exp(gate)))
        np.testing.assert_allclose(z[1], expected, rtol=1e-5)
        gradient = by_weights(cell)
        # ∂√w/∂p is √w / 2 there.
        np.testing.assert_allclose(gradient.gate_bias[...][0, 0], expected / 2, rtol=1e-5)


# ---- Claims about gradients.


@pytest.mark.parametrize("name", ["lru", "s5"])
def test_gradients_of_complex_states_fall_as_powers_of_the_eigenvalue(name):
    cell, xs = built(name), xs_of(steps=30)
    found = rj.jacobian_log_singular_values(cell, xs)
    modulus = np.sort(np.log(np.hypot(*np.asarray(cell.eigenvalues()))))[::-1]
    np.testing.assert_allclose(found, 30 * np.repeat(modulus, 2), rtol=1e-9)


def test_gradients_of_the_rg_lru_are_products_of_its_decays():
    cell, xs = built("rg_lru"), xs_of(steps=30)
    found = rj.jacobian_log_singular_values(cell, xs)
    log_a = np.asarray(jax.jit(jax.vmap(cell.project))(xs))[:, :H].sum(axis=0)
    np.testing.assert_allclose(found, np.sort(log_a)[::-1], rtol=1e-9)


@pytest.mark.parametrize("name", ["rg_lru"])
def test_what_is_handed_on_is_all_of_the_jacobian(name):
    cell, x = built(name), xs_of()[0]
    carry = carry_of(cell)
    factor = cell.memory_path(carry, x)["h"]
    np.testing.assert_allclose(jacobian_of_call(cell, carry, x), np.diag(factor), **CLOSE)


# ---- Bad arguments.

BAD = [
    (LRUCell, {"r_min": 0.95, "r_max": 0.9}, ValueError, "r_min and r_max must be"),
    (LRUCell, {"r_max": 1.5}, ValueError, "got 0 and 1.5"),
    (LRUCell, {"max_phase": 0.0}, ValueError, "max_phase must lie"),
    (LRUCell, {"out_features": 0}, ValueError, "out_features must be at least 1"),
    (S5Cell, {"step_min": 0.0}, ValueError, "step_min and step_max must be"),
    (S5Cell, {"stable": 1}, TypeError, "stable must be True or False"),
    (RGLRUCell, {"num_blocks": 3}, ValueError, "num_blocks must divide hidden_features=4; got 3"),
    (RGLRUCell, {"a_max": 1.0}, ValueError, "a_min and a_max must be"),
    (RGLRUCell, {"input_map": False}, ValueError, "input_map=False needs"),
    (RGLRUCell, {"kernel_init": "none"}, ValueError, "kernel_init must be one of"),
    (LRUCell, {"rngs": 0}, TypeError, "rngs must be a flax.nnx.Rngs"),
]


@pytest.mark.parametrize(("make", "options", "error", "message"), BAD)
def test_bad_arguments_are_refused(make, options, error, message):
    with pytest.raises(error, match=message):
        make(IN, H, **{"rngs": nnx.Rngs(0), **options})
