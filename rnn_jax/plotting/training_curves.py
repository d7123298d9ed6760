"""A network while it learns: its losses, and how far its gradients reach."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from rnn_jax.plotting.style import COLORMAP, COLORS, as_numpy, cycle_color, finish, new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rnn_jax.training.history import History, ProbeRecord


def plot_learning(
    history: History,
    ax: Axes | None = None,
    *,
    metric: str = "loss",
    chance: float | None = None,
    title: str | None = None,
) -> Axes:
    """A metric on fresh data by training step, a line for each member; a dot where it was solved.

    Args:
      history: of a run.
      ax: where to draw; None makes a figure.
      metric: a name in `history.metrics`.
      chance: its value for a predictor that remembers nothing, drawn as a line.
      title: above the picture.

    Returns:
      The `Axes`; logarithmic if all values are positive and span more than a factor of ten.

    Raises:
      ValueError: no such metric.
    """
    if not history.metrics:
        raise ValueError("there is no evaluation to draw; train for at least one step.")
    if metric not in history.metrics:
        raise ValueError(
            f"metric must be one of {', '.join(map(repr, history.metrics))}; got {metric!r}."
        )
    ax = new_axes(ax)
    curves = np.atleast_2d(as_numpy(history.metrics[metric]))
    for index, (curve, solved_at) in enumerate(
        zip(curves, np.atleast_1d(history.solved_at), strict=True)
    ):
        color = cycle_color(index)
        ax.plot(history.step, curve, color=color, linewidth=1.2)
        if np.isfinite(solved_at):
            at = curve[history.step == solved_at]
            ax.plot([solved_at], at, "o", color=color, markersize=4)
    if chance is not None:
        ax.axhline(chance, color=COLORS["grey"], linewidth=1.0, linestyle="--")
        ax.annotate(
            "remembers nothing",
            xy=(1.0, chance),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            fontsize="small",
            color=COLORS["grey"],
        )
    _log_scale_if_wide(ax, curves)
    ax.set_xlabel("training step")
    ax.set_ylabel(f"{metric} on fresh data")
    return finish(ax, title)


def plot_terms(history: History, ax: Axes | None = None, *, title: str | None = None) -> Axes:
    """The terms of an objective by training step, a line for each; of members the median.

    Args:
      history: of a run with an `objective`.
      ax: where to draw; None makes a figure.
      title: above the picture.

    Returns:
      The `Axes`; logarithmic if all values are positive and span more than a factor of ten.

    Raises:
      ValueError: a run without an objective.
    """
    if not history.terms:
        raise ValueError(
            "the picture needs the history of a run with an objective; got one without terms. Pass "
            "objective= to fit."
        )
    ax = new_axes(ax)
    curves = {name: _median(as_numpy(series)) for name, series in history.terms.items()}
    for index, (name, curve) in enumerate(curves.items()):
        ax.plot(history.step, curve, color=cycle_color(index), linewidth=1.2, label=name)
    _log_scale_if_wide(ax, np.concatenate(list(curves.values())))
    ax.set_xlabel("training step")
    ax.set_ylabel("terms, in training")
    ax.legend(frameon=False, fontsize="small")
    return finish(ax, title)


def plot_flow_while_learning(
    record: ProbeRecord,
    ax: Axes | None = None,
    *,
    relative: bool = True,
    lowest: float = -12.0,
    title: str | None = None,
    colorbar: bool = True,
) -> Axes:
    """How gradient flow changes while a network learns: training step × lag, in colours.

    Args:
      record: of a `GradientFlowProbe`, history.probes["gradient_flow"]; members are averaged.
      ax: where to draw; None makes a figure.
      relative: to lag 0 at the same training step, so that only the reach is seen.
      lowest: where the colours end, in nats, if the values go below.
      title: above the picture.
      colorbar: draw the scale beside it.

    Returns:
      The `Axes`, with the horizon as a line.

    Raises:
      ValueError: a record without by_lag.
    """
    if "by_lag" not in record.values:
        raise ValueError(
            "the picture needs the record of a GradientFlowProbe; got one with "
            f"{', '.join(record.values)}. Pass history.probes['gradient_flow']."
        )
    ax = new_axes(ax, size=(6.4, 3.6))
    table = as_numpy(record.values["by_lag"])
    if relative:
        table = table - table[..., :1]
    horizon = as_numpy(record.values["horizon"])
    if table.ndim == 3:
        table, horizon = table.mean(axis=0), np.median(horizon, axis=0)
    lags = table.shape[1]
    finite = table[np.isfinite(table)]
    low = max(lowest, float(finite.min())) if finite.size else lowest
    high = max(float(finite.max()), low + 1e-6) if finite.size else 0.0
    image = ax.pcolormesh(
        _edges(record.step),
        np.arange(lags + 1) - 0.5,
        np.clip(table.T, low, None),
        cmap=COLORMAP,
        vmin=low,
        vmax=high,
        rasterized=True,
    )
    ax.plot(record.step, horizon, color="white", linewidth=2.6)
    ax.plot(record.step, horizon, color=COLORS["vermilion"], linewidth=1.4, label="horizon (1 %)")
    ax.set_ylim(-0.5, lags - 0.5)
    ax.set_xlabel("training step")
    ax.set_ylabel("lag k, steps")
    ax.legend(loc="upper left", frameon=True, framealpha=0.85, fontsize="small")
    ax.spines[["top", "right"]].set_visible(False)
    if title:
        ax.set_title(title, loc="left", fontsize="medium")
    if colorbar:
        label = "ln ‖∂y_t/∂x_s‖" + (", lag 0 as 0" if relative else "") + "  (nats)"
        extend = "min" if finite.size and finite.min() < low else "neither"
        bar = ax.figure.colorbar(image, ax=ax, label=label, extend=extend)
        bar.outline.set_visible(False)
    return ax


def training_figure(
    history: History, *, chance: float | None = None, title: str | None = None
) -> Figure:
    """One figure: metrics by training step; below it terms and gradient flow, on one axis of time.

    Args:
      history: of a run.
      chance: the loss of a predictor that remembers nothing.
      title: above all.

    Returns:
      A matplotlib `Figure`.
    """
    flows = [record for record in history.probes.values() if "by_lag" in record.values]
    panels = 1 + bool(history.terms) + len(flows)
    figure, axes = plt.subplots(
        panels,
        1,
        figsize=(7.2, 2.9 * panels),
        layout="constrained",
        sharex=True,
        squeeze=False,
    )
    plot_learning(history, axes[0, 0], chance=chance)
    if history.terms:
        plot_terms(history, axes[1, 0])
    for ax, record in zip(axes[panels - len(flows) :, 0], flows, strict=True):
        plot_flow_while_learning(record, ax)
    for ax in axes[:-1, 0]:
        ax.set_xlabel("")
    axes[0, 0].set_xlim(0, max(int(history.step[-1]) if history.step.size else 1, 1))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize="medium")
    return figure


def _median(series: np.ndarray) -> np.ndarray:
    """Over the members that have a number at all; NaN where none has."""
    known = np.ma.masked_invalid(np.atleast_2d(series))
    result: np.ndarray = np.ma.median(known, axis=0).filled(np.nan)
    return result


def _log_scale_if_wide(ax: Axes, values: np.ndarray) -> None:
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() > 0 and finite.max() > 10 * finite.min():
        ax.set_yscale("log")


def _edges(centres: np.ndarray) -> np.ndarray:
    """Borders halfway between measurements."""
    if centres.size == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([centres[:1], middle, centres[-1:]])
