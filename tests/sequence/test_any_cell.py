"""Any cell everywhere: cells of four libraries in all that takes cells, against a Python loop."""

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
from rnn_jax.cells.asking import make_carry, part_names
from sequence.running import stepping

IN, H, T, B = 2, 3, 5, 2
CLOSE = {"rtol": 1e-10, "atol": 1e-12}
RNG = np.random.default_rng(0)
XS = RNG.normal(size=(B, T, IN))
MASK = np.array([[True, False, True, True, False], [False, True, True, False, True]])
RESETS = np.array([[False, False, True, False, False], [True, False, False, False, True]])
LENGTHS = np.array([T, 2])


def given(name):
    """A cell of the zoo that has no carry of its own, told the one that it starts from."""

    def build(size, seed):
        cell, carry = zoo.build(name, size, H, seed)
        carry = None if carry is None else jax.tree.map(lambda a: a + 0.1, carry)
        return rj.as_cell(cell, initial_carry=carry, in_features=size)

    return build


def jitted(size, seed):
    """A jitted step, whose output and carry are one value inside it and two outside."""
    cell, _ = zoo.build("nnx_lstm", size, H, seed)
    step = Partial(jax.jit(lambda cell, carry, x: cell(carry, x)), cell)
    return rj.as_cell(step, initial_carry=(jnp.full(H, 0.2), jnp.zeros(H)), in_features=size)


def of_zoo(name):
    return lambda size, seed: zoo.build(name, size, H, seed)[0]


KINDS = {
    "nnx_lstm": of_zoo("nnx_lstm"),
    "nnx_gru": of_zoo("nnx_gru"),
    "linen_partial": given("linen_lstm"),
    "equinox_partial": given("equinox_gru_partial"),
    "dict_carry_and_other_output": given("dict_readout"),
    "jitted_step": jitted,
    "plain_object": given("plain_object"),
}
kinds = pytest.mark.parametrize("kind", KINDS)
# One is of the same carry and the same way to a step as another one.
unlike = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "linen_partial"])


def start_of(cell, size=IN):
    return make_carry(cell, (size,))


def loop(cell, xs, start, *, valid=None, resets=None, step=None):
    """The outputs of one sequence (T, ·), a step at a time; a step that is skipped is not taken."""
    carry, ys, step = start, [], step or stepping(cell)
    for t, x in enumerate(xs):
        if resets is not None and resets[t]:
            carry = start
        if valid is None or valid[t]:
            carry, y = step(carry, x)
        else:
            y = None
        ys.append(y)
    some = next(y for y in ys if y is not None)
    return carry, np.stack([np.zeros(some.shape) if y is None else np.asarray(y) for y in ys])


def size_of_output(cell):
    return jax.eval_shape(cell, start_of(cell), XS[0, 0])[1].shape[0]


@functools.cache
def built(kind):
    """A cell of a kind for the inputs, and one that stands on it."""
    below = KINDS[kind](IN, 0)
    return below, KINDS[kind](size_of_output(below), 1)


def wrapped(cell):
    """Two wrappers that are what they wrap with other carries, by rates that differ by part."""
    count = len(jax.tree.leaves(start_of(cell)))
    structure = jax.tree.structure(start_of(cell))
    rates = tuple(0.5 / (k + 1) for k in range(count))
    return rj.Zoneout(cell, jax.tree.unflatten(structure, rates)), rates


@kinds
def test_a_model_of_two_layers_is_their_loops(kind):
    below, above = built(kind)
    model = rj.SequenceModel([below, above], 2, readout="all", rngs=nnx.Rngs(3))

    @jax.jit
    def call(model, xs):
        marked = model(xs, mask=jnp.asarray(MASK), resets=jnp.asarray(RESETS))
        return model(xs), model(xs, lengths=jnp.asarray(LENGTHS)), marked

    within = np.arange(T) < LENGTHS[:, None]
    marked = zip(call(model, XS), (None, within, MASK), (None, None, RESETS), strict=True)
    for outputs, valid, resets in marked:
        for row in range(B):
            marks = {
                "valid": None if valid is None else valid[row],
                "resets": None if resets is None else resets[row],
            }
            _, hs = loop(below, XS[row], start_of(below), **marks)
            _, hs = loop(above, hs, start_of(above, hs.shape[-1]), **marks)
            expected = hs @ np.asarray(model.kernel[...]) + np.asarray(model.bias[...])
            np.testing.assert_allclose(outputs[row], expected, **CLOSE)


