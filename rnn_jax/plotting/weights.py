"""Which steps the weight update comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from rnn_jax.plotting.style import (
    as_numpy,
    finish,
    labelled,
    mark_float32_floor,
    new_axes,
)

if TYPE_CHECKING:
    from rnn_jax.gradients.explain.flow import GradientFlow


def plot_weight_shares(
    results: GradientFlow | Any | Mapping[str, Any],
    ax: Axes | None = None,
    *,
    colors: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Axes:
    """The share of the weight gradient by step: ‖dL/dW_s‖ over the sum of them, in logs.

    Args:
      results: a `GradientFlow` that was given a loss, the log-norms (T,) from
        `weight_gradient_log_norms`, or a mapping from label to either.
      ax: where to draw; None makes a figure.
      colors: colour by label.
      title: above the picture.

    Returns:
      The `Axes`.

    Raises:
      ValueError: a `GradientFlow` that was given no loss.
    """
    ax = new_axes(ax)
    curves = []
    for label, result, color in labelled(results, colors):
        shares = _log_shares(result)
        ax.plot(np.arange(1, len(shares) + 1), shares, color=color, linewidth=1.8, label=label)
        curves.append(shares)
    mark_float32_floor(ax, curves)
    ax.set_xlabel("step s at which the weights are used")
    ax.set_ylabel("ln share of the weight gradient  (nats)")
    if isinstance(results, Mapping):
        ax.legend(frameon=False, fontsize="small")
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
