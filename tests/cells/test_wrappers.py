"""Cells made from cells: what they hand through, and what they change, against NumPy."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import oracles
import rnn_jax as rj
import zoo
from rnn_jax.cells.structure import fused_form
from rnn_jax.cells.wrappers.wrapper import CellWrapper

IN, H, T, B = 3, 4, 6, 2
CLOSE = {"rtol": 1e-11, "atol": 1e-13}
XS = jnp.asarray(np.random.default_rng(0).normal(size=(B, T, IN)))


def cell(name, seed=1, in_features=IN):
    return zoo.CELLS[name](in_features, H, seed)


def learned(inner, seed=5):
    """With an initial carry other than zero."""
    wrapped = rj.LearnedCarry(inner, rngs=nnx.Rngs(seed))
    rng = np.random.default_rng(seed)
    for part in inner.carry_parts:
        wrapped.initial[part][...] = jnp.asarray(rng.normal(size=H), inner.param_dtype)
    return wrapped


# What leaves the cell as it is when it is called without a key.
TRANSPARENT = {
    "bare": CellWrapper,
    "learned_carry": lambda inner: rj.LearnedCarry(inner, rngs=nnx.Rngs(0)),
    "recurrent_dropout": lambda inner: rj.RecurrentDropout(inner, 0.4, 0.2),
    "zoneout_of_rate_0": lambda inner: rj.Zoneout(inner, 0.0),
    "nested": lambda inner: CellWrapper(rj.RecurrentDropout(CellWrapper(inner), 0.4)),
}
transparent = pytest.mark.parametrize("wrap", TRANSPARENT.values(), ids=TRANSPARENT)


@transparent
def test_a_wrapper_that_changes_nothing_is_the_cell(wrap):
    inner = cell("lstm")
    wrapped = wrap(inner)
    for attribute in (
        "in_features",
        "hidden_features",
        "carry_parts",
        "param_dtype",
        "dtype",
        "num_feature_axes",
    ):
        assert getattr(wrapped, attribute) == getattr(inner, attribute)
    carry = inner.initialize_carry((B, IN))
    chex.assert_trees_all_equal(wrapped.initialize_carry((B, IN)), carry)
    chex.assert_trees_all_close(wrapped(carry, XS[:, 0]), inner(carry, XS[:, 0]), **CLOSE)
    np.testing.assert_array_equal(wrapped.project(XS), inner.project(XS))
    chex.assert_trees_all_close(
        wrapped.step(carry, inner.project(XS[:, 0])), inner(carry, XS[:, 0]), **CLOSE
    )
    assert wrapped.gates(carry, XS[:, 0]).keys() == inner.gates(carry, XS[:, 0]).keys()
    chex.assert_trees_all_equal(
        wrapped.memory_path(carry, XS[:, 0]), inner.memory_path(carry, XS[:, 0])
    )


@jax.jit
def value_and_gradient(cell, xs):
    def loss(cell, xs):
        return jnp.sum(jnp.sin(rj.unroll(cell, xs)[1]))

    return jax.value_and_grad(loss, (0, 1))(cell, xs)


def test_gradients_go_through_to_the_cell():
    inner = cell("gru_reset_after")
    value, (by_cell, by_xs) = value_and_gradient(TRANSPARENT["nested"](inner), XS)
    while isinstance(by_cell, CellWrapper):
        by_cell = by_cell.cell
    expected = value_and_gradient(inner, XS)
    chex.assert_trees_all_close((value, (by_cell, by_xs)), expected, **CLOSE)


def test_what_the_cell_does_not_have_the_wrapper_does_not_have_either():
    simple = CellWrapper(cell("simple_tanh"))
    assert not hasattr(simple, "gates")
    assert not hasattr(simple, "memory_path")
    assert hasattr(CellWrapper(cell("lstm")), "gates")


class Other(rj.LSTMCell):
    """An LSTM with another recurrence, whose inherited fused form would not be true."""

    def step(self, carry, z):
        (c, h), _ = super().step(carry, z)
        return (0.5 * c, h), h


class Halved(CellWrapper):
    """A wrapper with another recurrence."""

    def step(self, carry, z):
        h, y = self.cell.step(carry, z)
        return 0.5 * h, y


def test_a_wrapper_has_a_fused_form_exactly_where_the_recurrence_is_the_cells():
    inner = cell("lstm")
    for wrap in (CellWrapper, TRANSPARENT["learned_carry"], TRANSPARENT["recurrent_dropout"]):
        chex.assert_trees_all_equal(fused_form(wrap(inner)), fused_form(inner))
    assert fused_form(CellWrapper(cell("lstm_peephole"))) is None
    assert fused_form(CellWrapper(Other(IN, H, rngs=nnx.Rngs(0)))) is None
    assert fused_form(rj.Zoneout(inner, 0.1)) is None
    halved = Halved(cell("simple_tanh"))
    assert fused_form(halved) is None
    _, ys = rj.unroll(halved, XS[0])
    np.testing.assert_allclose(ys[1], halved(0.5 * ys[0], XS[0, 1])[1], **CLOSE)


def test_wrapped_cells_are_pytrees_that_compile_once_and_split_and_merge():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(cell):
        return rj.unroll(cell, XS)[1]

    def wrapped(seed):
        return rj.Zoneout(learned(rj.RecurrentDropout(cell("lstm", seed), 0.2)), {"c": 0.5})

    assert not np.allclose(run(wrapped(0)), run(wrapped(1)))
    again = nnx.merge(*nnx.split(wrapped(0)))
    assert jax.tree.structure(again) == jax.tree.structure(wrapped(0))
    np.testing.assert_array_equal(run(again), run(wrapped(0)))
    theirs = nnx.RNN(wrapped(0), return_carry=True)(XS)
    chex.assert_trees_all_close(rj.unroll(wrapped(0), XS), theirs, **CLOSE)


# An initial carry that is learned


def test_the_initial_carry_is_the_parameter_in_every_sequence():
    wrapped = learned(cell("lstm"))
    c, h = wrapped.initialize_carry((2, B, IN))
    assert c.shape == h.shape == (2, B, H)
    np.testing.assert_array_equal(c[1, 0], wrapped.initial["c"][...])
    np.testing.assert_array_equal(h[0, 1], wrapped.initial["h"][...])
    start = jnp.concatenate([wrapped.initial["c"][...], wrapped.initial["h"][...]])
    for xs, ys in zip(XS, rj.unroll(wrapped, XS)[1], strict=True):
        _, expected = oracles.run(zoo.oracle(wrapped.cell).step, np.asarray(xs), np.asarray(start))
        np.testing.assert_allclose(ys, expected, **CLOSE)
    assert not np.any(rj.LearnedCarry(cell("lstm"), rngs=nnx.Rngs(0)).initial["c"][...])
    ones = rj.LearnedCarry(cell("gru_reset_after"), carry_init="ones", rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(ones.initialize_carry((IN,)), np.ones(H))
    drawn = wrapped.initialize_carry((B, IN), nnx.Rngs(0), nnx.initializers.normal(1.0))
    assert len(np.unique(np.asarray(drawn))) == 2 * B * H
    half = rj.LearnedCarry(
        rj.GRUCell(IN, H, param_dtype=jnp.float32, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0)
    )
    assert half.initial["h"].dtype == half.initialize_carry((IN,)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "reverse"), [("lstm", False), ("lstm_peephole", True)], ids=["fused", "plain"]
)
def test_the_gradient_by_the_initial_carry_is_the_sum_over_all_sequences_that_start(name, reverse):
    wrapped = learned(cell(name))
    resets = jnp.asarray([[False, False, True, False, True, False], [False] * T])
    lengths = jnp.asarray([T, 2])
    starts = [(0, 0, 2), (0, 2, 4), (0, 4, 6), (1, 0, 2)]

    @jax.jit
    def gradient(wrapped):
        def loss(wrapped):
            _, ys = rj.unroll(wrapped, XS, resets=resets, lengths=lengths, reverse=reverse)
            return jnp.sum(jnp.sin(ys))

        return jax.grad(loss)(wrapped).initial

    # From explicit carries, one for each sequence, which the plain cell takes.
    @jax.jit
    def by_carry(carry, xs):
        def loss(carry):
            _, ys = rj.unroll(wrapped.cell, xs, carry, reverse=reverse)
            return jnp.sum(jnp.sin(ys))

        return jax.grad(loss)(carry)

    carry = wrapped.initialize_carry((IN,))
    shares = [by_carry(carry, XS[row, start:stop]) for row, start, stop in starts]
    expected = jax.tree.map(lambda *parts: sum(map(np.asarray, parts)), *shares)
    found = gradient(wrapped)
    assert np.all(expected[0] != 0)
    chex.assert_trees_all_close((found["c"][...], found["h"][...]), expected, **CLOSE)


# Zoneout without a key: the expected update


@pytest.mark.parametrize(
    ("name", "rate", "by_part"),
    [
        ("lstm_peephole", {"c": 0.5, "h": 0.05}, (0.5, 0.05)),
        ("lstm", {"h": 0.3}, (0.0, 0.3)),
        ("gru_reset_before", 0.2, (0.2,)),
    ],
)
def test_without_a_key_zoneout_takes_the_expected_update(name, rate, by_part):
    inner = cell(name)
    zoned = rj.Zoneout(inner, rate)
    assert zoned.rates == by_part
    start, twin = zoo.random_carry(inner, 3), zoo.oracle(inner)
    keep = np.repeat(by_part, H)
    xs = np.asarray(XS[0])
    carries = [zoo.flat(start)]
    for x in xs:
        carries.append(keep * carries[-1] + (1 - keep) * twin.step(carries[-1], x)[0])
    lin = rj.linearize(zoned, XS[0], start)
    np.testing.assert_allclose(lin.carries, carries, **CLOSE)
    np.testing.assert_allclose(lin.outputs, np.stack(carries[1:])[:, twin.output_rows], **CLOSE)
    # The derivative, and within it the path that hands each part on by itself.
    As, Bs = oracles.one_step_jacobians(twin.jacobian, np.stack(carries), xs)
    expected = np.diag(keep) + (1 - keep)[:, None] * As
    np.testing.assert_allclose(lin.state_jacobians, expected, **CLOSE)
    np.testing.assert_allclose(lin.input_jacobians, (1 - keep)[:, None] * Bs, **CLOSE)
    _, ys, ours = rj.unroll(zoned, XS[0], start, return_carries=True)
    np.testing.assert_allclose(zoo.flat(ours), carries[1:], **CLOSE)
    np.testing.assert_allclose(ys, np.stack(carries[1:])[:, twin.output_rows], **CLOSE)


def test_the_memory_path_of_zoneout_holds_the_old_value_and_what_the_cell_hands_on():
    inner = cell("lstm")
    zoned = rj.Zoneout(inner, {"c": 0.5, "h": 0.05})
    carry = zoo.random_carry(inner, 3)
    A, _ = zoo.oracle(inner).jacobian(zoo.flat(carry), np.asarray(XS[0, 0]))
    path = zoned.memory_path(carry, XS[0, 0])
    # Without peepholes ∂c'/∂c is diagonal: the path is all of it.
    np.testing.assert_allclose(np.diag(path["c"]), 0.5 * np.eye(H) + 0.5 * A[:H, :H], **CLOSE)
    np.testing.assert_array_equal(path["h"], np.full(H, 0.05))
    simple = rj.Zoneout(cell("simple_tanh"), 0.25)
    np.testing.assert_array_equal(simple.memory_path(jnp.ones(H), XS[0, 0])["h"], np.full(H, 0.25))
    assert not hasattr(simple, "gates")


def test_wrapped_layers_stack():
    stack = rj.StackedCell([learned(cell("lstm")), rj.Zoneout(cell("simple_tanh", 2, H), 0.2)])
    assert stack.carry_parts == ("0.c", "0.h", "1.h")
    _, below = rj.unroll(stack.cells[0], XS)
    np.testing.assert_allclose(
        rj.unroll(stack, XS)[1], rj.unroll(stack.cells[1], below)[1], **CLOSE
    )
    carry = stack.initialize_carry((IN,))
    assert sorted(stack.gates(carry, XS[0, 0])) == ["0.forget", "0.input", "0.output"]
    assert sorted(stack.memory_path(carry, XS[0, 0])) == ["0.c", "1.h"]


def test_the_instrument_sees_the_cell_within():
    inner = cell("gru_reset_after")
    wrapped = learned(rj.RecurrentDropout(inner, 0.5))
    found = rj.linearize(wrapped, XS[0])
    expected = rj.linearize(inner, XS[0], wrapped.initialize_carry((IN,)))
    within = dataclasses.replace(found, cell=inner, carry=expected.carry)
    chex.assert_trees_all_close(within, expected, **CLOSE)