@unlike
def test_a_stack_is_a_cell_that_the_instrument_takes(kind):
    below, above = built(kind)
    stack = rj.StackedCell([below, above])
    start = stack.initialize_carry((IN,))
    size = size_of_output(below)
    chex.assert_trees_all_equal(start, (start_of(below), start_of(above, size)))
    xs = XS[0]
    record = jax.jit(rj.linearize)(stack, xs)
    _, hs = loop(below, xs, start[0])
    _, expected = loop(above, hs, start[1])
    np.testing.assert_allclose(record.outputs, expected, **CLOSE)
    parts = stack.parts_of(start)
    assert len(parts) == len(set(parts)) == len(jax.tree.leaves(start))
    assert {part.partition(".")[0] for part in parts} == {"0", "1"}

    # Its Jacobian over the carry of both layers, by JAX itself.
    @jax.jit
    def jacobian(start, x):
        flat, unravel = jax.flatten_util.ravel_pytree(start)

        def step(state):
            return jax.flatten_util.ravel_pytree(stack(unravel(state), x)[0])[0]

        return jax.jacfwd(step)(flat)

    np.testing.assert_allclose(record.state_jacobians[0], jacobian(start, xs[0]), **CLOSE)


@unlike
def test_both_directions_are_two_loops(kind):
    forward, backward = built(kind)[0], KINDS[kind](IN, 1)
    model = rj.SequenceModel(rj.Bidirectional(forward, backward), readout="all")
    found = jax.jit(lambda model, xs: model(xs, lengths=jnp.asarray(LENGTHS)))(model, XS)
    for row, length in enumerate(LENGTHS):
        valid = np.arange(T) < length
        _, ahead = loop(forward, XS[row], start_of(forward), valid=valid)
        _, back = loop(backward, XS[row][::-1], start_of(backward), valid=valid[::-1])
        np.testing.assert_allclose(found[row], np.hstack([ahead, back[::-1]]), **CLOSE)


@unlike
def test_every_part_of_the_carry_is_learned(kind):
    cell, _ = built(kind)
    learned = rj.LearnedCarry(cell, carry_init=nnx.initializers.normal(1.0), rngs=nnx.Rngs(4))
    own = start_of(cell)
    start = start_of(learned)
    assert len(learned.initial) == len(jax.tree.leaves(own))
    chex.assert_trees_all_equal_shapes_and_dtypes(start, own)

    @jax.jit
    def value_and_gradient(learned, xs):
        def loss(learned):
            return jnp.sum(jnp.sin(rj.unroll(learned, xs, resets=jnp.asarray(RESETS))[1]))

        return jax.value_and_grad(loss)(learned)

    @jax.jit
    def by_start(start, xs, resets):
        def loss(start):
            def step(carry, at):
                x, reset = at
                return cell(jax.tree.map(functools.partial(jnp.where, reset), start, carry), x)

            return jnp.sum(jnp.sin(jax.lax.scan(step, start, (xs, resets))[1]))

        return jax.value_and_grad(loss)(start)

    value, gradient = value_and_gradient(learned, XS)
    both = [by_start(start, *row) for row in zip(XS, RESETS, strict=True)]
    np.testing.assert_allclose(value, sum(v for v, _ in both), **CLOSE)
    expected = jax.tree.map(np.add, *(g for _, g in both))
    found = [gradient.initial[name][...] for name in learned.initial]
    names = part_names(cell, own)
    in_order = [leaf for _, leaf in sorted(zip(names, jax.tree.leaves(expected), strict=True))]
    chex.assert_trees_all_close(
        [leaf for _, leaf in sorted(zip(learned.initial, found, strict=True))], in_order, **CLOSE
    )


@unlike
def test_zoneout_mixes_each_part_of_the_carry(kind):
    cell, _ = built(kind)
    zoned, rates = wrapped(cell)
    key = jax.random.key(7)
    plain, noisy = jax.jit(
        lambda cell, xs: (rj.unroll(cell, xs)[1], rj.unroll(cell, xs, key=key)[1])
    )(zoned, XS[0])
    keeps, step = [np.asarray(keep) for keep in zoned.noise(key, T)[1]], stepping(cell)
    assert 0 < sum(int(np.sum(keep)) for keep in keeps) < sum(keep.size for keep in keeps)

    def mixed(by_step):
        carry, ys = jax.tree.map(np.asarray, start_of(cell)), []
        for t, x in enumerate(XS[0]):
            after, y = jax.tree.map(np.asarray, step(carry, x))
            olds, (news, structure) = jax.tree.leaves(carry), jax.tree.flatten(after)
            shares = rates if by_step is None else [keep[t].astype(float) for keep in by_step]
            parts = [
                s * old + (1 - s) * new for s, old, new in zip(shares, olds, news, strict=True)
            ]
            # The output follows the part that it is; every cell here whose y is equal to a part
            # returns that part.
            same = [k for k, new in enumerate(news) if new.shape == y.shape and np.all(new == y)]
            ys.append(parts[same[0]] if same else y)
            carry = jax.tree.unflatten(structure, parts)
        return np.stack(ys)

    np.testing.assert_allclose(plain, mixed(None), **CLOSE)
    np.testing.assert_allclose(noisy, mixed(keeps), **CLOSE)


