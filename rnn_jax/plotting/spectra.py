"""Spectra: Lyapunov exponents and singular values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from rnn_jax.plotting.axes import (
    DOTTED,
    Size,
    add_legend,
    as_numpy,
    finish,
    ink,
    line_width,
    named_series,
    new_axes,
)
from rnn_jax.plotting.styles import drawing

if TYPE_CHECKING:
    from rnn_jax.gradients.explain.flow import GradientFlow
    from rnn_jax.gradients.spectra.lyapunov import LyapunovSpectrum


@drawing()
def plot_exponents(
    results: GradientFlow | LyapunovSpectrum | Mapping[str, Any],
    ax: Axes | None = None,
    *,
    labels: str | Sequence[str] | None = None,
    colors: Mapping[str, str] | None = None,
    figsize: Size | None = None,
    title: str | None = None,
) -> Axes:
    """Lyapunov exponents by rank, nats a step, with their standard errors; 0 loses nothing.

    Args:
      results: a `LyapunovSpectrum`, a `GradientFlow`, or a mapping from label to either. A batch is
        averaged.
      ax: where to draw; None makes a figure.
      labels: names in the legend in place of the keys of the mapping; () leaves it out.
      colors: colour by key.
      figsize: width and height of a new figure, inches; None is as wide as the style.
      title: above the picture.

    Returns:
      The `Axes`.

    Raises:
      ValueError: a `GradientFlow` without exponents, or labels or a figsize that do not fit.

    Example:
      >>> ax = rj.plotting.plot_exponents({"GRU": rj.lyapunov_exponents(cell, xs, k=4)})
      >>> ax.get_xlabel()
      'rank $i$'
    """
    series = list(named_series(results, labels, colors))
    ax = new_axes(ax, figsize)
    ax.axhline(0, color=ink(), linewidth=line_width(0.6), linestyle=DOTTED)
    for label, result, color in series:
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
            linewidth=line_width(0.9),
            marker="o" if len(values) <= 20 else None,
            markersize=line_width(2.4),
            capsize=line_width(1.2),
            label=label,
        )
    ax.set_xlabel("rank $i$")
    ax.set_ylabel(r"exponent $\lambda_i$  (nats a step)")
    add_legend(ax)
    return finish(ax, title)


@drawing()
def plot_singular_values(
    results: GradientFlow | Any | Mapping[str, Any],
    ax: Axes | None = None,
    *,
    labels: str | Sequence[str] | None = None,
    colors: Mapping[str, str] | None = None,
    figsize: Size | None = None,
    title: str | None = None,
) -> Axes:
    """Logs of the singular values by rank, in nats; exact zeros are counted, not drawn.

    Args:
      results: values (S,) from `jacobian_log_singular_values`, a `GradientFlow` measured with
        spectrum=True, or a mapping from label to either. A batch is averaged.
      ax: where to draw; None makes a figure.
      labels: names in the legend in place of the keys of the mapping; () leaves it out.
      colors: colour by key.
      figsize: width and height of a new figure, inches; None is as wide as the style.
      title: above the picture.

    Returns:
      The `Axes`.

    Raises:
      ValueError: a `GradientFlow` without singular values, or labels or a figsize that do not fit.

    Example:
      >>> logs = rj.jacobian_log_singular_values(cell, xs)
      >>> ax = rj.plotting.plot_singular_values(logs, labels="GRU", figsize=(3.5, 2.2))
      >>> ax.get_xlabel()
      'rank $i$'
    """
    series = list(named_series(results, labels, colors))
    ax = new_axes(ax, figsize)
    ax.axhline(0, color=ink(), linewidth=line_width(0.6), linestyle=DOTTED)
    for label, result, color in series:
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
            linewidth=line_width(),
            label=name,
        )
    add_legend(ax)
    ax.set_xlabel("rank $i$")
    ax.set_ylabel(r"$\ln\,\sigma_i(\partial c_T / \partial c_0)$  (nats)")
    return finish(ax, title)


def _batch_mean(values: Any) -> np.ndarray:
    array = as_numpy(values)
    return array.reshape(-1, array.shape[-1]).mean(axis=0)
