"""What lies outside a sequence reaches no value and no derivative, whatever it holds."""

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

IN, H, T = 2, 3, 6
CLOSE = {"rtol": 1e-10, "atol": 1e-12}
XS = np.random.default_rng(0).normal(size=(3, T, IN))
# Left-padded, with a gap, and a row that is padding alone.
MASK = np.asarray([[0, 0, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]], bool)
LEFT = MASK[0]
BAD = pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_close(one, other):
    chex.assert_trees_all_close(leaves(one), leaves(other), **CLOSE)


def filled(xs, mask, bad):
    return np.where(mask[..., None], xs, bad)


# ---- Every derivative.


def loss_of(reverse, mask):
    def loss(cell, xs):
        _, ys = rj.unroll(cell, xs, mask=mask, reverse=reverse)
        return jnp.sum(jnp.sin(ys))

    return loss


@functools.partial(jax.jit, static_argnames="reverse")
def forward_over_reverse(cell, xs, mask, reverse):
    """(value, gradient) and the tangents of both, along ones."""
    point = (cell, xs)
    both = jax.value_and_grad(loss_of(reverse, mask), (0, 1))
    return jax.jvp(both, point, jax.tree.map(jnp.ones_like, point))


@functools.partial(jax.jit, static_argnames="reverse")
def reverse_over_forward(cell, xs, mask, reverse):
    """The gradient of the value's tangent along ones."""

    def along(*point):
        return jax.jvp(loss_of(reverse, mask), point, jax.tree.map(jnp.ones_like, point))[1]

    return jax.grad(along, (0, 1))(cell, xs)


@BAD
@pytest.mark.parametrize(("name", "reverse"), [("lstm", False), ("gru_reset_before", True)])
def test_padding_reaches_no_derivative_whatever_it_holds(name, reverse, bad):
    cell = zoo.CELLS[name](IN, H, 1)
    dirty, clean = (
        [
            derivatives(cell, filled(XS, MASK, filler), MASK, reverse)
            for derivatives in (forward_over_reverse, reverse_over_forward)
        ]
        for filler in (bad, 0.3)
    )
    chex.assert_trees_all_equal(leaves(dirty), leaves(clean))
    assert np.isfinite(np.concatenate([leaf.ravel() for leaf in leaves(dirty)])).all()
    # The rows' valid steps by themselves.
    cut = np.stack([XS[row, MASK[row]] for row in (0, 1)])
    alone = forward_over_reverse(cell, cut, np.ones(cut.shape[:2], bool), reverse)
    for (value, (by_cell, _)), (own_value, (own_by_cell, _)) in zip(dirty[0], alone, strict=True):
        assert_close((value, by_cell), (own_value, own_by_cell))


# Each pair of two of the three once.
@pytest.mark.parametrize(
    ("activation", "fused", "reverse"),
    [
        ("relu", True, False),
        ("relu", False, True),
        ("identity", True, True),
        ("identity", False, False),
    ],
)
def test_a_neighbour_that_explodes_leaves_the_others_as_they_are(activation, fused, reverse):
    cell = rj.SimpleRNNCell(IN, H, activation=activation, rngs=nnx.Rngs(1))
    cell.kernel[...] = jnp.ones((IN, H))
    cell.recurrent_kernel[...] = 1e200 * jnp.eye(H)
    run = cell if fused else (lambda carry, x: cell(carry, x))
    # Four steps, infinite after the third, are run before the two of another sequence.
    mine, others = (slice(0, 2), slice(2, T)) if reverse else (slice(4, T), slice(0, 4))
    resets = np.arange(T) == (2 if reverse else 4)
    xs, start = np.abs(XS[0]), jnp.zeros(H)

    def loss(xs, steps=slice(None), **marks):
        _, ys = rj.unroll(run, xs, initial=start, reverse=reverse, **marks)
        return jnp.sum(jnp.sin(1e-200 * ys[steps])), ys

    @jax.jit
    def gradients(xs):
        gradient = jax.grad(loss, has_aux=True)
        return gradient(xs, mine, resets=resets), gradient(xs[mine])

    (by_xs, ys), (alone, _) = gradients(xs)
    assert np.isinf(ys[others]).any()
    np.testing.assert_allclose(by_xs[mine], alone, **CLOSE)


