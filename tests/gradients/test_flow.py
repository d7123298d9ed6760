"""Gradient flow: records with known answers, and records of cells against their loops."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_reference import FEATURES, XS, T, network

import rnn_jax as rj
import zoo

STEPS = 61


def record(curve, **rest):
    """A flow whose log-norm depends on the lag alone."""
    curve = np.asarray(curve, np.float64)
    lag = np.arange(len(curve))[:, None] - np.arange(len(curve))[None, :]
    return rj.GradientFlow(jnp.asarray(np.where(lag >= 0, curve[lag], -np.inf)), **rest)


def straight(rate, steps=STEPS, start=0.0):
    return record(start + rate * np.arange(steps))


def random_table(*batch, steps=9):
    table = np.random.default_rng(0).normal(size=(*batch, steps, steps))
    return np.where(np.tril(np.ones((steps, steps), bool)), table, -np.inf)


@pytest.mark.parametrize("batch", [(), (4,)])
@pytest.mark.parametrize("statistic", ["mean", "min", "max"])
def test_by_lag_takes_all_pairs_at_each_lag(statistic, batch):
    table = random_table(*batch)
    flow = rj.GradientFlow(jnp.asarray(table))
    got = np.asarray(flow.by_lag(statistic))
    reduce = {"mean": np.mean, "min": np.min, "max": np.max}[statistic]
    expected = [
        reduce([table[..., s + lag, s] for s in range(len(got) - lag)]) for lag in range(len(got))
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-13)
    if statistic == "mean":
        np.testing.assert_array_equal(got, np.asarray(flow.by_lag()))


@pytest.mark.parametrize(
    ("statistic", "steps"), [("mean", 70), ("min", 70), ("max", 70), ("max", 20)]
)
def test_by_lag_of_what_is_not_a_number_is_none(statistic, steps):
    """Also of a large table, where a plain maximum on a CPU leaves NaN out."""
    table = np.zeros((steps, steps))
    table[12, 9] = np.nan
    curve = np.asarray(rj.by_lag(table, statistic))
    assert np.flatnonzero(np.isnan(curve)).tolist() == [3]


def test_by_lag_of_an_exact_zero_on_one_path():
    table = random_table()
    table[5, 2] = -np.inf
    flow = rj.GradientFlow(jnp.asarray(table))
    assert np.isneginf(flow.by_lag()[3])
    assert np.isneginf(flow.by_lag("min")[3])
    assert np.isfinite(flow.by_lag("max")).all()
    assert np.isfinite(np.delete(np.asarray(flow.by_lag()), 3)).all()


@pytest.mark.parametrize("start", [-3.0, 0.0, 100.0])
def test_horizon_of_a_straight_line_is_where_it_crosses_the_threshold(start):
    flow = straight(-0.1, start=start)
    # −0.1 k ≥ ln θ for k ≤ −10 ln θ, wherever the line starts.
    for threshold in (0.01, 0.05, 0.5, 0.9):
        assert int(flow.horizon(threshold)) == math.floor(-10 * math.log(threshold))
    assert int(flow.horizon()) == int(flow.horizon(0.01)) == 46
    assert int(flow.horizon(1.0)) == 0
    assert int(flow.horizon(1e-9)) == STEPS - 1


def test_horizon_takes_the_largest_lag_that_is_still_there():
    curve = np.full(21, -50.0)
    curve[[0, 7, 8]] = 0.0, -4.0, -4.7
    assert int(record(curve).horizon()) == 7
    # A first lag that is exactly 0 gives its place to the first that is not.
    curve[:3] = -np.inf
    curve[3] = -1.0
    assert int(record(curve).horizon()) == 8


def test_horizon_where_nothing_depends_on_anything_is_zero():
    assert int(record(np.full(21, -np.inf)).horizon()) == 0


def test_horizon_under_jit_and_vmap():
    table = jnp.stack([straight(rate).log_norms for rate in (-0.1, -0.2, 0.0)])

    @jax.jit
    @jax.vmap
    def horizon(log_norms):
        return rj.GradientFlow(log_norms).horizon()

    assert horizon(table).tolist() == [46, 23, STEPS - 1]
    assert int(jax.jit(lambda flow: flow.horizon(0.5))(straight(-0.1))) == 6


@pytest.mark.parametrize("rate", [-2.5, -0.1, 0.0, 0.3])
@pytest.mark.parametrize("steps", [2, STEPS])
def test_rate_of_a_straight_line_is_its_slope(rate, steps):
    np.testing.assert_allclose(float(straight(rate, steps, 5.0).rate), rate, atol=1e-12)


def test_rate_is_the_least_squares_slope():
    curve = np.random.default_rng(2).normal(size=STEPS)
    slope = np.polynomial.polynomial.polyfit(np.arange(STEPS), curve, 1)[1]
    np.testing.assert_allclose(float(record(curve).rate), slope, rtol=1e-10)


@pytest.mark.parametrize("steps", [4, 9])
@pytest.mark.parametrize("first", [1, 2, 3])
def test_rate_is_minus_infinity_where_the_gradient_becomes_exactly_zero(steps, first):
    curve = -np.arange(steps, dtype=float)
    curve[first:] = -np.inf
    assert np.isneginf(float(record(curve).rate))


def test_rate_of_a_single_step_is_not_known():
    assert math.isnan(float(straight(0.0, steps=1).rate))


@pytest.mark.parametrize(
    ("curve", "regime"),
    [
        (-0.1 * np.arange(61), "vanishing"),
        (-0.1 * np.arange(21), "sustained"),  # the same rate over a shorter sequence
        (0.0 * np.arange(61), "sustained"),
        (0.1 * np.arange(61), "exploding"),
        (0.1 * np.arange(21), "sustained"),
        (np.r_[np.zeros(30), np.full(31, -np.inf)], "vanishing"),
        (np.full(21, -np.inf), "vanishing"),
        (np.r_[np.zeros(30), np.nan, np.zeros(30)], "not finite"),
        (np.r_[np.zeros(60), np.inf], "not finite"),
        ([-2000.0], "undetermined"),
        (-2000 + 0.1 * np.arange(61), "exploding"),
    ],
)
def test_regime(curve, regime):
    flow = record(curve)
    assert flow.regime == regime
    assert regime in flow.summary()


def test_regime_changes_at_a_factor_of_a_hundred():
    # Over ten lags or fewer the last lag alone decides.
    for factor, regime in [(0.0099, "vanishing"), (0.0101, "sustained")]:
        assert record([0.0, 0.0, math.log(factor)]).regime == regime
    for factor, regime in [(99.0, "sustained"), (101.0, "exploding")]:
        assert record([0.0, 0.0, math.log(factor)]).regime == regime


def said(flow):
    """The summary without its line breaks."""
    return " ".join(flow.summary().split())


def test_summary_states_the_numbers():
    text = said(straight(-0.1, start=2.0))
    assert "T = 61" in text
    assert "vanishing" in text
    assert "46 steps" in text
    assert "-0.1000 nats" in text
    assert "2.00 at lag 0, -4.00 at lag 60" in text
    assert "float32" not in text  # nothing here is below its range
    assert "at least 60" in said(straight(0.0))
    assert "∂carry_t/∂carry_s" in said(record(np.zeros(4), wrt="state"))


def test_summary_says_from_where_float32_would_have_read_zero():
    # ln of the smallest normal float32 is −87.3.
    assert re.search(r"read 0 from (about )?lag 30 on", said(straight(-3.0)))


def test_summary_names_exact_zeros_and_what_is_not_finite():
    assert "from lag 4" in said(record(np.r_[np.zeros(4), np.full(5, -np.inf)]))
    table = random_table(3)
    table[0, 6, :7] = np.nan
    table[2, 4, :5] = np.nan
    # Over the batch, the first step at which any sequence is not finite.
    assert "step t = 4" in said(rj.GradientFlow(jnp.asarray(table)))


def test_summary_of_gates_and_of_the_share_of_early_steps():
    gates = {"forget": jnp.full((4, 3), 0.75)}
    # Nine tenths of the sum of norms come from the second half.
    shares = jnp.log(jnp.asarray([0.05, 0.05, 0.45, 0.45]))
    part = rj.Attribution(jnp.zeros(4), {}, gates, paths={})
    text = said(record(np.zeros(4), attribution=part, weight_log_norms=shares))
    assert "forget gate" in text
    assert "mean 0.750" in text
    assert "e^-2.3" in text
    silent = said(record(np.zeros(4), weight_log_norms=jnp.full(4, -jnp.inf)))
    assert "nan" not in silent


@jax.jit
def loss(ys):
    return jnp.sum(ys[-1] ** 2)


# Exponents, which take the longest to compile, are in `test_one_record`.
gathered = functools.partial(
    rj.gradient_flow, loss=loss, measures=("weight_log_norms", "attribution", "bound")
)


@functools.cache
def measured(name, wrt):
    net = network(name)
    return gathered(net.cell, XS, net.carry, wrt=wrt)


@pytest.mark.parametrize(
    ("name", "wrt"),
    [("lstm_coupled_peephole", "input"), ("simple_sigmoid", "state"), ("nnx_simple", "input")],
)
def test_a_flow_gathers_what_the_single_calls_return(name, wrt):
    net, flow = network(name), measured(name, wrt)
    expected = rj.jacobian_log_norms(net.cell, XS, net.carry, wrt=wrt)
    np.testing.assert_allclose(flow.log_norms, expected, rtol=1e-13, atol=1e-13)
    shares = rj.weight_gradient_log_norms(loss, net.cell, XS, net.carry)
    np.testing.assert_allclose(flow.weight_log_norms, shares, rtol=1e-13, atol=1e-13)
    assert flow.wrt == wrt
    assert flow.steps == T
    assert (flow.bound is not None) == name.startswith("simple")
    assert (flow.gates is not None) == name.startswith("lstm")
    if flow.bound is not None:
        bound = np.asarray(rj.jacobian_log_bound(net.cell, T))
        # The bound by lag, on top of the Frobenius norm √S of the identity at lag 0.
        start = 0.5 * np.log(len(net.state))
        np.testing.assert_allclose(np.asarray(flow.bound), bound + start, rtol=1e-12, atol=1e-12)


@jax.jit
def gates_and_step(cell, carry, x):
    return cell.gates(carry, x), cell(carry, x)[0]


@pytest.mark.parametrize("name", ["lstm_coupled_peephole", "gru_reset_before"])
def test_gates_are_those_of_each_step_of_the_loop(name):
    net = network(name)
    flow, carry = measured(name, "input"), net.carry
    for t, x in enumerate(XS):
        expected, carry = gates_and_step(net.cell, carry, x)
        assert flow.gates.keys() == expected.keys()
        for gate, values in expected.items():
            np.testing.assert_allclose(
                np.asarray(flow.gates[gate])[t], np.asarray(values), rtol=1e-12
            )


def test_a_batch_is_each_sequence_with_its_own_carry():
    net = network("gru_reset_before")
    rng = np.random.default_rng(4)
    batch, carries = rng.normal(size=(3, T, FEATURES)), rng.normal(size=(3, *net.carry.shape))
    # The exponents of a batch are in `test_one_record`.
    options = {"loss": loss, "measures": ("attribution", "weight_log_norms")}
    flow = rj.gradient_flow(net.cell, batch, carries, **options)
    for index in range(3):
        alone = rj.gradient_flow(net.cell, batch[index], carries[index], **options)
        np.testing.assert_allclose(flow.log_norms[index], alone.log_norms, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(flow.gates["reset"][index], alone.gates["reset"], rtol=1e-12)
        np.testing.assert_allclose(
            flow.weight_log_norms[index], alone.weight_log_norms, rtol=1e-11, atol=1e-12
        )
    pooled = np.mean([np.diagonal(table, -2) for table in np.asarray(flow.log_norms)])
    np.testing.assert_allclose(float(flow.by_lag()[2]), pooled, rtol=1e-12)


def test_a_batch_without_a_carry_starts_every_sequence_at_the_cells_own():
    cell = network("lstm").cell
    batch = np.random.default_rng(5).normal(size=(2, T, FEATURES))
    flow = rj.gradient_flow(cell, batch, measures=())
    alone = rj.gradient_flow(cell, batch[1], measures=())
    np.testing.assert_allclose(flow.log_norms[1], alone.log_norms, rtol=1e-11, atol=1e-12)


def test_an_activation_without_known_slopes_has_no_bound_and_is_measured_all_the_same():
    cell = zoo.CELLS["simple_tanh"](FEATURES, 3, 0)
    cell.activation = lambda x: x - x**3
    flow = rj.gradient_flow(cell, XS, measures="bound")
    assert flow.bound is None
    assert np.isfinite(np.diagonal(flow.log_norms)).all()


def test_a_flow_passes_through_jit_and_tree_maps():
    flow = measured("lstm_coupled_peephole", "input")
    same = jax.jit(lambda flow: flow)(flow)
    assert jax.tree.structure(same) == jax.tree.structure(flow)
    assert same.wrt == flow.wrt
    assert same.summary() == flow.summary()
    net = network("lstm_coupled_peephole")
    inside = jax.jit(gathered)(net.cell, XS, net.carry)
    for got, expected in zip(*map(jax.tree.leaves, (inside, flow)), strict=True):
        np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-11, atol=1e-12)


def test_a_network_that_is_not_finite_is_named_by_its_step():
    xs = XS.copy()
    xs[3, 0] = np.nan
    flow = rj.gradient_flow(network("lstm_coupled_peephole").cell, xs, measures=())
    assert flow.regime == "not finite"
    assert "step t = 3" in said(flow)
