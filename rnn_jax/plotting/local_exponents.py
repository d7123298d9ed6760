"""Lyapunov exponents window by window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from rnn_jax.plotting.style import CYCLE, as_numpy, cycle_color, finish, new_axes

if TYPE_CHECKING:
    from rnn_jax.gradients.spectra.finite_time import LocalLyapunovExponents

# Growth and decay on either side of white, told apart with any common colour blindness.
_DIVERGING = "PuOr_r"
_LOST = "0.75"


def plot_local_exponents(
    result: LocalLyapunovExponents,
    ax: Axes | None = None,
    *,
    kind: str | None = None,
    limit: float | None = None,
    title: str | None = None,
) -> Axes:
    """Finite-time Lyapunov exponents over time: growth above 0, decay below, means beside them.

    Args:
      result: from `local_lyapunov_exponents`, or `finite_time` of covariant Lyapunov vectors. A
        batch is averaged.
      ax: where to draw; None makes a figure.
      kind: "lines", one for each exponent with its mean dashed, or "map", a row of colours for
        each; None draws lines for up to seven.
      limit: the map's colours span [−limit, limit], nats a step; None leaves the largest tenth
        of the values beyond it.
      title: above the picture.

    Returns:
      The `Axes`. A window in which a direction is mapped to 0 is a gap in its line, grey in the
      map.

    Raises:
      ValueError: an unknown kind.
    """
    table = as_numpy(result.exponents)
    table = table.reshape(-1, *table.shape[-2:]).mean(axis=0)
    few = table.shape[1] <= len(CYCLE)
    if kind is None:
        kind = "lines" if few else "map"
    if kind not in ("lines", "map"):
        raise ValueError(
            f"kind must be 'lines' or 'map'; got {kind!r}. Leave it out for the one that fits."
        )
    ax = new_axes(ax, size=(7.2, 3.8))
    edges = result.start + result.window * np.arange(len(table) + 1)
    if kind == "lines":
        _draw_lines(ax, edges, table)
    else:
        _draw_map(ax, edges, table, limit)
    steps = "1 step" if result.window == 1 else f"{result.window} steps"
    ax.set_xlabel(f"step t  (windows of {steps})")
    ax.set_xlim(edges[0], edges[-1])
    if kind == "lines":
        return finish(ax, title)
    ax.spines[["top", "right"]].set_visible(False)
    if title:
        ax.set_title(title, loc="left", fontsize="medium")
    return ax


def _draw_lines(ax: Axes, edges: np.ndarray, table: np.ndarray) -> None:
    centres = (edges[1:] + edges[:-1]) / 2
    ax.axhline(0, color="black", linewidth=1.0, linestyle=(0, (1, 1.5)))
    for index, curve in enumerate(table.T):
        color, mean = cycle_color(index), curve.mean()
        lost = int(np.isneginf(curve).sum())
        label = f"$\\lambda_{{{index + 1}}}$ = " + (
            f"−∞ (in {lost} of {len(curve)} windows)" if lost else f"{mean:+.3f}".replace("-", "−")
        )
        shown = np.where(np.isfinite(curve), curve, np.nan)
        alone = len(curve) == 1 or lost
        ax.plot(
            centres,
            shown,
            color=color,
            linewidth=1.4,
            marker="o" if alone else None,
            markersize=2.5,
            label=label,
        )
        if np.isfinite(mean):
            ax.axhline(mean, color=color, linewidth=1.0, linestyle=(0, (5, 2)), alpha=0.8)
    ax.set_ylabel("local exponent  (nats a step)")
    ax.legend(
        frameon=False,
        fontsize="small",
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        title="mean",
        title_fontsize="small",
        alignment="left",
    )


def _draw_map(ax: Axes, edges: np.ndarray, table: np.ndarray, limit: float | None) -> None:
    count = table.shape[1]
    finite = np.abs(table[np.isfinite(table)])
    if limit is None:
        limit = float(np.quantile(finite, 0.9)) if finite.size else 1.0
    limit = limit or 1.0
    cmap = mpl.colormaps[_DIVERGING].with_extremes(bad=_LOST)
    image = ax.imshow(
        np.where(np.isfinite(table), table, np.nan).T,
        cmap=cmap,
        vmin=-limit,
        vmax=limit,
        aspect="auto",
        interpolation="nearest",
        extent=(edges[0], edges[-1], count + 0.5, 0.5),
    )
    ax.set_ylabel("rank i")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    beyond = finite > limit
    signed = table[np.isfinite(table)]
    ends = ((signed[beyond] < 0).any(), (signed[beyond] > 0).any())
    extend = {
        (False, False): "neither",
        (True, False): "min",
        (False, True): "max",
        (True, True): "both",
    }
    bar = ax.figure.colorbar(
        image,
        ax=ax,
        label="local exponent  (nats a step)",
        extend=extend[bool(ends[0]), bool(ends[1])],
        pad=0.02,
    )
    bar.outline.set_visible(False)
    if finite.size < table.size:
        ax.legend(
            handles=[Patch(color=_LOST, label="mapped to 0")],
            frameon=False,
            fontsize="small",
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
        )
