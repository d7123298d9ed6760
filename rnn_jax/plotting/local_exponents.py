"""Lyapunov exponents window by window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from rnn_jax.plotting.axes import (
    DOTTED,
    Size,
    add_legend,
    as_numpy,
    check_labels,
    cycle_color,
    finish,
    ink,
    line_width,
    new_axes,
)
from rnn_jax.plotting.styles import CYCLE, drawing

if TYPE_CHECKING:
    from rnn_jax.gradients.spectra.finite_time import LocalLyapunovExponents

# Growth and decay on either side of white, told apart with any common colour blindness.
_DIVERGING = "PuOr_r"
_LOST = "0.75"


@drawing()
def plot_local_exponents(
    result: LocalLyapunovExponents,
    ax: Axes | None = None,
    *,
    kind: str | None = None,
    limits: tuple[float, float] | None = None,
    labels: str | Sequence[str] | None = None,
    figsize: Size | None = None,
    title: str | None = None,
) -> Axes:
    """Finite-time Lyapunov exponents, nats a step: growth above 0, decay below, and their means.

    Args:
      result: from `local_lyapunov_exponents`, or `finite_time` of covariant Lyapunov vectors. A
        batch is averaged.
      ax: where to draw; None makes a figure.
      kind: "lines", one for each exponent with its mean dashed, or "map", a row of colours for
        each; None draws lines for up to seven.
      limits: (low, high) of the map's colours, nats a step; None leaves out the most extreme
        values. Where they lie on both sides of 0, white is 0 and each side has colours of its own.
      labels: names of the lines, in place of their means; () leaves the legend out.
      figsize: width and height of a new figure, inches; None is as wide as the style.
      title: above the picture.

    Returns:
      The `Axes`. A window in which a direction is mapped to 0 is a gap in its line, grey in the
      map.

    Raises:
      ValueError: an unknown kind, labels for a map, or labels or a figsize that do not fit.

    Example:
      >>> local = rj.local_lyapunov_exponents(cell, xs, window=5, k=2)
      >>> ax = rj.plotting.plot_local_exponents(local, labels=["first", "second"])
      >>> ax.get_xlabel()
      'step $t$  (windows of 5 steps)'
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
    if kind == "map" and labels is not None:
        raise ValueError(
            f"labels name the lines of the picture; got {labels!r} for a map, which has none. Pass "
            "kind='lines', or leave them out."
        )
    names = check_labels(labels, [_name(rank, curve) for rank, curve in enumerate(table.T, 1)])
    ax = new_axes(ax, figsize, natural=(7.2, 3.8))
    edges = result.start + result.window * np.arange(len(table) + 1)
    if kind == "lines":
        _draw_lines(ax, edges, table, names, None if labels else "mean")
    else:
        _draw_map(ax, edges, table, limits)
    steps = "1 step" if result.window == 1 else f"{result.window} steps"
    ax.set_xlabel(f"step $t$  (windows of {steps})")
    ax.set_xlim(edges[0], edges[-1])
    return finish(ax, title, grid=kind == "lines")


def _name(rank: int, curve: np.ndarray) -> str:
    """An exponent with its mean, or in how many windows it is lost."""
    lost = int(np.isneginf(curve).sum())
    mean = f"{curve.mean():+.3f}".replace("-", "−")
    shown = f"−∞ (in {lost} of {len(curve)} windows)" if lost else mean
    return f"$\\lambda_{{{rank}}}$ = {shown}"


def _draw_lines(
    ax: Axes, edges: np.ndarray, table: np.ndarray, names: list[str], heading: str | None
) -> None:
    centres = (edges[1:] + edges[:-1]) / 2
    finite = table[np.isfinite(table)]
    # Where nothing is lost, unless that is so far off that the curves would be pressed flat.
    if not finite.size or np.abs(finite).min() <= np.ptp(finite):
        ax.axhline(0, color=ink(), linewidth=line_width(0.6), linestyle=DOTTED)
    for index, curve in enumerate(table.T):
        color, mean = cycle_color(index), curve.mean()
        shown = np.where(np.isfinite(curve), curve, np.nan)
        alone = len(curve) == 1 or np.isneginf(curve).any()
        ax.plot(
            centres,
            shown,
            color=color,
            linewidth=line_width(0.8),
            marker="o" if alone else None,
            markersize=line_width(1.5),
            label=names[index],
        )
        if np.isfinite(mean):
            ax.axhline(
                mean, color=color, linewidth=line_width(0.6), linestyle=(0, (5, 2)), alpha=0.8
            )
    ax.set_ylabel("exponent  (nats a step)")
    add_legend(
        ax,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        title=heading,
        title_fontsize=mpl.rcParams["legend.fontsize"],
        alignment="left",
    )


def _draw_map(
    ax: Axes, edges: np.ndarray, table: np.ndarray, limits: tuple[float, float] | None
) -> None:
    count = table.shape[1]
    finite = table[np.isfinite(table)]
    low, high = limits if limits is not None else _span(finite)
    if low < 0 < high:
        # A half of the colours for each sign: growth is often much slower than decay.
        norm: Normalize = TwoSlopeNorm(0.0, low, high)
        colors = _DIVERGING
    else:
        norm, colors = Normalize(low, high), mpl.rcParams["image.cmap"]
    image = ax.imshow(
        np.where(np.isfinite(table), table, np.nan).T,
        cmap=mpl.colormaps[colors].with_extremes(bad=_LOST),
        norm=norm,
        aspect="auto",
        interpolation="nearest",
        extent=(edges[0], edges[-1], count + 0.5, 0.5),
    )
    ax.set_ylabel("rank $i$")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    below, above = (finite < low).any(), (finite > high).any()
    extend = ("both" if above else "min") if below else ("max" if above else "neither")
    bar = ax.figure.colorbar(image, ax=ax, label="exponent  (nats a step)", extend=extend, pad=0.02)
    bar.outline.set_visible(False)
    if isinstance(norm, TwoSlopeNorm):
        # Some on either side: even steps would leave the narrower one without any.
        sides = [MaxNLocator(4).tick_values(*side) for side in ((low, 0.0), (0.0, high))]
        values = np.unique(np.concatenate(sides).round(12)).tolist()
        ticks = [float(tick) for tick in values if low <= tick <= high]
        bar.set_ticks(ticks, labels=[f"{tick:g}".replace("-", "−") for tick in ticks])
    if finite.size < table.size:
        ax.legend(
            handles=[Patch(color=_LOST, label="mapped to 0")],
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
        )


def _span(finite: np.ndarray) -> tuple[float, float]:
    """All but the most extreme values: a few windows of strong decay must not take all colours."""
    if not finite.size:
        return -1.0, 1.0
    low, high = np.quantile(finite, (0.05, 0.995))
    return (float(low), float(high)) if high > low else (float(low) - 1.0, float(high) + 1.0)
