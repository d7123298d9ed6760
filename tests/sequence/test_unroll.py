"""`unroll` against a plain Python loop and the NumPy oracles, for every cell in the zoo."""

import functools
import itertools

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

import oracles
import rnn_jax as rj
import zoo

IN, H, T = 3, 4, 6
CLOSE = {"rtol": 1e-11, "atol": 1e-13}


@jax.jit
def one_step(cell, carry, x):
    return cell(carry, x)


def loop(cell, xs, carry):
    """What `unroll` should compute, one step at a time: (last carry, ys, carries)."""
    cell = cell if jax.tree.leaves(cell) != [cell] else Partial(cell)
    carries, ys = [], []
    for x in np.asarray(xs):
        carry, y = one_step(cell, carry, x)
        carries.append(host(carry))
        ys.append(host(y))
    return carries[-1], np.stack(ys), jax.tree.map(lambda *leaves: np.stack(leaves), *carries)


def host(tree):
    return jax.tree.map(np.asarray, tree)


def inputs(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, IN)))


def starting_carry(cell, carry, seed=0):
    """Some carry other than the default."""
    rng = np.random.default_rng(seed)
    carry = cell.initialize_carry((IN,), nnx.Rngs(0)) if carry is None else carry
    return jax.tree.map(lambda a: jnp.asarray(a + 0.3 * rng.normal(size=a.shape)), host(carry))


def at(tree, index):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


def twin_run(cell, xs, carry=None):
    """(carries with the initial one first, ys) by the oracle."""
    carry = cell.initialize_carry((IN,)) if carry is None else carry
    return oracles.run(zoo.oracle(cell).step, np.asarray(xs), zoo.flat(carry))


@pytest.mark.parametrize("name", zoo.EVERY)
def test_unroll_is_the_plain_loop_for_every_cell(name):
    cell, carry = zoo.build(name, IN, H, 1)
    xs = inputs(T)
    result = rj.unroll(cell, xs, carry, return_carries=True)
    if carry is None:
        rngs = (nnx.Rngs(0),) if isinstance(cell, nnx.RNNCellBase) else ()
        carry = cell.initialize_carry((IN,), *rngs)
    chex.assert_trees_all_close(result, loop(cell, xs, carry), **CLOSE)


@pytest.mark.parametrize("name", zoo.CELLS)
def test_unroll_is_the_numpy_oracle_from_the_default_carry(name):
    cell = zoo.CELLS[name](IN, H, 1)
    xs = inputs(T)
    carry, ys, carries = rj.unroll(cell, xs, return_carries=True)
    expected_carries, expected = twin_run(cell, xs)
    np.testing.assert_allclose(ys, expected, **CLOSE)
    np.testing.assert_allclose(zoo.flat(carries), expected_carries[1:], **CLOSE)
    np.testing.assert_allclose(zoo.flat(carry), expected_carries[-1], **CLOSE)


@pytest.mark.parametrize("name", ["lstm_peephole", "dict_readout", "plain_object"])
@pytest.mark.parametrize("batch", [(3,), (2, 3)], ids=str)
def test_leading_axes_are_independent_sequences(name, batch):
    cell, carry = zoo.build(name, IN, H, 1)
    xs = inputs(*batch, T)
    if carry is not None:
        carry = jax.tree.map(lambda a: jnp.broadcast_to(a, (*batch, *a.shape)), carry)
    last, ys, carries = rj.unroll(cell, xs, carry, return_carries=True)
    for index in np.ndindex(*batch):
        start = None if carry is None else at(carry, index)
        alone = rj.unroll(cell, xs[index], start, return_carries=True)
        chex.assert_trees_all_close(at((last, ys, carries), index), alone, **CLOSE)


