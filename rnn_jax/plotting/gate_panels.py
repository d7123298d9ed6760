"""Gate activations over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from rnn_jax.plotting.style import as_numpy, cycle_color, finish, new_axes

if TYPE_CHECKING:
    from rnn_jax.gradients.explain.flow import GradientFlow


def plot_gates(
    result: GradientFlow | Mapping[str, Any], ax: Axes | None = None, *, title: str | None = None
) -> Axes:
    """Each gate's mean over the units at each step, and the middle 80 % of the units as a band.

    Args:
      result: a `GradientFlow` of a gated cell, or activations (T, H) by gate name.
      ax: where to draw; None makes a figure.
      title: above the picture.

    Returns:
      The `Axes`.

    Raises:
      ValueError: a `GradientFlow` of a cell without gates.
    """
    gates = result if isinstance(result, Mapping) else result.gates
    if not gates:
        raise ValueError(
            "there are no gates to draw: this cell has none. Gated cells are LSTMCell and GRUCell, "
            "or any cell with a method gates(carry, x)."
        )
    ax = new_axes(ax)
    for index, (name, values) in enumerate(gates.items()):
        activations = as_numpy(values)
        # A batch counts as more units: (B, T, H) to (T, B·H).
        units = np.moveaxis(activations, -2, 0).reshape(activations.shape[-2], -1)
        steps = np.arange(1, len(units) + 1)
        low, high = np.quantile(units, [0.1, 0.9], axis=1)
        color = cycle_color(index)
        ax.fill_between(steps, low, high, color=color, alpha=0.12, linewidth=0)
        ax.plot(steps, units.mean(axis=1), color=color, linewidth=1.3, label=f"{name} gate")
    ax.set_ylim(0, 1)
    ax.set_xlabel("step t")
    ax.set_ylabel("activation  (0 shut, 1 open)")
    # In front of the bands, which may be anywhere.
    ax.legend(
        loc="lower left",
        ncols=2,
        fontsize="small",
        framealpha=0.8,
        edgecolor="none",
        handlelength=1.4,
        columnspacing=1.2,
    )
    return finish(ax, title)
