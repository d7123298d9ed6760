"""The picture of `experiments/cells.py`: claims on the left, the family on the right."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from claims.record import Claim
from family.ranking import Entry
from rnn_jax.plotting import COLORS
from rnn_jax.plotting.axes import finish

# Classes whose bounds by lag have a panel each.
BOUNDED = ("CoRNNCell", "UnICORNNCell", "LEMCell")
# λ₁ further below is drawn at the edge.
LOWEST = -0.75
# Nats at which a curve that vanishes is named.
NAMED_AT = -8.0
# Below what rounding leaves.
FLOOR = 1e-16
_SHADES = (COLORS["blue"], COLORS["orange"])
_TASKS = {"adding": COLORS["blue"], "copy": COLORS["vermilion"]}
_SHAPES = ("o", "s", "^", "D")


def draw(claims: Sequence[Claim], entries: Sequence[Entry], path: Path) -> None:
    """Draws and writes it."""
    style: Any = {"font.size": 10.5, "axes.titlesize": 11.5, "xtick.labelsize": 9.5}
    with plt.rc_context(style):
        figure = plt.figure(figsize=(16.0, 9.0), layout="constrained")
        halves: Any = figure.subfigures(1, 2, width_ratios=(1.0, 1.25), wspace=0.02)
        left, right = halves
        kept = sum(claim.holds for claim in claims)
        left.suptitle(
            f"What papers say of gradients: {kept} of {len(claims)} claims hold",
            fontsize=14,
            fontweight="bold",
            x=0.01,
            ha="left",
        )
        curves, dots = left.subfigures(2, 1, height_ratios=(1.5, 1.0))
        panels = curves.subplots(2, 2)
        for ax, cell in zip(panels.flat, BOUNDED, strict=False):
            _bounds(ax, cell, claims)
        _vanishing(panels[1, 1], [claim for claim in claims if claim.basis == "criterion"])
        _equalities(dots.subplots(), [claim for claim in claims if claim.relation == "equal"])

        right.suptitle(
            f"Who remembers: {len(entries)} cells, the fastest learner first",
            fontsize=14,
            fontweight="bold",
            x=0.01,
            ha="left",
        )
        columns = right.subplots(1, 3, sharey=True, width_ratios=(0.8, 0.8, 1.7))
        _family(columns, entries)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def short(cell: str) -> str:
    """The class's name as papers write it."""
    return cell.removesuffix("Cell").replace("CoRNN", "coRNN")


def _bounds(ax: Axes, cell: str, claims: Sequence[Claim]) -> None:
    """The largest norm by lag below its bound, one colour for each setting."""
    shown = [
        claim
        for claim in claims
        if claim.cell == cell and claim.relation == "at most" and claim.along == "lag"
    ]
    for claim, color, place in zip(shown, _SHADES, (0.0, 0.4), strict=False):
        lags = np.arange(claim.measured.size) + claim.first
        ax.plot(lags, claim.expected, "--", color=color, linewidth=1.6)
        ax.plot(lags, claim.measured, color=color, linewidth=2.2)
        name = claim.setting or "default"
        ax.text(place, 1.03, name, transform=ax.transAxes, color=color, fontsize=9.5)
    # Linear within ±10 nats, logarithmic beyond: some bounds are far away.
    ax.set_yscale("symlog", linthresh=10.0)
    low, high = ax.get_ylim()
    ticks = [tick for tick in (-100, -10, -5, 0, 5, 10, 100, 1000) if low <= tick <= high]
    ax.set_yticks(ticks, [f"{tick}".replace("-", "−") for tick in ticks])
    ax.minorticks_off()
    ax.set_xlabel("lag k")
    ax.set_ylabel(r"$\ln\ \Vert\partial X_t/\partial X_{t-k}\Vert_\infty$")
    verdict = "kept" if all(claim.holds for claim in shown) else "BROKEN"
    finish(ax)
    ax.set_title(f"{short(cell)}: bound (dashed) {verdict}", loc="left", pad=20)


def _vanishing(ax: Axes, claims: Sequence[Claim]) -> None:
    """Norms by lag of cells said not to vanish."""
    for claim in claims:
        color = COLORS["grey"] if claim.holds else COLORS["vermilion"]
        lags = np.arange(claim.measured.size) + claim.first
        ax.plot(lags, claim.measured, color=color, linewidth=1.6 if claim.holds else 2.4)
        if not claim.holds:
            far = claim.measured < NAMED_AT
            where = int(np.argmax(far if far.any() else claim.distance > claim.tolerance))
            name = f"{short(claim.cell)}, {claim.setting}" if claim.setting else short(claim.cell)
            ax.annotate(
                name,
                (lags[where], claim.measured[where]),
                xytext=(8, 0),
                textcoords="offset points",
                color=color,
                fontsize=9.5,
                va="center",
            )
    if claims:
        ax.axhline(claims[0].expected[0], color=COLORS["black"], linewidth=1.0, linestyle=":")
        ax.text(
            0.99, claims[0].expected[0] + 0.2, "1 %", transform=ax.get_yaxis_transform(),
            ha="right", va="bottom", fontsize=9.5,
        )  # fmt: skip
    ax.set_ylim(-12, 4)
    ax.set_xlabel("lag k")
    ax.set_ylabel(r"$\ln\ \Vert\partial X_T/\partial X_{T-k}\Vert_2$")
    kept = sum(claim.holds for claim in claims)
    finish(ax)
    ax.set_title(f"“Does not vanish”: {kept} of {len(claims)} keep 1 %", loc="left", pad=20)


