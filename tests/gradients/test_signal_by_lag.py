"""The error signal taken apart: by part of the carry, and by the step whose loss sent it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from test_reference import FEATURES, QUICK, XS, H, T, jacobians, network
from test_signal import log_norm, loss, middle_loss, signal

import oracles
import rnn_jax as rj
import zoo
from refusing import refused

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
NAMES = ("simple_relu", "lstm_coupled_peephole", "nnx_lstm", "dict_readout", "henon")
PAST = np.tril(np.ones((T, T), bool))


@functools.cache
def table(name, of=loss):
    net = network(name)
    return np.asarray(rj.backprop_signal_log_norms(of, net.cell, XS, net.carry))


def step_loss(ys, step):
    """The share of one step in `loss`, which is a sum over steps."""
    return loss(ys, np.eye(T)[step])


def leaves_of(name):
    """Where each leaf of a network's carry lies in the flat carry, in order."""
    sizes = [leaf.size for leaf in jax.tree.leaves(network(name).carry)]
    ends = np.cumsum(sizes)
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


@pytest.mark.parametrize(
    ("name", "names", "of"),
    [
        ("lstm_coupled_peephole", ["c", "h"], loss),
        ("gru_reset_before", ["h"], middle_loss),
        ("dict_readout", ["fast", "slow"], loss),
        ("dict_readout", ["fast", "slow"], middle_loss),
        ("nnx_lstm", ["0", "1"], loss),  # another's carry has no names but its paths
        ("linen_gru", ["carry"], loss),
    ],
)
def test_parts_are_the_leaves_of_the_carry_by_name(name, names, of):
    got = signal(name, of)
    assert sorted(got.part_log_norms) == names
    for key, rows in zip(names, leaves_of(name), strict=True):
        expected = log_norm(np.asarray(got.total)[:, rows])
        np.testing.assert_allclose(np.asarray(got.part_log_norms[key]), expected, **CLOSE)


def test_parts_of_a_stack_are_named_by_layer():
    cells = [zoo.CELLS["lstm"](FEATURES, H, 1), zoo.CELLS["gru_reset_after"](H, 4, 2)]
    got = rj.backprop_signal(loss, rj.StackedCell(cells), XS)
    assert set(got.part_log_norms) == {"0.c", "0.h", "1.h"}
    total = np.split(np.asarray(got.total), [H, 2 * H], axis=1)
    for key, part in zip(("0.c", "0.h", "1.h"), total, strict=True):
        np.testing.assert_allclose(np.asarray(got.part_log_norms[key]), log_norm(part), **CLOSE)


