"""FastGRNN: equations, initial weights, claims, and its Jacobian in closed form."""

import jax.numpy as jnp
import numpy as np
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
from rnn_jax.cells.fast_grnn import FastGRNNCell


def make(**options):
    return FastGRNNCell(IN, H, rngs=nnx.Rngs(0), **options)


def oracle(w, h, x, xp):
    shared = x @ w["kernel"] + h @ w["recurrent_kernel"]
    z = sigmoid(shared + w["gate_bias"], xp)
    candidate = xp.tanh(shared + w["bias"])
    h = z * h + (sigmoid(w["zeta"], xp) * (1 - z) + sigmoid(w["nu"], xp)) * candidate
    return h, h


def test_it_is_its_equations():
    cell = noisy(make())
    assert_follows(cell, oracle)


def test_products_may_be_narrower_than_the_carry():
    assert_keeps_its_types(lambda **types: make(**types))


def test_initial_weights():
    cell = FastGRNNCell(50, 200, rngs=nnx.Rngs(0))
    for kernel in (cell.kernel, cell.recurrent_kernel):
        values = np.asarray(kernel[...])
        np.testing.assert_allclose(values.std(), 0.1, rtol=0.02)
        np.testing.assert_allclose(np.mean(values**4) / 0.1**4, 3, atol=0.4)  # Gaussian.
    assert cell.kernel.shape == (50, 200)
    for bias in (cell.bias, cell.gate_bias):
        assert np.all(np.asarray(bias[...]) == np.ones(200))
    assert (float(cell.zeta[...]), float(cell.nu[...])) == (1.0, -4.0)


def test_the_jacobian_is_the_gate_and_a_row_scaled_matrix():
    cell = noisy(make())
    run = rj.linearize(cell, jnp.asarray(XS), random_carry(cell))
    w = {name: np.asarray(getattr(cell, name)[...]) for name in ("kernel", "recurrent_kernel")}
    s, n = sigmoid(float(cell.zeta[...]), np), sigmoid(float(cell.nu[...]), np)
    for a, h, x in zip(run.state_jacobians, np.asarray(run.carries), XS, strict=False):
        v = x @ w["kernel"] + h @ w["recurrent_kernel"]
        z = sigmoid(v + np.asarray(cell.gate_bias[...]), np)
        c = np.tanh(v + np.asarray(cell.bias[...]))
        slopes = (h - s * c) * z * (1 - z) + (s * (1 - z) + n) * (1 - c**2)
        expected = np.diag(z) + slopes[:, None] * w["recurrent_kernel"].T
        np.testing.assert_allclose(a, expected, **CLOSE)


@table(
    zeta=(lambda: make(zeta="1"), TypeError, "zeta must be a number", "'1'", "Pass a float"),
    nu=(lambda: make(nu=float("inf")), ValueError, "nu must be finite", "inf", "Pass"),
    init=(lambda: make(bias_init="one"), ValueError, "bias_init must be one of", "'one'"),
    x=(
        lambda: make()(jnp.zeros(H), jnp.zeros(5)),
        ValueError,
        "must hold the cell's in_features=2",
        "got shape (5,)",
        "Pass x",
    ),
)
def test_what_it_refuses(call, error, words):
    refuses(call, error, *words)
