"""Why a signal shrinks or grows: what its Jacobians are made of, over time."""

from __future__ import annotations

from collections.abc import Sequence
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
    ink,
    line_width,
    make_room_above,
    new_axes,
)
from rnn_jax.plotting.styles import drawing

if TYPE_CHECKING:
    from rnn_jax.gradients.explain.attribution import Attribution
    from rnn_jax.gradients.explain.flow import GradientFlow

Curves = dict[str, Any]

_STEP = r"$\ln\,\Vert A_t\Vert$"


@drawing()
def plot_attribution(
    result: GradientFlow | Attribution,
    ax: Axes | None = None,
    *,
    labels: str | Sequence[str] | None = None,
    figsize: Size | None = None,
    title: str | None = None,
) -> Axes:
    """Log-norm of the Jacobians by step, in nats, in the parts that the cell lets one separate.

    Cells with a memory path: ln‖∂m_t/∂m_0‖, its own gate's part and all other ways. Simple cells:
    the parts of ln‖A_t‖ that come from the recurrent matrix and from the slopes. Others: ln‖A_t‖.

    Args:
      result: an `Attribution`, or a `GradientFlow` that holds one. A batch is averaged.
      ax: where to draw; None makes a figure.
      labels: names in the legend, in its order; () leaves the legend out.
      figsize: width and height of a new figure, inches; None is as wide as the style.
      title: above the picture.

    Returns:
      The `Axes`.

    Raises:
      ValueError: a `GradientFlow` without an attribution, or labels or a figsize that do not fit.

    Example:
      >>> lstm = rj.LSTMCell(2, 8, rngs=nnx.Rngs(0))
      >>> ax = rj.plotting.plot_attribution(rj.attribution(lstm, xs), title="LSTM")
      >>> [line.get_label() for line in ax.lines]
      ['all', 'by its own gate, ∏ f', 'all other ways']
    """
    part: Any = getattr(result, "attribution", result)  # A flow holds one; what does not, is one.
    if part is None:
        raise ValueError(
            "this GradientFlow holds no attribution. Make it with gradient_flow(cell, xs)."
        )
    curves, label = _curves(part)
    names = check_labels(labels, list(curves))
    ax = new_axes(ax, figsize)
    for index, values in enumerate(curves.values()):
        logs = as_numpy(values)
        logs = logs.reshape(-1, logs.shape[-1]).mean(axis=0)
        whole = index == 0
        ax.plot(
            np.arange(1, len(logs) + 1),
            np.where(np.isfinite(logs), logs, np.nan),
            color=ink() if whole else cycle_color(index - 1),
            linewidth=line_width(1.3 if whole else 0.9),
            alpha=0.75 if whole else 1.0,
            label=names[index],
        )
    ax.set_xlabel("step $t$")
    ax.set_ylabel(label)
    if part.slope_log is not None and not part.paths and any(names):
        # Level curves from end to end leave no room for names between them.
        make_room_above(ax, len(names))
        add_legend(ax, loc="upper right")
    else:
        add_legend(ax)
    return finish(ax, title)


def _curves(part: Attribution) -> tuple[Curves, str]:
    """Curves by name, the whole one first, and what they measure."""
    if part.paths:
        several = len(part.paths) > 1
        curves: Curves = {}
        for name, path in part.paths.items():
            of = f" of {name}" if several else ""
            curves[f"all{of}"] = path.total_log_norms
            curves[f"by its own gate, ∏ f{of}"] = path.path_log_norms
            curves[f"all other ways{of}"] = path.rest_log_norms
        name = next(iter(part.paths)) if not several else "m"
        return curves, rf"$\ln\,\Vert\partial {name}_t / \partial {name}_0\Vert$  (nats)"
    if part.slope_log is not None:
        steps = part.step_log_norms.shape[-1]
        matrix = np.repeat(as_numpy(part.recurrent_log)[..., None], steps, axis=-1)
        return {
            _STEP: part.step_log_norms,
            "from the recurrent matrix": matrix,
            "from the slopes": part.slope_log,
        }, rf"{_STEP} and its parts  (nats)"
    return {_STEP: part.step_log_norms}, f"{_STEP}  (nats)"
