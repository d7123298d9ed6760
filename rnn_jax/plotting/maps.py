"""The map of gradients between every two steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from rnn_jax.plotting.style import COLORMAP, as_numpy, new_axes

if TYPE_CHECKING:
    from rnn_jax.gradients.explain.flow import GradientFlow


def plot_log_norms(
    result: GradientFlow | Any,
    ax: Axes | None = None,
    *,
    limits: tuple[float, float] | None = None,
    title: str | None = None,
    colorbar: bool = True,
) -> Axes:
    """Heatmap of ln‖∂y_t/∂x_s‖: row t depends on column s.

    Args:
      result: a `GradientFlow` (a batch is averaged), or a table (T, T) from `jacobian_log_norms`.
      ax: where to draw; None makes a figure.
      limits: (low, high) of the colours, in nats; None spans the finite values.
      title: above the picture.
      colorbar: draw the scale beside it.

    Returns:
      The `Axes`.

    Raises:
      ValueError: the table is not square.
    """
    of_states = getattr(result, "wrt", "input") == "state"
    label = f"ln ‖{'∂carry_t / ∂carry_s' if of_states else '∂y_t / ∂x_s'}‖  (nats)"
    table = as_numpy(getattr(result, "log_norms", result))
    if hasattr(result, "log_norms"):
        table = table.reshape(-1, *table.shape[-2:]).mean(axis=0)
    if table.ndim != 2 or table.shape[0] != table.shape[1]:
        raise ValueError(
            f"a map needs a square table (T, T); got shape {table.shape}. Call jacobian_log_norms "
            "without targets."
        )
    ax = new_axes(ax, size=(5.2, 4.4))
    finite = table[np.isfinite(table)]
    low, high = limits if limits is not None else _span(finite)
    steps = table.shape[0]
    image = ax.imshow(
        np.where(np.isfinite(table), table, np.nan),
        cmap=COLORMAP,
        vmin=low,
        vmax=high,
        origin="upper",
        interpolation="nearest",
        extent=(0.5, steps + 0.5, steps + 0.5, 0.5),
    )
    ax.set_xlabel("input step s")
    ax.set_ylabel("output step t")
    ax.text(
        0.97,
        0.93,
        "future inputs:\nexactly 0",
        transform=ax.transAxes,
        ha="right",
        va="top",
        fontsize="small",
        color="0.45",
    )
    ax.spines[["top", "right"]].set_visible(False)
    if title:
        ax.set_title(title, loc="left", fontsize="medium")
    if colorbar:
        extend = "min" if finite.size and finite.min() < low else "neither"
        # Inside the axes' own frame of reference, as the square leaves a part of its place empty.
        scale = ax.inset_axes((1.04, 0.06, 0.05, 0.88))
        bar = ax.figure.colorbar(image, cax=scale, label=label, extend=extend)
        bar.outline.set_visible(False)
    return ax


def _span(finite: np.ndarray) -> tuple[float, float]:
    if finite.size == 0:
        return (-1.0, 0.0)
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low - 1.0, high)
