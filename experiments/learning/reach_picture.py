"""Does gradient reach predict learning? in one picture."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

from learning.comparison import Outcome
from learning.contenders import KINDS
from learning.rank_statistics import Estimate
from learning.verdicts import MEASURES, Ranked, by_problem, correlation
from rnn_jax.plotting import COLORS
from rnn_jax.plotting.axes import finish

# Nats: what reaches even less is drawn at the left edge.
FAR = -100.0
# Beyond are only the few whose gradients grow.
NEAR = 3.0
_COLORS = dict(zip(KINDS, ("blue", "vermilion", "green", "orange"), strict=True))
_MARKERS = dict(zip(KINDS, "osD^", strict=True))
_TASK_STYLES = (("blue", "o"), ("vermilion", "s"), ("green", "D"))
# Offsets of a name from its mark in points, the best first, and how it is aligned there.
_PLACES: dict[tuple[int, int], tuple[Any, Any]] = {
    (6, 0): ("left", "center"),
    (-6, 0): ("right", "center"),
    (4, 5): ("left", "bottom"),
    (4, -5): ("left", "top"),
    (-4, 5): ("right", "bottom"),
    (-4, -5): ("right", "top"),
}
NAMED = ("GRU", "LSTM", "SimpleRNN", "UnitaryRNN", "LRU", "MinimalRNN")


def draw(outcomes: Sequence[Outcome], table: Ranked, path: Path) -> None:
    """Steps to solve against reach at the shortest and longest T; the rank correlations.

    Args:
      outcomes: all.
      table: the same, ranked.
      path: of the PNG file.
    """
    tasks = list(dict.fromkeys(task for task, _ in table.problems))
    lengths = sorted({length for _, length in table.problems})
    shown = list(dict.fromkeys((lengths[0], lengths[-1])))
    style: Any = {"font.size": 10.5, "axes.titlesize": 11.5}
    with plt.rc_context(style):
        figure, axes = plt.subplots(
            len(shown),
            len(tasks) + 1,
            figsize=(3.3 * len(tasks) + 4.6, 3.7 * len(shown) + 1.0),
            layout="constrained",
            squeeze=False,
            width_ratios=[1.0] * len(tasks) + [1.1],
        )
        panels: list[tuple[Axes, Sequence[Outcome]]] = []
        for (row, length), (column, task) in itertools.product(enumerate(shown), enumerate(tasks)):
            ax = axes[row, column]
            if (task, length) in table.problems:
                panels.append((ax, [o for o in outcomes if (o.task, o.length) == (task, length)]))
                _scatter(*panels[-1])
                finish(ax, f"{task}, T = {length}")
            else:
                ax.set_axis_off()
            if column:
                ax.set_ylabel("")
            if row < len(shown) - 1:
                ax.set_xlabel("")
        _by_length(axes[0, -1], table, tasks)
        if len(shown) > 1:
            _by_measure(axes[1, -1], table)
        figure.legend(
            handles=[
                Line2D(
                    [], [], marker=_MARKERS[kind], color=COLORS[_COLORS[kind]], linestyle="",
                    markersize=7, label=kind,
                )
                for kind in KINDS
                if kind in table.kinds
            ]
            + [Patch(color="0.94", label="beyond the last step: by the loss left")],
            loc="outside lower left",
            ncols=len(KINDS) + 1,
            frameon=False,
            handletextpad=0.2,
            columnspacing=1.4,
        )  # fmt: skip
        # Names are placed where all else stands, which the layout decides.
        figure.draw_without_rendering()
        for ax, of_problem in panels:
            _name(figure, ax, of_problem)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def _scatter(ax: Axes, outcomes: Sequence[Outcome]) -> None:
    """One problem: each network a mark, hollow where fewer than half of the seeds solved it."""
    most = outcomes[0].steps
    ax.axhspan(most, 2.15 * most, color="0.94", zorder=0)
    for outcome in outcomes:
        color = COLORS[_COLORS[outcome.kind]]
        solved = 2 * outcome.solved >= len(outcome.solved_at)
        ax.plot(
            [_reach(outcome)], [outcome.score], _MARKERS[outcome.kind], color=color, markersize=6.5,
            markerfacecolor=color if solved else "none", alpha=0.85, clip_on=False,
        )  # fmt: skip
    ax.set_xscale("symlog", linthresh=1.0)
    ax.set_xlim(FAR * 1.25, NEAR * 1.3)
    ax.set_xticks([-100, -10, -1, 0, 1], ["−100", "−10", "−1", "0", "1"])
    ax.minorticks_off()
    ax.set_ylim(0, 2.15 * most)
    steps = [0.0, 0.25 * most, 0.5 * most, 0.75 * most, float(most)]
    ax.set_yticks([*steps, 2.0 * most], [*(f"{step:.0f}" for step in steps), "nothing\nlearnt"])
    ax.set_xlabel("reach before training (nats, at lag T/2)")
    ax.set_ylabel("training steps to solve, mean of seeds")


def _reach(outcome: Outcome) -> float:
    """Where a network stands: the median over its seeds, at an edge if it is beyond."""
    median = np.median([-np.inf if reach is None else reach for reach in outcome.reach])
    return float(np.clip(median, FAR, NEAR))


def _name(figure: Figure, ax: Axes, outcomes: Sequence[Outcome]) -> None:
    """Names a few networks, each where its name covers no mark and no other name; or not at all."""
    marks = ax.transData.transform([(_reach(outcome), outcome.score) for outcome in outcomes])
    point = figure.dpi / 72
    taken = [Bbox.from_extents(*(mark - 4 * point), *(mark + 4 * point)) for mark in marks]
    for outcome in outcomes:
        if outcome.network not in NAMED or outcome.score > 1.95 * outcome.steps:
            continue
        for (dx, dy), (ha, va) in _PLACES.items():
            text = ax.annotate(
                outcome.network, (_reach(outcome), outcome.score), xytext=(dx, dy),
                textcoords="offset points", fontsize=8.5, ha=ha, va=va, color="0.15",
            )  # fmt: skip
            box = text.get_window_extent()
            inside = ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def _interval(ax: Axes, x: float, estimate: Estimate, color: str, marker: str) -> None:
    if np.isfinite(estimate.value):
        ax.plot([x, x], [estimate.low, estimate.high], color=color, linewidth=1.8)
        ax.plot([x], [estimate.value], marker, color=color, markersize=7)


def _by_length(ax: Axes, table: Ranked, tasks: Sequence[str]) -> None:
    """ρ of reach in each problem, by T."""
    lengths = sorted({length for _, length in table.problems})
    ax.axhline(0, color=COLORS["black"], linewidth=1.0)
    for (task, length), estimate in zip(table.problems, by_problem(table, "reach"), strict=True):
        color, marker = _TASK_STYLES[tasks.index(task) % len(_TASK_STYLES)]
        offset = 0.18 * (tasks.index(task) - (len(tasks) - 1) / 2)
        _interval(ax, lengths.index(length) + offset, estimate, COLORS[color], marker)
    ax.set_xticks(range(len(lengths)), [str(length) for length in lengths])
    ax.set_xlim(-0.6, len(lengths) - 0.4)
    ax.set_ylim(-1, 1)
    ax.set_xlabel("length T (steps)")
    ax.set_ylabel("Spearman's ρ of reach and learning")
    finish(ax, "By problem, 95 % intervals")
    ax.legend(
        handles=[
            Line2D([], [], color=COLORS[color], marker=marker, label=task)
            for task, (color, marker) in zip(tasks, _TASK_STYLES, strict=False)
        ],
        loc="lower left",
        frameon=False,
        fontsize=9,
    )


def _by_measure(ax: Axes, table: Ranked) -> None:
    """Mean ρ of each measure before training."""
    ax.axhline(0, color=COLORS["black"], linewidth=1.0)
    for x, measure in enumerate(MEASURES):
        color = COLORS["blue" if measure == "reach" else "grey"]
        _interval(ax, x, correlation(table, measure), color, "o")
    ax.set_xticks(range(len(MEASURES)), list(MEASURES))
    ax.set_xlim(-0.6, len(MEASURES) - 0.4)
    ax.set_ylim(-1, 1)
    ax.set_ylabel("mean ρ with learning")
    finish(ax, "Other measures before training")
