"""MGU, UGRNN and minimalRNN: equations, initial weights, claims, and the mean field of one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transcribed import (
    IN,
    H,
    assert_follows,
    assert_keeps_its_types,
    jacobian_of_call,
    noisy,
    sigmoid,
)

import rnn_jax as rj
from refusing import refuses, table
from rnn_jax.cells.minimal_gated import MGUCell, UGRNNCell
from rnn_jax.cells.minimal_rnn import MinimalRNNCell

CELLS = {
    "mgu": (MGUCell, {}),
    "mgu_reset_after": (MGUCell, {"reset_after": True}),
    "ugrnn": (UGRNNCell, {}),
    "minimal_rnn": (MinimalRNNCell, {}),
}


def make(name, **options):
    kind, form = CELLS[name]
    return kind(IN, H, rngs=nnx.Rngs(0), **form, **options)


def mgu(w, h, x, xp, after=False):
    z, u = x @ w["kernel"] + w["bias"], w["recurrent_kernel"]
    f = sigmoid(z[:H] + h @ u[:, :H], xp)
    n = xp.tanh(z[H:] + (f * (h @ u[:, H:]) if after else (f * h) @ u[:, H:]))
    h = (1 - f) * h + f * n
    return h, h


def ugrnn(w, h, x, xp):
    z = x @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"]
    g, c = sigmoid(z[:H], xp), xp.tanh(z[H:])
    h = g * h + (1 - g) * c
    return h, h


def minimal_rnn(w, h, x, xp):
    z = xp.tanh(x @ w["kernel"])
    u = sigmoid(h @ w["recurrent_kernel"] + z @ w["input_kernel"] + w["bias"], xp)
    h = u * h + (1 - u) * z
    return h, h


ORACLES = {
    "mgu": mgu,
    "mgu_reset_after": lambda *a: mgu(*a, after=True),
    "ugrnn": ugrnn,
    "minimal_rnn": minimal_rnn,
}


@pytest.mark.parametrize("name", CELLS)
def test_it_is_its_equations(name):
    cell = noisy(make(name))
    assert_follows(cell, ORACLES[name])


@pytest.mark.parametrize("name", CELLS)
def test_products_may_be_narrower_than_the_carry(name):
    options = {"recurrent_gain": 1.0, "input_gain": 1.0} if name == "minimal_rnn" else {}
    assert_keeps_its_types(lambda **types: make(name, **types, **options))


@pytest.mark.parametrize("name", ["mgu", "ugrnn"])
def test_initial_weights_gate_by_gate(name):
    size, rows = 128, 64
    cell = CELLS[name][0](rows, size, rngs=nnx.Rngs(3))
    for kernel in jnp.split(cell.recurrent_kernel[...], 2, axis=1):
        np.testing.assert_allclose(kernel @ kernel.T, np.eye(size), atol=1e-10)
    for kernel in jnp.split(cell.kernel[...], 2, axis=1):
        np.testing.assert_allclose(np.var(kernel), 1 / rows, rtol=0.1)
    gate, candidate = jnp.split(cell.bias[...], 2)
    assert np.all(np.asarray(gate) == (1 if name == "ugrnn" else 0))
    assert not np.any(candidate)


def test_initial_weights_of_the_minimal_rnn():
    size = 200
    cell = MinimalRNNCell(50, size, update_bias=-2.0, rngs=nnx.Rngs(0))
    for kernel, gain in ((cell.recurrent_kernel, 6.88), (cell.input_kernel, 1.39)):
        values = np.asarray(kernel[...])
        np.testing.assert_allclose(values.std() * size**0.5, gain, rtol=0.02)
        kurtosis = np.mean(values**4) / np.mean(values**2) ** 2
        np.testing.assert_allclose(kurtosis, 3, atol=0.15)
    np.testing.assert_allclose(np.var(cell.kernel[...]), 1 / 50, rtol=0.05)
    assert np.all(np.asarray(cell.bias[...]) == -2)
    for own in ({"recurrent_gain": 0.0}, {"recurrent_kernel_init": "zeros"}):
        assert not np.any(make("minimal_rnn", **own).recurrent_kernel[...])
    assert np.all(make("minimal_rnn", input_kernel_init="identity").input_kernel[...] == np.eye(H))


def mean_field(gain, input_gain, mean, r):
    """q and χ of Chen et al. (2018) at the fixed point, by Gauss–Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(201)
    weights = weights / weights.sum()
    state = r
    for _ in range(5000):
        q = gain**2 * state + input_gain**2 * r
        u = 1 / (1 + np.exp(-(mean + np.sqrt(q) * nodes)))
        state = weights @ (1 - u) ** 2 * r / (1 - weights @ u**2)
    return q, weights @ u**2 + gain**2 * (weights @ (u * (1 - u)) ** 2) * (state + r)