def _equalities(ax: Axes, claims: Sequence[Claim]) -> None:
    """How far measurements are from what is said to equal them."""
    for row, claim in enumerate(claims):
        color = COLORS["blue"] if claim.holds else COLORS["vermilion"]
        value = max(claim.excess, FLOOR) if np.isfinite(claim.excess) else 1.0
        ax.plot([FLOOR, value], [row, row], color=color, linewidth=1.4)
        ax.plot([value], [row], "o", color=color, markersize=6)
    labels = [
        f"{short(claim.cell)}{f' ({claim.setting})' if claim.setting else ''}: {claim.name}"
        for claim in claims
    ]
    ax.axvline(1e-8, color=COLORS["black"], linewidth=1.0, linestyle=":")
    ax.set_yticks(range(len(claims)), labels)
    ax.set_ylim(len(claims) - 0.4, -0.6)
    ax.set_xscale("log")
    ax.set_xlim(FLOOR, 1.0)
    ax.set_xlabel("largest difference from the formula (dotted: tolerance)")
    finish(ax, "Said to be equal to a formula, all values after T steps")
    ax.grid(visible=False)


def _family(axes: Sequence[Axes], entries: Sequence[Entry]) -> None:
    """Rows of cells: horizon, λ₁, and steps to solve."""
    of_horizon, of_exponent, of_steps = axes
    rows = np.arange(len(entries))
    for ax in axes:
        ax.set_ylim(len(entries) - 0.4, -0.6)
        finish(ax)
        ax.grid(visible=False)
        ax.tick_params(axis="y", length=0)
        for row in rows[1::2]:
            ax.axhspan(row - 0.5, row + 0.5, color="0.96", zorder=0)
    _horizons(of_horizon, entries)
    _exponents(of_exponent, entries)
    _steps(of_steps, entries)
    of_horizon.set_yticks(rows, [short(entry.cell) for entry in entries], fontsize=10.5)


def _horizons(ax: Axes, entries: Sequence[Entry]) -> None:
    last = entries[0].reach.steps - 1
    for row, entry in enumerate(entries):
        value, full = max(entry.horizon, 0.8), entry.horizon >= last
        color = COLORS["green"] if full else COLORS["grey"]
        ax.plot([0.8, value], [row, row], color=color, linewidth=3.0, solid_capstyle="butt")
        ax.plot([value], [row], ">" if full else "o", color=color, markersize=6)
    ax.set_xscale("log")
    ax.set_xlim(0.8, last * 1.4)
    ticks = [tick for tick in (1, 10, 100) if tick < last * 0.3]
    ax.set_xticks([*ticks, last], [*map(str, ticks), f"≥{last}"])
    ax.minorticks_off()
    ax.set_title("Horizon untrained", loc="left")
    ax.set_xlabel(f"steps to 1 %\n(green: all {last})")


def _exponents(ax: Axes, entries: Sequence[Entry]) -> None:
    ax.axvline(0, color=COLORS["black"], linewidth=1.0)
    for row, entry in enumerate(entries):
        value, cut = max(entry.exponent, LOWEST), entry.exponent < LOWEST
        color = COLORS["green"] if abs(entry.exponent) < 0.01 else COLORS["grey"]
        ax.plot([0, value], [row, row], color=color, linewidth=3.0, solid_capstyle="butt")
        ax.plot([value], [row], "<" if cut else "o", color=color, markersize=6)
    highest = max(entry.exponent for entry in entries)
    ax.set_xlim(LOWEST * 1.06, max(0.06, highest * 1.15))
    ax.set_title("λ₁ untrained", loc="left")
    ax.set_xlabel("nats a step\n(green: within ±0.01)")


def _steps(ax: Axes, entries: Sequence[Entry]) -> None:
    """Steps to solve, in a column of its own where a problem was not solved."""
    problems = [(outcome.task, outcome.length) for outcome in entries[0].outcomes]
    lengths = sorted({length for _, length in problems})
    cap = entries[0].outcomes[0].steps
    low = min([0.5 * cap, *(o.score for entry in entries for o in entry.outcomes)]) * 0.8
    # The columns for what was not solved, of equal width on a logarithmic axis.
    places = cap * 1.25 * 1.16 ** np.arange(len(problems))
    high = places[-1] * 1.12
    ax.axvspan(cap * 1.1, high, color="0.90", zorder=0.5)
    for row, entry in enumerate(entries):
        for outcome, place in zip(entry.outcomes, places, strict=True):
            color = _TASKS[outcome.task]
            shape = _SHAPES[lengths.index(outcome.length) % len(_SHAPES)]
            solved = outcome.solved == len(outcome.solved_at)
            ax.plot(
                [outcome.score if solved else place],
                [row],
                shape,
                color=color,
                markerfacecolor=color if solved else "none",
                markersize=7,
                alpha=0.9 if solved else 0.6,
            )
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ticks = [tick for tick in (10, 20, 50, 100, 200, 500, 1000, 2000) if low <= tick <= cap]
    ax.set_xticks(ticks, list(map(str, ticks)))
    ax.minorticks_off()
    ax.text(
        np.sqrt(cap * 1.1 * high), 1.0, f"not in {cap}", transform=ax.get_xaxis_transform(),
        ha="center", va="bottom", fontsize=9.5, color="0.35",
    )  # fmt: skip
    ax.set_title("Steps to solve", loc="left")
    ax.set_xlabel("training steps")
    ax.legend(
        handles=[
            Line2D(
                [], [], color=_TASKS[task], marker=_SHAPES[lengths.index(length) % len(_SHAPES)],
                linestyle="", markersize=7, label=f"{task}, T = {length}",
            )
            for task, length in problems
        ],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.05),
        ncols=2,
        frameon=False,
        fontsize=9.5,
        handletextpad=0.2,
        columnspacing=1.0,
    )  # fmt: skip
