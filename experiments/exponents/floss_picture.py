"""The picture of `experiments/flossing.py`."""

from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from exponents.arms import Arm, ArmsConfig
from rnn_jax.plotting import COLORS
from rnn_jax.plotting.axes import finish


def draw(arms: Sequence[Arm], config: ArmsConfig) -> Figure:
    """Exponents before training, loss by training step, exponents after training."""
    figure, (before, loss, after) = plt.subplots(
        1, 3, figsize=(13, 4.1), layout="constrained", width_ratios=(1, 1.25, 1)
    )
    colors = _colors(arms)
    for ax, stage, title in (
        (before, "ready", "Before training: flossed exponents are near 0"),
        (after, "end", "After training"),
    ):
        for arm, color in zip(arms, colors, strict=True):
            _spectrum(ax, getattr(arm, stage), color)
        ax.axhline(0, color=COLORS["black"], linewidth=0.8)
        if config.delay <= config.hidden:
            ax.axvline(config.delay, color=COLORS["grey"], linewidth=1.0, linestyle=(0, (4, 3)))
            ax.annotate(
                "the delay",
                xy=(config.delay, -1.58),
                xytext=(-4, 0),
                textcoords="offset points",
                ha="right",
                fontsize="small",
            )
        ax.set_ylim(-1.6, 0.12)
        ax.set_xlabel("i")
        ax.set_ylabel(r"exponent $\lambda_i$  (nats a step)")
        finish(ax, title)
    for arm, color in zip(arms, colors, strict=True):
        _curve(loss, arm, color)
    chance = config.task.chance_loss
    loss.axhline(chance, color=COLORS["grey"], linewidth=1.2, linestyle="--")
    loss.text(
        1.0,
        chance * 1.06,
        "remembers nothing: 1/12",
        transform=loss.get_yaxis_transform(),
        ha="right",
        fontsize="small",
    )
    loss.set_yscale("log")
    loss.set_ylim(top=0.14)
    loss.set_xlim(left=0)
    loss.set_xlabel("training step")
    loss.set_ylabel("mean squared error")
    finish(loss, f"Recall of the number {config.delay} steps ago")
    loss.legend(frameon=False, fontsize="small", loc="lower left")
    return figure


def _colors(arms: Sequence[Arm]) -> list[str]:
    """Black without flossing, darker blue the more was flossed, others for the other arms."""
    before = sum(arm.directions > 0 and not arm.in_training for arm in arms)
    shades = [mpl.colors.to_hex(c) for c in mpl.colormaps["Blues"](np.linspace(0.45, 0.95, before))]
    return [COLORS["black"], *shades, COLORS["green"], COLORS["orange"]]


def _spectrum(ax: Axes, table: np.ndarray, color: str) -> None:
    index = np.arange(1, table.shape[1] + 1)
    shown = np.where(np.isfinite(table), table, np.nan)
    ax.plot(index, shown.T, color=color, linewidth=0.5, alpha=0.3)
    ax.plot(index, np.median(shown, axis=0), color=color, linewidth=2.0)


def _curve(ax: Axes, arm: Arm, color: str) -> None:
    """Each seed thin, the median thick."""
    label = arm.title + (", not flossed" if arm.title == "orthogonal" else "")
    ax.plot(arm.at, arm.loss.T, color=color, linewidth=0.5, alpha=0.3)
    ax.plot(arm.at, np.median(arm.loss, axis=0), color=color, linewidth=2.0, label=label)
