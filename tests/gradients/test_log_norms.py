"""Log-norms: those of the Jacobians where they fit, of float64 oracles where they do not."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from test_reference import FEATURES, QUICK, XS, T, jacobians, log_norm_row, network

import oracles
import rnn_jax as rj
import zoo

TWO_KINDS = [("input", "fro"), ("state", "spectral")]


def plain_log_norms(J, norm):
    """ln of the norm of each block of a (T, m, T, n) Jacobian."""
    with np.errstate(divide="ignore"):
        blocks = np.asarray(J).transpose(0, 2, 1, 3)
        return np.log(np.linalg.norm(blocks, {"fro": "fro", "spectral": 2}[norm], axis=(2, 3)))


@pytest.mark.parametrize(
    ("name", "wrt", "norm"),
    [
        # Of carries that are scalars, too; the Jacobians of all the others are in `test_jacobians`.
        *((name, "input", "fro") for name in ("simple_relu", "henon")),
        # What is measured and its norm, in two pairs for each.
        ("lstm_coupled_peephole", "input", "spectral"),
        ("lstm_coupled_peephole", "state", "fro"),
        *(("dict_readout", *kind) for kind in TWO_KINDS),
    ],
)
def test_are_the_logs_of_plain_norms(name, wrt, norm):
    net = network(name)
    table = rj.jacobian_log_norms(net.cell, XS, net.carry, wrt=wrt, norm=norm)
    expected = plain_log_norms(jacobians(name)[wrt], norm)
    np.testing.assert_allclose(np.asarray(table), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "wrt", "norm"),
    [
        ("dict_readout", "state", "spectral"),
        ("lstm_coupled_peephole", "state", "fro"),
    ],
)
def test_targets_are_rows_of_the_whole_table(name, wrt, norm):
    net = network(name)
    measure = functools.partial(rj.jacobian_log_norms, net.cell, XS, net.carry, wrt=wrt, norm=norm)
    table = np.asarray(measure())
    # One target is swept backward, many are swept forward.
    for targets in ([-2], [3, -1, 0, 3, 2, 1, -T, 4, 4, 1, 0, 2]):
        got = np.asarray(measure(targets=targets))
        np.testing.assert_allclose(got, table[targets], rtol=1e-11, atol=1e-12)


LONG = 1000
LONG_XS = np.random.default_rng(0).normal(size=(LONG, FEATURES)).astype(np.float32)
# Dense steps, and steps of which half the columns are diagonal.
LONG_CELLS = {
    "sigmoid": functools.partial(rj.SimpleRNNCell, activation="sigmoid"),
    "lstm": rj.LSTMCell,
}


@functools.cache
def long_run(kind):
    """A float32 cell of 16 units, its log-norms, and float64 As, Bs of the same weights."""
    cell = LONG_CELLS[kind](FEATURES, 16, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    table = rj.jacobian_log_norms(cell, LONG_XS)
    assert table.dtype == jnp.float32
    twin = zoo.oracle(cell)
    xs = LONG_XS.astype(np.float64)
    size = 32 if kind == "lstm" else 16
    carries, _ = oracles.run(twin.step, xs, np.zeros(size))
    As, Bs = oracles.one_step_jacobians(twin.jacobian, carries, xs)
    return cell, np.asarray(table), As, Bs, twin.output_rows


def tolerance(expected):
    """What is claimed of float32 over a thousand steps: 0.05 nat and 2e-4 of the value."""
    return 0.05 + 2e-4 * np.abs(expected)


@pytest.mark.parametrize("kind", LONG_CELLS)
def test_thousand_steps_in_float32_against_float64(kind):
    _, table, As, Bs, rows = long_run(kind)
    past = np.tril(np.ones((LONG, LONG), bool))
    assert np.isneginf(table[~past]).all()
    assert np.isfinite(table[past]).all()
    for t in (30, 500, LONG - 1):
        row, expected = table[t, : t + 1], log_norm_row(As, Bs, rows, t)[: t + 1]
        assert (np.abs(row - expected) <= tolerance(expected)).all()
    # Far below what float32 can hold, or the test would show nothing.
    assert expected[0] < 1.5 * np.log(np.finfo(np.float32).tiny)


def test_thousand_steps_in_float32_against_the_entrywise_oracle():
    cell, table, As, Bs, rows = long_run("sigmoid")
    expected = oracles.log_norms(As, Bs, rows, targets=[LONG - 1])
    assert (np.abs(table[-1:] - expected) <= tolerance(expected)).all()
    # And backward from single targets, by another order of multiplication.
    some = rj.jacobian_log_norms(cell, LONG_XS, targets=[LONG // 2, -1])
    picked = table[[LONG // 2, -1]]
    finite = np.isfinite(picked)
    np.testing.assert_array_equal(np.isfinite(np.asarray(some)), finite)
    np.testing.assert_allclose(np.asarray(some)[finite], picked[finite], rtol=2e-5, atol=1e-3)


@pytest.mark.parametrize(("wrt", "norm"), TWO_KINDS)
def test_single_entries_against_arbitrary_precision(wrt, norm):
    cell = zoo.CELLS["simple_sigmoid"](FEATURES, 6, 3)
    cell.recurrent_kernel[...] = 0.1 * cell.recurrent_kernel[...]
    twin, steps = zoo.oracle(cell), 220
    xs = np.random.default_rng(2).normal(size=(steps, FEATURES))
    carries, _ = oracles.run(twin.step, xs, np.zeros(6))
    As, Bs = oracles.one_step_jacobians(twin.jacobian, carries, xs)
    table = np.asarray(rj.jacobian_log_norms(cell, xs, wrt=wrt, norm=norm))
    for t, s in [(steps - 1, 0), (120, 17), (3, 3)]:
        expected = oracles.mp_log_norm(As, Bs, twin.output_rows, t, s, wrt, norm)
        np.testing.assert_allclose(table[t, s], expected, rtol=1e-11, atol=1e-12)
    assert table[-1, 0] < np.log(np.finfo(np.float64).tiny)


def scaled_identity(factor, carry, x):
    h = factor * carry + x
    return h, h


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("factor", [1e-30, 0.25, 1.0, 8.0, 1e30])
def test_known_rates_beyond_every_float(factor, dtype):
    steps = 80
    cell = Partial(scaled_identity, jnp.asarray(factor, dtype))
    # The states themselves must not overflow, only their derivatives.
    xs, carry = jnp.zeros((steps, 3), dtype), jnp.zeros(3, dtype)
    lag = np.arange(steps)[:, None] - np.arange(steps)[None, :]
    rate = np.log(np.float64(jnp.asarray(factor, dtype)))
    past = lag >= 0
    for wrt, norm in TWO_KINDS:
        table = np.asarray(rj.jacobian_log_norms(cell, xs, carry, wrt=wrt, norm=norm))
        expected = rate * lag[past] + (0.5 * np.log(3) if norm == "fro" else 0.0)
        np.testing.assert_allclose(table[past], expected, rtol=1e-6, atol=1e-6)
        assert np.isneginf(table[~past]).all()


def test_an_exploding_network_past_the_largest_float():
    cell = rj.SimpleRNNCell(
        FEATURES, 16, activation="identity", param_dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    cell.recurrent_kernel[...] = 3.0 * cell.recurrent_kernel[...]
    xs = jnp.zeros((300, FEATURES), jnp.float32)
    table = np.asarray(rj.jacobian_log_norms(cell, xs, targets=[-1]))[0]
    start = 0.5 * np.log((np.asarray(cell.kernel[...], np.float64) ** 2).sum())
    expected = start + np.log(3.0) * np.arange(299, -1, -1)
    np.testing.assert_allclose(table, expected, rtol=1e-6, atol=1e-4)
    assert table[0] > 3 * np.log(np.finfo(np.float32).max)


@pytest.mark.parametrize(("wrt", "norm"), TWO_KINDS)
def test_dead_units_give_exactly_zero_and_nothing_else_does(wrt, norm):
    cell = zoo.CELLS["simple_relu"](FEATURES, 4, 0)
    cell.bias[...] = jnp.full(4, 0.1)
    cell.recurrent_kernel[...] = 1e-3 * jnp.abs(cell.recurrent_kernel[...])
    cell.kernel[...] = 1e-3 * jnp.abs(cell.kernel[...])
    xs = np.abs(np.random.default_rng(1).normal(size=(200, FEATURES)))
    table = np.asarray(rj.jacobian_log_norms(cell, xs, wrt=wrt, norm=norm))
    past = np.tril(np.ones((200, 200), bool))
    assert np.isfinite(table[past]).all()
    assert table[-1, 0] < 1.2 * np.log(np.finfo(np.float64).tiny)
    xs[120] = -1e6  # Every unit is off at this step: no path leads across it.
    table = np.asarray(rj.jacobian_log_norms(cell, xs, wrt=wrt, norm=norm))
    assert np.isneginf(table[120:, :120]).all()
    reached = past.copy()
    reached[120:, :120] = False
    if wrt == "input":
        assert np.isneginf(table[120:, 120]).all()
        reached[120:, 120] = False
    assert np.isfinite(table[reached]).all()
    one = np.asarray(rj.jacobian_log_norms(cell, xs, wrt=wrt, norm=norm, targets=[-1]))
    np.testing.assert_allclose(one[0], table[-1], rtol=1e-11, atol=1e-12)


@pytest.mark.xfail(
    reason="one exponent serves a whole product, so inside it the range is that of the type: "
    "what is 2^126 times smaller than the largest entry is lost, also if it alone goes on",
    raises=AssertionError,
)
def test_a_path_that_survives_a_far_larger_one():
    # Two units that never meet: one keeps 0.9 of its past, the other 0.1. Then the first dies.
    def step(factors, carry, x):
        h = jax.nn.relu(factors * carry + x)
        return h, h

    xs = np.full((60, 2), 0.1, np.float32)
    xs[56, 0] = -100.0
    cell = Partial(step, jnp.asarray([0.9, 0.1], jnp.float32))
    table = rj.jacobian_log_norms(cell, xs, jnp.zeros(2, jnp.float32))
    np.testing.assert_allclose(np.asarray(table[56, 0]), 56 * np.log(0.1), rtol=1e-5)


@pytest.mark.parametrize(("wrt", "norm"), TWO_KINDS)
def test_not_finite_shows_from_its_step_on_and_not_before(wrt, norm):
    net = network("lstm_coupled_peephole")
    xs = np.random.default_rng(5).normal(size=(9, FEATURES))
    clean = np.asarray(rj.jacobian_log_norms(net.cell, xs, net.carry, wrt=wrt, norm=norm))
    xs[4, 1] = np.nan
    measure = functools.partial(rj.jacobian_log_norms, net.cell, xs, net.carry, wrt=wrt, norm=norm)
    table = np.asarray(measure())
    np.testing.assert_allclose(table[:4], clean[:4], rtol=1e-12, atol=1e-14)
    assert np.isneginf(table[~np.tril(np.ones((9, 9), bool))]).all()
    for t in range(4, 9):
        affected = table[t, : t + 1 if wrt == "input" else t]
        assert np.isnan(affected).all()
    for t in (1, 3, 4, 8):
        one = np.asarray(measure(targets=[t]))[0]
        np.testing.assert_allclose(one, table[t], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "targets", "norm"),
    [
        ("lstm_coupled_peephole", None, "spectral"),
        ("gru_reset_before", (3, -1), "fro"),
    ],
)
def test_derivative_by_the_weights(name, targets, norm):
    net = network(name)
    vector, unravel = ravel_pytree(net.cell)
    targets = None if targets is None else np.asarray(targets)
    weights = np.random.default_rng(3).normal(size=(T if targets is None else 2, T))

    @functools.partial(jax.jit, compiler_options=QUICK)
    @jax.value_and_grad
    def both(vector):
        table = rj.jacobian_log_norms(unravel(vector), XS, net.carry, norm=norm, targets=targets)
        # Only what exists: −inf has no slope.
        return jnp.sum(jnp.where(jnp.isfinite(table), weights * table, 0.0))

    def value(vector):
        return both(vector)[0]

    gradient = np.asarray(both(vector)[1])
    direction = np.random.default_rng(4).normal(size=vector.shape)

    def central(size):
        return (value(vector + size * direction) - value(vector - size * direction)) / (2 * size)

    slope = (4 * central(5e-4) - central(1e-3)) / 3
    np.testing.assert_allclose(gradient @ direction, np.asarray(slope), rtol=1e-7)


def test_derivative_far_below_the_smallest_float():
    # ln‖∂h_T/∂h_0‖ of h ← a h is T ln a: its slope by a is T / a, at any T.
    def value(factor):
        xs, carry = jnp.zeros((500, 1), jnp.float32), jnp.zeros(1, jnp.float32)
        cell = Partial(scaled_identity, factor)
        return rj.jacobian_log_norms(cell, xs, carry, wrt="state", targets=[-1])[0, 0]

    result, slope = jax.jit(jax.value_and_grad(value))(jnp.float32(0.125))
    np.testing.assert_allclose(np.asarray(result), 499 * np.log(0.125), rtol=1e-6)
    np.testing.assert_allclose(np.asarray(slope), 499 / 0.125, rtol=1e-5)


def test_targets_inside_jit_and_out_of_range():
    net = network("gru_reset_before")
    full = np.asarray(rj.jacobian_log_norms(net.cell, XS, net.carry))
    measure = jax.jit(
        lambda targets: rj.jacobian_log_norms(net.cell, XS, net.carry, targets=targets)
    )
    got = np.asarray(measure(jnp.asarray([2, T, -1, -T - 1, 0, -T, 10**6])))
    np.testing.assert_allclose(got[[0, 2, 4, 5]], full[[2, -1, 0, 0]], rtol=1e-11, atol=1e-12)
    assert np.isnan(got[[1, 3, 6]]).all()
    got = np.asarray(measure(jnp.asarray([T])))
    assert np.isnan(got).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.uint64])
def test_targets_of_every_integer_type(dtype):
    net = network("gru_reset_before")
    xs = np.random.default_rng(1).normal(size=(200, FEATURES))  # longer than an int8 can count
    got = rj.jacobian_log_norms(net.cell, xs, net.carry, targets=np.asarray([100], dtype))
    expected = rj.jacobian_log_norms(net.cell, xs, net.carry, targets=[100])
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-12)


def test_vmap_over_a_batch_is_each_sequence():
    net = network("dict_readout")
    batch = np.random.default_rng(8).normal(size=(3, T, FEATURES))
    mapped = jax.vmap(lambda xs: rj.jacobian_log_norms(net.cell, xs, net.carry))(jnp.asarray(batch))
    for got, xs in zip(mapped, batch, strict=True):
        expected = rj.jacobian_log_norms(net.cell, xs, net.carry)
        np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-11, atol=1e-12)


@jax.jit
def both_norms(cell, xs, carry):
    measure = functools.partial(rj.jacobian_log_norms, cell, xs, carry, wrt="state")
    return measure(), measure(norm="spectral")


@hypothesis.given(seed=st.integers(0, 2**31), gain=st.floats(1e-3, 1e2))
def test_norms_of_products_obey_their_inequalities(seed, gain):
    net = network("simple_tanh")
    rng = np.random.default_rng(seed)
    kernel = gain * rng.normal(size=net.cell.recurrent_kernel.shape)
    cell = jax.tree.map(lambda leaf: leaf, net.cell)  # a copy: others use the network too
    cell.recurrent_kernel[...] = jnp.asarray(kernel)
    xs = rng.normal(size=(T, FEATURES))
    fro, spectral = map(np.asarray, both_norms(cell, xs, net.carry))
    past = np.tril(np.ones((T, T), bool))
    # ‖·‖₂ ≤ ‖·‖_F ≤ √n ‖·‖₂, and the norm of a product is at most the product of the norms.
    assert (spectral[past] <= fro[past] + 1e-9).all()
    assert (fro[past] <= spectral[past] + 0.5 * np.log(len(kernel)) + 1e-9).all()
    for t, r, s in [(4, 2, 0), (3, 2, 1), (4, 3, 0)]:
        assert spectral[t, s] <= spectral[t, r] + spectral[r, s] + 1e-9
