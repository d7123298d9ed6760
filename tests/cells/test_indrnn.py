"""IndRNN: its equations, initial weights, cap, and ∂h_T/∂h_t = ∏ u φ' by unit."""

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
    T,
    assert_follows,
    assert_keeps_its_types,
    noisy,
    random_carry,
)

import rnn_jax as rj
from refusing import refuses, table
from rnn_jax.cells.claims import makes_claim
from rnn_jax.cells.indrnn import IndRNNCell

PHI = {
    "relu": lambda v, xp: xp.maximum(v, 0),
    "tanh": lambda v, xp: xp.tanh(v),
}


def make(**options):
    return IndRNNCell(IN, H, rngs=nnx.Rngs(0), **options)


def oracle(activation):
    def step(w, h, x, xp):
        bias = w.get("bias", 0.0)
        h = PHI[activation](x @ w["kernel"] + w["recurrent_weights"] * h + bias, xp)
        return h, h

    return step


@pytest.mark.parametrize("options", [{}, {"activation": "tanh"}, {"use_bias": False}], ids=str)
def test_it_is_its_equations(options):
    cell = noisy(make(**options))
    assert_follows(cell, oracle(options.get("activation", "relu")))


def test_products_may_be_narrower_than_the_carry():
    assert_keeps_its_types(lambda **types: make(**types))


def test_initial_weights():
    cell = IndRNNCell(4, 4000, rngs=nnx.Rngs(0))
    u = np.asarray(cell.recurrent_weights[...])
    assert np.all((u >= 0) & (u < 1))
    np.testing.assert_allclose([u.mean(), u.var()], [1 / 2, 1 / 12], atol=0.02)
    np.testing.assert_allclose(np.var(cell.kernel[...]), 1 / 4, rtol=0.1)
    assert not np.any(cell.bias[...])
    assert cell.recurrent_kernel is None
    assert np.all(np.asarray(make(recurrent_init="ones").recurrent_weights[...]) == 1)


def test_gradients_are_products_of_the_unit_alone():
    """∂h_T/∂h_0 = diag(∏ u φ'), and with all slopes 1 and |u| at the cap it is 2 in all."""
    cell = noisy(make(activation="tanh"))
    carry = random_carry(cell)
    run = rj.linearize(cell, jnp.asarray(XS), carry)
    u, product = np.asarray(cell.recurrent_weights[...]), np.ones(H)
    for y in np.asarray(run.outputs):
        product = product * u * (1 - y**2)
    by_hand = np.linalg.multi_dot(list(np.asarray(run.state_jacobians))[::-1])
    np.testing.assert_allclose(by_hand, np.diag(product), **CLOSE)

    at_cap = make(length=T, recurrent_init=lambda k, s, d: jnp.full(s, 9.0, d))
    at_cap.bias[...] = jnp.full((H,), 50.0)
    jacobians = np.asarray(rj.linearize(at_cap, jnp.asarray(XS)).state_jacobians)
    np.testing.assert_allclose(np.linalg.multi_dot(list(jacobians)), 2 * np.eye(H), **CLOSE)


def test_the_cap_is_kept_without_taking_gradients():
    cell = make(length=10, activation="identity")
    assert cell.cap == 2 ** (1 / 10)
    assert make().cap is None
    cell.recurrent_weights[...] = jnp.asarray([-3.0, 0.5, 1.5])
    gradient = jax.grad(lambda c: jnp.sum(rj.unroll(c, jnp.ones((3, IN)), jnp.ones(H))[1]))(cell)
    assert np.all(np.asarray(gradient.recurrent_weights[...]) != 0)
    kept = jax.jit(IndRNNCell.capped)(cell)
    np.testing.assert_allclose(kept.recurrent_weights[...], [-cell.cap, 0.5, cell.cap], rtol=1e-15)
    np.testing.assert_array_equal(kept.kernel[...], cell.kernel[...])
    np.testing.assert_array_equal(cell.recurrent_weights[...], [-3.0, 0.5, 1.5])
    loose = make()
    assert jax.tree.structure(loose.capped()) == jax.tree.structure(loose)


def test_an_activation_that_mixes_units_makes_no_claim():
    cell = make(activation=jax.nn.softmax)
    assert not makes_claim(cell, "diagonal_part")


@table(
    length=(lambda: make(length=0), ValueError, "length must be at least 1", "got 0", "Pass"),
    kind=(lambda: make(length=1.5), TypeError, "length must be a whole number", "1.5", "Pass"),
    size=(lambda: IndRNNCell(IN, 0, rngs=nnx.Rngs(0)), ValueError, "hidden_features must", "got 0"),
    init=(
        lambda: make(recurrent_init="orthogonal"),
        ValueError,
        "recurrent_init must be an initialiser of a few numbers for each unit",
        "got",
        "Pass one of",
    ),
    name=(lambda: make(activation="rulu"), ValueError, "activation must be one of", "'rulu'"),
    flag=(lambda: make(use_bias=1), TypeError, "use_bias must be True or False", "got 1", "Pass"),
    x=(
        lambda: make()(jnp.zeros(H), jnp.zeros(5)),
        ValueError,
        "must hold the cell's in_features=2",
        "got shape (5,)",
        "Pass x",
    ),
    kind_of_x=(
        lambda: make()(jnp.zeros(H), jnp.zeros(IN, complex)),
        TypeError,
        "x must be an array of real numbers",
        "complex",
        "Cast it",
    ),
)
def test_what_it_refuses(call, error, words):
    refuses(call, error, *words)
