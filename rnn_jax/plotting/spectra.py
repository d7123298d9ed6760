"""Spectra: Lyapunov exponents and singular values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from rnn_jax.plotting.style import COLORS, as_numpy, finish, labelled, new_axes

if TYPE_CHECKING:
    from rnn_jax.gradients.explain.flow import GradientFlow
    from rnn_jax.gradients.spectra.lyapunov import LyapunovSpectrum


def plot_exponents(
    results: GradientFlow | LyapunovSpectrum | Mapping[str, Any],
    ax: Axes | None = None,
    *,
    colors: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Axes:
    """Lyapunov exponents by rank, with their standard errors; 0 is where nothing is lost.

    Args:
      results: a `LyapunovSpectrum`, a `GradientFlow`, or a mapping from label to either. A batch is
        averaged.
      ax: where to draw; None makes a figure.
      colors: colour by label.
      title: above the picture.

    Returns:
      The `Axes`.

    Raises:
      ValueError: a `GradientFlow` without exponents.
    """
    ax = new_axes(ax)
    ax.axhline(0, color=COLORS["black"], linewidth=1.0, linestyle=(0, (1, 1.5)))
    for label, result, color in labelled(results, colors):
        # A spectrum has standard errors; a flow holds a spectrum.
        own = hasattr(result, "standard_errors")
        spectrum = result if own else getattr(result, "exponents", None)
        if spectrum is None:
            raise ValueError(
                "this GradientFlow holds no exponents. Make it with gradient_flow(cell, xs)."
            )
        values, errors = _batch_mean(spectrum.exponents), _batch_mean(spectrum.standard_errors)
        ax.errorbar(
            np.arange(1, len(values) + 1),
            np.where(np.isfinite(values), values, np.nan),
            yerr=np.where(np.isfinite(errors), errors, 0.0),
            color=color,
            linewidth=1.6,
            marker="o" if len(values) <= 20 else None,
            markersize=4,
            capsize=2,
            label=label,
        )
    ax.set_xlabel("rank i")
    ax.set_ylabel("Lyapunov exponent λᵢ  (nats a step)")
    if isinstance(results, Mapping):
        ax.legend(frameon=False, fontsize="small")
    return finish(ax, title)


def plot_singular_values(
    results: GradientFlow | Any | Mapping[str, Any],
    ax: Axes | None = None,
    *,
    colors: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Axes:
    """Logs of the singular values by rank; exact zeros are named, not drawn.

    Args:
      results: values (S,) from `jacobian_log_singular_values`, a `GradientFlow` measured with
        spectrum=True, or a mapping from label to either. A batch is averaged.
      ax: where to draw; None makes a figure.
      colors: colour by label.
      title: above the picture.

    Returns:
      The `Axes`.

    Raises:
      ValueError: a `GradientFlow` without singular values.
    """
    ax = new_axes(ax)
    ax.axhline(0, color=COLORS["black"], linewidth=1.0, linestyle=(0, (1, 1.5)))
    for label, result, color in labelled(results, colors):
        values = getattr(result, "log_singular_values", result)
        if values is None:
            raise ValueError(
                "this GradientFlow holds no singular values. Make it with "
                "gradient_flow(cell, xs, spectrum=True)."
            )
        logs = _batch_mean(values)
        zeros = int(np.isneginf(logs).sum())
        lost = f"{zeros} of {len(logs)} exactly 0" if zeros else ""
        name = f"{label} ({lost})" if label and lost else label or lost
        ax.plot(
            np.arange(1, len(logs) + 1),
            np.where(np.isfinite(logs), logs, np.nan),
            color=color,
            linewidth=1.8,
            label=name,
        )
        if name:
            ax.legend(frameon=False, fontsize="small")
    ax.set_xlabel("rank i")
    ax.set_ylabel("ln σᵢ of ∂carry_T/∂carry_0  (nats)")
    return finish(ax, title)


def _batch_mean(values: Any) -> np.ndarray:
    array = as_numpy(values)
    return array.reshape(-1, array.shape[-1]).mean(axis=0)