@pytest.mark.parametrize("name", ["gru_reset_before", "linen_lstm", "dict_readout"])
def test_reverse_runs_the_flipped_sequence(name):
    cell, carry = zoo.build(name, IN, H, 1)
    xs = inputs(T)
    last, ys, carries = rj.unroll(cell, xs, carry, reverse=True, return_carries=True)
    carry = cell.initialize_carry((IN,)) if carry is None else carry
    expected_last, *expected = loop(cell, xs[::-1], carry)
    chex.assert_trees_all_close(last, expected_last, **CLOSE)
    chex.assert_trees_all_close([ys, carries], [at(e, slice(None, None, -1)) for e in expected])


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
@pytest.mark.parametrize("name", ["lstm", "gru_reset_after", "nnx_optimized_lstm", "dict_readout"])
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
        cell, xs, carry, resets=RESETS, reverse=reverse, return_carries=True
    )
    flip = slice(None, None, -1) if reverse else slice(None)
    alone = []
    for start, stop in zip(STARTS, [*STARTS[1:], T], strict=True):
        end, *outputs = loop(cell, xs[start:stop][flip], carry)
        alone.append(([at(o, flip) for o in outputs], end))
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *[outputs for outputs, _ in alone])
    chex.assert_trees_all_close([ys, carries], joined, **CLOSE)
    chex.assert_trees_all_close(last, alone[0 if reverse else -1][1], **CLOSE)


def test_no_gradient_crosses_a_reset():
    cell = zoo.CELLS["lstm"](IN, H, 1)
    for reverse in (False, True):
        run = functools.partial(rj.unroll, cell, resets=RESETS, reverse=reverse)
        jacobian = np.asarray(jax.jit(jax.jacrev(lambda xs, run=run: run(xs)[1]))(inputs(T)))
        sequence = np.cumsum(RESETS)
        for t, s in np.ndindex(T, T):
            reached = sequence[t] == sequence[s] and (s >= t if reverse else s <= t)
            assert bool(np.any(jacobian[t, :, s] != 0)) == reached


def test_a_first_mark_changes_nothing():
    cell = zoo.CELLS["gru_reset_after"](IN, H, 1)
    without = RESETS.copy()
    without[0] = False
    for reverse in (False, True):
        chex.assert_trees_all_equal(
            rj.unroll(cell, inputs(T), resets=RESETS, reverse=reverse),
            rj.unroll(cell, inputs(T), resets=without, reverse=reverse),
        )


@pytest.mark.parametrize("reverse", [False, True])
def test_a_reset_in_the_padding_does_not_undo_the_last_carry(reverse):
    cell = zoo.CELLS["lstm"](IN, H, 1)
    xs = inputs(T)
    run = functools.partial(rj.unroll, cell, xs, lengths=3, reverse=reverse, return_carries=True)
    marked = run(resets=np.isin(np.arange(T), [1, 3, 5]))
    chex.assert_trees_all_equal(marked, run(resets=np.isin(np.arange(T), [1])))
    carries, _ = twin_run(cell, xs[:1] if reverse else xs[1:3])
    np.testing.assert_allclose(zoo.flat(marked[0]), carries[-1], **CLOSE)


# Intervals that divide T = 6 and that do not, that keep everything and that keep nothing.
CHECKPOINTS = [(1, False), (4, False), (4, True), (np.int64(3), True), (T, True), ("sqrt", False)]


@pytest.fixture(scope="module")
def checkpoint_case():
    cell = zoo.CELLS["simple_sigmoid"](IN, H, 1)

    @functools.partial(jax.jit, static_argnames=("checkpoint", "reverse"))
    def value_and_grad(cell, xs, resets, lengths, *, checkpoint, reverse):
        def loss(cell, xs):
            carry, ys, carries = rj.unroll(
                cell,
                xs,
                lengths=lengths,
                resets=resets,
                reverse=reverse,
                return_carries=True,
                checkpoint=checkpoint,
            )
            return jnp.sum(jnp.sin(3 * ys)) + jnp.sum(carry), (carry, ys, carries)

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(cell, xs)

    args = (cell, inputs(2, T), jnp.stack([RESETS] * 2), jnp.asarray([T, 4]))
    results = {r: value_and_grad(*args, checkpoint=None, reverse=r) for r in (False, True)}
    return value_and_grad, args, results


