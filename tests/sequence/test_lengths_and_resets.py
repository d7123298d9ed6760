"""Sequences of different lengths, and several packed in one, against each of them alone."""

import functools
import itertools

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import oracles
import rnn_jax as rj
import zoo
from sequence.running import CLOSE, IN, H, T, at, host, inputs, loop, starting_carry, twin_run

# Sequences of different lengths in one batch, the padding filled with what must not be seen.
LENGTHS = [0, 1, 4, T]


def padded(filler):
    xs = np.random.default_rng(2).normal(size=(len(LENGTHS), T, IN))
    for row, length in enumerate(LENGTHS):
        xs[row, length:] = filler
    return jnp.asarray(xs)


def batched(carry, size):
    return jax.tree.map(lambda a: jnp.asarray([a + 0.1 * row for row in range(size)]), host(carry))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["lstm", "nnx_optimized_lstm", "dict_readout"])
def test_lengths_equal_running_the_cut_sequence(name, reverse):
    cell, carry = zoo.build(name, IN, H, 1)
    carry = batched(starting_carry(cell, carry), len(LENGTHS))
    xs = padded(np.nan)
    last, ys, carries = rj.unroll(
        cell, xs, carry, lengths=LENGTHS, reverse=reverse, return_carries=True
    )
    for row, length in enumerate(LENGTHS):
        start, cut = at(carry, row), at(xs, (row, slice(0, length)))
        np.testing.assert_array_equal(ys[row, length:], 0.0)
        frozen = start if reverse else at(last, row)
        for t in range(length, T):
            chex.assert_trees_all_equal(at(carries, (row, t)), frozen)
        if length == 0:
            chex.assert_trees_all_equal(at(last, row), start)
            continue
        flip = slice(None, None, -1) if reverse else slice(None)
        expected_last, *expected = loop(cell, cut[flip], start)
        chex.assert_trees_all_close(at(last, row), expected_last, **CLOSE)
        seen = at([ys, carries], (row, slice(0, length)))
        chex.assert_trees_all_close(seen, [at(e, flip) for e in expected], **CLOSE)


def summed_loss(cell, xs, carry, lengths, *, reverse=False):
    (c, h), ys = rj.unroll(cell, xs, carry, lengths=lengths, reverse=reverse)
    return jnp.sum(jnp.sin(ys)) + jnp.sum(h) - jnp.sum(c**2)


grad_of_loss = jax.jit(jax.grad(summed_loss, (0, 1, 2)), static_argnames="reverse")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("filler", [np.nan, np.inf, -1e300])
def test_gradients_beyond_the_end_are_exactly_zero_whatever_the_padding_holds(filler, reverse):
    cell = zoo.CELLS["lstm_peephole"](IN, H, 1)
    carry = zoo.random_carry(cell, 0, len(LENGTHS))
    lengths = jnp.asarray(LENGTHS)
    gradients = host(grad_of_loss(cell, padded(filler), carry, lengths, reverse=reverse))
    clean = host(grad_of_loss(cell, padded(0.0), carry, lengths, reverse=reverse))
    chex.assert_trees_all_equal(*map(jax.tree.leaves, (gradients, clean)))
    for row, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(gradients[1][row, length:], 0.0)
        assert np.all(gradients[1][row, :length] != 0)


def test_gradients_with_lengths_are_the_oracles_of_the_cut_sequences():
    cell = zoo.CELLS["lstm_peephole"](IN, H, 1)
    carry = zoo.random_carry(cell, 0, len(LENGTHS))
    xs = padded(np.nan)
    by_cell, by_xs, by_carry = grad_of_loss(cell, xs, carry, jnp.asarray(LENGTHS), reverse=False)
    xs, by_xs = host((xs, by_xs))
    twin = zoo.oracle(cell)
    total_by_weight = {name: np.zeros_like(w) for name, w in twin.weights.items()}
    for row, length in enumerate(LENGTHS):
        cut = xs[row, :length]
        carries, ys = twin_run(cell, cut, at(carry, row)) if length else (None, None)
        c = np.split(carries[-1], 2)[0] if length else np.asarray(carry[0][row])
        dL_dend = np.concatenate([-2 * c, np.ones(H)])
        if length == 0:
            np.testing.assert_allclose(zoo.flat(at(by_carry, row)), dL_dend, **CLOSE)
            continue
        As, Bs = oracles.one_step_jacobians(twin.jacobian, carries, cut)
        # By the recursion total_t = direct_t + A_{t+1}^T total_{t+1}.
        totals = np.zeros((length, 2 * H))
        totals[:, H:] = np.cos(ys)
        totals[-1] += dL_dend
        for t in reversed(range(length - 1)):
            totals[t] += As[t + 1].T @ totals[t + 1]
        np.testing.assert_allclose(
            by_xs[row, :length], np.einsum("tsi,ts->ti", Bs, totals), **CLOSE
        )
        np.testing.assert_allclose(zoo.flat(at(by_carry, row)), As[0].T @ totals[0], **CLOSE)
        shares = oracles.weight_gradient_by_step(twin.gradient, carries, cut, totals)
        for name, share in shares.items():
            total_by_weight[name] += share.sum(axis=0)
    chex.assert_trees_all_close(zoo.weights_of(by_cell), total_by_weight, rtol=1e-10, atol=1e-12)


