"""`transition_kernel()` is what multiplies the state, and what reads it is told the truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
from refusing import refuses
from rnn_jax.cells.claims import makes_claim
from rnn_jax.cells.structure import fused_form, state_rows

IN, H = 2, 3
X = jnp.asarray(np.random.default_rng(0).normal(size=IN))
CLOSE = {"rtol": 1e-12, "atol": 1e-12}

# Cells with a matrix that multiplies the state: how many blocks, and options.
WITH = {
    "SimpleRNNCell": (1, {}),
    "LSTMCell": (4, {}),
    "GRUCell": (3, {}),
    "MGUCell": (2, {}),
    "UGRNNCell": (2, {}),
    "MinimalRNNCell": (1, {}),
    "LayerNormLSTMCell": (4, {}),
    "LayerNormGRUCell": (3, {}),
    "FastGRNNCell": (1, {}),
    "LeakyIntegratorCell": (1, {}),
    "ClockworkRNNCell": (1, {}),
    "EchoStateCell": (1, {}),
    "ExpRNNCell": (1, {}),
    "ScoRNNCell": (1, {}),
    "AntisymmetricRNNCell": (1, {"gated": True}),
    "LEMCell": (4, {}),
    "CfCCell": (4, {"backbone_layers": 0}),
    "SLSTMCell": (4, {"num_heads": 3}),
}
# Those without, whatever is the shape of a `recurrent_kernel` that they may have: with 14 units
# seven rows divide the columns, with 1 unit those of the memory do.
WITHOUT = {
    "IndRNNCell": (H, {}),
    "MinGRUCell": (H, {}),
    "MinLSTMCell": (H, {}),
    "UnitaryRNNCell": (14, {}),
    "CoRNNCell": (H, {}),
    "UnICORNNCell": (H, {}),
    "CfCCell": (H, {"backbone_features": 2 * H}),
    "LRUCell": (H, {}),
    "S5Cell": (H, {}),
    "RGLRUCell": (H, {}),
    "LMUCell": (1, {"memory_features": 2}),
    "MLSTMCell": (H, {}),
}


def build(name, size=H, **options):
    """A cell all of whose weights are other than 0."""
    cell = getattr(rj, name)(IN, size, rngs=nnx.Rngs(0), **options)
    if name == "SLSTMCell":
        shape = cell.recurrent_kernel.shape
        cell.recurrent_kernel[...] = jnp.asarray(np.random.default_rng(1).normal(size=shape))
    return cell


def multiplied(cell, monkeypatch):
    """The matrices that a step multiplies values by, side by side."""
    seen, product = [], rj.RNNCell._product

    def record(self, values, kernel):
        seen.append(kernel)
        return product(self, values, kernel)

    z, carry = cell.project(X), cell.initialize_carry((IN,))
    with monkeypatch.context() as patched:
        patched.setattr(rj.RNNCell, "_product", record)
        cell.step(carry, z)
    if not seen:
        seen = [rows for rows in state_rows(fused_form(cell), IN) if rows is not None]
    return np.concatenate(seen, axis=1)


def test_every_cell_is_in_one_of_the_tables():
    cells = {n for n in rj.cells.__all__ if n.endswith("Cell") and n not in ("Cell", "RNNCell")}
    assert set(WITH) | set(WITHOUT) == cells


@pytest.mark.parametrize("name", WITH)
def test_it_is_what_multiplies_the_state(name, monkeypatch):
    blocks, options = WITH[name]
    cell = build(name, **options)
    kernel = np.asarray(cell.transition_kernel())
    assert kernel.shape == (H, blocks * H)
    np.testing.assert_array_equal(kernel, multiplied(cell, monkeypatch))

    squares = [w.T @ w - np.eye(H) for w in np.split(kernel, blocks, axis=1)]
    expected = sum(np.sum(np.square(square)) for square in squares)
    for given in (cell, rj.LearnedCarry(cell)):
        np.testing.assert_allclose(rj.orthogonality_penalty(given), expected, **CLOSE)
    if name in ("ExpRNNCell", "ScoRNNCell"):
        np.testing.assert_allclose(expected, 0, atol=1e-25)


@pytest.mark.parametrize("name", WITHOUT)
def test_a_cell_without_one_is_refused(name):
    size, options = WITHOUT[name]
    cell = build(name, size, **options)
    assert cell.transition_kernel() is None
    words = (
        "needs a matrix (H, G·H) that multiplies the state",
        f"got {name}",
        "Leave the penalty out",
    )
    refuses(lambda: rj.orthogonality_penalty(cell), TypeError, *words)


@pytest.mark.parametrize("name", sorted({*WITH, *WITHOUT}))
def test_bounds_are_stated_where_they_hold_and_refused_elsewhere(name):
    size, options = WITHOUT.get(name, (H, {}))
    cell = build(name, size, **options)
    if not makes_claim(cell, "jacobian_bound"):
        refuses(lambda: rj.jacobian_log_bound(cell, 3), ValueError, "needs a cell whose step")
        return
    rng = np.random.default_rng(2)
    carry = jax.tree.map(
        lambda part: jnp.asarray(rng.normal(size=part.shape)), cell.initialize_carry((IN,))
    )
    step = jax.jacrev(lambda h: cell(h, X)[0])(carry)
    bound = rj.jacobian_log_bound(cell, 2)[1]
    assert np.linalg.norm(step, ord=2) <= np.exp(bound) + 1e-12
