"""A network while it learns: its losses, and how far its gradients reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from rnn_jax.plotting.axes import (
    Size,
    add_headline,
    add_legend,
    as_numpy,
    check_figsize,
    check_labels,
    cycle_color,
    finish,
    line_width,
    log_norm_label,
    new_axes,
    styled_figsize,
)
from rnn_jax.plotting.styles import COLORS, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rnn_jax.training.history import History, ProbeRecord


@drawing()
def plot_learning(
    history: History,
    ax: Axes | None = None,
    *,
    metric: str = "loss",
    chance: float | None = None,
    labels: str | Sequence[str] | None = None,
    figsize: Size | None = None,
    title: str | None = None,
) -> Axes:
    """A metric on fresh data by training step, a line for each member; a dot where it was solved.

    Args:
      history: of a run.
      ax: where to draw; None makes a figure.
      metric: a name in `history.metrics`.
      chance: its value for a predictor that remembers nothing, drawn as a line.
      labels: names of the members; None leaves the legend out.
      figsize: width and height of a new figure, inches; None is as wide as the style.
      title: above the picture.

    Returns:
      The `Axes`; logarithmic if all values are positive and span more than a factor of ten.

    Raises:
      ValueError: no evaluation, no such metric, or labels or a figsize that do not fit.

    Example:
      >>> model = rj.SequenceModel(rj.GRUCell(2, 8, rngs=nnx.Rngs(0)), 1, rngs=nnx.Rngs(1))
      >>> options = dict(steps=20, batch_size=8, seed=0, evaluate_every=5)
      >>> history = rj.fit(model, rj.tasks.Adding(10), optax.adam(1e-2), **options).history
      >>> ax = rj.plotting.plot_learning(history, metric="loss", labels="GRU")
      >>> ax.lines[0].get_xdata().tolist()
      [5, 10, 15, 20]
    """
    if not history.metrics:
        raise ValueError("there is no evaluation to draw; train for at least one step.")
    if metric not in history.metrics:
        raise ValueError(
            f"metric must be one of {', '.join(map(repr, history.metrics))}; got {metric!r}."
        )
    curves = np.atleast_2d(as_numpy(history.metrics[metric]))
    names = check_labels(labels, [""] * len(curves))
    ax = new_axes(ax, figsize)
    for index, (curve, solved_at) in enumerate(
        zip(curves, np.atleast_1d(history.solved_at), strict=True)
    ):
        color = cycle_color(index)
        ax.plot(history.step, curve, color=color, linewidth=line_width(0.75), label=names[index])
        if np.isfinite(solved_at):
            at = curve[history.step == solved_at]
            ax.plot([solved_at], at, "o", color=color, markersize=line_width(2.4))
    if chance is not None:
        ax.axhline(chance, color=COLORS["grey"], linewidth=line_width(0.6), linestyle="--")
        ax.annotate(
            "remembers nothing",
            xy=(1.0, chance),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            fontsize=mpl.rcParams["legend.fontsize"],
            color=COLORS["grey"],
        )
    _log_scale_if_wide(ax, curves)
    ax.set_xlabel("training step")
    ax.set_ylabel(f"{metric} on fresh data")
    add_legend(ax)
    return finish(ax, title)


@drawing()
def plot_terms(
    history: History,
    ax: Axes | None = None,
    *,
    labels: str | Sequence[str] | None = None,
    figsize: Size | None = None,
    title: str | None = None,
) -> Axes:
    """The terms of an objective by training step, a line for each; of members the median.

    Args:
      history: of a run with an `objective`.
      ax: where to draw; None makes a figure.
      labels: names of the terms in the legend, in its order; () leaves the legend out.
      figsize: width and height of a new figure, inches; None is as wide as the style.
      title: above the picture.

    Returns:
      The `Axes`; logarithmic if all values are positive and span more than a factor of ten.

    Raises:
      ValueError: a run without an objective, or labels or a figsize that do not fit.

    Example:
      >>> model = rj.SequenceModel(rj.GRUCell(2, 8, rngs=nnx.Rngs(0)), 1, rngs=nnx.Rngs(1))
      >>> options = dict(steps=4, batch_size=8, seed=0, objective=rj.WeightDecay(1e-3))
      >>> history = rj.fit(model, rj.tasks.Adding(10), optax.adam(1e-2), **options).history
      >>> ax = rj.plotting.plot_terms(history)
      >>> [text.get_text() for text in ax.get_legend().get_texts()]
      ['task', 'weight_decay']
    """
    if not history.terms:
        raise ValueError(
            "the picture needs the history of a run with an objective; got one without terms. Pass "
            "objective= to fit."
        )
    names = check_labels(labels, list(history.terms))
    ax = new_axes(ax, figsize)
    curves = {name: _median(as_numpy(series)) for name, series in history.terms.items()}
    for index, curve in enumerate(curves.values()):
        color, name = cycle_color(index), names[index]
        ax.plot(history.step, curve, color=color, linewidth=line_width(0.75), label=name)
    _log_scale_if_wide(ax, np.concatenate(list(curves.values())))
    ax.set_xlabel("training step")
    ax.set_ylabel("terms, in training")
    add_legend(ax)
    return finish(ax, title)


@drawing()
def plot_flow_while_learning(
    record: ProbeRecord,
    ax: Axes | None = None,
    *,
    relative: bool = True,
    lowest: float = -12.0,
    label: str | None = None,
    labels: str | Sequence[str] | None = None,
    colorbar: bool = True,
    figsize: Size | None = None,
    title: str | None = None,
) -> Axes:
    """Log-norm of the Jacobian by training step and lag, in nats, and the horizon as a line.

    Args:
      record: of a `GradientFlowProbe`, history.probes["gradient_flow"]; members are averaged.
      ax: where to draw; None makes a figure.
      relative: to lag 0 at the same training step, so that only the reach is seen.
      lowest: where the colours end, in nats, if the values go below.
      label: of the colours; None says what is measured, and its unit.
      labels: name of the horizon in the legend; () leaves the legend out.
      colorbar: draw the scale beside it.
      figsize: width and height of a new figure, inches; None is as wide as the style.
      title: above the picture.

    Returns:
      The `Axes`.

    Raises:
      ValueError: a record without by_lag, or labels or a figsize that do not fit.

    Example:
      >>> model = rj.SequenceModel(rj.GRUCell(2, 8, rngs=nnx.Rngs(0)), 1, rngs=nnx.Rngs(1))
      >>> options = dict(steps=4, batch_size=8, seed=0, probes=rj.GradientFlowProbe(every=2))
      >>> history = rj.fit(model, rj.tasks.Adding(10), optax.adam(1e-2), **options).history
      >>> ax = rj.plotting.plot_flow_while_learning(history.probes["gradient_flow"])
      >>> ax.get_ylabel()
      'lag $k$  (steps)'
    """
    if "by_lag" not in record.values:
        raise ValueError(
            "the picture needs the record of a GradientFlowProbe; got one with "
            f"{', '.join(record.values)}. Pass history.probes['gradient_flow']."
        )
    (name,) = check_labels(labels, ["horizon (1 %)"])
    ax = new_axes(ax, figsize, natural=(6.4, 3.6))
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
        vmin=low,
        vmax=high,
        rasterized=True,
    )
    ax.plot(record.step, horizon, color="white", linewidth=line_width(2.0))
    ax.plot(record.step, horizon, color=cycle_color(1), linewidth=line_width(), label=name)
    ax.set_ylim(-0.5, lags - 0.5)
    ax.set_xlabel("training step")
    ax.set_ylabel("lag $k$  (steps)")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    add_legend(ax, loc="best", frameon=True, framealpha=0.85, edgecolor="none")
    if colorbar:
        if label is None:
            label = log_norm_label("input", "t-k") + ("\nless lag 0" if relative else "")
        extend = "min" if finite.size and finite.min() < low else "neither"
        bar = ax.figure.colorbar(image, ax=ax, label=label, extend=extend)
        bar.outline.set_visible(False)
    return finish(ax, title, grid=False)


@drawing()
def training_figure(
    history: History,
    *,
    chance: float | None = None,
    figsize: Size | None = None,
    title: str | None = None,
) -> Figure:
    """The loss by training step; below it terms, and gradient flow in nats, where there are some.

    Args:
      history: of a run.
      chance: the loss of a predictor that remembers nothing.
      figsize: width and height of the figure, inches; None is as wide as the style.
      title: above all.

    Returns:
      A matplotlib `Figure`.

    Raises:
      ValueError: no evaluation, or a figsize that is not two positive numbers.

    Example:
      >>> model = rj.SequenceModel(rj.GRUCell(2, 8, rngs=nnx.Rngs(0)), 1, rngs=nnx.Rngs(1))
      >>> options = dict(steps=4, batch_size=8, seed=0, probes=rj.GradientFlowProbe(every=2))
      >>> history = rj.fit(model, rj.tasks.Adding(10), optax.adam(1e-2), **options).history
      >>> figure = rj.plotting.training_figure(history, chance=1 / 6, title="Adding, T = 10")
      >>> len(figure.axes)  # the loss, the flow, and the scale of its colours
      3
    """
    flows = [record for record in history.probes.values() if "by_lag" in record.values]
    panels = 1 + bool(history.terms) + len(flows)
    figure, axes = plt.subplots(
        panels,
        1,
        figsize=styled_figsize((7.2, 2.9 * panels)) if figsize is None else check_figsize(figsize),
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
        add_headline(figure, title, mpl.rcParams["axes.titlesize"])
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
