"""Pictures of training: what is drawn is what was recorded."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

import rnn_jax as rj
from rnn_jax import plotting
from rnn_jax.plotting import COLORS

STEP = np.array([10, 20, 30])
LAGS = 6


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def make_record(*members):
    """Members decay at rates of their own, slower with training."""
    rates = np.linspace(2.0, 1.0, 4)[:, None] * np.arange(LAGS)
    table = -np.stack([rate * rates for rate in members or (1.0,)]) + 3.0
    horizon = np.stack([[1.0, 2.0, 3.0, 5.0]] * len(members or (1.0,)))
    if not members:
        table, horizon = table[0], horizon[0]
    step = np.array([0, 10, 20, 30])
    return rj.ProbeRecord(step, {"by_lag": table, "horizon": horizon})


def make_history(mse, solved_at=np.nan, probes=None):
    mse = np.asarray(mse, float)
    batch = mse.shape[:-1]
    never = np.full(batch, np.nan)
    return rj.History(
        step=STEP,
        loss=mse,
        gradient_norm=np.ones_like(mse),
        updates=np.full(mse.shape, 10),
        metrics={"loss": mse, "mse": mse},
        solved_at=np.broadcast_to(solved_at, batch),
        failed_at=never,
        skipped=np.zeros(batch, int),
        best_at=never,
        stopped_at=never,
        probes=probes or {},
    )


def test_each_member_is_a_line_and_a_dot_where_it_was_solved():
    table = np.array([[0.5, 0.1, 0.005], [0.5, 0.4, 0.3]])
    ax = plotting.plot_learning(make_history(table, np.array([30, np.nan])), metric="mse")
    curves = [line for line in ax.lines if len(line.get_xdata()) == 3]
    np.testing.assert_array_equal([line.get_ydata() for line in curves], table)
    (dot,) = [line for line in ax.lines if line.get_marker() == "o"]
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (30, 0.005)
    assert ax.get_yscale() == "log"
    assert ax.get_ylabel() == "mse on fresh data"


def test_a_single_model_close_to_constant_has_a_plain_axis_and_the_line_of_chance():
    ax = plotting.plot_learning(make_history([0.3, 0.2, 0.25]), chance=1 / 6)
    assert ax.get_yscale() == "linear"
    (chance,) = [line for line in ax.lines if line.get_color() == COLORS["grey"]]
    assert set(chance.get_ydata()) == {1 / 6}


def test_an_unknown_metric_names_those_there_are():
    with pytest.raises(ValueError, match="'loss', 'mse'; got 'accuracy'"):
        plotting.plot_learning(make_history([1.0, 1.0, 1.0]), metric="accuracy")


@pytest.mark.parametrize("relative", [True, False])
def test_flow_is_drawn_lag_upwards_over_training_steps(relative):
    record = make_record()
    ax = plotting.plot_flow_while_learning(record, relative=relative)
    (mesh,) = ax.collections[:1]
    expected = record["by_lag"] - (record["by_lag"][:, :1] if relative else 0)
    np.testing.assert_allclose(mesh.get_array(), expected.T)
    np.testing.assert_array_equal(ax.lines[-1].get_xdata(), record.step)
    np.testing.assert_array_equal(ax.lines[-1].get_ydata(), record["horizon"])


def test_members_are_averaged_and_what_is_too_far_down_ends_the_colours():
    record = make_record(1.0, 3.0)
    ax = plotting.plot_flow_while_learning(record, lowest=-5.0)
    relative = (record["by_lag"] - record["by_lag"][..., :1]).mean(axis=0)
    np.testing.assert_allclose(ax.collections[0].get_array(), np.maximum(relative, -5.0).T)
    assert ax.collections[0].get_clim() == (-5.0, 0.0)


def test_exact_zeros_are_drawn_as_the_lowest_colour():
    record = make_record()
    record.values["by_lag"][:, -1] = -np.inf
    ax = plotting.plot_flow_while_learning(record, lowest=-20.0)
    assert np.isfinite(ax.collections[0].get_array()).all()


def test_a_single_measurement_can_be_drawn():
    record = make_record()
    single = rj.ProbeRecord(record.step[:1], {k: v[:1] for k, v in record.values.items()})
    assert plotting.plot_flow_while_learning(single).collections


def test_another_probes_record_is_refused():
    record = rj.ProbeRecord(STEP, {"exponents": np.zeros((3, 2))})
    with pytest.raises(ValueError, match="GradientFlowProbe; got one with exponents"):
        plotting.plot_flow_while_learning(record)


def test_the_figure_puts_losses_and_flow_on_one_axis_of_time():
    flows = {"gradient_flow": make_record(1.0, 2.0), "lyapunov": rj.ProbeRecord(STEP, {})}
    history = make_history(np.full((2, 3), 0.1), probes=flows)
    figure = plotting.training_figure(history, chance=0.2, title="An LSTM")
    top, bottom = figure.axes[:2]
    assert top.get_shared_x_axes().joined(top, bottom)
    assert bottom.get_ylabel() == "lag $k$  (steps)"
    assert len(make_history([0.1, 0.1, 0.1]).plot().axes) == 1