def test_a_skipped_step_is_computed_from_no_carry_that_passes_by():
    # The carry after the first row's two steps is infinite, and passes by padding.
    cell = rj.SimpleRNNCell(IN, H, activation="identity", rngs=nnx.Rngs(1))
    cell.recurrent_kernel[...] = 1e200 * jnp.eye(H)
    mask = np.asarray([[1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]], bool)

    @functools.partial(jax.grad, argnums=(0, 1))
    def gradient(cell, xs, carry, row):
        last, ys = rj.unroll(cell, xs, carry, mask=mask)
        return jnp.sum(ys[row]) + jnp.sum(last[row])

    carry = np.asarray([[np.inf] * H, [0.5] * H])
    by_cell, by_xs = gradient(cell, XS[:2], carry, 1)
    assert all(np.isfinite(leaf).all() for leaf in leaves((by_cell.kernel, by_xs[1])))
    alone = jax.grad(lambda x: 2 * jnp.sum(rj.unroll(cell, x, carry[1])[0]))(XS[1, :1])
    np.testing.assert_allclose(by_xs[1, :1], alone, **CLOSE)


def root_step(weight, carry, x):
    carry = jnp.sqrt(carry + weight * jnp.linalg.norm(x))
    return carry, carry


@pytest.mark.parametrize("bad", [0.0, np.nan, -1.0])
def test_what_stands_in_lies_where_the_cell_has_a_derivative(bad):
    # No derivative at input 0 (a row of padding alone), and none at carry 0 with input 0.
    cell = Partial(root_step, jnp.ones(H))
    carry = np.ones((3, H))

    @jax.jit
    def by_weight(xs, mask):
        def loss(cell):
            return jnp.sum(rj.unroll(cell, xs, initial=carry, mask=mask)[1])

        return jax.grad(loss)(cell).args[0]

    expected = sum(
        np.asarray(by_weight(np.repeat(XS[r : r + 1, MASK[r]], 3, axis=0), np.ones((3, 4), bool)))
        / 3
        for r in (0, 1)
    )
    np.testing.assert_allclose(by_weight(filled(XS, MASK, bad), MASK), expected, **CLOSE)


def test_a_carry_that_nothing_goes_on_from_reaches_no_derivative():
    for name in ("lstm", "lstm_peephole"):
        cell = zoo.CELLS[name](IN, H, 1)
        nothing = jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), cell.initialize_carry((IN,)))
        resets = np.arange(T) == 2

        def loss(cell, carry, resets=resets):
            return jnp.sum(jnp.sin(rj.unroll(cell, XS[0], carry, resets=resets, mask=LEFT)[1]))

        def second(cell, carry):
            gradient = jax.grad(loss, (0, 1))
            return jax.jvp(gradient, (cell, carry), jax.tree.map(jnp.ones_like, (cell, carry)))

        second = jax.jit(second)
        (by_cell, by_carry), (again, by_carry_again) = second(cell, nothing)
        assert all((leaf == 0).all() for leaf in leaves((by_carry, by_carry_again)))
        own = second(cell, cell.initialize_carry((IN,)))
        assert_close((by_cell, again), (own[0][0], own[1][0]))


# ---- Models and both directions.


def model_of(readout, deep):
    bi = rj.Bidirectional(zoo.CELLS["lstm"](IN, H, 1), zoo.CELLS["gru_reset_before"](IN, H, 2))
    if not deep:
        return rj.SequenceModel(bi, 2, readout=readout, rngs=nnx.Rngs(0))
    cells = [bi, zoo.CELLS["gru_reset_after"](2 * H, 2 * H, 3)]
    options = {"readout": readout, "residual": True, "layer_norm": True}
    return rj.SequenceModel(cells, 2, **options, rngs=nnx.Rngs(0))


