"""What do the papers claim of their cells' gradients, is it so, and does it tell who learns?

First the claims: singular values of the orthogonal family, the bounds of coRNN, UnICORNN and LEM,
IndRNN's, minGRU's and RG-LRU's products, eigenvalues of the AntisymmetricRNN, the LRU's forward
gain, each beside its measurement. Then every cell of `rnn_jax.cells`: how far gradients reach
before training, and how many steps until the adding and the copy problem are solved. Tables
(table.md), one picture (cells.png) and every number (metrics.json). Each training run has a folder
of its own under runs/, so the same line goes on where this was stopped. RESULTS_CELLS.md beside
this script is the table.md of a whole run.

    python experiments/cells.py            # under half an hour on two CPU cores
    python experiments/cells.py --quick    # smaller, five cells on one task; under a minute
                                           # once its programs are compiled and kept
"""

import dataclasses
import datetime
import itertools
import json
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from claims.cases import CASES, judge
from claims.record import Claim
from family.networks import OPTIONS, cell_names
from family.picture import draw
from family.ranking import Entry, Prediction, predictions, rank
from family.reach import measure
from family.training import SHORTEST, TASKS, Outcome, Training, train
from launching import (
    RATE,
    SEED,
    SIZE,
    Range,
    check_ranges,
    display,
    fill_in,
    plain,
    prepare,
    refusing,
)
from learning.choices import choose


@dataclass(frozen=True)
class Config:
    """Measure what papers claim of their cells' gradients, and who learns what."""

    out: Path = Path("results/cells")
    """Folder of tables, picture, numbers and all runs; made if it does not exist."""
    quick: bool = False
    """Smaller, and five cells on one task; options given by hand still win."""
    cells: tuple[str, ...] = ()
    """Which cells are measured and trained (all; quick: five of different kinds)."""
    tasks: tuple[str, ...] = ()
    """Which tasks, of adding and copy (both; quick: adding)."""
    lengths: tuple[int, ...] = ()
    """T of the tasks, in steps (100 200, quick 20)."""
    hidden: int | None = None
    """H, hidden units (32, quick 16)."""
    batch_size: int = 32
    """Sequences of each training step."""
    steps: int | None = None
    """Training steps at most (1000, quick 500)."""
    seeds: int | None = None
    """Networks of each cell (2, quick 1)."""
    learning_rate: float = 3e-3
    """Of Adam, but where a paper says something very different: coRNN, adding, 0.02."""
    measured_steps: int | None = None
    """T of the sequences along which Jacobians are measured (200, quick 40)."""
    seed: int = 0
    """Of weights, inputs and batches."""


QUICK_CELLS = (
    "SimpleRNNCell",
    "GRUCell",
    "ExpRNNCell",
    "LEMCell",
    "LRUCell",
)
DEFAULTS: dict[str, tuple[Any, Any]] = {
    "cells": (cell_names(), QUICK_CELLS),
    "tasks": (tuple(TASKS), ("adding",)),
    "lengths": ((100, 200), (20,)),
    "hidden": (32, 16),
    "steps": (1000, 500),
    "seeds": (2, 1),
    "measured_steps": (200, 40),
}
RANGES = {
    "lengths": Range(SHORTEST),
    # Heads, blocks and modules divide H.
    "hidden": Range(8),
    "batch_size": SIZE,
    "steps": SIZE,
    "seeds": SIZE,
    "learning_rate": RATE,
    "measured_steps": Range(10),
    "seed": SEED,
}


def resolve(config: Config) -> Config:
    """Fills in what was left open, and refuses what there is not.

    Raises:
      ValueError: an unknown cell or task, or a number out of range.
    """
    config = dataclasses.replace(config, **fill_in(config, DEFAULTS))
    check_ranges(config, RANGES)
    for name in config.cells:
        choose("cell", name, dict.fromkeys(cell_names()))
    for name in config.tasks:
        choose("task", name, TASKS)
    if (config.hidden or 0) % 8:
        raise ValueError(
            f"--hidden must be a multiple of 8, as heads, blocks and modules divide it; got "
            f"{config.hidden}. Pass for example 32."
        )
    return config


def main() -> None:
    console = Console()
    config = prepare(Config, resolve, console)
    start = time.perf_counter()
    with refusing(console), display(console) as progress:
        claims = measure_claims(config, progress)
        entries = compare(config, progress)
    found = predictions(entries)
    write(config, claims, entries, found, time.perf_counter() - start)
    draw(claims, entries, config.out / "cells.png")
    show(console, claims, entries, found)
    console.print(f"Written to {config.out}: cells.png, table.md, metrics.json, runs/")


