"""Fixed points in their plane: what is drawn is where it is."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection

import rnn_jax as rj
from refusing import refuses
from rnn_jax.plotting import plot_fixed_points


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def record(points, jacobians, *, period=1, is_fixed=None, orbits=None):
    """Points of a record, whose other numbers no picture shows."""
    points = np.asarray(points, float)
    count = len(points)
    jacobians = np.asarray(jacobians, float).reshape(count, points.shape[1], points.shape[1])
    values = np.linalg.eigvals(jacobians).astype(complex)
    order = np.argsort(-np.abs(values), axis=1)
    return rj.FixedPoints(
        points=points,
        carries=points,
        orbits=points[:, None] if orbits is None else np.asarray(orbits, float),
        speeds=np.zeros(count),
        is_fixed=np.ones(count, bool) if is_fixed is None else np.asarray(is_fixed),
        jacobians=jacobians,
        eigenvalues=np.take_along_axis(values, order, axis=1),
        radius=np.full(count, np.nan),
        uniqueness=np.full(count, np.nan),
        counts=np.ones(count, int),
        labels=np.arange(count),
        x=np.zeros(1),
        period=period,
        lower_period=0,
        unsettled=0,
    )


# Two that are stable, a saddle along the second axis between them, and a slow point.
POINTS = [[-2.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
JACOBIANS = [0.5 * np.eye(3), 0.5 * np.eye(3), np.diag([0.5, 1.5, 0.2]), 0.9 * np.eye(3)]
FOUR = record(POINTS, JACOBIANS, is_fixed=[True, True, True, False])


def offsets(ax):
    """Drawn places by the first words of their label."""
    found = [c for c in ax.collections if isinstance(c, PathCollection)]
    return {c.get_label(): np.asarray(c.get_offsets()) for c in found}


def test_each_kind_has_its_marker_and_is_counted():
    ax = plot_fixed_points(FOUR)
    drawn = offsets(ax)
    assert set(drawn) == {"2 stable points", "1 unstable point", "1 slow point"}
    # The plane is that of the first two axes, centred; distances in it are those of the points.
    gap = drawn["2 stable points"][0] - drawn["2 stable points"][1]
    np.testing.assert_allclose(np.abs(gap), [4, 0], atol=1e-12)
    middle = drawn["1 unstable point"][0] - drawn["2 stable points"].mean(axis=0)
    np.testing.assert_allclose(middle, 0, atol=1e-12)
    assert {text.get_text() for text in ax.get_legend().get_texts()} == set(drawn)
    assert "of variance" in ax.get_xlabel()
    ax.figure.canvas.draw()


def test_unstable_directions_are_drawn_along_their_eigenvectors():
    (lines,) = [c for c in plot_fixed_points(FOUR).collections if isinstance(c, LineCollection)]
    (segment,) = lines.get_segments()
    arm = np.diff(segment, axis=0)[0]
    assert abs(arm[0]) < 1e-12 < abs(arm[1])
    none = plot_fixed_points(FOUR, directions=False)
    assert not [c for c in none.collections if isinstance(c, LineCollection)]


def test_trajectories_lie_beneath_and_span_the_plane():
    rng = np.random.default_rng(0)
    paths = rng.normal(size=(5, 7, 3)) * [0.1, 3.0, 1.0]
    _, ax = plt.subplots()
    assert plot_fixed_points(FOUR, paths, ax, directions=False, title="t") is ax
    (lines,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    assert len(lines.get_segments()) == 5
    drawn = np.concatenate(lines.get_segments())
    cloud = paths.reshape(-1, 3)
    shares = np.linalg.svd(cloud - cloud.mean(axis=0))[1] ** 2
    np.testing.assert_allclose(drawn.var(axis=0), shares[:2] / len(cloud), rtol=1e-10)
    assert f"{shares[0] / shares.sum():.0%}" in ax.get_xlabel()
    # One trajectory alone, too.
    plot_fixed_points(FOUR, paths[0])


def test_an_orbit_is_drawn_whole():
    orbit = [[[1.0, 0.0], [-1.0, 0.5]]]
    ax = plot_fixed_points(record([orbit[0][0]], [0.3 * np.eye(2)], period=2, orbits=orbit))
    (places,) = offsets(ax).values()
    assert len(places) == 2
    assert "1 stable orbit of period 2" in offsets(ax)
    assert len(ax.lines[0].get_xdata()) == 3  # closed


def test_a_record_draws_itself():
    _, ax = plt.subplots()
    assert FOUR.plot(ax, trajectories=np.zeros((2, 3))) is ax
    # One unit: the second axis is empty.
    one = record([[0.0], [1.0]], [[0.5], [1.5]]).plot()
    one.figure.canvas.draw()


def test_refusals():
    nothing = FOUR.select([])
    refuses(
        lambda: plot_fixed_points(nothing), ValueError, "needs points", "without rows", "starts"
    )
    refuses(
        lambda: plot_fixed_points(FOUR, np.zeros((4, 5, 2))),
        ValueError,
        "must be states (..., T, 3)",
        "(4, 5, 2)",
        "return_carries=True",
    )
    plot_fixed_points(nothing, np.ones((4, 3)) * np.arange(4)[:, None])
