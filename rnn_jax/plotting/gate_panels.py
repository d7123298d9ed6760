"""Gate activations over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from rnn_jax.plotting.axes import (
    Size,
    add_legend,
    as_numpy,
    check_labels,
    cycle_color,
    finish,
    line_width,
    new_axes,
)
from rnn_jax.plotting.styles import drawing

if TYPE_CHECKING:
    from rnn_jax.gradients.explain.flow import GradientFlow


@drawing()
def plot_gates(
    result: GradientFlow | Mapping[str, Any],
    ax: Axes | None = None,
    *,
    labels: str | Sequence[str] | None = None,
    figsize: Size | None = None,
    title: str | None = None,
) -> Axes:
    """Activation of each gate by step, 0 to 1: the mean over units, and the middle 80 % as a band.

    Args:
      result: a `GradientFlow` of a gated cell, or activations (T, H) by gate name.
      ax: where to draw; None makes a figure.
      labels: names in the legend, in its order; () leaves the legend out.
      figsize: width and height of a new figure, inches; None is as wide as the style.
      title: above the picture.

    Returns:
      The `Axes`.

    Raises:
      ValueError: a `GradientFlow` of a cell without gates, or labels or a figsize that do not fit.

    Example:
      >>> ax = rj.plotting.plot_gates(rj.gradient_flow(cell, xs), labels=["r", "z"])
      >>> [text.get_text() for text in ax.get_legend().get_texts()]
      ['r', 'z']
    """
    gates = result if isinstance(result, Mapping) else result.gates
    if not gates:
        raise ValueError(
            "there are no gates to draw: this cell has none. Gated cells are LSTMCell and GRUCell, "
            "or any cell with a method gates(carry, x)."
        )
    names = check_labels(labels, [f"{name} gate" for name in gates])
    ax = new_axes(ax, figsize)
    for index, values in enumerate(gates.values()):
        activations = as_numpy(values)
        # A batch counts as more units: (B, T, H) to (T, B·H).
        units = np.moveaxis(activations, -2, 0).reshape(activations.shape[-2], -1)
        steps = np.arange(1, len(units) + 1)
        low, high = np.quantile(units, [0.1, 0.9], axis=1)
        color = cycle_color(index)
        ax.fill_between(steps, low, high, color=color, alpha=0.12, linewidth=0)
        ax.plot(
            steps, units.mean(axis=1), color=color, linewidth=line_width(0.8), label=names[index]
        )
    ax.set_ylim(0, 1)
    ax.set_xlabel("step $t$")
    ax.set_ylabel("activation  (0 shut, 1 open)")
    # In front of the bands, which may be anywhere.
    add_legend(
        ax,
        loc="lower left",
        ncols=2,
        frameon=True,
        framealpha=0.8,
        edgecolor="none",
        handlelength=1.4,
        columnspacing=1.2,
    )
    return finish(ax, title)