@unlike
def test_recurrent_dropout_masks_what_the_step_reads(kind):
    cell, _ = built(kind)
    structure = jax.tree.structure(start_of(cell))
    noisy = rj.RecurrentDropout(cell, {part_names(cell, start_of(cell))[-1]: 0.4}, 0.3)
    key = jax.random.key(2)
    plain, found = jax.jit(
        lambda cell, xs: (rj.unroll(cell, xs)[1], rj.unroll(cell, xs, key=key)[1])
    )(noisy, XS[0])
    np.testing.assert_allclose(plain, loop(cell, XS[0], start_of(cell))[1], **CLOSE)
    (*_, of_last), of_input = noisy.noise(key, T)
    assert {np.unique(drop, axis=0).shape[0] for drop in (of_last, of_input)} == {1}

    def step(carry, x):
        *rest, last = jax.tree.leaves(carry)
        last = np.where(of_last[0], 0.0, np.asarray(last) / 0.6)
        read = jax.tree.unflatten(structure, [*rest, last])
        return stepping(cell)(read, np.where(of_input[0], 0.0, x / 0.7))

    np.testing.assert_allclose(found, loop(cell, XS[0], start_of(cell), step=step)[1], **CLOSE)


def own_step(parameters, h, x):
    h = jnp.tanh(x @ parameters["in"] + h @ parameters["rec"])
    return h, h


def own_cell(size, seed):
    rng = np.random.default_rng(seed)
    parameters = {"in": rng.normal(size=(size, H)), "rec": rng.normal(size=(H, H)) / 2}
    return rj.as_cell(Partial(own_step, parameters), initial_carry=jnp.zeros(H), in_features=size)


def test_a_cell_of_ones_own_in_both_directions_over_numpy_with_lengths():
    layers = [rj.Bidirectional(own_cell(size, size), own_cell(size, 1)) for size in (IN, 2 * H)]
    model = rj.SequenceModel(layers, 2, rngs=nnx.Rngs(0))
    spoilt = np.where((np.arange(T) < LENGTHS[:, None])[..., None], XS, np.nan)

    @jax.jit
    def value_and_gradient(model):
        def loss(model):
            return jnp.sum(jnp.sin(model(spoilt, lengths=LENGTHS)))

        return jax.value_and_grad(loss)(model)

    value, gradient = value_and_gradient(model)
    call = jax.jit(lambda model, xs: model(xs))
    alone = [call(model, xs[:length]) for xs, length in zip(XS, LENGTHS, strict=True)]
    np.testing.assert_allclose(value, sum(np.sum(np.sin(out)) for out in alone), **CLOSE)
    # Every parameter of every cell is reached; where sequences start is fixed.
    for layer in gradient.cells:
        for cell in (layer.forward, layer.backward):
            assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(cell.cell))


def test_parts_of_a_carry_that_are_no_floats_are_carried_by():
    start = {"count": np.int32(3), "h": np.full(H, 0.5)}

    def step(carry, x):
        after = {"count": carry["count"] + 1, "h": jnp.tanh(carry["h"] + jnp.sum(x))}
        return after, after["h"]

    cell = rj.as_cell(step, initial_carry=start, in_features=IN)
    learned = rj.LearnedCarry(cell)
    assert list(learned.initial) == ["h"]
    chex.assert_trees_all_equal(learned.initialize_carry((B, IN))["count"], np.full(B, 3, np.int32))
    carry, ys = rj.unroll(rj.Zoneout(learned, {"h": 0.25}), XS[0])
    assert carry["count"] == 3 + T
    h = start["h"]
    for x, y in zip(XS[0], ys, strict=True):
        h = 0.25 * h + 0.75 * np.tanh(h + np.sum(x))
        np.testing.assert_allclose(y, h, **CLOSE)