def direction_step(kernel, carry, x):
    z = x @ kernel
    carry = jnp.tanh(0.5 * carry + z / jnp.linalg.norm(z))
    return carry, carry


def test_padding_gives_no_nan_in_a_cell_without_a_derivative_at_zero_input():
    cell = Partial(direction_step, inputs(H).T)

    def loss(cell, xs, lengths):
        return jnp.sum(rj.unroll(cell, xs, jnp.zeros((2, H)), lengths=lengths)[1])

    lengths = jnp.asarray([2, 4])
    xs = np.array(inputs(2, T))
    xs[0, 2:] = xs[1, 4:] = 0.0
    gradient = jax.grad(loss)(cell, xs, lengths).args[0]
    cut = [
        jax.grad(lambda cell, x: jnp.sum(rj.unroll(cell, x, jnp.zeros(H))[1]))(cell, x[:n])
        for x, n in zip(xs, (2, 4), strict=True)
    ]
    np.testing.assert_allclose(gradient, cut[0].args[0] + cut[1].args[0], **CLOSE)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_lengths_may_have_any_whole_type(dtype):
    # 200 steps: more than an int8 can count.
    cell = zoo.CELLS["simple_tanh"](IN, H, 1)
    xs = inputs(2, 200)
    lengths = np.asarray([3, 120], dtype)
    carry, ys = host(rj.unroll(cell, xs, lengths=lengths))
    for row, length in enumerate([3, 120]):
        carries, expected = twin_run(cell, xs[row, :length])
        np.testing.assert_allclose(carry[row], carries[-1], **CLOSE)
        np.testing.assert_allclose(ys[row, :length], expected, **CLOSE)
        np.testing.assert_array_equal(ys[row, length:], 0.0)


def test_lengths_out_of_range_under_jit_give_nan_in_their_own_row_alone():
    cell = zoo.CELLS["lstm"](IN, H, 1)
    xs = inputs(4, T)
    lengths = jnp.asarray([-1, 2, T + 1, T])
    run = jax.jit(lambda lengths: rj.unroll(cell, xs, lengths=lengths, return_carries=True))
    results = run(lengths)
    expected = run(jnp.asarray([0, 2, 0, T]))
    for row, valid in enumerate([False, True, False, True]):
        if valid:
            chex.assert_trees_all_equal(at(results, row), at(expected, row))
        else:
            assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(at(results, row)))


# Three sequences, of 2, 3 and 1 steps, packed in one row; the first mark may be there or not.
STARTS = [0, 2, 5]
RESETS = np.isin(np.arange(T), STARTS)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["lstm_coupled", "equinox_gru_partial", "dict_readout"])
def test_resets_make_packed_sequences_run_alone(name, reverse):
    cell, carry = zoo.build(name, IN, H, 1)
    carry = starting_carry(cell, carry)
    xs = inputs(T, seed=3)
    last, ys, carries = rj.unroll(
        cell, xs, initial=carry, resets=RESETS, reverse=reverse, return_carries=True
    )
    flip = slice(None, None, -1) if reverse else slice(None)
    alone = []
    for start, stop in zip(STARTS, [*STARTS[1:], T], strict=True):
        end, *outputs = loop(cell, xs[start:stop][flip], carry)
        alone.append(([at(o, flip) for o in outputs], end))
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *[outputs for outputs, _ in alone])
    chex.assert_trees_all_close([ys, carries], joined, **CLOSE)
    # Backwards the first sequence is left through its first step, which is marked.
    chex.assert_trees_all_close(last, host(carry) if reverse else alone[-1][1], **CLOSE)


