"""Pictures: the numbers that are drawn, and the axes that they are drawn on."""

import dataclasses
import itertools
import subprocess
import sys
import types
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
from rnn_jax import plotting

T = 12


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def flow():
    cell = rj.LSTMCell(2, 3, rngs=nnx.Rngs(0))
    xs = jax.random.normal(jax.random.key(0), (T, 2))
    return rj.gradient_flow(cell, xs, loss=lambda ys: jnp.sum(ys[-1]), spectrum=True)


@pytest.fixture(scope="module")
def simple_flow():
    cell = rj.SimpleRNNCell(2, 3, activation="sigmoid", rngs=nnx.Rngs(0))
    xs = jax.random.normal(jax.random.key(0), (80, 2))
    return rj.gradient_flow(cell, xs)


def drawn(ax, label):
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return line.get_xdata(), line.get_ydata()


CALLS = {
    "map": plotting.plot_log_norms,
    "lag": plotting.plot_by_lag,
    "weights": plotting.plot_weight_shares,
    "gates": plotting.plot_gates,
    "attribution": plotting.plot_attribution,
    "exponents": plotting.plot_exponents,
    "singular_values": plotting.plot_singular_values,
}


@pytest.mark.parametrize("name", CALLS)
def test_every_picture_takes_a_result_and_optional_axes(flow, name):
    _, ax = plt.subplots()
    assert CALLS[name](flow, ax) is ax
    fresh = CALLS[name](flow)
    assert fresh is not ax
    for axes in (ax, fresh):
        assert axes.get_xlabel()
        assert axes.get_ylabel()
    # What is drawn must also draw: labels and layouts fail only then.
    fresh.figure.canvas.draw()


def test_map_shows_the_table_with_time_running_down(flow):
    ax = plotting.plot_log_norms(flow)
    image = ax.images[0].get_array()
    table = np.asarray(flow.log_norms)
    below = np.tril(np.ones_like(table, bool))
    np.testing.assert_allclose(np.asarray(image)[below], table[below])
    assert np.ma.getmaskarray(image)[~below].all() or np.isnan(np.asarray(image)[~below]).all()
    top, bottom = ax.get_ylim()[1], ax.get_ylim()[0]
    assert top < bottom


def test_map_refuses_rows_alone(flow):
    with pytest.raises(ValueError, match="square table"):
        plotting.plot_log_norms(flow.log_norms[:2])


def test_lag_curve_and_bound_are_the_measured_ones(simple_flow):
    ax = plotting.plot_by_lag(simple_flow)
    lags, curve = drawn(ax, "mean")
    np.testing.assert_array_equal(lags, np.arange(80))
    np.testing.assert_allclose(curve, np.asarray(simple_flow.by_lag()))
    (bound,) = [line for line in ax.lines if "bound" in str(line.get_label())]
    np.testing.assert_allclose(bound.get_ydata(), np.asarray(simple_flow.bound))
    assert (np.asarray(simple_flow.by_lag()) <= np.asarray(simple_flow.bound) + 1e-9).all()


def test_the_float32_floor_is_drawn_only_where_a_curve_falls_below_it(flow, simple_flow):
    floor = float(np.log(np.finfo(np.float32).tiny))

    def has_floor(ax):
        return any(np.allclose(line.get_ydata(), floor) for line in ax.lines)

    assert has_floor(plotting.plot_by_lag(simple_flow))
    assert not has_floor(plotting.plot_by_lag(flow))


def test_several_curves_keep_their_names_and_colours():
    curves = {"one": np.zeros(5), "two": np.array([0.0, -1, -2, -np.inf, -np.inf])}
    ax = plotting.plot_by_lag(curves, colors={"one": "red"})
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one", "two"]
    assert ax.lines[0].get_color() == "red"
    # Exact zeros are gaps in the curve: a number in their place would be an invention.
    assert np.isnan(drawn(ax, "two")[1][3:]).all()


def test_weight_shares_sum_to_one(flow):
    ax = plotting.plot_weight_shares(flow)
    shares = ax.lines[0].get_ydata()
    np.testing.assert_allclose(np.exp(shares).sum(), 1.0, rtol=1e-12)


def test_gate_means_are_drawn(flow):
    ax = plotting.plot_gates(flow)
    _, mean = drawn(ax, "forget gate")
    np.testing.assert_allclose(mean, np.asarray(flow.gates["forget"]).mean(axis=-1))


