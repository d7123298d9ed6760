"""Newton's method over time against the scan."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

import rnn_jax as rj

STEPS = 12
CELLS = {
    "GRU": lambda: rj.GRUCell(2, 3, rngs=nnx.Rngs(0)),
    "LSTM": lambda: rj.LSTMCell(2, 2, rngs=nnx.Rngs(0)),
}


@pytest.fixture(scope="module")
def xs():
    return jax.random.normal(jax.random.key(1), (STEPS, 2))


@pytest.mark.parametrize("name", CELLS)
def test_it_finds_what_the_scan_finds(name, xs):
    cell = CELLS[name]()
    carry, ys, carries = rj.unroll(cell, xs, return_carries=True)
    found = rj.newton_unroll(cell, xs)
    assert found.converged
    assert 1 < found.iterations < STEPS
    for mine, known in ((found.carry, carry), (found.ys, ys), (found.carries, carries)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), mine, known)


def test_derivatives_of_first_and_second_order_are_those_of_the_scan(xs):
    cell = CELLS["GRU"]()

    def loss(run, cell, xs, carry):
        return jnp.sum(run(cell, xs, carry) ** 2)

    def scanned(cell, xs, carry):
        return rj.unroll(cell, xs, carry)[1]

    def solved(cell, xs, carry):
        return rj.newton_unroll(cell, xs, carry).ys

    carry = jnp.full(3, 0.2)
    along = (jnp.ones_like(xs), jnp.ones(3))

    @jax.jit
    def derivatives(cell, xs, carry):
        return [
            (
                jax.grad(loss, (1, 2, 3))(run, cell, xs, carry),
                jax.jvp(functools.partial(run, cell), (xs, carry), along)[1],
                jax.hessian(loss, 3)(run, cell, xs, carry),
            )
            for run in (solved, scanned)
        ]

    mine, known = derivatives(cell, xs, carry)
    for found, expected, atol in zip(mine, known, (1e-11, 1e-11, 1e-10), strict=True):
        chex.assert_trees_all_close(found, expected, rtol=1e-7, atol=atol)


def doubling(_, h, x):
    """Errors double at each step, as do distances: a tent map, moved by its input."""
    h = 1 - 1.9 * jnp.abs(h) + 0 * x
    return h, h


def test_what_does_not_converge_falls_back_and_says_so():
    cell, xs = Partial(doubling, None), jnp.zeros((200, 1))
    start = jnp.full(1, 0.123)
    _, known = rj.unroll(cell, xs, start)
    found = rj.newton_unroll(cell, xs, start, max_iterations=5)
    assert not found.converged
    assert found.iterations == 5
    np.testing.assert_allclose(found.ys, known, atol=1e-15)
    left = rj.newton_unroll(cell, xs, start, max_iterations=5, fall_back=False)
    assert np.abs(left.ys - known).max() > 1e-3


def test_a_step_that_overflows_has_not_converged():
    """Of so many numbers that are none, a maximum on a CPU is −∞."""
    with jax.enable_x64(False):
        cell = rj.SimpleRNNCell(2, 32, recurrent_kernel_init="gaussian(3.0)", rngs=nnx.Rngs(0))
        xs = jax.random.normal(jax.random.key(0), (300, 2))
        _, known = rj.unroll(cell, xs)
        found = rj.newton_unroll(cell, xs)
        assert not found.converged
        assert found.step_size == np.inf
        np.testing.assert_allclose(found.ys, known, atol=1e-5)
        left = rj.newton_unroll(cell, xs, fall_back=False)
        assert not left.converged


def test_the_first_states_are_exact_after_as_many_steps():
    cell, xs = Partial(doubling, None), jnp.zeros((30, 1))
    start = jnp.full(1, 0.123)
    _, known = rj.unroll(cell, xs, start)
    for count in (3, 9):
        found = rj.newton_unroll(cell, xs, start, max_iterations=count, fall_back=False)
        np.testing.assert_allclose(found.ys[:count], known[:count], atol=1e-12)


def test_a_batch_is_its_rows(xs):
    cell = CELLS["GRU"]()
    batch = jnp.stack([xs, 3 * xs])
    found = jax.vmap(lambda row: rj.newton_unroll(cell, row))(batch)
    np.testing.assert_allclose(found.ys, rj.unroll(cell, batch)[1], atol=1e-12)
    alone = [rj.newton_unroll(cell, row).iterations for row in batch]
    np.testing.assert_array_equal(found.iterations, alone)


def test_a_guess_that_solves_it_takes_one_step(xs):
    cell = CELLS["LSTM"]()
    _, _, carries = rj.unroll(cell, xs, return_carries=True)
    found = rj.newton_unroll(cell, xs, guess=carries)
    assert found.iterations == 1


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"tolerance": 0.0}, ValueError, "^tolerance must be .*; got 0"),
        ({"max_iterations": 0}, ValueError, "^max_iterations must be .*; got 0"),
        ({"fall_back": 1}, TypeError, "^fall_back must be .*; got"),
        ({"guess": jnp.zeros((STEPS, 4))}, ValueError, "^guess must hold .*; got .*Pass"),
        ({"guess": "zeros"}, TypeError, "^guess must be a pytree of arrays"),
    ],
)
def test_what_cannot_be_is_refused(options, error, said, xs):
    with pytest.raises(error, match=said):
        rj.newton_unroll(CELLS["GRU"](), xs, **options)


def test_several_sequences_are_refused(xs):
    with pytest.raises(ValueError, match="xs"):
        rj.newton_unroll(CELLS["GRU"](), jnp.stack([xs, xs]))