def test_squares_of_the_parts_add_up_to_the_whole():
    got = signal("lstm_coupled_peephole")
    squares = sum(np.exp(2 * np.asarray(part)) for part in got.part_log_norms.values())
    np.testing.assert_allclose(np.log(squares) / 2, np.asarray(got.total_log_norms), **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_table_is_the_plain_product_of_jacobians_and_direct_signals(name):
    products, direct = jacobians(name)["state"], np.asarray(signal(name).direct)
    expected = log_norm(np.einsum("tasb,ta->tsb", products, direct))
    expected[~PAST] = -np.inf
    np.testing.assert_allclose(table(name), expected, **CLOSE)


@pytest.mark.parametrize("name", ["lstm_1997", "gru_reset_after"])
def test_table_is_that_of_hand_derived_jacobians(name):
    net = network(name)
    twin = zoo.oracle(net.cell)
    carries, ys = oracles.run(twin.step, XS, net.state)
    As, _ = oracles.one_step_jacobians(twin.jacobian, carries, XS)
    direct = np.zeros((T, net.state.size))
    weights = np.cos(np.arange(ys.size)).reshape(ys.shape)
    direct[:, twin.output_rows] = weights + 3 * ys**2
    expected = np.full((T, T), -np.inf)
    for t in range(T):
        row = direct[t]
        for s in range(t, -1, -1):
            expected[t, s] = np.log(np.linalg.norm(row))
            row = row @ As[s]
    np.testing.assert_allclose(table(name), expected, **CLOSE)


@pytest.mark.parametrize("name", ["lstm_coupled_peephole", "dict_readout"])
def test_rows_are_signals_of_one_step_of_loss_each_and_these_add_up(name):
    net = network(name)
    parts = [
        rj.backprop_signal(functools.partial(step_loss, step=step), net.cell, XS, net.carry)
        for step in range(T)
    ]
    # The output of step t is read from carry_t, or else from carry_{t−1}.
    delay = 0 if net.rows else 1
    for t in range(T - delay):
        expected = np.asarray(parts[t + delay].total_log_norms)
        np.testing.assert_allclose(table(name)[t], expected, **CLOSE)
    total = np.sum([np.asarray(part.total) for part in parts], axis=0)
    np.testing.assert_allclose(np.asarray(signal(name).total), total, **CLOSE)
    # So no column, whose vectors add up to the total, is shorter than the total.
    lengths = np.exp(np.asarray(signal(name).total_log_norms))
    assert (lengths <= np.exp(table(name)).sum(axis=0) + 1e-12).all()


@pytest.mark.parametrize("name", ["gru_reset_before", "dict_readout"])
def test_a_loss_of_the_last_step_fills_one_row_with_the_total(name):
    def last_loss(ys):
        return step_loss(ys, T - 1)

    got = table(name, last_loss)
    row = T - 1 if network(name).rows else T - 2
    whole = np.asarray(signal(name, last_loss).total_log_norms)
    np.testing.assert_allclose(got[row], whole, **CLOSE)
    assert np.isfinite(got[row, : row + 1]).all()
    assert np.isneginf(np.delete(got, row, axis=0)).all()


@pytest.mark.parametrize("name", ["lstm_coupled_peephole", "dict_readout"])
def test_a_loss_of_no_step_is_minus_infinity_throughout(name):
    @jax.jit
    def silent(ys):
        return jnp.sum(0.0 * ys)

    assert np.isneginf(table(name, silent)).all()
    for part in signal(name, silent).part_log_norms.values():
        assert np.isneginf(np.asarray(part)).all()


def test_later_steps_and_exact_zeros_are_minus_infinity():
    for name in NAMES:
        got = table(name)
        assert np.isneginf(got[~PAST]).all()
        assert not np.isnan(got).any()
    # No output reads the last carry of a cell whose output is no part of its carry.
    assert np.isneginf(table("henon")[-1]).all()
    # One layer of dead units: nothing passes, while each step's own signal stays.
    cell = rj.SimpleRNNCell(FEATURES, H, activation="relu", rngs=nnx.Rngs(0))
    xs = np.abs(XS)
    cell.kernel[...] = jnp.asarray(-np.ones((FEATURES, H)))
    got = np.asarray(rj.backprop_signal_log_norms(jnp.sum, cell, xs))
    np.testing.assert_allclose(np.diag(got), np.log(H) / 2, rtol=1e-14)
    assert np.isneginf(got[~np.eye(T, dtype=bool)]).all()


LONG, WIDE = 300, 16


@functools.cache
def long_case():
    """300 steps of a float32 sigmoid cell, its carries, and one-step Jacobians in float64."""
    cell = rj.SimpleRNNCell(
        FEATURES, WIDE, activation="sigmoid", param_dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    xs = np.random.default_rng(1).normal(size=(LONG, FEATURES)).astype(np.float32)
    twin = zoo.oracle(cell)
    carries, ys = oracles.run(twin.step, xs.astype(np.float64), np.zeros(WIDE))
    As, _ = oracles.one_step_jacobians(twin.jacobian, carries, xs.astype(np.float64))
    return cell, xs, ys, As


def test_three_hundred_float32_steps_equal_float64():
    cell, xs, ys, As = long_case()
    got = np.asarray(rj.backprop_signal_log_norms(lambda ys: jnp.sum(ys**2), cell, xs))
    assert (got.dtype, got.shape) == (np.float32, (LONG, LONG))
    past = np.tril(np.ones((LONG, LONG), bool))
    assert np.isfinite(got[past]).all()
    assert np.isneginf(got[~past]).all()
    # One row for each step that is read, from there backward.
    rows, scales = np.zeros((LONG, WIDE)), np.zeros(LONG)
    for s in reversed(range(LONG)):
        rows[s] = 2 * ys[s]
        sizes = np.linalg.norm(rows[s:], axis=1)
        scales[s:] += np.log(sizes)
        assert (np.abs(got[s:, s] - scales[s:]) <= 0.02 + 1e-4 * np.abs(scales[s:])).all()
        rows[s:] = rows[s:] / sizes[:, None] @ As[s]
    assert scales[-1] < 3 * np.log(np.finfo(np.float32).tiny)


def test_parts_far_below_the_smallest_float():
    # c and h of an LSTM that forgets half at each step and whose gates see no carry.
    steps = 400
    cell = rj.LSTMCell(
        FEATURES, H, forget_bias=0.0, recurrent_kernel_init="zeros", kernel_init="zeros",
        param_dtype=jnp.float32, rngs=nnx.Rngs(0),
    )  # fmt: skip
    got = rj.backprop_signal(
        lambda ys: jnp.sum(ys[-1]), cell, np.zeros((steps, FEATURES), np.float32)
    )
    # No step reads c_T. h_T reads c_{T−1} by o f = ¼, and each step passes half of that on.
    lag = np.arange(steps)[:0:-1]
    expected = [*(np.log(H) / 2 + np.log(0.5) * (1 + lag)), -np.inf]
    np.testing.assert_allclose(np.asarray(got.part_log_norms["c"]), expected, rtol=1e-5)
    h = np.asarray(got.part_log_norms["h"])
    np.testing.assert_allclose(h[-1], np.log(H) / 2, rtol=1e-6)
    assert np.isneginf(h[:-1]).all()


def test_vmap_and_jit_and_the_default_carry():
    cell = network("gru_reset_before").cell
    batch = np.random.default_rng(2).normal(size=(2, T, FEATURES))
    batch[0] = XS
    call = functools.partial(rj.backprop_signal_log_norms, loss)
    mapped = np.asarray(jax.jit(jax.vmap(call, (None, 0)))(cell, batch))
    for many, xs in zip(mapped, batch, strict=True):
        np.testing.assert_allclose(many, np.asarray(call(cell, xs)), **CLOSE)


def test_derivative_of_parts_and_table():
    net = network("dict_readout")
    vector, unravel = ravel_pytree(net.cell)
    weights = np.where(PAST, np.random.default_rng(3).normal(size=(T, T)), 0.0)

    @functools.partial(jax.jit, compiler_options=QUICK)
    @jax.value_and_grad
    def value(vector):
        cell = unravel(vector)
        logs = rj.backprop_signal_log_norms(loss, cell, XS, net.carry)
        parts = rj.backprop_signal(loss, cell, XS, net.carry).part_log_norms
        # No output reads the last carry, and −inf has no slope.
        logs, slow = jnp.where(jnp.isfinite(logs), logs, 0.0), parts["slow"][:-1]
        return jnp.sum(weights * logs) + jnp.sum(jnp.sin(slow))

    gradient = np.asarray(value(vector)[1])
    direction = np.random.default_rng(4).normal(size=vector.shape)

    def central(size):
        ends = [value(vector + sign * size * direction)[0] for sign in (1, -1)]
        return (ends[0] - ends[1]) / (2 * size)

    slope = (4 * central(5e-4) - central(1e-3)) / 3
    np.testing.assert_allclose(gradient @ direction, np.asarray(slope), rtol=1e-6)


def test_what_is_refused():
    cell, call = network("gru_reset_before").cell, rj.backprop_signal_log_norms
    refused(lambda: call(cell, loss, XS), TypeError, r"\(loss, cell, xs\)")
    refused(lambda: call(1.0, cell, XS), TypeError, "loss", "float")
    refused(lambda: call(lambda ys: ys[-1], cell, XS), ValueError, "one real number", r"\[3\]")
    refused(lambda: call(loss, cell, XS[None]), ValueError, r"\(T, I\)", r"\(1, 5, 2\)", "vmap")
    refused(lambda: call(loss, cell, XS[:0]), ValueError, "at least one", r"\(0, 2\)")
    refused(lambda: call(loss, cell, XS.astype(complex)), TypeError, "real numbers", "complex128")
    refused(lambda: call(loss, cell, XS[:, :1]), ValueError, "in_features=2", "got 1")
    refused(lambda: call(loss, cell, XS, np.zeros(H + 1)), ValueError, r"\[4\]", "Leave carry out")
    zeros = np.zeros((300_000, FEATURES))
    refused(lambda: call(jnp.sum, cell, zeros), ValueError, "bytes", "300000", "backprop_signal")