@pytest.mark.parametrize(("checkpoint", "reverse"), CHECKPOINTS, ids=str)
def test_checkpoints_change_neither_values_nor_gradients(checkpoint_case, checkpoint, reverse):
    value_and_grad, args, results = checkpoint_case
    result = value_and_grad(*args, checkpoint=checkpoint, reverse=reverse)
    expected = results[reverse]
    chex.assert_trees_all_close(*map(jax.tree.leaves, (result, expected)), **CLOSE)


def test_a_checkpointed_gradient_keeps_fewer_states():
    # What the backward pass holds on to, by the shapes of the residuals of the linearised program.
    cell = zoo.CELLS["simple_tanh"](IN, 8, 1)
    xs = inputs(144)

    def residual_steps(checkpoint):
        _, pull = jax.vjp(lambda xs: rj.unroll(cell, xs, checkpoint=checkpoint)[1], xs)
        shapes = [leaf.shape for leaf in jax.tree.leaves(pull)]
        return sum(int(np.prod(shape)) for shape in shapes if shape[-1:] == (8,))

    assert residual_steps(None) >= 144 * 8
    # The projected inputs (144 rows) and √144 = 12 states remain; the 144 slopes are recomputed.
    assert residual_steps("sqrt") <= (144 + 2 * 12 + 8) * 8


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
    np.testing.assert_allclose(carry, ends[0 if reverse else -1], **CLOSE)


@pytest.mark.parametrize("name", ["lstm_peephole", "gru_reset_before", "nnx_gru", "dict_readout"])
def test_forward_and_reverse_mode_are_adjoint_and_match_a_difference(name):
    cell, carry = zoo.build(name, IN, H, 1)
    xs = inputs(T)
    carry = starting_carry(cell, carry)
    point = (cell, xs, carry)
    leaves, structure = jax.tree.flatten(point)
    rng = np.random.default_rng(5)
    tangent = jax.tree.unflatten(structure, [rng.normal(size=a.shape) for a in leaves])

    def run(cell, xs, carry):
        last, ys = rj.unroll(cell, xs, carry)
        return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves((last, ys))])

    @jax.jit
    def both_modes(point, tangent):
        value, forward = jax.jvp(run, point, tangent)
        cotangent = jnp.cos(jnp.arange(value.size, dtype=float))
        back = jax.vjp(run, *point)[1](cotangent)
        inner = sum(
            jnp.sum(a * b)
            for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(tangent), strict=True)
        )
        return forward, jnp.sum(forward * cotangent), inner

    forward, left, right = both_modes(point, tangent)
    np.testing.assert_allclose(left, right, rtol=1e-11)
    moved = []
    for step in (1e-6, -1e-6):
        near = jax.tree.map(lambda a, d, e=step: np.asarray(a) + e * d, point, tangent)
        moved.append(np.concatenate([np.ravel(a) for a in jax.tree.leaves(rj.unroll(*near))]))
    np.testing.assert_allclose(forward, (moved[0] - moved[1]) / 2e-6, rtol=1e-6, atol=1e-7)


def test_jit_and_vmap_change_nothing():
    cell = zoo.CELLS["lstm"](IN, H, 1)
    xs, lengths = inputs(3, T), jnp.asarray([2, 6, 0])
    plain = rj.unroll(cell, xs, lengths=lengths)
    mapped = jax.vmap(lambda x, n: rj.unroll(cell, x, lengths=n))(xs, lengths)
    jitted = jax.jit(lambda cell, x, n: rj.unroll(cell, x, lengths=n))(cell, xs, lengths)
    chex.assert_trees_all_close(mapped, plain, **CLOSE)
    chex.assert_trees_all_close(jitted, plain, **CLOSE)


