"""The map of gradients between every two steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from rnn_jax.plotting.axes import Size, as_numpy, finish, log_norm_label, new_axes
from rnn_jax.plotting.styles import COLORS, drawing

if TYPE_CHECKING:
    from rnn_jax.gradients.explain.flow import GradientFlow


@drawing()
def plot_log_norms(
    result: GradientFlow | Any,
    ax: Axes | None = None,
    *,
    limits: tuple[float, float] | None = None,
    label: str | None = None,
    colorbar: bool = True,
    figsize: Size | None = None,
    title: str | None = None,
) -> Axes:
    """Map of ln‖∂y_t/∂x_s‖, in nats: how the output of step t (down) depends on the input of s.

    Args:
      result: a `GradientFlow` (a batch is averaged), or a table (T, T) from `jacobian_log_norms`.
      ax: where to draw; None makes a figure.
      limits: (low, high) of the colours, in nats; None spans the finite values.
      label: of the colours; None says what is measured, and its unit.
      colorbar: draw the scale beside it.
      figsize: width and height of a new figure, inches; None is as wide as the style.
      title: above the picture.

    Returns:
      The `Axes`.

    Raises:
      ValueError: the table is not square, or the figsize does not fit.

    Example:
      >>> table = rj.jacobian_log_norms(cell, xs)
      >>> ax = rj.plotting.plot_log_norms(table, limits=(-20.0, 0.0))
      >>> ax.images[0].get_array().shape
      (20, 20)
    """
    wrt = getattr(result, "wrt", "input")
    table = as_numpy(getattr(result, "log_norms", result))
    if hasattr(result, "log_norms"):
        table = table.reshape(-1, *table.shape[-2:]).mean(axis=0)
    if table.ndim != 2 or table.shape[0] != table.shape[1]:
        raise ValueError(
            f"a map needs a square table (T, T); got shape {table.shape}. Call jacobian_log_norms "
            "without targets."
        )
    ax = new_axes(ax, figsize, natural=(5.6, 4.2))
    finite = table[np.isfinite(table)]
    low, high = limits if limits is not None else _span(finite)
    steps = table.shape[0]
    image = ax.imshow(
        np.where(np.isfinite(table), table, np.nan),
        vmin=low,
        vmax=high,
        origin="upper",
        interpolation="nearest",
        extent=(0.5, steps + 0.5, steps + 0.5, 0.5),
    )
    ax.set_xlabel(f"{'input' if wrt == 'input' else 'carry'} step $s$")
    ax.set_ylabel(f"{'output' if wrt == 'input' else 'carry'} step $t$")
    ax.text(
        0.97,
        0.93,
        f"future {'inputs' if wrt == 'input' else 'carries'}:\nexactly 0",
        transform=ax.transAxes,
        ha="right",
        va="top",
        fontsize=mpl.rcParams["legend.fontsize"],
        color=COLORS["grey"],
    )
    if colorbar:
        extend = "min" if finite.size and finite.min() < low else "neither"
        # Inside the axes' own frame of reference, as the square leaves a part of its place empty.
        scale = ax.inset_axes((1.04, 0.06, 0.05, 0.88))
        bar = ax.figure.colorbar(image, cax=scale, extend=extend)
        bar.set_label(log_norm_label(wrt, "s") if label is None else label)
        bar.outline.set_visible(False)
    return finish(ax, title, grid=False)


def _span(finite: np.ndarray) -> tuple[float, float]:
    if finite.size == 0:
        return (-1.0, 0.0)
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low - 1.0, high)
