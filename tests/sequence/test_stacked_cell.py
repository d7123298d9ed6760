"""Cells stacked into one: the layers run one after the other, seen as a single cell."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import oracles
import rnn_jax as rj
import zoo
from refusing import refused

IN, B, T = 2, 3, 6
NAMES, SIZES = ("lstm_peephole", "simple_tanh", "gru_reset_before"), (3, 4, 2)
XS = jnp.asarray(np.random.default_rng(0).normal(size=(B, T, IN)))
CLOSE = {"rtol": 1e-11, "atol": 1e-13}


def layers():
    return [
        zoo.CELLS[name](below, size, seed)
        for seed, (name, below, size) in enumerate(zip(NAMES, (IN, *SIZES), SIZES, strict=False))
    ]


@functools.cache
def stack():
    return rj.StackedCell(layers())


def some_carry(*batch, seed=1):
    return tuple(zoo.random_carry(cell, seed + k, *batch) for k, cell in enumerate(layers()))


def by_layer(cells, xs, carry=None, **options):
    """Each layer over the whole sequence, then the next over its outputs."""
    last, carries = [], []
    for depth, cell in enumerate(cells):
        start = None if carry is None else carry[depth]
        end, xs, states = rj.unroll(cell, xs, start, return_carries=True, **options)
        last.append(end)
        carries.append(states)
    return tuple(last), xs, tuple(carries)


@functools.cache
def twins():
    """Over one sequence: carries, hand-derived one-step Jacobians A, B and output rows by layer."""
    inputs, found = np.asarray(XS[0]), []
    for cell, start in zip(layers(), some_carry(), strict=True):
        twin = zoo.oracle(cell)
        carries, ys = oracles.run(twin.step, inputs, zoo.flat(start))
        As, Bs = oracles.one_step_jacobians(twin.jacobian, carries, inputs)
        found.append((carries, As, Bs, twin.output_rows))
        inputs = ys
    return found, inputs


def joint_jacobians():
    """A_t, B_t of the stack by the chain rule from layer to layer."""
    found, _ = twins()
    sizes = [carries.shape[1] for carries, *_ in found]
    starts = np.cumsum([0, *sizes])
    A, B = np.zeros((T, starts[-1], starts[-1])), np.zeros((T, starts[-1], IN))
    by_carry, by_input = None, None  # of the output of the layer below
    for depth, (_, As, Bs, rows) in enumerate(found):
        at = slice(starts[depth], starts[depth + 1])
        A[:, at, at] = As
        if depth == 0:
            B[:, at] = Bs
        else:
            A[:, at, : starts[depth]] = Bs @ by_carry[:, :, : starts[depth]]
            B[:, at] = Bs @ by_input
        by_carry, by_input = A[:, at][:, rows], B[:, at][:, rows]
    return A, B


def test_is_the_numpy_oracle_layer_by_layer():
    found, ys = twins()
    carry, outputs, carries = rj.unroll(stack(), XS[0], some_carry(), return_carries=True)
    np.testing.assert_allclose(outputs, ys, **CLOSE)
    for got, states, (expected, *_) in zip(carry, carries, found, strict=True):
        np.testing.assert_allclose(zoo.flat(got), expected[-1], **CLOSE)
        np.testing.assert_allclose(zoo.flat(states), expected[1:], **CLOSE)


def test_one_step_hands_the_output_up_within_the_step():
    x, carry = XS[:, 0], some_carry(B)
    after, y = stack()(carry, x)
    assert isinstance(after, tuple)
    for cell, before, got in zip(layers(), carry, after, strict=True):
        expected, x = cell(before, x)
        chex.assert_trees_all_close(got, expected, **CLOSE)
    np.testing.assert_allclose(y, x, **CLOSE)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reverse": True},
        {"checkpoint": 2},
        {"lengths": jnp.asarray([T, 0, 4])},
        {"resets": jnp.asarray(np.arange(B * T).reshape(B, T) % 4 == 3)},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_unroll_is_the_layers_unrolled_in_turn(options):
    carry = some_carry(B)
    last, ys, carries = rj.unroll(stack(), XS, carry, return_carries=True, **options)
    expected = by_layer(layers(), XS, carry, **options)
    chex.assert_trees_all_close((last, ys, carries), expected, **CLOSE)


def test_gradient_is_that_of_the_layers_unrolled_in_turn():
    def by_stack(cell, xs, carry):
        last, ys = rj.unroll(cell, xs, carry)
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(last))

    def by_layers(cells, xs, carry):
        last, ys, _ = by_layer(cells, xs, carry)
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(last))

    carry = some_carry(B)
    got = jax.jit(jax.grad(by_stack, (0, 1, 2)))(stack(), XS, carry)
    expected = jax.jit(jax.grad(by_layers, (0, 1, 2)))(layers(), XS, carry)
    assert jax.tree.structure(got[0]) == jax.tree.structure(stack())
    chex.assert_trees_all_close(jax.tree.leaves(got), jax.tree.leaves(expected), **CLOSE)


def test_the_initial_carry_is_each_layers_own():
    carry = stack().initialize_carry((B, IN))
    assert isinstance(carry, tuple)
    expected = tuple(
        cell.initialize_carry((B, below)) for cell, below in zip(layers(), (IN, 3, 4), strict=True)
    )
    chex.assert_trees_all_equal(carry, expected)
    chex.assert_trees_all_close(rj.unroll(stack(), XS), rj.unroll(stack(), XS, carry), **CLOSE)
    random = stack().initialize_carry((IN,), nnx.Rngs(0), nnx.initializers.normal(1.0))
    assert [leaf.shape for leaf in jax.tree.leaves(random)] == [(3,), (3,), (4,), (2,)]
    values = np.concatenate([np.asarray(leaf) for leaf in jax.tree.leaves(random)])
    assert len(np.unique(values)) == values.size  # no two parts alike, none zero
    assert values.all()


def test_linearize_gives_the_chain_rule_from_layer_to_layer():
    lin = rj.linearize(stack(), XS[0], some_carry())
    A, B_t = joint_jacobians()
    np.testing.assert_allclose(lin.state_jacobians, A, **CLOSE)
    np.testing.assert_allclose(lin.input_jacobians, B_t, **CLOSE)
    # The output is the top layer's, found in the carry; what lies above feeds nothing below.
    assert lin.output_rows == (10, 12)
    assert not np.asarray(lin.state_jacobians)[:, :6, 6:].any()
    assert not np.asarray(lin.state_jacobians)[:, 6:10, 10:].any()


def test_log_norms_and_the_weight_gradient_take_a_stack():
    A, B_t = joint_jacobians()
    table = rj.jacobian_log_norms(stack(), XS[0], some_carry())
    expected = oracles.log_norms(A, B_t, slice(10, 12))
    np.testing.assert_allclose(table, expected, rtol=1e-10, atol=1e-11)

    def loss(ys):
        return jnp.sum(ys**2)

    shares = rj.weight_gradient_by_step(loss, stack(), XS[0], some_carry())
    whole = jax.grad(lambda cell: loss(rj.unroll(cell, XS[0], some_carry())[1]))(stack())
    chex.assert_trees_all_close(jax.tree.map(lambda a: a.sum(axis=0), shares), whole, **CLOSE)


def test_a_stack_of_one_is_that_cell():
    cell = zoo.CELLS["lstm"](IN, 3, 0)
    (carry,), ys = rj.unroll(rj.StackedCell([cell]), XS)
    chex.assert_trees_all_close((carry, ys), rj.unroll(cell, XS), **CLOSE)


def test_a_model_of_layers_is_its_stack_and_its_readout():
    model = rj.SequenceModel(layers(), 2, readout="all", rngs=nnx.Rngs(0))
    _, ys = rj.unroll(rj.StackedCell(list(model.cells)), XS)
    bias = jnp.broadcast_to(model.bias[...], (B, T, 2))
    np.testing.assert_allclose(model(XS), ys @ model.kernel[...] + bias, **CLOSE)


def test_nnx_rnn_and_split_and_merge_take_a_stack():
    theirs = nnx.RNN(stack(), return_carry=True)(XS)
    chex.assert_trees_all_close(rj.unroll(stack(), XS), theirs, **CLOSE)
    graph, state = nnx.split(stack())
    again = nnx.merge(graph, state)
    assert jax.tree.structure(again) == jax.tree.structure(stack())
    np.testing.assert_array_equal(rj.unroll(again, XS)[1], rj.unroll(stack(), XS)[1])


def test_float32_layers_stay_float32():
    cells = [
        make(below, 3, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
        for make, below in ((rj.GRUCell, IN), (rj.SimpleRNNCell, 3))
    ]
    carry, ys = rj.unroll(rj.StackedCell(cells), XS.astype(jnp.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves((carry, ys))} == {np.dtype(np.float32)}


def test_cells_may_come_in_any_sequence():
    for cells in (layers(), tuple(layers()), nnx.List(layers())):
        np.testing.assert_allclose(
            rj.unroll(rj.StackedCell(cells), XS)[1], rj.unroll(stack(), XS)[1], **CLOSE
        )


def test_layers_that_do_not_fit():
    cells = [zoo.CELLS["lstm"](IN, 4, 0), zoo.CELLS["lstm"](3, 3, 0)]
    refused(lambda: rj.StackedCell(cells), ValueError, "layer", r"\b4\b", r"\b3\b", "in_features=4")


def test_no_layers():
    refused(lambda: rj.StackedCell([]), ValueError, "at least one", "none|empty|0", r"\[")


@pytest.mark.parametrize(
    ("cells", "arrived"),
    [
        ("lstm", "str"),
        ([lambda carry, x: (carry, x)], "function"),
        ([rj.LSTMCell], "class LSTMCell"),
        ([None], "NoneType"),
        (3, "int"),
        ([nnx.Linear(IN, 3, rngs=nnx.Rngs(0))], "Linear"),
    ],
    ids=["name", "function", "class", "none", "number", "dense layer"],
)
def test_layers_that_are_no_cells(cells, arrived):
    refused(lambda: rj.StackedCell(cells), TypeError, "cells", arrived)


def test_inputs_and_carries_that_do_not_fit():
    refused(lambda: rj.unroll(stack(), XS[..., :1]), ValueError, "in_features=2", "got 1")
    carry = some_carry(B)
    for wrong in (carry[:2], carry[0], (*carry[1:], carry[0])):
        refused(lambda wrong=wrong: rj.unroll(stack(), XS, wrong), ValueError, "carry", "float64")
        refused(lambda wrong=wrong: stack()(wrong, XS[:, 0]), ValueError, "carry")
    refused(lambda: stack()(some_carry(), jnp.zeros(IN, complex)), TypeError, "real", "complex")