def measure_claims(config: Config, progress: Progress) -> list[Claim]:
    """Every claim, in float64."""
    bar = progress.add_task("claims", total=sum(len(case.judges) for case in CASES))
    claims = []
    for claim in judge(config.hidden or 0, config.measured_steps or 0, config.seed):
        claims.append(claim)
        progress.update(bar, advance=1, description=f"claims: {claim.cell}")
    progress.update(bar, description=f"claims: {sum(claim.holds for claim in claims)} hold")
    return claims


def compare(config: Config, progress: Progress) -> list[Entry]:
    """Every cell, untrained and on every task: the fastest learner first."""
    training = Training(
        hidden=config.hidden or 0,
        batch_size=config.batch_size,
        steps=config.steps or 0,
        seeds=config.seeds or 0,
        learning_rate=config.learning_rate,
        seed=config.seed,
    )
    seeds, steps = training.seeds, config.measured_steps or 0
    bar = progress.add_task("reach", total=len(config.cells))
    reaches = {}
    for cell in config.cells:
        progress.update(bar, description=f"reach: {cell}")
        reaches[cell] = measure(cell, training.hidden, steps, seeds, config.seed)
        progress.advance(bar)
        # Each is a program of its own; kept, they fill the process's memory map.
        jax.clear_caches()
    progress.update(bar, description="reach")

    crossed = list(itertools.product(config.cells, config.tasks, config.lengths))
    bar = progress.add_task("training", total=len(crossed) * training.steps)
    outcomes: list[Outcome] = []
    for number, (cell, task, length) in enumerate(crossed):
        progress.update(bar, description=f"training: {cell}, {task} {length}")

        def advance(done: int, before: int = number * training.steps) -> None:
            progress.update(bar, completed=before + done)

        folder = config.out / "runs" / f"{task}-{length}-{cell}"
        outcomes.append(train(cell, task, length, training, folder, advance))
        advance(training.steps)
        jax.clear_caches()
    progress.update(bar, description="training")
    return rank(reaches, outcomes)


# The share of a loss that is written out.
MOST = 10
VERDICTS = {True: "holds", False: "does not hold"}


CLAIM_COLUMNS = ("cell", "claim", "source", "verdict", "measured")


def claim_row(claim: Claim) -> tuple[str, ...]:
    """A row of the first table."""
    name = f"{claim.cell} ({claim.setting})" if claim.setting else claim.cell
    source = f"{claim.source}; {claim.basis}"
    return name, claim.says, source, VERDICTS[claim.holds], claim.finding


def entry_row(entry: Entry) -> tuple[str, ...]:
    """A row of the second table: medians over seeds, and steps to solve of each seed."""
    horizon = f"{entry.horizon:.0f}"
    if entry.horizon >= entry.reach.steps - 1:
        horizon = f"≥ {horizon}"
    exponent = f"{entry.exponent:+.3f}" if math.isfinite(entry.exponent) else "−∞"
    return (
        entry.cell,
        f"{entry.reach.parameters:,}",
        exponent.replace("-", "−"),
        horizon,
        *map(steps_to_solve, entry.outcomes),
        f"{entry.rank:.1f}",
    )


def steps_to_solve(outcome: Outcome) -> str:
    """Of each seed; "> 1000 (97%)" for the most there were and the share of chance that is left.

    Chance is the loss without memory.
    """
    solved = ", ".join(str(at) for at in outcome.solved_at if at is not None)
    if outcome.solved == len(outcome.solved_at):
        return solved
    left = [loss for loss in outcome.loss if loss is not None]
    rest = f"> {outcome.steps} ({percent(max(left))})" if left else f"> {outcome.steps}"
    return f"{solved}, {rest}" if solved else rest


def in_short(outcome: Outcome) -> str:
    """Mean steps to solve, and of how many seeds; or the share of chance that is left."""
    solved = [at for at in outcome.solved_at if at is not None]
    if not solved:
        left = [loss for loss in outcome.loss if loss is not None]
        return f"{percent(max(left))} left" if left else "not finite"
    of = "" if len(solved) == len(outcome.solved_at) else f" {len(solved)}/{len(outcome.solved_at)}"
    return f"{sum(solved) / len(solved):.0f}{of}"


def percent(share: float) -> str:
    """A share in words that stay short where training has blown a loss up."""
    return f"{share:.0%}" if share < MOST else f"> {MOST:.0%}"


