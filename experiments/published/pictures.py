"""Pictures that several results share."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from published.record import Finding, Outcome
from rnn_jax.plotting import COLORS
from rnn_jax.plotting.axes import finish

_ORDER = ("blue", "vermilion", "green", "purple", "orange", "sky", "black")


def new_axes(width: float = 7.0, height: float = 3.6) -> tuple[Figure, Axes]:
    """One picture with room for its labels."""
    figure, ax = plt.subplots(figsize=(width, height), layout="constrained")
    return figure, ax


def against(
    ax: Axes,
    x: Sequence[float],
    published: Sequence[float] | None,
    measured: Sequence[float],
    labels: tuple[str, str] = ("published", "measured"),
) -> None:
    """A line for what was published, points for what was measured."""
    if published is not None:
        ax.plot(x, published, color=COLORS["black"], linewidth=1.2, label=labels[0])
    ax.plot(x, measured, "o", color=COLORS["vermilion"], markersize=5, label=labels[1], zorder=3)


def lines(ax: Axes, x: Any, curves: Mapping[str, Any], first: int = 0) -> None:
    """Several measured curves, each in a colour of its own, from the `first` colour on."""
    for index, (label, values) in enumerate(curves.items(), start=first):
        color = COLORS[_ORDER[index % len(_ORDER)]]
        ax.plot(x, np.asarray(values, float), color=color, label=label)


def losses_by_step(curves: Mapping[str, Any], label: str, level: float, meaning: str) -> Figure:
    """Losses while learning, each (steps, values), and the level that they are read against."""
    figure, ax = new_axes()
    for index, (name, (steps, losses)) in enumerate(curves.items()):
        lines(ax, steps, {name: losses}, first=index)
    ax.axhline(level, color="0.4", linestyle=":", linewidth=1, label=meaning)
    ax.set_yscale("log")
    ax.set_xlabel("training steps")
    ax.set_ylabel(label)
    ax.legend()
    finish(ax)
    return figure


def accuracies_by_step(outcome: Outcome) -> Figure:
    """Accuracies while learning, each (steps, values)."""
    figure, ax = new_axes()
    for index, (name, (steps, accuracy)) in enumerate(outcome.curves.items()):
        lines(ax, steps, {name: accuracy}, first=index)
    ax.set_xlabel("training steps")
    ax.set_ylabel("accuracy, mean over seeds")
    ax.legend()
    finish(ax)
    return figure


def differences(outcome: Outcome) -> Figure:
    """How far each finding lies from its number, in units of what its criterion allows."""
    figure, ax = new_axes(height=0.9 + 0.34 * len(outcome.findings))
    places = np.arange(len(outcome.findings))[::-1]
    ax.axvspan(-1, 1, color=COLORS["sky"], alpha=0.25, linewidth=0, label="allowed")
    for place, finding in zip(places, outcome.findings, strict=True):
        color = COLORS["blue"] if finding.holds else COLORS["vermilion"]
        ax.plot(shift(finding), place, "o", color=color)
    ax.set_yticks(places, [finding.quantity for finding in outcome.findings])
    ax.set_xlim(-2.1, 2.1)
    ax.set_xlabel("(measured − published) / tolerance")
    finish(ax)
    return figure


def shift(finding: Finding) -> float:
    """A difference in units of its tolerance, within what the picture shows."""
    difference = finding.measured - finding.published
    ratio = difference / finding.slack if finding.slack else np.sign(difference) * 2
    return float(np.clip(ratio, -2, 2))
