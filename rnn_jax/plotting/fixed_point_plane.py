"""Fixed points among the trajectories that they shape, in the plane of most variance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.transforms import ScaledTranslation

from rnn_jax.plotting.axes import (
    Size,
    add_legend,
    check_labels,
    cycle_color,
    finish,
    font_points,
    ink,
    line_width,
    new_axes,
    points_of,
    text_points,
)
from rnn_jax.plotting.styles import COLORS, drawing

if TYPE_CHECKING:
    from rnn_jax.gradients.fixed_points.record import FixedPoints

# Unstable directions, as a part of the picture's diagonal.
_ARM = 0.05


@drawing()
def plot_fixed_points(
    result: FixedPoints,
    trajectories: Any = None,
    ax: Axes | None = None,
    *,
    directions: bool = True,
    labels: str | Sequence[str] | None = None,
    figsize: Size | None = None,
    title: str | None = None,
) -> Axes:
    """Fixed points, slow points and trajectories in the plane of two principal components.

    The components are those of the trajectories if there are some, else of the points. Filled
    circles are stable; diamonds are saddles, larger with more unstable directions, which are drawn
    as lines along the eigenvectors of |λ| ≥ 1 (of a complex pair, in the plane that it turns in);
    crosses are slow points. Of a periodic orbit all points are drawn, joined in their order.

    Args:
      result: a `FixedPoints`.
      trajectories: states to draw beneath: flattened (…, T, S), or carries whose leaves lead with
        the same axes, such as those of `unroll(..., return_carries=True)`.
      ax: where to draw; None makes a figure.
      directions: whether to draw the unstable directions.
      labels: names in the legend, in its order; () leaves the legend out.
      figsize: width and height of a new figure, inches; None is as wide as the style.
      title: above the picture.

    Returns:
      The `Axes`.

    Raises:
      ValueError: there is nothing to draw, trajectories of another size than the points, or labels
        or a figsize that do not fit.

    Example:
      >>> starts = rj.sample_starts(cell, xs, 16, key=jax.random.key(0))
      >>> found = rj.fixed_points(cell, x=np.zeros(2), starts=starts)
      >>> ax = rj.plotting.plot_fixed_points(found, title="GRU")
      >>> ax.get_title(loc="left")
      'GRU'
    """
    paths = _paths(trajectories, result)
    cloud = result.points if paths is None else paths.reshape(-1, paths.shape[-1])
    if not len(cloud):
        raise ValueError(
            "a picture needs points or trajectories; got a FixedPoints without rows. Search from "
            "more starts, or pass trajectories=."
        )
    centre, plane, shares = _plane(cloud)
    kinds = _kinds(result)
    names = check_labels(labels, list(kinds))
    ax = new_axes(ax, figsize, natural=(6.2, 5.6))

    def project(states: np.ndarray) -> np.ndarray:
        return (states - centre) @ plane.T

    if paths is not None:
        lines = LineCollection(
            list(project(paths)),
            colors=COLORS["grey"],
            linewidths=line_width(0.35),
            alpha=min(0.5, max(0.08, 12 / len(paths))),
            zorder=1,
        )
        ax.add_collection(lines)
    points = project(result.points)
    drawn = [points] if paths is None else [points, project(cloud)]
    diagonal = float(np.linalg.norm(np.ptp(np.concatenate(drawn), axis=0))) or 1.0
    if directions:
        _draw_directions(ax, result, points, plane, _ARM * diagonal)
    if result.period > 1:
        for orbit in project(result.orbits):
            closed = np.concatenate([orbit, orbit[:1]])
            ax.plot(
                *closed.T,
                color=COLORS["grey"],
                linewidth=line_width(0.5),
                linestyle=(0, (3, 2)),
                zorder=2,
            )
    orbits = project(result.orbits)
    for name, (rows, look) in zip(names, kinds.values(), strict=True):
        flat = orbits[rows].reshape(-1, 2)
        ax.scatter(*flat.T, label=name, zorder=4, linewidths=line_width(0.65), **look)
    ax.autoscale_view()
    ax.margins(0.06)
    for axis, index in ((ax.xaxis, 0), (ax.yaxis, 1)):
        axis.set_label_text(f"principal component {index + 1}  ({shares[index]:.0%} of variance)")
    ax.set_aspect("equal", adjustable="datalim")
    _add_legend_below(ax)
    return finish(ax, title, grid=False)


def _add_legend_below(ax: Axes) -> None:
    """Kinds in a row below the axes, which keep the width of the figure for the plane."""
    words = font_points("xtick.labelsize") + font_points("axes.labelsize")
    below = ScaledTranslation(0, -(1.5 * words + 4) / 72, ax.figure.dpi_scale_trans)
    size, names = "legend.fontsize", ax.get_legend_handles_labels()[1]
    mark = 2 * font_points(size)
    needed = sum(mark + text_points(name, size) for name in names)
    add_legend(
        ax,
        loc="upper left",
        bbox_to_anchor=(0.0, 0.0),
        bbox_transform=ax.transAxes + below,
        borderaxespad=0.0,
        ncols=3 if needed < points_of(ax)[0] else 2,
        handlelength=1.0,
        handletextpad=0.3,
        columnspacing=0.9,
    )


def _paths(trajectories: Any, result: FixedPoints) -> np.ndarray | None:
    """Trajectories as (number, T, S) in float64."""
    if trajectories is None:
        return None
    size = result.points.shape[-1]
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(trajectories)]
    known = [np.ndim(leaf) - 1 for leaf in jax.tree.leaves(result.carries)]
    if len(leaves) == len(known):
        lead = {leaf.shape[: leaf.ndim - axes] for leaf, axes in zip(leaves, known, strict=True)}
        if len(lead) == 1:
            (shape,) = lead
            whole = np.concatenate([leaf.reshape(*shape, -1) for leaf in leaves], axis=-1)
            if whole.ndim >= 2 and whole.shape[-1] == size:
                return whole.reshape(-1, *whole.shape[-2:])
    if len(leaves) == 1 and leaves[0].ndim >= 2 and leaves[0].shape[-1] == size:
        return leaves[0].reshape(-1, *leaves[0].shape[-2:])
    shapes = ", ".join(str(leaf.shape) for leaf in leaves)
    raise ValueError(
        f"trajectories must be states (..., T, {size}), or carries of the cell's structure with "
        f"axes (..., T) in front; got leaves of shape {shapes}. Pass those of "
        "rnn_jax.unroll(cell, xs, return_carries=True)."
    )


def _plane(cloud: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(centre, two orthonormal rows, their shares of the variance)."""
    centre = cloud.mean(axis=0)
    _, values, rows = np.linalg.svd(cloud - centre, full_matrices=False)
    plane, variance = np.zeros((2, cloud.shape[1])), np.zeros(2)
    count = min(2, len(rows))
    plane[:count] = rows[:count]
    variance[:count] = values[:count] ** 2
    # The largest coordinate is positive, so that equal data give equal pictures.
    largest = np.abs(plane).argmax(axis=1)
    plane *= np.where(plane[[0, 1], largest] < 0, -1.0, 1.0)[:, None]
    return centre, plane, variance / max(float((values**2).sum()), np.finfo(float).tiny)