# Of a shallow one, "last" reads out where each direction has seen everything.
@pytest.mark.parametrize(("readout", "deep"), [("last", False), ("last", True), ("all", True)])
def test_a_model_sees_the_valid_steps_alone(readout, deep):
    model = model_of(readout, deep)
    model.bias[...] = np.asarray([0.3, -0.7])

    @jax.jit
    def value_and_grad(model, xs, mask):
        def loss(model, xs):
            outputs = model(xs, mask=mask)
            return jnp.sum(jnp.sin(outputs)), outputs

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(model, xs)

    (_, outputs), (by_model, by_xs) = value_and_grad(model, filled(XS, MASK, np.nan), MASK)
    assert all(np.isfinite(leaf).all() for leaf in leaves(by_model))
    np.testing.assert_array_equal(np.asarray(by_xs)[~MASK], 0.0)
    for row in (0, 1):
        alone = XS[row : row + 1, MASK[row]]
        (_, expected), (_, by_alone) = value_and_grad(model, alone, np.ones((1, 4), bool))
        found = outputs[row] if model.readout == "last" else outputs[row][MASK[row]]
        np.testing.assert_allclose(found, expected[0], **CLOSE)
        np.testing.assert_allclose(by_xs[row][MASK[row]], by_alone[0], **CLOSE)
    # A row of padding alone is read out from outputs 0.
    nothing = outputs[2] if model.readout == "last" else outputs[2, 0]
    np.testing.assert_allclose(nothing, [0.3, -0.7], **CLOSE)


def test_both_directions_over_packed_and_padded_sequences():
    bi = rj.Bidirectional(
        rj.LearnedCarry(zoo.CELLS["lstm"](IN, H, 1), carry_init="ones", rngs=nnx.Rngs(0)),
        rj.LearnedCarry(
            zoo.CELLS["gru_reset_after"](IN, H, 2), carry_init="ones", rngs=nnx.Rngs(0)
        ),
    )
    # [pad x x | pad pad x]; each sequence is marked where its padding starts.
    mask = np.asarray([0, 1, 1, 0, 0, 1], bool)
    resets = np.asarray([1, 0, 0, 1, 0, 0], bool)

    @jax.jit
    def gradient_and_outputs(bi, xs, **marks):
        def loss(bi):
            _, ys = bi(xs, **marks)
            return jnp.sum(jnp.sin(ys)), ys

        return jax.grad(loss, has_aux=True)(bi)

    gradient, ys = gradient_and_outputs(bi, filled(XS[0], mask, np.nan), mask=mask, resets=resets)
    alone = []
    for steps in (slice(1, 3), slice(5, 6)):
        by_itself, expected = gradient_and_outputs(bi, XS[0, steps])
        np.testing.assert_allclose(ys[steps], expected, **CLOSE)
        alone.append(by_itself)
    assert_close(gradient, jax.tree.map(np.add, *alone))


def test_each_direction_of_a_row_in_pieces_is_handed_on_by_its_own_cell():
    bi = rj.Bidirectional(zoo.CELLS["lstm"](IN, H, 1), zoo.CELLS["gru_reset_before"](IN, H, 2))
    resets = np.asarray([1, 0, 0, 1, 0, 0], bool)  # One at the cut.

    @jax.jit
    def whole_and_in_pieces(bi):
        f, ys_f = None, []
        for part in (slice(0, 3), slice(3, T)):
            f, y = rj.unroll(bi.forward, XS[0, part], f, resets=resets[part])
            ys_f.append(y)
        b, ys_b = None, []
        for part in (slice(3, T), slice(0, 3)):
            b, y = rj.unroll(bi.backward, XS[0, part], b, resets=resets[part], reverse=True)
            ys_b.insert(0, y)
        ys = jnp.concatenate([jnp.concatenate(ys_f), jnp.concatenate(ys_b)], axis=-1)
        return bi(XS[0], resets=resets), ((f, b), ys)

    assert_close(*whole_and_in_pieces(bi))
