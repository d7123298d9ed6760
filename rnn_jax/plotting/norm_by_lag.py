"""Norm of the Jacobian by lag."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from rnn_jax.plotting.style import (
    COLORS,
    as_numpy,
    cycle_color,
    finish,
    mark_float32_floor,
    new_axes,
)

if TYPE_CHECKING:
    from rnn_jax.gradients.explain.flow import GradientFlow


def plot_by_lag(
    results: GradientFlow | Any | Mapping[str, Any],
    ax: Axes | None = None,
    *,
    bound: Any = None,
    colors: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Axes:
    """Curves of the log-norm by lag on a natural-log axis.

    The analytic bound and the floor of float32 are drawn in where they apply. A single
    `GradientFlow` shows the range over steps as a band and brings its own bound.

    Args:
      results: a `GradientFlow`, a curve (T,) such as `flow.by_lag()`, or a mapping from label to
        either.
      ax: where to draw; None makes a figure.
      bound: upper bound by lag, (T,), in nats.
      colors: colour by label, for pictures that belong together.
      title: above the picture.

    Returns:
      The `Axes`.
    """
    ax = new_axes(ax)
    single = not isinstance(results, Mapping)
    named: Mapping[str, Any] = results if isinstance(results, Mapping) else {"mean": results}
    curves = []
    for index, (label, result) in enumerate(named.items()):
        color = (colors or {}).get(label, cycle_color(index))
        if hasattr(result, "by_lag"):
            curve = as_numpy(result.by_lag())
            if single:
                _band(ax, result, color)
                bound = result.bound if bound is None else bound
        else:
            curve = as_numpy(result)
        curve = np.where(np.isfinite(curve), curve, np.nan)
        ax.plot(np.arange(len(curve)), curve, color=color, linewidth=1.8, label=label)
        curves.append(curve)
    if bound is not None:
        limit = as_numpy(bound)
        ax.plot(
            np.arange(len(limit)),
            limit,
            color=COLORS["grey"],
            linewidth=1.4,
            linestyle="--",
            label="upper bound (sup|φ′| · σ₁)ᵏ",
        )
    mark_float32_floor(ax, curves)
    ax.set_xlabel("lag k = t − s  (steps)")
    ax.set_ylabel("ln of the norm  (nats)")
    if not single or bound is not None:
        ax.legend(frameon=False, fontsize="small")
    return finish(ax, title)


def _band(ax: Axes, flow: GradientFlow, color: str) -> None:
    low, high = as_numpy(flow.by_lag("min")), as_numpy(flow.by_lag("max"))
    known = np.isfinite(low) & np.isfinite(high)
    ax.fill_between(
        np.arange(len(low)),
        np.where(known, low, np.nan),
        np.where(known, high, np.nan),
        color=color,
        alpha=0.2,
        linewidth=0,
        label="range over steps",
    )
