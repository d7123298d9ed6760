"""Does gradient reach predict learning? in one picture."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from learning.comparison import Outcome
from rnn_jax.plotting import COLORS
from rnn_jax.plotting.axes import cycle_color, finish

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
# Nats: what reaches even less is drawn at the left edge.
FAR = -36.0


def draw(outcomes: list[Outcome], steps: int, path: Path) -> None:
    """Reach before training against steps to solve; and what training does to the horizon."""
    networks = list(dict.fromkeys(outcome.network for outcome in outcomes))
    problems = list(dict.fromkeys((outcome.task, outcome.size) for outcome in outcomes))
    palette = [*map(cycle_color, range(7)), COLORS["grey"], "#8B5A2B"]
    colors = {name: palette[i % len(palette)] for i, name in enumerate(networks)}
    markers = {problem: MARKERS[i % len(MARKERS)] for i, problem in enumerate(problems)}
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12.0, 6.0), layout="constrained", width_ratios=(1.25, 1)
    )
    _scatter(left, outcomes, steps, colors, markers)
    _horizons(right, outcomes, networks, markers)
    shapes = {f"{task} {size}": markers[task, size] for task, size in problems}
    figure.legend(
        handles=[
            Line2D([], [], marker=marker, color=COLORS["grey"], linestyle="", label=label)
            for label, marker in shapes.items()
        ],
        loc="outside lower center",
        ncols=min(len(problems), 6),
        frameon=False,
        fontsize="small",
    )
    figure.legend(
        handles=[
            Line2D([], [], marker="o", color=color, linestyle="", label=name)
            for name, color in colors.items()
        ],
        loc="outside upper center",
        ncols=len(colors),
        frameon=False,
        fontsize="small",
        columnspacing=1.2,
        handletextpad=0.2,
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _scatter(
    ax: Axes,
    outcomes: list[Outcome],
    steps: int,
    colors: dict[str, str],
    markers: dict[tuple[str, int], str],
) -> None:
    band, generator = steps * 1.45, np.random.default_rng(0)
    for outcome in outcomes:
        x = np.maximum(outcome.reach[0], FAR)
        # Those that were not solved would lie on one line; a little noise tells them apart.
        noise = np.exp(0.11 * generator.uniform(-1, 1, x.size))
        y = np.where(outcome.solved, outcome.solved_at, band * noise)
        color = colors[outcome.network]
        for solved, face in ((True, color), (False, "none")):
            which = outcome.solved == solved
            ax.scatter(
                x[which],
                y[which],
                s=34,
                marker=markers[outcome.task, outcome.size],
                facecolors=face,
                edgecolors=color,
                linewidths=1.1,
                alpha=0.85,
            )
    ax.axhspan(steps * 1.15, steps * 1.8, color="0.95", zorder=0)
    ax.text(
        0.99, steps * 1.72, "not solved", transform=ax.get_yaxis_transform(), va="top", ha="right",
        fontsize="small", color="0.4",
    )  # fmt: skip
    ax.axvline(np.log(0.01), color="0.6", linewidth=1.0, linestyle="--", zorder=0)
    ax.annotate(
        "1 %", (np.log(0.01), ax.get_ylim()[0]), xytext=(3, 4), textcoords="offset points",
        fontsize="small", color="0.4",
    )  # fmt: skip
    ax.set_yscale("log")
    ax.set_ylim(top=steps * 1.8)
    ax.set_xlabel("reach before training: ln ‖∂y_t/∂x_s‖ at lag T/2, less that at lag 0  (nats)")
    ax.set_ylabel("training steps until solved")
    finish(ax, "Before training")


def _horizons(
    ax: Axes,
    outcomes: list[Outcome],
    networks: list[str],
    markers: dict[tuple[str, int], str],
) -> None:
    """From the horizon at first to that at last, as shares of T, a line for each problem."""
    problems = list(markers)
    for outcome in outcomes:
        row = networks.index(outcome.network)
        offset = (problems.index((outcome.task, outcome.size)) + 1) / (len(problems) + 1) - 0.5
        y = row + 0.8 * offset
        first, last = (np.median(h) / (outcome.steps - 1) for h in outcome.horizon)
        share = float(outcome.solved.mean())
        color = COLORS["blue"] if share > 0.5 else COLORS["vermilion"]
        ax.annotate(
            "",
            xy=(last, y),
            xytext=(first, y),
            arrowprops={"arrowstyle": "->", "color": color, "linewidth": 1.3, "shrinkA": 0},
        )
        ax.plot([first], [y], marker=markers[outcome.task, outcome.size], color=color, markersize=4)
    ax.set_yticks(range(len(networks)), networks)
    ax.set_ylim(len(networks) - 0.5, -0.5)
    ax.set_xlim(-0.03, 1.05)
    ax.set_xlabel("horizon / (T − 1): before training → at the end")
    finish(ax, "By training")
    ax.grid(axis="x", color="0.9", linewidth=0.8)
    ax.legend(
        handles=[
            Line2D([], [], color=COLORS["blue"], label="most seeds solved it"),
            Line2D([], [], color=COLORS["vermilion"], label="most did not"),
        ],
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=2,
        frameon=False,
        fontsize="small",
    )
