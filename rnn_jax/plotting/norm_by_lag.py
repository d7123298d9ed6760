"""Norm of the Jacobian by lag."""

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
    log_norm_label,
    mark_float32_floor,
    named_series,
    new_axes,
)
from rnn_jax.plotting.styles import COLORS, drawing

if TYPE_CHECKING:
    from rnn_jax.gradients.explain.flow import GradientFlow


@drawing()
def plot_by_lag(
    results: GradientFlow | Any | Mapping[str, Any],
    ax: Axes | None = None,
    *,
    bound: Any = None,
    labels: str | Sequence[str] | None = None,
    colors: Mapping[str, str] | None = None,
    figsize: Size | None = None,
    title: str | None = None,
) -> Axes:
    """Log-norm of the Jacobian by lag, in nats: how much of an influence is left k steps later.

    The analytic bound and the floor of float32 are drawn in where they apply. A single
    `GradientFlow` shows the range over steps as a band and brings its own bound.

    Args:
      results: a `GradientFlow`, a curve (T,) such as `flow.by_lag()`, or a mapping from label to
        either.
      ax: where to draw; None makes a figure.
      bound: upper bound by lag, (T,), in nats.
      labels: names in the legend in place of the keys of the mapping; () leaves it out.
      colors: colour by key, for pictures that belong together.
      figsize: width and height of a new figure, inches; None is as wide as the style.
      title: above the picture.

    Returns:
      The `Axes`.

    Raises:
      ValueError: labels or a figsize that do not fit.

    Example:
      >>> tanh = rj.SimpleRNNCell(2, 8, rngs=nnx.Rngs(0))
      >>> flows = {"GRU": rj.gradient_flow(cell, xs), "tanh": rj.gradient_flow(tanh, xs)}
      >>> ax = rj.plotting.plot_by_lag(flows, colors={"tanh": "0.5"})
      >>> [text.get_text() for text in ax.get_legend().get_texts()]
      ['GRU', 'tanh']
    """
    single = not isinstance(results, Mapping)
    series = list(named_series({"mean": results} if single else results, labels, colors))
    ax = new_axes(ax, figsize)
    hidden = labels is not None and not labels
    curves = []
    for label, result, color in series:
        if hasattr(result, "by_lag"):
            curve = as_numpy(result.by_lag())
            if single:
                _band(ax, result, color, "" if hidden else "range over steps")
                bound = result.bound if bound is None else bound
        else:
            curve = as_numpy(result)
        curve = np.where(np.isfinite(curve), curve, np.nan)
        ax.plot(np.arange(len(curve)), curve, color=color, linewidth=line_width(), label=label)
        curves.append(curve)
    limits = [] if bound is None else [as_numpy(bound)]
    for limit in limits:
        ax.plot(
            np.arange(len(limit)),
            limit,
            color=COLORS["grey"],
            linewidth=line_width(0.8),
            linestyle="--",
            label="" if hidden else r"upper bound $(\sup|\varphi^\prime|\,\sigma_1)^k$",
        )
    mark_float32_floor(ax, curves, limits)
    ax.set_xlabel("lag $k = t - s$  (steps)")
    kinds = {getattr(result, "wrt", None) for _, result, _ in series}
    ax.set_ylabel(log_norm_label(kinds.pop() if len(kinds) == 1 else None, "t-k"))
    if len(ax.get_legend_handles_labels()[0]) > 1 or not single or labels:
        add_legend(ax)
    return finish(ax, title)


def _band(ax: Axes, flow: GradientFlow, color: str, label: str) -> None:
    low, high = as_numpy(flow.by_lag("min")), as_numpy(flow.by_lag("max"))
    known = np.isfinite(low) & np.isfinite(high)
    ax.fill_between(
        np.arange(len(low)),
        np.where(known, low, np.nan),
        np.where(known, high, np.nan),
        color=color,
        alpha=0.2,
        linewidth=0,
        label=label,
    )