@pytest.mark.parametrize(
    ("gain", "input_gain", "known"),
    # Of the paper's theory; the values as verified for this project, R = .46 and μ = 0.
    [(6.88, 1.39, (15.94, 0.9989)), (4.0, 1.0, (None, 0.670))],
)
def test_the_mean_field_is_the_published_one(gain, input_gain, known):
    q, chi = mean_field(gain, input_gain, 0.0, 0.46)
    np.testing.assert_allclose(chi, known[1], atol=6e-4)
    if known[0] is not None:
        np.testing.assert_allclose(q, known[0], atol=0.01)


def test_gradients_shrink_as_the_mean_field_says():
    """χ is the mean square of the Jacobian's singular values where states have settled."""
    size, gain, input_gain, steps = 400, 4.0, 1.0, 60
    cell = MinimalRNNCell(size, size, recurrent_gain=gain, input_gain=input_gain, rngs=nnx.Rngs(0))
    xs = jax.random.normal(jax.random.key(0), (steps, size))
    r = float(jnp.mean(jnp.tanh(xs @ cell.kernel[...]) ** 2))
    q, chi = mean_field(gain, input_gain, 0.0, r)
    carry, _ = rj.unroll(cell, xs[:-1])
    state = (q - input_gain**2 * r) / gain**2
    np.testing.assert_allclose(jnp.mean(carry**2), state, rtol=0.15)
    a = jacobian_of_call(cell, carry, xs[-1])
    np.testing.assert_allclose(np.sum(a**2) / size, chi, rtol=0.1)


@table(
    size=(lambda: MGUCell(0, H, rngs=nnx.Rngs(0)), ValueError, "in_features must", "got 0", "Pass"),
    flag=(
        lambda: make("mgu", reset_after=1),
        TypeError,
        "reset_after must be True or False",
        "got 1",
        "Pass a bool",
    ),
    bias=(
        lambda: make("ugrnn", update_bias="high"),
        TypeError,
        "update_bias must be a number",
        "'high'",
        "Pass a float",
    ),
    nan=(
        lambda: make("minimal_rnn", update_bias=float("nan")),
        ValueError,
        "update_bias must be finite",
        "nan",
        "Pass",
    ),
    gain=(
        lambda: make("minimal_rnn", recurrent_gain=-1),
        ValueError,
        "recurrent_gain must be at least 0",
        "got -1",
        "Pass 0.0",
    ),
    init=(
        lambda: make("minimal_rnn", input_kernel_init="ortho"),
        ValueError,
        "input_kernel_init must be one of",
        "'ortho'",
    ),
    rngs=(lambda: UGRNNCell(IN, H, rngs=0), TypeError, "rngs must be", "got int", "Pass rngs="),
    x=(
        lambda: make("minimal_rnn")(jnp.zeros(H), jnp.zeros(5)),
        ValueError,
        "must hold the cell's in_features=2",
        "got shape (5,)",
        "Pass x",
    ),
)
def test_what_it_refuses(call, error, words):
    refuses(call, error, *words)
