"""LSTM and GRU with layer normalisation: equations, invariance to gain, and the memory path."""

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
from rnn_jax.cells.layer_norm import LayerNormGRUCell, LayerNormLSTMCell

KINDS = {"lstm": LayerNormLSTMCell, "gru": LayerNormGRUCell}
EVERY = pytest.mark.parametrize("kind", KINDS)


def make(kind, **options):
    return KINDS[kind](IN, H, rngs=nnx.Rngs(0), **options)


def norm(v, xp, epsilon=1e-5):
    return (v - xp.mean(v)) / xp.sqrt(xp.mean((v - xp.mean(v)) ** 2) + epsilon)


def normalised(w, of, v, ends, xp):
    whole = xp.concatenate([norm(part, xp) for part in xp.split(v, ends)])
    return w[f"{of}_scale"] * whole + w[f"{of}_shift"]


def lstm(by_gate):
    ends = [H, 2 * H, 3 * H] if by_gate else []

    def step(w, carry, x, xp):
        c, h = carry
        z = normalised(w, "input", x @ w["kernel"], ends, xp) + w["bias"]
        z = z + normalised(w, "recurrent", h @ w["recurrent_kernel"], ends, xp)
        i, f, g, o = xp.split(z, 4)
        c = sigmoid(f, xp) * c + sigmoid(i, xp) * xp.tanh(g)
        h = sigmoid(o, xp) * xp.tanh(normalised(w, "cell", c, [], xp))
        return (c, h), h

    return step


def gru(by_gate):
    ends = [H, 2 * H] if by_gate else [2 * H]

    def step(w, h, x, xp):
        z = normalised(w, "input", x @ w["kernel"], ends, xp) + w["bias"]
        v = normalised(w, "recurrent", h @ w["recurrent_kernel"], ends, xp)
        r, u = sigmoid(z[:H] + v[:H], xp), sigmoid(z[H : 2 * H] + v[H : 2 * H], xp)
        n = xp.tanh(z[2 * H :] + r * v[2 * H :])
        h = (1 - u) * n + u * h
        return h, h

    return step


@EVERY
@pytest.mark.parametrize("by_gate", [False, True])
def test_it_is_its_equations(kind, by_gate):
    cell = noisy(make(kind, by_gate=by_gate))
    assert_follows(cell, {"lstm": lstm, "gru": gru}[kind](by_gate))


@EVERY
def test_products_may_be_narrower_than_the_carry(kind):
    assert_keeps_its_types(lambda **types: noisy(make(kind, **types), scale=0.1))


@EVERY
@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_the_gain_of_the_weights_changes_nothing(kind, factor):
    """Values and Jacobians are the same, and gradients by the weights that much smaller."""
    cell = noisy(make(kind, epsilon=1e-30))
    # A start away from 0, where the normalised product is not that of a scale.
    carry, xs = random_carry(cell), jnp.asarray(XS)

    def scaled(path, leaf):
        return factor * leaf if "kernel" in jax.tree_util.keystr(path) else leaf

    other = jax.tree_util.tree_map_with_path(scaled, cell)
    assert np.allclose(other.recurrent_kernel[...], factor * cell.recurrent_kernel[...])
    one, two = (rj.linearize(c, xs, carry) for c in (cell, other))
    np.testing.assert_allclose(one.outputs, two.outputs, rtol=1e-9)
    np.testing.assert_allclose(one.state_jacobians, two.state_jacobians, rtol=1e-8, atol=1e-9)
    by = [jax.grad(lambda c: jnp.sum(rj.unroll(c, xs, carry)[1]))(c) for c in (cell, other)]
    np.testing.assert_allclose(
        by[0].recurrent_kernel[...], factor * by[1].recurrent_kernel[...], rtol=1e-8, atol=1e-9
    )


def test_nothing_interrupts_the_path_of_the_cell_state():
    """∂c_T/∂c_0 along the path is the product of forget gates, as the plain LSTM's."""
    cell = noisy(make("lstm"))
    cell.recurrent_kernel[...] = 0 * cell.recurrent_kernel[...]
    carry = random_carry(cell)
    run = rj.linearize(cell, jnp.asarray(XS), carry)
    whole = np.linalg.multi_dot(list(np.asarray(run.state_jacobians))[::-1])
    forget = np.prod([cell.gates(carry, jnp.asarray(x))["forget"] for x in XS], axis=0)
    np.testing.assert_allclose(whole[:H, :H], np.diag(forget), **CLOSE)


def test_at_a_state_of_zero_the_derivative_is_large():
    """∂LN(h W_h)/∂h = (W_hᵀ less its mean over units) / √ε there: of the GRU's candidate here."""
    cell = make("gru")
    cell.bias[...] = jnp.concatenate([jnp.full(H, 50.0), jnp.full(H, -50.0), jnp.zeros(H)])
    a = jacobian_of_call(cell, jnp.zeros(H), jnp.zeros(IN))
    kernel = np.asarray(cell.recurrent_kernel[...])[:, 2 * H :].T
    np.testing.assert_allclose(a, (kernel - kernel.mean(0)) / np.sqrt(1e-5), rtol=1e-9, atol=1e-9)
    assert np.linalg.norm(a, 2) > 100


@EVERY
def test_initial_weights(kind):
    size = 64
    cell = KINDS[kind](32, size, rngs=nnx.Rngs(0))
    count = len(cell.blocks)
    for kernel in jnp.split(cell.recurrent_kernel[...], count, axis=1):
        np.testing.assert_allclose(kernel @ kernel.T, np.eye(size), atol=1e-10)
    norms = ["input", "recurrent", *(["cell"] if kind == "lstm" else [])]
    for of in norms:
        assert np.all(np.asarray(getattr(cell, f"{of}_scale")[...]) == 1)
        assert not np.any(getattr(cell, f"{of}_shift")[...])
        assert getattr(cell, f"{of}_scale").shape == ((1 if of == "cell" else count) * size,)
    biases = dict(zip(cell.blocks, jnp.split(cell.bias[...], count), strict=True))
    for name, bias in biases.items():
        assert np.all(np.asarray(bias) == (1 if name == "forget" else 0))


@EVERY
def test_squares_of_large_numbers_do_not_overflow(kind):
    cell = KINDS[kind](IN, H, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jnp.asarray([3e25, -1e25], jnp.float32)
    value, gradient = jax.value_and_grad(lambda c: jnp.sum(rj.unroll(c, x[None])[1]))(cell)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient.recurrent_kernel[...]))
    # Far from ε, only proportions of the product count.
    small = jnp.sum(rj.unroll(cell, (x / 1e21)[None])[1])
    np.testing.assert_allclose(value, small, rtol=1e-4)


@table(
    zero=(lambda: make("gru", epsilon=0), ValueError, "epsilon must be above 0", "got 0", "Pass"),
    word=(lambda: make("lstm", epsilon="x"), TypeError, "epsilon must be a number", "'x'", "Pass"),
    flag=(lambda: make("gru", by_gate=2), TypeError, "by_gate must be True or False", "2", "Pass"),
    bias=(lambda: make("lstm", forget_bias=np.nan), ValueError, "forget_bias must be finite"),
    x=(
        lambda: make("lstm").project(jnp.zeros(5)),
        ValueError,
        "must hold the cell's in_features=2",
        "got shape (5,)",
        "Pass x",
    ),
)
def test_what_it_refuses(call, error, words):
    refuses(call, error, *words)