def test_attribution_shows_the_memory_path_beside_the_whole(flow, simple_flow):
    path = flow.attribution.paths["c"]
    ax = plotting.plot_attribution(flow)
    np.testing.assert_allclose(drawn(ax, "all")[1], np.asarray(path.total_log_norms))
    (own,) = [line for line in ax.lines if "own gate" in str(line.get_label())]
    np.testing.assert_allclose(own.get_ydata(), np.asarray(path.path_log_norms))
    ax = plotting.plot_attribution(simple_flow)
    slopes, matrix = (drawn(ax, f"from the {name}")[1] for name in ("slopes", "recurrent matrix"))
    np.testing.assert_allclose(slopes + matrix, drawn(ax, r"$\ln\,\Vert A_t\Vert$")[1])


def test_attribution_of_a_stack_and_of_a_plain_function_is_drawn_too():
    stack = rj.StackedCell(
        [rj.GRUCell(2, 3, rngs=nnx.Rngs(0)), rj.LSTMCell(3, 2, rngs=nnx.Rngs(0))]
    )
    xs = jax.random.normal(jax.random.key(0), (T, 2))
    ax = plotting.plot_attribution(rj.attribution(stack, xs))
    assert {"all of 0.h", "all of 1.c"} <= {line.get_label() for line in ax.lines}

    def rotation(state, x):
        turned = jnp.stack([-state[1], state[0]])
        return turned, turned

    ax = plotting.plot_attribution(rj.attribution(rotation, xs, jnp.ones(2)))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.log(np.sqrt(2)))


def test_spectra_are_the_measured_ones_and_exact_zeros_are_counted(flow):
    ax = plotting.plot_singular_values({"some": jnp.asarray([0.0, -3.0, -jnp.inf, -jnp.inf])})
    (text,) = ax.get_legend().get_texts()
    assert text.get_text() == "some (2 of 4 exactly 0)"
    curve = ax.lines[-1].get_ydata()
    np.testing.assert_array_equal(curve[:2], [0, -3])
    assert np.isnan(curve[2:]).all()
    ax = plotting.plot_exponents({"net": flow.exponents})
    (bars,) = ax.containers
    np.testing.assert_allclose(bars[0].get_ydata(), np.asarray(flow.exponents.exponents))