def _draw_directions(
    ax: Axes, result: FixedPoints, points: np.ndarray, plane: np.ndarray, arm: float
) -> None:
    segments = []
    for place, jacobian in zip(points, result.jacobians, strict=True):
        values, vectors = np.linalg.eig(jacobian)
        for value, vector in zip(values, vectors.T, strict=True):
            if abs(value) < 1 or value.imag < 0:
                continue
            parts = [vector.real, vector.imag] if value.imag else [vector.real]
            for part in parts:
                # As long in the plane as it lies in it.
                seen = plane @ part / max(float(np.linalg.norm(part)), 1e-300)
                segments.append([place - arm * seen, place + arm * seen])
    if segments:
        ax.add_collection(
            LineCollection(segments, colors=cycle_color(1), linewidths=line_width(0.8), zorder=3)
        )


def _kinds(result: FixedPoints) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """By name and number, the points of each kind that there is, and how they are marked."""
    fixed, stable = result.is_fixed, result.stable
    scale = line_width() ** 2
    saddles = fixed & ~stable
    size = np.repeat(9.0 + 3.1 * np.minimum(result.unstable_directions[saddles], 6), result.period)
    background, (first, second) = mpl.rcParams["axes.facecolor"], map(cycle_color, (0, 1))
    marks: list[tuple[str, np.ndarray, dict[str, Any]]] = [
        ("slow", ~fixed, {"marker": "x", "color": ink(), "s": 9 * scale}),
        (
            "unstable",
            saddles,
            {"marker": "D", "facecolor": background, "edgecolor": second, "s": size * scale},
        ),
        (
            "stable",
            fixed & stable,
            {"marker": "o", "facecolor": first, "edgecolor": background, "s": 21 * scale},
        ),
    ]
    noun = "point" if result.period == 1 else f"orbit of period {result.period}"
    kinds = {}
    for name, rows, look in marks:
        count = int(rows.sum())
        plural = "s" if count > 1 and result.period == 1 else ""
        if count:
            kinds[f"{count} {name} {noun}{plural}"] = (rows, look)
    return kinds