def test_no_gradient_crosses_a_reset():
    cell = zoo.CELLS["lstm"](IN, H, 1)
    for reverse in (False, True):
        run = functools.partial(rj.unroll, cell, resets=RESETS, reverse=reverse)
        jacobian = np.asarray(jax.jit(jax.jacrev(lambda xs, run=run: run(xs)[1]))(inputs(T)))
        sequence = np.cumsum(RESETS)
        for t, s in np.ndindex(T, T):
            reached = sequence[t] == sequence[s] and (s >= t if reverse else s <= t)
            assert bool(np.any(jacobian[t, :, s] != 0)) == reached


def test_a_first_mark_changes_nothing_but_what_backwards_is_handed_on():
    cell = zoo.CELLS["gru_reset_after"](IN, H, 1)
    without = RESETS.copy()
    without[0] = False
    for reverse in (False, True):
        run = functools.partial(rj.unroll, cell, inputs(T), reverse=reverse, return_carries=True)
        last, *marked = run(resets=RESETS)
        last_without, *unmarked = run(resets=without)
        chex.assert_trees_all_equal(marked, unmarked)
        np.testing.assert_array_equal(last, np.zeros(H) if reverse else last_without)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_reset_in_the_padding_does_not_undo_the_last_carry(reverse):
    cell = zoo.CELLS["lstm"](IN, H, 1)
    xs = inputs(T)
    run = functools.partial(rj.unroll, cell, xs, lengths=3, reverse=reverse, return_carries=True)
    marked = run(resets=np.isin(np.arange(T), [1, 3, 5]))
    chex.assert_trees_all_equal(marked, run(resets=np.isin(np.arange(T), [1])))
    carries, _ = twin_run(cell, xs[:1] if reverse else xs[1:3])
    np.testing.assert_allclose(zoo.flat(marked[0]), carries[-1], **CLOSE)


@hypothesis.given(
    steps=st.sampled_from([1, 5, 8]),
    lengths=st.lists(st.integers(0, 8), min_size=2, max_size=2),
    seed=st.integers(0, 2**16),
    checkpoint=st.sampled_from([None, 1, 2, 3, 11, "sqrt"]),
    reverse=st.booleans(),
)
def test_any_lengths_and_intervals_agree_with_the_oracle(steps, lengths, seed, checkpoint, reverse):
    lengths = [min(length, steps) for length in lengths]
    cell = zoo.CELLS["gru_reset_after"](IN, H, seed)
    xs = inputs(len(lengths), steps, seed=seed)
    carry, ys = host(rj.unroll(cell, xs, lengths=lengths, checkpoint=checkpoint, reverse=reverse))
    xs = host(xs)
    flip = slice(None, None, -1) if reverse else slice(None)
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(ys[row, length:], 0.0)
        if length == 0:
            np.testing.assert_array_equal(carry[row], 0.0)
            continue
        carries, expected = twin_run(cell, xs[row, :length][flip])
        np.testing.assert_allclose(ys[row, :length], expected[flip], **CLOSE)
        np.testing.assert_allclose(carry[row], carries[-1], **CLOSE)


@hypothesis.given(
    resets=st.lists(st.booleans(), min_size=7, max_size=7),
    seed=st.integers(0, 2**16),
    reverse=st.booleans(),
)
@hypothesis.settings(max_examples=25)
def test_any_resets_agree_with_the_oracle(resets, seed, reverse):
    cell = zoo.CELLS["simple_tanh"](IN, H, seed)
    xs = inputs(7, seed=seed)
    carry, ys = host(rj.unroll(cell, xs, resets=np.asarray(resets), reverse=reverse))
    xs = host(xs)
    starts = [0, *(t for t in range(1, 7) if resets[t]), 7]
    flip = slice(None, None, -1) if reverse else slice(None)
    ends = []
    for start, stop in itertools.pairwise(starts):
        carries, expected = twin_run(cell, xs[start:stop][flip])
        np.testing.assert_allclose(ys[start:stop], expected[flip], **CLOSE)
        ends.append(carries[-1])
    expected = np.zeros(H) if reverse and resets[0] else ends[0 if reverse else -1]
    np.testing.assert_allclose(carry, expected, **CLOSE)
