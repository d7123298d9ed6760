"""Lyapunov exponents window by window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from rnn_jax.plotting.style import COLORMAP, COLORS, CYCLE, as_numpy, cycle_color, finish, new_axes

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
    limits: tuple[float, float] | None = None,
    title: str | None = None,
) -> Axes:
    """Finite-time Lyapunov exponents over time: growth above 0, decay below, means beside them.

    Args:
      result: from `local_lyapunov_exponents`, or `finite_time` of covariant Lyapunov vectors. A
        batch is averaged.
      ax: where to draw; None makes a figure.
      kind: "lines", one for each exponent with its mean dashed, or "map", a row of colours for
        each; None draws lines for up to seven.
      limits: (low, high) of the map's colours, nats a step; None leaves out the most extreme
        values. Where they lie on both sides of 0, white is 0 and each side has colours of its own.
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
        _draw_map(ax, edges, table, limits)
    steps = "1 step" if result.window == 1 else f"{result.window} steps"
    ax.set_xlabel(f"step t  (windows of {steps})")
    ax.set_xlim(edges[0], edges[-1])
    finish(ax, title)
    ax.grid(visible=kind == "lines", axis="y")
    return ax


def _draw_lines(ax: Axes, edges: np.ndarray, table: np.ndarray) -> None:
    centres = (edges[1:] + edges[:-1]) / 2
    finite = table[np.isfinite(table)]
    # Where nothing is lost, unless that is so far off that the curves would be pressed flat.
    if not finite.size or np.abs(finite).min() <= np.ptp(finite):
        ax.axhline(0, color=COLORS["black"], linewidth=1.0, linestyle=(0, (1, 1.5)))
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
        norm, colors = Normalize(low, high), COLORMAP
    image = ax.imshow(
        np.where(np.isfinite(table), table, np.nan).T,
        cmap=mpl.colormaps[colors].with_extremes(bad=_LOST),
        norm=norm,
        aspect="auto",
        interpolation="nearest",
        extent=(edges[0], edges[-1], count + 0.5, 0.5),
    )
    ax.set_ylabel("rank i")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    below, above = (finite < low).any(), (finite > high).any()
    extend = ("both" if above else "min") if below else ("max" if above else "neither")
    bar = ax.figure.colorbar(
        image, ax=ax, label="local exponent  (nats a step)", extend=extend, pad=0.02
    )
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
            frameon=False,
            fontsize="small",
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
        )


def _span(finite: np.ndarray) -> tuple[float, float]:
    """All but the most extreme values: a few windows of strong decay must not take all colours."""
    if not finite.size:
        return -1.0, 1.0
    low, high = np.quantile(finite, (0.05, 0.995))
    return (float(low), float(high)) if high > low else (float(low) - 1.0, float(high) + 1.0)
