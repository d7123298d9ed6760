"""Which steps the weight update comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from rnn_jax.plotting.axes import (
    Size,
    add_legend,
    as_numpy,
    finish,
    line_width,
    mark_float32_floor,
    named_series,
    new_axes,
)
from rnn_jax.plotting.styles import drawing

if TYPE_CHECKING:
    from rnn_jax.gradients.explain.flow import GradientFlow


@drawing()
def plot_weight_shares(
    results: GradientFlow | Any | Mapping[str, Any],
    ax: Axes | None = None,
    *,
    labels: str | Sequence[str] | None = None,
    colors: Mapping[str, str] | None = None,
    figsize: Size | None = None,
    title: str | None = None,
) -> Axes:
    """Share of each step in the weight gradient, in nats: ln of ‖dL/dW_s‖ over the sum of them.

    Args:
      results: a `GradientFlow` that was given a loss, the log-norms (T,) from
        `weight_gradient_log_norms`, or a mapping from label to either.
      ax: where to draw; None makes a figure.
      labels: names in the legend in place of the keys of the mapping; () leaves it out.
      colors: colour by key.
      figsize: width and height of a new figure, inches; None is as wide as the style.
      title: above the picture.

    Returns:
      The `Axes`.

    Raises:
      ValueError: a `GradientFlow` that was given no loss, or labels or a figsize that do not fit.

    Example:
      >>> flow = rj.gradient_flow(cell, xs, loss=lambda ys: jnp.sum(ys[-1]))
      >>> ax = rj.plotting.plot_weight_shares(flow, labels="GRU")
      >>> bool(abs(np.exp(ax.lines[0].get_ydata()).sum() - 1) < 1e-6)
      True
    """
    series = list(named_series(results, labels, colors))
    ax = new_axes(ax, figsize)
    curves = []
    for label, result, color in series:
        shares = _log_shares(result)
        steps = np.arange(1, len(shares) + 1)
        ax.plot(steps, shares, color=color, linewidth=line_width(), label=label)
        curves.append(shares)
    mark_float32_floor(ax, curves)
    ax.set_xlabel("step $s$ at which the weights are used")
    ax.set_ylabel(r"$\ln$ of its share  (nats)")
    add_legend(ax)
    return finish(ax, title)


def _log_shares(result: Any) -> np.ndarray:
    """ln of each step's part in the sum of the norms; steps without any part are gaps."""
    log_norms = getattr(result, "weight_log_norms", result)
    if log_norms is None:
        raise ValueError(
            "this GradientFlow holds no weight gradient, because it was measured without a "
            "loss. Call gradient_flow(cell, xs, loss=...)."
        )
    rows = as_numpy(log_norms)
    rows = rows.reshape(-1, rows.shape[-1])
    shares = (rows - np.logaddexp.reduce(rows, axis=-1, keepdims=True)).mean(axis=0)
    return np.where(np.isfinite(shares), shares, np.nan)
