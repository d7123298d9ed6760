"""The weight gradient by step: that of a network whose every step has weights of its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from test_reference import FEATURES, QUICK, XS, T, network

import oracles
import rnn_jax as rj
import zoo

# Cells with weights, ours and others', with and without their output in their carry.
NAMES = (
    "simple_relu",
    "lstm_coupled_peephole",
    "gru_reset_before",
    "nnx_lstm",
    "equinox_gru_partial",
    "dict_readout",
)


@jax.jit
def loss(ys):
    weights = jnp.cos(jnp.arange(ys.size, dtype=ys.dtype)).reshape(ys.shape)
    return jnp.sum(weights * ys + ys**3)


@functools.cache
def shares(name):
    net = network(name)
    return rj.weight_gradient_by_step(loss, net.cell, XS, net.carry)


@functools.cache
def separate(name):
    """d loss by a copy of the weights at each step, and by the one copy of all steps."""
    net = network(name)

    def run(step_cells):
        def body(state, at):
            cell, x = at
            return net.step_of(cell, state, x)

        return loss(jax.lax.scan(body, jnp.asarray(net.state), (step_cells, XS))[1])

    def repeat(cell):
        return jax.tree.map(lambda leaf: jnp.repeat(leaf[None], T, axis=0), cell)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def both(cell):
        return jax.grad(run)(repeat(cell)), jax.grad(lambda cell: run(repeat(cell)))(cell)

    return both(net.cell)


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_gradient_by_separate_weights_and_sums_to_the_gradient(name):
    by_step, whole = separate(name)
    got = shares(name)
    assert jax.tree.structure(got) == jax.tree.structure(network(name).cell)
    for share, expected, total in zip(*map(jax.tree.leaves, (got, by_step, whole)), strict=True):
        np.testing.assert_allclose(np.asarray(share), np.asarray(expected), rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(
            np.asarray(share).sum(axis=0), np.asarray(total), rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("name", NAMES[:3])
def test_equals_the_hand_derived_shares(name):
    net = network(name)
    twin = zoo.oracle(net.cell)
    carries, ys = oracles.run(twin.step, XS, net.state)
    As, _ = oracles.one_step_jacobians(twin.jacobian, carries, XS)
    by_output = np.asarray(jax.grad(loss)(jnp.asarray(ys)))
    totals = oracles.backprop_signal(As, by_output, twin.output_rows)
    expected = oracles.weight_gradient_by_step(twin.gradient, carries, XS, totals)
    got = zoo.weights_of(shares(name))
    assert got.keys() == expected.keys()
    for weight, value in expected.items():
        np.testing.assert_allclose(got[weight], value, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["lstm_coupled_peephole", "nnx_lstm", "dict_readout"])
def test_log_norms_are_the_logs_of_the_shares(name):
    net = network(name)
    logs = rj.weight_gradient_log_norms(loss, net.cell, XS, net.carry)
    leaves = [np.asarray(leaf).reshape(T, -1) for leaf in jax.tree.leaves(shares(name))]
    expected = np.log(np.linalg.norm(np.concatenate(leaves, axis=1), axis=1))
    np.testing.assert_allclose(np.asarray(logs), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_log_norms_far_below_the_smallest_float(dtype):
    steps = 520  # e^-800 is below every float64 too
    cell = rj.SimpleRNNCell(FEATURES, 8, activation="sigmoid", param_dtype=dtype, rngs=nnx.Rngs(0))
    xs = np.random.default_rng(1).normal(size=(steps, FEATURES)).astype(dtype)
    logs = np.asarray(rj.weight_gradient_log_norms(lambda ys: jnp.sum(ys[-1]), cell, xs))
    assert logs.dtype == dtype
    twin = zoo.oracle(cell)
    xs = xs.astype(np.float64)
    carries, _ = oracles.run(twin.step, xs, np.zeros(8))
    As, _ = oracles.one_step_jacobians(twin.jacobian, carries, xs)
    total, scale, expected = np.ones(8), 0.0, np.zeros(steps)
    for s in reversed(range(steps)):
        # A share is linear in the signal, so its scale can be put on afterwards.
        share = twin.gradient(carries[s], xs[s], total)
        expected[s] = scale + np.log(
            np.linalg.norm(np.concatenate([v.ravel() for v in share.values()]))
        )
        total = As[s].T @ total
        size = np.linalg.norm(total)
        total, scale = total / size, scale + np.log(size)
    assert expected[0] < np.log(np.finfo(np.float64).tiny)
    tolerance = {"rtol": 2e-4, "atol": 0.05} if dtype == jnp.float32 else {"rtol": 1e-11}
    np.testing.assert_allclose(logs, expected, **tolerance)


def test_log_norms_where_the_output_is_no_part_of_the_carry():
    # The last step's share comes through its output alone, every other also through the carry,
    # which has shrunk far below the smallest float on its way to the early steps.
    def step(weights, carry, x):
        h = weights["decay"] * carry + x
        return h, weights["out"] * h

    steps, decay, out = 400, 0.01, 3.0
    weights = {"decay": jnp.asarray(decay), "out": jnp.asarray(out)}
    xs = jnp.ones((steps, 1))
    logs = rj.weight_gradient_log_norms(
        lambda ys: jnp.sum(ys[-1]), Partial(step, weights), xs, jnp.zeros(1)
    )
    h = np.concatenate([[0.0], np.cumsum(decay ** np.arange(steps))])
    with np.errstate(divide="ignore"):
        expected = np.log(out) + np.log(decay) * np.arange(steps)[::-1] + np.log(h[:-1])
    expected[-1] = 0.5 * np.log((out * h[-2]) ** 2 + h[-1] ** 2)
    # At the first step the decay multiplies a zero carry: no share at all.
    assert np.isneginf(logs[0])
    np.testing.assert_allclose(np.asarray(logs)[1:], expected[1:], rtol=1e-12)
    assert expected[1] < 2 * np.log(np.finfo(np.float64).tiny)


@pytest.mark.parametrize("name", ["lstm", "dict_readout"])
def test_a_loss_that_reads_nothing_gives_minus_infinity_and_not_nan(name):
    net = network(name)
    silent = lambda ys: jnp.sum(0.0 * ys)  # noqa: E731
    logs = rj.weight_gradient_log_norms(silent, net.cell, XS, net.carry)
    assert np.isneginf(np.asarray(logs)).all()
    for leaf in jax.tree.leaves(rj.weight_gradient_by_step(silent, net.cell, XS, net.carry)):
        assert not np.asarray(leaf).any()


def test_steps_after_the_one_that_the_loss_reads_have_no_share():
    net = network("gru_reset_before")
    one = lambda ys: jnp.sum(ys[2] ** 2)  # noqa: E731
    logs = np.asarray(rj.weight_gradient_log_norms(one, net.cell, XS, net.carry))
    assert np.isfinite(logs[:3]).all()
    assert np.isneginf(logs[3:]).all()


def test_weights_may_be_plain_numbers():
    def step(gain, offset, carry, x):
        h = jnp.tanh(gain * carry + x + offset)
        return h, h

    numbers, carry = Partial(step, 0.5, 0.1), jnp.zeros(FEATURES)
    arrays = Partial(step, jnp.asarray(0.5), jnp.asarray(0.1))
    for call in (rj.weight_gradient_by_step, rj.weight_gradient_log_norms):
        got, expected = (call(loss, cell, XS, carry) for cell in (numbers, arrays))
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-13)


def test_weights_kept_in_another_precision_than_the_computation():
    cell = rj.SimpleRNNCell(
        FEATURES, 3, dtype=jnp.float32, param_dtype=jnp.float64, rngs=nnx.Rngs(0)
    )
    xs = jnp.asarray(XS, jnp.float32)
    shares = rj.weight_gradient_by_step(loss, cell, xs)
    assert {leaf.dtype for leaf in jax.tree.leaves(shares)} == {np.dtype(np.float64)}
    logs = rj.weight_gradient_log_norms(loss, cell, xs)
    leaves = [np.asarray(leaf).reshape(T, -1) for leaf in jax.tree.leaves(shares)]
    expected = np.log(np.linalg.norm(np.concatenate(leaves, axis=1), axis=1))
    np.testing.assert_allclose(np.asarray(logs), expected, rtol=1e-5, atol=1e-5)


def test_vmap_and_jit():
    net = network("lstm_coupled_peephole")
    batch = np.random.default_rng(2).normal(size=(3, T, FEATURES))

    def both(*given):
        calls = (rj.weight_gradient_by_step, rj.weight_gradient_log_norms)
        return [call(loss, *given) for call in calls]

    mapped = jax.jit(jax.vmap(both, (None, 0, None)))(net.cell, batch, net.carry)
    alone = both(net.cell, batch[1], net.carry)
    for many, one in zip(jax.tree.leaves(mapped), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(np.asarray(many[1]), np.asarray(one), rtol=1e-11, atol=1e-13)


def test_derivative_of_the_log_norms():
    net = network("simple_tanh")
    vector, unravel = ravel_pytree(net.cell)

    @jax.jit
    @jax.value_and_grad
    def both(vector):
        return jnp.sum(rj.weight_gradient_log_norms(loss, unravel(vector), XS, net.carry))

    gradient = np.asarray(both(vector)[1])
    direction = np.random.default_rng(3).normal(size=vector.shape)

    def central(size):
        ahead, behind = (both(vector + sign * size * direction)[0] for sign in (1, -1))
        return (ahead - behind) / (2 * size)

    slope = (4 * central(5e-4) - central(1e-3)) / 3
    np.testing.assert_allclose(gradient @ direction, np.asarray(slope), rtol=1e-6)


def test_a_carry_that_is_learned_is_used_at_the_first_step():
    inner = zoo.CELLS["lstm"](FEATURES, 3, 1)
    cell = rj.LearnedCarry(inner, carry_init=jax.nn.initializers.normal(), rngs=nnx.Rngs(0))
    shares = rj.weight_gradient_by_step(loss, cell, XS)
    whole = jax.jit(jax.grad(lambda cell: loss(rj.unroll(cell, XS)[1])))(cell)
    for share, total in zip(jax.tree.leaves(shares), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(share.sum(0), total, rtol=1e-10, atol=1e-12)
    for share in jax.tree.leaves(shares.initial):
        assert (np.asarray(share[0]) != 0).all()
        assert (np.asarray(share[1:]) == 0).all()
    logs = rj.weight_gradient_log_norms(loss, cell, XS)
    squares = sum(np.square(s).reshape(T, -1).sum(1) for s in jax.tree.leaves(shares))
    np.testing.assert_allclose(logs, 0.5 * np.log(squares), rtol=0, atol=1e-9)
