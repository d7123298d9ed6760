"""The error signal: against the oracle, and against a nudge added to each carry by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from test_reference import FEATURES, QUICK, XS, T, network, unrolled

import oracles
import rnn_jax as rj
import zoo

ALL, MIDDLE = np.ones(T), np.eye(T)[T // 2]


@jax.jit
def loss(ys, reads=ALL):
    """Reads the steps it is told to, each in its own way."""
    weights = jnp.cos(jnp.arange(ys.size, dtype=ys.dtype)).reshape(ys.shape)
    return jnp.sum(jnp.asarray(reads, ys.dtype)[:, None] * (weights * ys + ys**3))


@jax.jit
def middle_loss(ys):
    return loss(ys, MIDDLE)


@functools.cache
def signal(name, of=loss):
    net = network(name)
    return rj.backprop_signal(of, net.cell, XS, net.carry)


@functools.cache
def nudged(name):
    """d loss by a nudge of each carry, by each input, and by the initial carry."""
    net = network(name)

    @functools.partial(jax.jit, compiler_options=QUICK)
    @functools.partial(jax.grad, argnums=(1, 2, 3))
    def gradients(reads, nudges, xs, state):
        return loss(unrolled(net, xs, state, nudges)[1], reads)

    return lambda reads: gradients(reads, np.zeros((T, net.state.size)), XS, net.state)


def log_norm(rows):
    with np.errstate(divide="ignore"):
        return np.log(np.linalg.norm(rows, axis=-1))


# With the output in the carry and without, a loss that leaves out the last steps.
@pytest.mark.parametrize(
    ("name", "of", "reads"),
    [
        *((name, loss, ALL) for name in ("simple_relu", "lstm_coupled_peephole", "nnx_lstm")),
        *((name, loss, ALL) for name in ("dict_readout", "henon")),
        *((name, middle_loss, MIDDLE) for name in ("gru_reset_before", "dict_readout")),
    ],
)
def test_equals_the_gradient_by_a_nudge_of_each_carry(name, of, reads):
    got = signal(name, of)
    total, inputs, initial = map(np.asarray, nudged(name)(reads))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-14)
    close(np.asarray(got.total), total)
    close(np.asarray(got.inputs), inputs)
    close(np.asarray(got.initial), initial)
    close(np.asarray(got.total_log_norms), log_norm(total))
    close(np.asarray(got.input_log_norms), log_norm(inputs))
    close(np.asarray(got.direct_log_norms), log_norm(np.asarray(got.direct)))
    # The directions are the total up to a positive factor for each step.
    directions = np.asarray(got.total_directions)
    norms = np.linalg.norm(directions, axis=1)
    norms[norms == 0] = 1
    close((np.linalg.norm(total, axis=1) / norms)[:, None] * directions, total)


@pytest.mark.parametrize("name", ["simple_relu", "lstm_coupled_peephole", "lstm_1997"])
def test_equals_the_recursion_over_hand_derived_jacobians(name):
    net = network(name)
    twin = zoo.oracle(net.cell)
    carries, ys = oracles.run(twin.step, XS, net.state)
    As, Bs = oracles.one_step_jacobians(twin.jacobian, carries, XS)
    by_output = np.asarray(jax.grad(loss)(jnp.asarray(ys)))
    total = oracles.backprop_signal(As, by_output, twin.output_rows)
    got = signal(name)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-14)
    close(np.asarray(got.total), total)
    close(np.asarray(got.inputs), np.einsum("tsi,ts->ti", Bs, total))
    close(np.asarray(got.initial), As[0].T @ total[0])
    direct = np.zeros_like(total)
    direct[:, twin.output_rows] = by_output
    close(np.asarray(got.direct), direct)


@pytest.mark.parametrize("name", ["lstm_coupled_peephole", "dict_readout", "henon"])
def test_direct_is_what_no_later_carry_passes_on(name):
    # total_t − A_{t+1}ᵀ total_{t+1} is what the loss takes from carry_t itself.
    net, got = network(name), signal(name)
    lin = rj.linearize(net.cell, XS, net.carry)
    A, total = np.asarray(lin.state_jacobians), np.asarray(got.total)
    passed = np.einsum("tba,tb->ta", A[1:], total[1:])
    expected = np.concatenate([total[:-1] - passed, total[-1:]])
    np.testing.assert_allclose(np.asarray(got.direct), expected, rtol=1e-10, atol=1e-13)
    if net.rows is None:
        # The last carry is read by no output, so nothing depends on it.
        assert not np.asarray(got.total)[-1].any()
        assert np.isneginf(got.total_log_norms[-1])


@pytest.mark.parametrize("name", ["gru_reset_before", "dict_readout"])
def test_a_loss_of_one_middle_step_is_silent_about_what_follows(name):
    got = signal(name, middle_loss)
    middle = T // 2
    last = middle if network(name).rows else middle - 1
    assert np.isneginf(np.asarray(got.total_log_norms)[last + 1 :]).all()
    assert np.isneginf(np.asarray(got.input_log_norms)[middle + 1 :]).all()
    assert np.isfinite(np.asarray(got.total_log_norms)[: last + 1]).all()
    assert np.isfinite(np.asarray(got.input_log_norms)[: middle + 1]).all()
    direct = np.asarray(got.direct_log_norms)
    assert np.isfinite(direct[last])
    assert np.isneginf(np.delete(direct, last)).all()


@pytest.mark.parametrize("name", ["lstm", "dict_readout"])
def test_a_loss_that_reads_nothing_gives_minus_infinity_and_not_nan(name):
    net = network(name)
    got = rj.backprop_signal(lambda ys: jnp.sum(0.0 * ys), net.cell, XS, net.carry)
    for logs in (got.direct_log_norms, got.total_log_norms, got.input_log_norms):
        assert np.isneginf(np.asarray(logs)).all()
    for plain in (got.direct, got.total, got.total_directions, got.inputs, got.initial):
        assert not np.asarray(plain).any()


LONG = 1000


@functools.cache
def long_case():
    """1000 steps of a float32 cell, and the same weights run by the float64 oracle."""
    cell = rj.SimpleRNNCell(
        FEATURES, 16, activation="sigmoid", param_dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    xs = np.random.default_rng(1).normal(size=(LONG, FEATURES)).astype(np.float32)
    twin = zoo.oracle(cell)
    carries, _ = oracles.run(twin.step, xs.astype(np.float64), np.zeros(16))
    return cell, xs, oracles.one_step_jacobians(twin.jacobian, carries, xs.astype(np.float64))


@pytest.mark.parametrize("at", [-1, LONG // 2])
def test_logs_of_a_thousand_float32_steps(at):
    cell, xs, (As, Bs) = long_case()
    got = rj.backprop_signal(lambda ys: jnp.sum(ys[at]), cell, xs)
    t = at % LONG
    # One product in float64, renormalised at each step.
    row, scale = np.ones(16), 0.0
    total, inputs = np.full(LONG, -np.inf), np.full(LONG, -np.inf)
    for s in range(t, -1, -1):
        total[s] = np.log(np.linalg.norm(row)) + scale
        inputs[s] = np.log(np.linalg.norm(row @ Bs[s])) + scale
        row = row @ As[s]
        size = np.linalg.norm(row)
        row, scale = row / size, scale + np.log(size)
    for logs, expected in ((got.total_log_norms, total), (got.input_log_norms, inputs)):
        logs = np.asarray(logs)
        assert logs.dtype == np.float32
        assert np.isneginf(logs[t + 1 :]).all()
        np.testing.assert_allclose(logs[: t + 1], expected[: t + 1], rtol=2e-4, atol=0.05)
    assert total[0] < 5 * np.log(np.finfo(np.float32).tiny)
    # In plain numbers it has vanished, and says so as 0 and not as NaN.
    assert not np.asarray(got.total)[0].any()
    assert not np.asarray(got.initial).any()
    norms = np.linalg.norm(np.asarray(got.total_directions)[: t + 1], axis=1)
    assert ((norms > 0.1) & (norms < 10)).all()


def scale_step(factors, carry, x):
    h = factors * carry + x
    return h, h


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_an_exploding_signal_beside_an_exact_zero(dtype):
    # Two units that never meet: one grows out of every float, the loss does not read the other.
    steps = 1500
    cell = Partial(scale_step, jnp.asarray([4.0, 0.5], dtype))
    xs, carry = jnp.zeros((steps, 2), dtype), jnp.zeros(2, dtype)
    got = rj.backprop_signal(lambda ys: ys[-1, 0], cell, xs, carry)
    lag = np.arange(steps)[::-1]
    np.testing.assert_allclose(np.asarray(got.total_log_norms), lag * np.log(4.0), rtol=1e-6)
    with np.errstate(over="ignore"):
        expected = np.stack([np.float64(4.0) ** lag, np.zeros(steps)], axis=1).astype(dtype)
    # Zeros and what grew out of the type exactly, the powers of four between them to rounding.
    close = {"rtol": 8 * np.finfo(dtype).eps, "atol": 0}
    np.testing.assert_allclose(np.asarray(got.total), expected, **close)
    np.testing.assert_allclose(np.asarray(got.inputs), expected, **close)
    np.testing.assert_array_equal(np.asarray(got.initial), [np.inf, 0.0])


def test_plain_numbers_reach_to_the_ends_of_their_type():
    # 2^-126 and 2^127 are the smallest and largest normal powers of two in float32.
    cell = Partial(scale_step, jnp.asarray([2.0, 0.5], jnp.float32))
    carry = jnp.zeros(2, jnp.float32)
    for steps in (126, 127):
        xs = jnp.zeros((steps, 2), jnp.float32)
        for unit, factor in ((0, 2.0), (1, 0.5)):
            got = rj.backprop_signal(lambda ys, unit=unit: ys[-1, unit], cell, xs, carry)
            if unit == 0 or steps <= 126:
                assert float(got.initial[unit]) == pytest.approx(factor**steps, rel=1e-6, abs=0)
            assert float(got.total[1, unit]) == pytest.approx(
                factor ** (steps - 2), rel=1e-6, abs=0
            )


def test_float32_signal_is_float64_to_its_rounding():
    net, double = network("lstm_coupled_peephole"), signal("lstm_coupled_peephole")
    cell, carry = jax.tree.map(lambda a: a.astype(jnp.float32), (net.cell, net.carry))
    single = rj.backprop_signal(loss, cell, jnp.asarray(XS, jnp.float32), carry)
    assert {leaf.dtype for leaf in jax.tree.leaves(single)} == {np.dtype(np.float32)}
    for field in ("direct", "total", "inputs", "initial", "total_log_norms", "input_log_norms"):
        low, high = np.asarray(getattr(single, field)), np.asarray(getattr(double, field))
        np.testing.assert_allclose(low, high, rtol=1e-4, atol=1e-5)


def test_tree_outputs_and_losses_of_trees():
    def cell(carry, x):
        h = jnp.tanh(0.7 * carry + x)
        return h, {"square": h**2, "input": x}

    @jax.jit
    def of(ys):
        return jnp.sum(ys["square"] * ys["input"]) + ys["square"][2, 0]

    carry = jnp.full(FEATURES, 0.1)
    got = rj.backprop_signal(of, cell, XS, carry)
    slopes = jax.jit(jax.grad(lambda xs, c: of(jax.lax.scan(cell, c, xs)[1]), (0, 1)))
    inputs, initial = slopes(jnp.asarray(XS), carry)
    np.testing.assert_allclose(np.asarray(got.inputs), np.asarray(inputs), rtol=1e-12)
    np.testing.assert_allclose(np.asarray(got.initial), np.asarray(initial), rtol=1e-12)


def test_vmap_jit_and_a_jitted_cell():
    net = network("gru_reset_before")
    batch = np.random.default_rng(2).normal(size=(3, T, FEATURES))
    call = functools.partial(rj.backprop_signal, loss)
    mapped = jax.jit(jax.vmap(call, (None, 0, None)))(net.cell, batch, net.carry)
    alone = call(net.cell, batch[1], net.carry)
    for many, one in zip(jax.tree.leaves(mapped), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(np.asarray(many[1]), np.asarray(one), rtol=1e-12)
    # A cell that is jitted already is the same cell: its output is still its carry.
    jitted = call(Partial(jax.jit(net.step_of), net.cell), batch[1], jnp.asarray(net.state))
    np.testing.assert_allclose(np.asarray(jitted.total), np.asarray(alone.total), rtol=1e-12)


def test_derivative_of_the_log_norms():
    net = network("simple_tanh")
    vector, unravel = ravel_pytree(net.cell)

    @jax.jit
    @jax.value_and_grad
    def both(vector):
        got = rj.backprop_signal(loss, unravel(vector), XS, net.carry)
        return jnp.sum(got.total_log_norms) + got.input_log_norms[0]

    gradient = np.asarray(both(vector)[1])
    direction = np.random.default_rng(3).normal(size=vector.shape)

    def central(size):
        ahead, behind = (both(vector + sign * size * direction)[0] for sign in (1, -1))
        return (ahead - behind) / (2 * size)

    slope = (4 * central(5e-4) - central(1e-3)) / 3
    np.testing.assert_allclose(gradient @ direction, np.asarray(slope), rtol=1e-7)
