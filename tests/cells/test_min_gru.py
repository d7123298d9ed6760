"""minGRU and minLSTM: equations, and a Jacobian that is the product of what gates keep."""

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
    jacobian_of_call,
    noisy,
    random_carry,
    sigmoid,
)

import rnn_jax as rj
from refusing import refuses, table
from rnn_jax.cells.min_gru import MinGRUCell, MinLSTMCell, positive

KINDS = {"gru": MinGRUCell, "lstm": MinLSTMCell}
FORMS = [{}, {"positive_candidate": False}, {"use_bias": True}]
EVERY = pytest.mark.parametrize("kind", KINDS)


def make(kind, **options):
    return KINDS[kind](IN, H, rngs=nnx.Rngs(0), **options)


def g(v, xp):
    return xp.where(v >= 0, v + 0.5, sigmoid(v, xp))


def oracle(kind, positive_candidate=True, use_bias=False):
    def step(w, h, x, xp):
        z = x @ w["kernel"] + (w["bias"] if use_bias else 0.0)
        candidate = g(z[-H:], xp) if positive_candidate else z[-H:]
        if kind == "gru":
            update = sigmoid(z[:H], xp)
            h = (1 - update) * h + update * candidate
        else:
            f, i = sigmoid(z[:H], xp), sigmoid(z[H : 2 * H], xp)
            h = f / (f + i) * h + i / (f + i) * candidate
        return h, h

    return step


@EVERY
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_it_is_its_equations(kind, form):
    cell = noisy(make(kind, **form))
    assert_follows(cell, oracle(kind, **form))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_eigenvalues_may_be_negative(form):
    def step(w, h, x, xp):
        z = x @ w["kernel"] + (w["bias"] if form.get("use_bias") else 0.0)
        candidate = g(z[-H:], xp) if form.get("positive_candidate", True) else z[-H:]
        update = sigmoid(z[:H], xp)
        h = (1 - 2 * update) * h + update * candidate
        return h, h

    cell = noisy(make("gru", negative_eigenvalues=True, **form))
    assert_follows(cell, step)
    factors, _ = cell.linear_form().transition(cell.project(XS))
    assert np.any(np.asarray(factors) < 0)
    assert np.all(np.abs(np.asarray(factors)) < 1)


@EVERY
def test_products_may_be_narrower_than_the_carry(kind):
    assert_keeps_its_types(lambda **types: make(kind, **types))


def test_g_is_positive_and_continuous():
    v = jnp.asarray([-1e4, -30.0, -1e-9, 0.0, 1e-9, 3.0, 1e4])
    values = positive(v)
    assert np.all(np.asarray(values[1:]) > 0)
    np.testing.assert_allclose(values[2:5], 0.5, atol=1e-8)
    np.testing.assert_allclose(values[5:], [3.5, 10000.5])
    slopes = jax.vmap(jax.grad(positive))(v)
    np.testing.assert_allclose(slopes[2:], [0.25, 1, 1, 1, 1], atol=1e-8)


@EVERY
def test_the_whole_jacobian_is_the_product_of_what_gates_keep(kind):
    """∂h_T/∂h_0 = diag(∏ kept): of the inputs alone, whatever the state; never above 1."""
    cell = noisy(make(kind))
    kept = 1 - cell.gates(jnp.zeros(H), jnp.asarray(XS[0]))["update"] if kind == "gru" else None
    factors = [cell.memory_path(jnp.zeros(H), jnp.asarray(x))["h"] for x in XS]
    assert kept is None or np.allclose(kept, factors[0])
    for seed in (1, 2):
        run = rj.linearize(cell, jnp.asarray(XS), random_carry(cell, seed))
        whole = np.linalg.multi_dot(list(np.asarray(run.state_jacobians))[::-1])
        np.testing.assert_allclose(whole, np.diag(np.prod(factors, axis=0)), **CLOSE)
    assert np.all(np.prod(factors, axis=0) < 1)


@EVERY
def test_the_state_is_linear_in_the_carry(kind):
    """project gives a and b of h' = a ∘ h + b; unrolled, that is a sum over the past."""
    cell = noisy(make(kind))
    a, b = jnp.split(cell.project(jnp.asarray(XS)), 2, axis=-1)
    start = random_carry(cell)
    h = np.prod(a, axis=0) * np.asarray(start)
    for t in range(len(XS)):
        h = h + np.prod(a[t + 1 :], axis=0) * np.asarray(b[t])
    np.testing.assert_allclose(rj.unroll(cell, jnp.asarray(XS), start)[0], h, **CLOSE)


def test_states_stay_positive_and_within_what_they_have_seen():
    cell = noisy(make("lstm"))
    _, ys = rj.unroll(cell, jnp.asarray(XS))
    assert np.all(np.asarray(ys) > 0)
    gates = cell.gates(jnp.zeros(H), jnp.asarray(XS[0]))
    np.testing.assert_allclose(gates["forget"] + gates["input"], 1.0, **CLOSE)


@EVERY
def test_gates_that_are_shut_to_rounding_are_numbers_still(kind):
    cell = make(kind)
    cell.kernel[...] = jnp.full(cell.kernel.shape, 1.0)
    for x in (-1e4, 1e4):
        h, _ = cell(jnp.ones(H), jnp.full(IN, x))
        assert np.all(np.isfinite(h))
        assert np.all(np.isfinite(jacobian_of_call(cell, jnp.ones(H), jnp.full(IN, x))))
    if kind == "lstm":  # Both gates underflow together, and share the state evenly.
        gates = cell.gates(jnp.ones(H), jnp.full(IN, -1e4))
        np.testing.assert_allclose(gates["forget"], 0.5)


@EVERY
def test_initial_weights(kind):
    rows, size = 64, 256
    cell = KINDS[kind](rows, size, rngs=nnx.Rngs(0))
    assert cell.bias is None
    assert cell.recurrent_kernel is None
    for kernel in jnp.split(cell.kernel[...], len(cell.blocks), axis=1):
        np.testing.assert_allclose(np.var(kernel), 1 / rows, rtol=0.05)
        np.testing.assert_allclose(np.mean(kernel), 0, atol=0.005)
    assert not np.any(make(kind, use_bias=True).bias[...])


@table(
    flag=(
        lambda: make("gru", use_bias="no"),
        TypeError,
        "use_bias must be True or False",
        "'no'",
        "Pass a bool",
    ),
    other_flag=(
        lambda: make("lstm", positive_candidate=None),
        TypeError,
        "positive_candidate must be True or False",
        "None",
        "Pass a bool",
    ),
    size=(lambda: MinGRUCell(IN, -1, rngs=nnx.Rngs(0)), ValueError, "hidden_features must", "-1"),
    x=(
        lambda: make("gru").project(jnp.zeros(5)),
        ValueError,
        "must hold the cell's in_features=2",
        "got shape (5,)",
        "Pass x",
    ),
    carry=(
        lambda: make("gru")(jnp.zeros(5), jnp.zeros(IN)),
        ValueError,
        "carry must be h of shape (3,)",
        "got (5,)",
        "initialize_carry",
    ),
)
def test_what_it_refuses(call, error, words):
    refuses(call, error, *words)
