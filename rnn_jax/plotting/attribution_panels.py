"""Why a signal shrinks or grows: what its Jacobians are made of, over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from rnn_jax.plotting.style import COLORS, as_numpy, cycle_color, finish, new_axes

if TYPE_CHECKING:
    from rnn_jax.gradients.explain.attribution import Attribution
    from rnn_jax.gradients.explain.flow import GradientFlow

Curves = dict[str, Any]


def plot_attribution(
    result: GradientFlow | Attribution, ax: Axes | None = None, *, title: str | None = None
) -> Axes:
    """What the cell allows to be told apart, over time.

    Cells with a memory path: ln‖∂m_t/∂m_0‖, its own gate's part and all other ways. Simple cells:
    the parts of ln‖A_t‖ that come from the recurrent matrix and from the slopes. Others: ln‖A_t‖.

    Args:
      result: an `Attribution`, or a `GradientFlow` that holds one. A batch is averaged.
      ax: where to draw; None makes a figure.
      title: above the picture.

    Returns:
      The `Axes`.

    Raises:
      ValueError: a `GradientFlow` without an attribution.
    """
    part: Any = getattr(result, "attribution", result)  # A flow holds one; what does not, is one.
    if part is None:
        raise ValueError(
            "this GradientFlow holds no attribution. Make it with gradient_flow(cell, xs)."
        )
    ax = new_axes(ax)
    curves, label = _curves(part)
    for index, (name, values) in enumerate(curves.items()):
        logs = as_numpy(values)
        logs = logs.reshape(-1, logs.shape[-1]).mean(axis=0)
        whole = index == 0
        ax.plot(
            np.arange(1, len(logs) + 1),
            np.where(np.isfinite(logs), logs, np.nan),
            color=COLORS["black"] if whole else cycle_color(index - 1),
            linewidth=2.2 if whole else 1.5,
            alpha=0.75 if whole else 1.0,
            label=name,
        )
    ax.set_xlabel("step t")
    ax.set_ylabel(label)
    ax.legend(frameon=False, fontsize="small")
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
        return curves, f"ln ‖∂{name}_t / ∂{name}_0‖  (nats)"
    if part.slope_log is not None:
        steps = part.step_log_norms.shape[-1]
        matrix = np.repeat(as_numpy(part.recurrent_log)[..., None], steps, axis=-1)
        return {
            "ln ‖A_t‖": part.step_log_norms,
            "from the recurrent matrix": matrix,
            "from the slopes": part.slope_log,
        }, "ln ‖A_t‖ and its parts  (nats)"
    return {"ln ‖A_t‖": part.step_log_norms}, "ln ‖A_t‖  (nats)"
