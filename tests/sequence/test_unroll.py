"""`unroll` against a plain Python loop and the NumPy oracles, for every cell in the zoo."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

import rnn_jax as rj
import zoo
from sequence.running import CLOSE, IN, H, T, at, inputs, loop, starting_carry, twin_run


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


# Three sequences packed in one row.
RESETS = np.isin(np.arange(T), [0, 2, 5])

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
    marks = {"lengths": 4, "resets": np.arange(T) == 1}
    cut, _ = rj.unroll(noisy_step, xs, initial=carry, **marks, checkpoint=2)
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
