r"""Does gradient reach predict learning?

Cells × initialisers × tasks × lengths: each network is trained from several seeds, and its gradient
flow and leading Lyapunov exponent are measured before the first step and after the last one. One
table (table.md, results.json) and one picture (compare.png): training steps until the task is
solved, next to how far gradients reached. Each combination is a run of its own under runs/, so the
same line goes on where this was stopped.

    python experiments/compare.py            # about an hour on two CPU cores
    python experiments/compare.py --quick    # two networks on one short task, half a minute
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import rnn_jax as rj
from launching import RATE, SEED, SIZE, check_ranges, display, fill_in, plain, prepare, refusing
from learning.cell_options import CellOptions, options_of
from learning.choices import choose
from learning.comparison import Outcome, Prediction, Training, compare, predict
from learning.reach_picture import draw

_Simple, _LSTM, _GRU = map(options_of, (rj.SimpleRNNCell, rj.LSTMCell, rj.GRUCell))
NETWORKS: dict[str, CellOptions] = {
    "tanh": _Simple(),
    "tanh, Glorot": _Simple(recurrent_kernel_init="glorot_uniform"),
    "ReLU": _Simple(activation="relu"),
    "ReLU, identity": _Simple(activation="relu", recurrent_kernel_init="identity"),
    "LSTM, bias 0": _LSTM(forget_bias=0.0),
    "LSTM, bias 1": _LSTM(forget_bias=1.0),
    "LSTM, bias 5": _LSTM(forget_bias=5.0),
    "GRU": _GRU(),
    "GRU, Glorot": _GRU(recurrent_kernel_init="glorot_uniform"),
}

# By name, from the length or delay in steps.
TASKS: dict[str, Callable[[int], Any]] = {
    "adding": rj.tasks.Adding,
    "temporal order": rj.tasks.TemporalOrder,
    "delayed recall": rj.tasks.DelayedRecall,
}


@dataclass(frozen=True)
class Config:
    """Train cells from several starts on several tasks, and ask whether reach predicts learning."""

    out: Path = Path("results/compare")
    """Folder of the table, the picture and all runs; made if it does not exist."""
    quick: bool = False
    """One task, fewer networks and steps; options given by hand still win."""
    networks: tuple[str, ...] = ()
    """Which networks (all nine; quick: tanh, GRU); an LSTM's bias is its forget gate's."""
    tasks: tuple[str, ...] = ()
    """Which tasks (adding, temporal order; quick: adding)."""
    lengths: tuple[int, ...] = ()
    """Their lengths in steps (50 100 200, quick 20)."""
    hidden: int = 32
    """H, hidden units."""
    batch_size: int = 64
    """Sequences of each training step."""
    steps: int | None = None
    """Training steps at most (3000, quick 300)."""
    seeds: int | None = None
    """Networks from each start (4, quick 2)."""
    learning_rate: float = 3e-3
    """Of Adam."""
    seed: int = 0
    """Of the data."""


DEFAULTS: dict[str, tuple[Any, Any]] = {
    "networks": (tuple(NETWORKS), ("tanh", "GRU")),
    "tasks": (("adding", "temporal order"), ("adding",)),
    "lengths": ((50, 100, 200), (20,)),
    "steps": (3000, 300),
    "seeds": (4, 2),
}
RANGES = {
    "lengths": SIZE,
    "hidden": SIZE,
    "batch_size": SIZE,
    "steps": SIZE,
    "seeds": SIZE,
    "learning_rate": RATE,
    "seed": SEED,
}


def resolve(config: Config) -> Config:
    """Fills in what was left open, and refuses what there is not.

    Raises:
      ValueError: an unknown network or task, or a number out of range.
    """
    config = dataclasses.replace(config, **fill_in(config, DEFAULTS))
    check_ranges(config, RANGES)
    for name in config.networks:
        choose("network", name, NETWORKS)
    for name, length in itertools.product(config.tasks, config.lengths):
        choose("task", name, TASKS)(length)
    return config


def main() -> None:
    console = Console()
    config = prepare(Config, resolve, console)
    with refusing(console):
        outcomes = run(config, console)
    predictions = answers(outcomes)
    write(config, outcomes, predictions)
    draw(outcomes, config.steps or 0, config.out / "compare.png")
    show(console, outcomes, predictions)
    console.print(f"Written to {config.out}: compare.png, table.md, results.json, runs/")


def run(config: Config, console: Console) -> list[Outcome]:
    """All combinations, one after another."""
    training = Training(
        hidden=config.hidden,
        batch_size=config.batch_size,
        steps=config.steps or 0,
        seeds=config.seeds or 0,
        learning_rate=config.learning_rate,
        evaluate_every=50,
    )
    crossed = list(itertools.product(config.tasks, config.lengths, config.networks))
    outcomes = []
    with display(console) as progress:
        bar = progress.add_task("", total=len(crossed))
        for task_name, length, network in crossed:
            progress.update(bar, description=f"{task_name} {length}: {network}")
            task = TASKS[task_name](length)
            name = f"{task_name}-{length}-{network}".replace(",", "").replace(" ", "-")
            cell, folder = NETWORKS[network], config.out / "runs" / name
            outcomes.append(
                compare(network, cell, task_name, length, task, training, config.seed, folder)
            )
            progress.advance(bar)
            # Each combination is a program of its own; kept, they fill the process's memory map.
            jax.clear_caches()
    return outcomes


def answers(outcomes: list[Outcome]) -> dict[str, Prediction]:
    """How well each measure tells who learns, over all runs and within each family of cells."""
    groups = {
        "all": outcomes,
        "simple RNNs": [o for o in outcomes if isinstance(NETWORKS[o.network], _Simple)],
        "gated cells": [o for o in outcomes if not isinstance(NETWORKS[o.network], _Simple)],
    }
    first = {
        f"ln norm at lag T/2 before training, {name}": predict(group, lambda o: o.reach[0])
        for name, group in groups.items()
        if group
    }
    return first | {
        "horizon / T before training, all": predict(outcomes, lambda o: o.horizon[0] / o.steps),
        "|λ₁| before training, smaller first, all": predict(
            outcomes, lambda o: -np.abs(o.exponent[0])
        ),
        "ln norm at lag T/2 at the end, all": predict(outcomes, lambda o: o.reach[1]),
        "horizon / T at the end, all": predict(outcomes, lambda o: o.horizon[1] / o.steps),
    }


COLUMNS = ("task", "network", "solved", "steps", "horizon", "ln norm", "λ₁")


def cells(outcome: Outcome) -> tuple[str, ...]:
    """A row of the table: medians over the seeds, before training → at the end."""
    solved_at = outcome.solved_at[outcome.solved]
    return (
        f"{outcome.task} {outcome.size}",
        outcome.network,
        f"{outcome.solved.sum()} of {outcome.solved.size}",
        f"{np.median(solved_at):.0f}" if solved_at.size else "–",
        _change(outcome.horizon, "{:.0f}"),
        _change(outcome.reach, "{:.1f}"),
        _change(outcome.exponent, "{:.2f}"),
    )


def _change(values: np.ndarray, form: str) -> str:
    medians = (np.median(value) for value in values)
    first, last = ("–" if np.isnan(median) else form.format(median) for median in medians)
    return f"{first}→{last}"


def sentence(name: str, prediction: Prediction) -> str:
    """What a prediction is worth, in words, and what cannot be said and why."""
    if prediction.why_no_correlation:
        ranks = f"no rank correlation with steps to solve ({prediction.why_no_correlation})"
    else:
        ranks = (
            f"rank correlation with steps to solve {prediction.rank_correlation:+.2f} (p = "
            f"{prediction.p_value:.1g})"
        )
    if math.isnan(prediction.separation):
        pairs = "no pair of a solved and an unsolved run to compare"
    else:
        pairs = (
            "larger for the solved one of a solved and an unsolved run: "
            f"{prediction.separation:.2f} of pairs"
        )
    return f"{name}: {ranks}; {pairs} ({prediction.solved} of {prediction.runs} solved)"


def show(console: Console, outcomes: list[Outcome], predictions: dict[str, Prediction]) -> None:
    """The table and the answer."""
    table = Table(
        title="Before training → at the end, medians over seeds; ln norm at lag T/2, lag 0 as 0",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for index, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if index < 2 else "right")
    for outcome in outcomes:
        table.add_row(*cells(outcome))
    console.print(table)
    for name, prediction in predictions.items():
        console.print(sentence(name, prediction), highlight=False)


def write(config: Config, outcomes: list[Outcome], predictions: dict[str, Prediction]) -> None:
    """table.md and results.json."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|---" + "|---:" * (len(COLUMNS) - 2) + "|"]
    lines += ["| " + " | ".join(cells(outcome)) + " |" for outcome in outcomes]
    lines += ["", *(f"- {sentence(*item)}" for item in predictions.items())]
    (config.out / "table.md").write_text("\n".join(lines) + "\n")
    settings = {**dataclasses.asdict(config), "out": str(config.out)}
    results = {"config": settings, "outcomes": outcomes, "predictions": predictions}
    (config.out / "results.json").write_text(json.dumps(plain(results), indent=2) + "\n")


if __name__ == "__main__":
    main()