def entry_columns(entries: Sequence[Entry]) -> tuple[str, ...]:
    """The head of the second table."""
    problems = (f"{outcome.task} {outcome.length}" for outcome in entries[0].outcomes)
    return ("cell", "parameters", "λ₁", "horizon", *problems, "mean rank")


def sentence(prediction: Prediction) -> str:
    """What a measure before training is worth, in words."""
    if math.isnan(prediction.correlation):
        return (
            f"{prediction.measure}: no rank correlation with who learns ({prediction.cells} cells)"
        )
    return (
        f"{prediction.measure}: rank correlation with who learns faster "
        f"{prediction.correlation:+.2f} (p = {prediction.p_value:.1g}, {prediction.cells} cells)"
    )


def show(
    console: Console,
    claims: Sequence[Claim],
    entries: Sequence[Entry],
    found: Sequence[Prediction],
) -> None:
    """Both tables, and what reach says of learning."""
    table = Table(
        title="What papers say of gradients, in full in table.md",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for column in ("cell", "claim", "measured", "verdict"):
        table.add_column(column)
    for claim in claims:
        name = f"{claim.cell.removesuffix('Cell')}{f', {claim.setting}' if claim.setting else ''}"
        verdict = Text(VERDICTS[claim.holds], style="green" if claim.holds else "bold red")
        table.add_row(Text(name), Text(claim.name), Text(claim.finding), verdict)
    console.print(table)
    table = Table(
        title="Untrained: λ₁ (nats a step), horizon (steps to 1 %). Trained: mean steps to solve, "
        "the share of seeds that did, or what is left of the loss without memory",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    problems = [f"{outcome.task}\n{outcome.length}" for outcome in entries[0].outcomes]
    for index, column in enumerate(("cell", "λ₁", "horizon", *problems, "rank")):
        table.add_column(column, justify="right" if index else "left")
    for entry in entries:
        name, _, exponent, horizon, *_, place = entry_row(entry)
        trained = map(in_short, entry.outcomes)
        table.add_row(name.removesuffix("Cell"), exponent, horizon, *trained, place)
    console.print(table)
    for prediction in found:
        console.print(sentence(prediction), highlight=False)


def write(
    config: Config,
    claims: Sequence[Claim],
    entries: Sequence[Entry],
    found: Sequence[Prediction],
    seconds: float,
) -> None:
    """table.md and metrics.json."""
    where = f"{platform.machine()}, {os.cpu_count()} cores; JAX on {jax.devices()[0].device_kind}"
    lines = [
        "# What papers claim of gradients, and who learns",
        "",
        f"Written by `python experiments/cells.py` on {where}, with Python "
        f"{platform.python_version()} and jax {jax.__version__}, on {datetime.date.today()}.",
        "",
        f"Claims in float64, H = {config.hidden}, T = {config.measured_steps}, untrained.",
        "",
        _line(CLAIM_COLUMNS),
        "|---|---|---|---|---|",
        *(_line(claim_row(c)) for c in claims),
        "",
        f"Before training: λ₁ in nats a step, and the horizon in steps, T = "
        f"{config.measured_steps}, medians of {config.seeds} seeds. Then steps to solve, by seed: "
        f"H = {config.hidden}, batches of {config.batch_size}, Adam {config.learning_rate:g}, at "
        f"most {config.steps} steps; in brackets what is left of the loss without memory.",
        "",
    ]
    columns = entry_columns(entries)
    lines += [_line(columns), "|---" + "|---:" * (len(columns) - 1) + "|"]
    lines += [_line(entry_row(entry)) for entry in entries]
    lines += ["", *(f"- {sentence(prediction)}" for prediction in found)]
    lines += ["", f"Options that are not the classes' own: {', '.join(sorted(OPTIONS))}."]
    (config.out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    numbers = {
        "machine": f"{platform.machine()}, {jax.devices()[0].device_kind}, jax {jax.__version__}",
        "seconds": round(seconds, 1),
        "config": {**dataclasses.asdict(config), "out": str(config.out)},
        "claims": [
            {**dataclasses.asdict(claim), "holds": claim.holds, "excess": claim.excess}
            for claim in claims
        ],
        "cells": entries,
        "predictions": found,
    }
    text = json.dumps(plain(numbers), indent=1, ensure_ascii=False)
    (config.out / "metrics.json").write_text(text + "\n", encoding="utf-8")


def _line(row: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


if __name__ == "__main__":
    main()
