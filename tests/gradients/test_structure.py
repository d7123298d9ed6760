"""What the instrument uses of a cell's structure, held against `jax.jacrev` and dense loops.

Diagonal columns of the one-step Jacobian, what a subclass takes from its base, and sweeps that are
cut into several scans. One-step Jacobians themselves are in `test_linearize`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

import rnn_jax as rj
from rnn_jax.gradients.jacobians.propagation import StepMatrices
from rnn_jax.gradients.linearize import Record
from zoo import CELLS, build

# Behind a projection, what a unit of c does reaches all of h.
LSTMS = [name for name in CELLS if name.startswith("lstm") and "projection" not in name]
STEPS, FEATURES, SIZE = 6, 2, 3


@functools.cache
def case(name):
    cell, _ = build(name, FEATURES, SIZE)
    return cell, np.random.default_rng(1).normal(size=(STEPS, FEATURES))


def one_step_jacobians(cell, xs):
    """A_t and B_t by `jax.jacrev` of the flattened step, t by t."""
    state, unravel = ravel_pytree(cell.initialize_carry((FEATURES,)))

    def step(state, x):
        return ravel_pytree(cell(unravel(state), x)[0])[0]

    def body(state, x):
        return step(state, x), jax.jacrev(step, (0, 1))(state, x)

    _, found = jax.jit(functools.partial(jax.lax.scan, body))(state, xs)
    return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("name", LSTMS)
def test_the_columns_that_are_called_diagonal_are(name):
    cell, xs = case(name)
    start, stop = rj.linearize(cell, xs).diagonal_columns
    assert (start, stop) == (0, SIZE)
    a, _ = one_step_jacobians(cell, xs)
    blocks = a[:, :, start:stop].reshape(STEPS, -1, SIZE, SIZE)
    off_diagonal = blocks[..., ~np.eye(SIZE, dtype=bool)]
    assert (off_diagonal == 0).all()
    assert (np.diagonal(blocks, axis1=2, axis2=3) != 0).all()


@pytest.mark.parametrize("name", ["simple_tanh", "gru_reset_after"])
def test_no_columns_are_called_diagonal_where_none_are(name):
    cell, xs = case(name)
    assert rj.linearize(cell, xs).diagonal_columns is None


@pytest.mark.parametrize("name", ["lstm_peephole", "gru_reset_after"])
def test_structured_products_are_the_dense_ones(name):
    cell, xs = case(name)
    lin = rj.linearize(cell, xs)
    size = lin.state_jacobians.shape[1]
    p = np.random.default_rng(2).normal(size=(size, 5, 2))
    at_step_3 = jax.tree.map(lambda leaf: leaf[3], StepMatrices.of(Record(lin).steps))
    expected = np.einsum("ij,jsn->isn", lin.state_jacobians[3], p)
    np.testing.assert_allclose(at_step_3.times(p), expected, rtol=1e-13, atol=1e-15)


class Mixed(rj.LSTMCell):
    """An LSTM whose cell states mix: what the base class says of its columns is no longer so."""

    def step(self, carry, z):
        c, h = carry
        return super().step((c + jnp.roll(c, 1, axis=-1), h), z)


def test_a_subclass_with_another_step_is_taken_at_its_step():
    cell, xs = Mixed(FEATURES, SIZE, rngs=nnx.Rngs(0)), case("lstm")[1]
    lin = rj.linearize(cell, xs)
    assert lin.diagonal_columns is None
    a, b = one_step_jacobians(cell, xs)
    np.testing.assert_allclose(lin.state_jacobians, a, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(lin.input_jacobians, b, rtol=1e-12, atol=1e-15)


@functools.cache
def long_case(name):
    """A sequence that several scans share, unevenly, and its Jacobians multiplied in a loop."""
    cell, _ = build(name, FEATURES, SIZE)
    xs = np.random.default_rng(3).normal(size=(199, FEATURES))
    lin = rj.linearize(cell, xs)
    a, b = np.asarray(lin.state_jacobians), np.asarray(lin.input_jacobians)
    steps, size, _ = b.shape
    by_input = np.zeros((steps, size, steps, FEATURES))
    by_state = np.zeros((steps, size, steps, size))
    for t in range(steps):
        if t:
            for products in (by_input, by_state):
                products[t] = np.tensordot(a[t], products[t - 1], 1)
        by_input[t, :, t], by_state[t, :, t] = b[t], np.eye(size)
    rows = slice(*lin.output_rows)
    return cell, xs, {"input": by_input[:, rows], "state": by_state}


@pytest.mark.parametrize("name", ["lstm", "gru_reset_after"])
def test_sweeps_that_are_cut_are_the_loop(name):
    cell, xs, known = long_case(name)
    np.testing.assert_allclose(rj.input_jacobian(cell, xs), known["input"], rtol=1e-10, atol=1e-16)
    np.testing.assert_allclose(rj.state_jacobian(cell, xs), known["state"], rtol=1e-10, atol=1e-16)


@pytest.mark.parametrize(("name", "wrt"), [("lstm", "state"), ("gru_reset_after", "input")])
def test_norms_of_sweeps_that_are_cut_are_those_of_the_loop(name, wrt):
    cell, xs, known = long_case(name)
    squares = np.square(known[wrt]).sum(axis=(1, 3))
    found = np.asarray(rj.jacobian_log_norms(cell, xs, wrt=wrt))
    future = np.triu(np.ones_like(found, bool), 1)
    assert np.isneginf(found[future]).all()
    # Plain products keep their digits while they are far from the smallest number.
    kept = ~future & (squares > 1e-200)
    assert kept.sum() > 0.5 * (~future).sum()
    np.testing.assert_allclose(found[kept], 0.5 * np.log(squares[kept]), rtol=0, atol=1e-10)
    rows = rj.jacobian_log_norms(cell, xs, wrt=wrt, targets=list(range(len(xs))))
    np.testing.assert_allclose(rows, found, rtol=0, atol=1e-10)