def test_vmap_over_cells_runs_an_ensemble():
    cells = [zoo.CELLS["gru_reset_after"](IN, H, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *cells)
    xs = inputs(T)
    ys = np.asarray(jax.vmap(lambda cell: rj.unroll(cell, xs))(stacked)[1])
    for cell, y in zip(cells, ys, strict=True):
        np.testing.assert_allclose(y, twin_run(cell, xs)[1], **CLOSE)


@pytest.mark.parametrize("name", ["lstm", "dict_readout"])
def test_two_cells_of_one_structure_compile_once(name):
    traces = []

    def counted(cell, carry, x):
        traces.append(1)
        return cell(carry, x)

    xs = inputs(T)
    for seed in (1, 2, 3):
        inner, carry = zoo.build(name, IN, H, seed)
        carry = inner.initialize_carry((IN,)) if carry is None else carry
        cell = Partial(counted, inner)
        _, ys = rj.unroll(cell, xs, carry)
        np.testing.assert_allclose(ys, loop(inner, xs, carry)[1], **CLOSE)
        if seed == 1:
            first = len(traces)
    assert len(traces) == first


def test_a_jitted_step_of_training_is_traced_once():
    xs = inputs(2, T)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(cell, xs):
        gradient = jax.grad(lambda cell: jnp.sum(rj.unroll(cell, xs)[1] ** 2))(cell)
        return jax.tree.map(lambda w, g: w - 0.01 * g, cell, gradient)

    cell = zoo.CELLS["gru_reset_after"](IN, H, 1)
    losses = []
    for _ in range(5):
        losses.append(float(jnp.sum(rj.unroll(cell, xs)[1] ** 2)))
        cell = step(cell, xs)
    assert losses == sorted(losses, reverse=True)


def noisy_step(carry, x):
    h, key, count = carry
    key, draw = jax.random.split(key)
    h = jnp.tanh(h + x + jax.random.normal(draw, h.shape))
    return (h, key, count + 1), h


def test_keys_and_counters_in_the_carry_are_carried_along():
    carry = (jnp.zeros(IN), jax.random.key(0), jnp.asarray(0))
    xs = inputs(T)
    last, ys = rj.unroll(noisy_step, xs, carry)
    state, hs = carry, []
    for x in xs:
        state, h = jax.jit(noisy_step)(state, x)
        hs.append(h)
    np.testing.assert_allclose(ys, hs, **CLOSE)
    assert int(last[2]) == T
    assert last[1] == state[1]
    cut, _ = rj.unroll(noisy_step, xs, carry, lengths=4, resets=np.arange(T) == 1, checkpoint=2)
    assert int(cut[2]) == 3  # the count starts again at the reset, and stands still in the padding


def test_a_state_may_be_a_python_number_and_an_output_may_be_nothing():
    xs = jnp.ones((3, 1))
    last, ys = rj.unroll(lambda c, x: (0.5 * c + x[0], None), xs, 2.0)
    np.testing.assert_allclose(last, 2 / 8 + 1.75, rtol=1e-15)
    assert ys is None


def test_a_carry_of_our_own_making_widens_with_the_inputs():
    cell = zoo.CELLS["lstm"](IN, H, 1)
    narrow = jax.tree.map(lambda a: a.astype(jnp.float32), cell)
    narrow.param_dtype = jnp.dtype("float32")
    with jax.numpy_dtype_promotion("standard"):
        (c, h), ys = rj.unroll(narrow, inputs(T))
        expected = rj.unroll(jax.tree.map(lambda a: a.astype(jnp.float64), narrow), inputs(T))
    assert {a.dtype.name for a in (c, h, ys)} == {"float64"}
    chex.assert_trees_all_close(((c, h), ys), expected, **CLOSE)


def test_float32_stays_float32_and_lists_are_taken():
    cell = jax.tree.map(lambda a: a.astype(jnp.float32), zoo.CELLS["gru_reset_after"](IN, H, 1))
    cell.param_dtype = jnp.dtype("float32")
    xs = inputs(T).astype(jnp.float32)
    carry, ys = rj.unroll(cell, xs, lengths=4)
    assert {carry.dtype.name, ys.dtype.name} == {"float32"}
    wide = zoo.CELLS["gru_reset_after"](IN, H, 1)
    np.testing.assert_allclose(ys, rj.unroll(wide, inputs(T), lengths=4)[1], atol=2e-6)
    listed = np.asarray(inputs(T)).tolist()
    chex.assert_trees_all_equal(rj.unroll(wide, listed), rj.unroll(wide, inputs(T)))