@pytest.mark.parametrize("windows", [1, 6])
def test_local_exponents_are_drawn_by_window(windows):
    table = np.random.default_rng(0).normal(size=(windows, 3))
    table[-1, 2] = -np.inf
    local = rj.LocalLyapunovExponents(jnp.asarray(table), window=5, start=10)
    ax = local.plot()
    ax.figure.canvas.draw()
    curves = [line for line in ax.lines if str(line.get_label()).startswith("$")]
    for curve, expected in zip(curves, table.T, strict=True):
        np.testing.assert_array_equal(curve.get_xdata(), 12.5 + 5 * np.arange(windows))
        shown = np.where(np.isfinite(expected), expected, np.nan)
        np.testing.assert_allclose(curve.get_ydata(), shown)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[0] == f"$\\lambda_{{1}}$ = {table[:, 0].mean():+.3f}".replace("-", "−")
    assert f"(in 1 of {windows} windows)" in labels[2]
    # The same as a map, with the lost cell grey, and a batch averaged.
    ax = plotting.plot_local_exponents(local, kind="map", limits=(-1.0, 0.5))
    image = np.ma.filled(ax.images[0].get_array(), np.nan)
    np.testing.assert_allclose(image, np.where(np.isfinite(table), table, np.nan).T)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["mapped to 0"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    ax.figure.canvas.draw()
    batch = dataclasses.replace(local, exponents=jnp.stack([jnp.zeros_like(local.exponents)] * 2))
    assert (plotting.plot_local_exponents(batch).lines[1].get_ydata() == 0).all()


def test_growth_and_decay_have_a_half_of_the_colours_each():
    chaotic = nnx.initializers.normal(2.0 / 8**0.5)  # gain 2
    cell = rj.SimpleRNNCell(2, 8, recurrent_kernel_init=chaotic, rngs=nnx.Rngs(0))
    xs = 0.1 * jax.random.normal(jax.random.key(1), (80, 2))
    clv = rj.covariant_lyapunov_vectors(cell, xs, k=8, warmup=8, tail=8)
    ax = clv.plot(window=16)
    (image,) = ax.images
    np.testing.assert_allclose(image.get_array(), np.asarray(clv.finite_time(16).exponents).T)
    assert image.norm.vmin < 0 < image.norm.vmax
    ticks = ax.figure.axes[1].get_yticks()
    assert (ticks < 0).any()
    assert (ticks > 0).any()
    with pytest.raises(ValueError, match=r"kind must be .*got 'bars'"):
        plotting.plot_local_exponents(clv.finite_time(16), kind="bars")


def test_a_map_of_one_sign_uses_all_of_its_colours():
    local = rj.LocalLyapunovExponents(-1.0 - jnp.arange(12.0).reshape(3, 4), window=5)
    (image,) = plotting.plot_local_exponents(local, kind="map").images
    assert image.norm.vmin < image.norm.vmax < 0
    assert image.cmap.name == "cividis"


def test_pictures_say_what_is_missing(simple_flow):
    bare = rj.GradientFlow(simple_flow.log_norms)
    with pytest.raises(ValueError, match="spectrum=True"):
        plotting.plot_singular_values(simple_flow)
    with pytest.raises(ValueError, match="no exponents"):
        plotting.plot_exponents(bare)
    with pytest.raises(ValueError, match="no attribution"):
        plotting.plot_attribution(bare)
    with pytest.raises(ValueError, match="no gates to draw"):
        plotting.plot_gates(simple_flow)
    with pytest.raises(ValueError, match="without a loss"):
        plotting.plot_weight_shares(simple_flow)


@pytest.mark.parametrize("which", ["flow", "simple_flow"])
def test_flow_plot_is_one_page_that_can_be_saved(request, which, tmp_path):
    figure = request.getfixturevalue(which).plot()
    figure.savefig(tmp_path / "flow.png")
    assert (tmp_path / "flow.png").stat().st_size > 10_000


PARTS = ["attribution", "exponents", "log_singular_values", "weight_log_norms"]


# Each flow with each number of parts and with each size of a page, one in four of all combinations.
@pytest.mark.parametrize(
    ("which", "held", "figsize"),
    [
        (which, held, figsize)
        for i, which in enumerate(["flow", "simple_flow"])
        for held in range(len(PARTS) + 1)
        for j, figsize in enumerate([None, (6, 4), (9, 9), (20, 12)])
        if (2 * i + held + j) % 4 == 0
    ],
)
def test_the_page_has_no_empty_panel_and_nothing_on_it_overlaps(request, which, held, figsize):
    whole = request.getfixturevalue(which)
    flow = dataclasses.replace(whole, **dict.fromkeys(PARTS[held:]))
    figure = flow.plot(figsize=figsize)
    if figsize is not None:
        assert tuple(figure.get_size_inches()) == figsize
    figure.draw_without_rendering()
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    assert all(ax.get_visible() and (ax.lines or ax.images) for ax in figure.axes)
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    # The scale of the map has its label inside the box of the map.
    (scale,) = figure.axes[0].child_axes
    assert boxes[0].containsx(scale.get_tightbbox().x1 - 1)
    page = figure.bbox
    for box in boxes:
        assert page.x0 - 1 <= box.x0 < box.x1 <= page.x1 + 1
        assert page.y0 - 1 <= box.y0 < box.y1 <= page.y1 + 1


@pytest.mark.parametrize(
    "figsize", [3, (4,), (4, 0), (-1, 4), (4, float("nan")), (4, float("inf")), "big", (1, 2, 3)]
)
def test_a_figsize_that_is_none_is_refused(simple_flow, figsize):
    with pytest.raises(ValueError, match=r"two positive numbers.*got .*Pass for example"):
        simple_flow.plot(figsize=figsize)


def test_results_are_known_by_what_they_hold():
    """Records of another library with the same fields are drawn like ours."""
    table = np.where(np.tril(np.ones((5, 5), bool)), -1.0, -np.inf)
    exponents = types.SimpleNamespace(exponents=np.zeros(2), standard_errors=np.ones(2))
    record = types.SimpleNamespace(
        log_norms=table,
        wrt="state",
        by_lag=lambda statistic="mean": np.zeros(5),
        bound=None,
        exponents=exponents,
        log_singular_values=np.zeros(3),
        weight_log_norms=np.zeros(5),
        gates={"own": np.full((5, 2), 0.5)},
        attribution=types.SimpleNamespace(
            paths={}, slope_log=None, step_log_norms=np.arange(5.0), gates={}
        ),
    )
    for call in CALLS.values():
        assert call(record).lines or call(record).images
    assert plotting.plot_exponents(exponents).containers
    assert plotting.plot_attribution(record.attribution).lines


def test_drawing_loads_no_part_of_the_package_but_plotting():
    code = (
        "import sys, types, importlib.util as u; p = types.ModuleType('rnn_jax'); "
        f"p.__path__ = [{str(Path(rj.__file__).parent)!r}]; sys.modules['rnn_jax'] = p; "
        "import rnn_jax.plotting; print([m for m in sys.modules if m.startswith('rnn_jax.') "
        "and not m.startswith('rnn_jax.plotting')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
