r"""Does gradient reach predict learning?

Every cell of the package, three of them from other starts too, on three tasks whose needed reach
differs, at lengths T from 50 to 400 steps, from eight seeds. Before the first step it is measured
how far gradients reach. Then each network is trained, with the learning rate that a small fixed
search finds for it, and it is noted when it has solved the task and what is left of the loss if it
has not. The answer is in rank statistics, with intervals by a bootstrap over networks.

**Measures.** Reach is ln‖∂y_t/∂x_s‖ at lag T/2 less that at lag 0, in nats, of the untrained
network, the median over seeds. The score of learning is the mean over seeds of the training steps
to solve, and where it was not solved the most steps there were, times 1 plus the share of the loss
without memory that is left (1 at most, to a tenth). A problem is a task at a length. Within each
problem the networks are ranked; ρ is Spearman's correlation of a measure before training with
−score, positive if more of it goes with faster learning, and what is reported is its mean over the
problems. A network "solves" a problem if at least half of its seeds do.

**Hypotheses**, written before any result of this run was looked at. Each has a statistic with a
95 % percentile interval (all runs of a network are drawn together); it is *supported* if the
interval lies above the null value, *refuted* if its upper end lies below the stated value, and
otherwise *undecided*. The first is the question; the others qualify it. No correction is made for
their number.

- H1: reach predicts learning: mean ρ of reach > 0. Refuted if at most weak: below 0.3.
- H2: it matters more for longer sequences: mean ρ at the longest T less that at the shortest > 0.
  Refuted if below 0.1.
- H3a, H3b: it says more than trivial predictors: mean ρ of reach less that of the number of
  parameters (more is better), and of −|λ₁| (nearer to 0 is better), > 0. Refuted if below 0.1.
- H4: who solves reaches further: of a network that solves a problem and one that does not, the
  former has the further reach in more than half of the pairs, all problems taken together. Refuted
  if below 0.6.
- H5a, H5b: it is not just gates: mean ρ > 0 among gated cells alone, and among the others alone.
  Refuted if below 0.3.

Known before: nine of these networks, with one learning rate for all, gave a rank correlation over
runs of −0.36 between reach and steps to solve on the adding and the temporal order problem; 29
cells gave +0.10 between horizon and mean rank on the adding and the copy problem. Of this protocol
only GRU and tanh were tried before, at T = 50, from seeds that the study does not use, to choose
the number of steps and the form of the copying task. The steps were 600 at first, and were lowered
to 400 for their cost alone when seven networks had been trained on the adding problem, of which the
scores of the learning rates had been seen; these were trained anew.

Each combination has files of its own under runs/, so the same line goes on where this was stopped.
Every network is trained at the shortest length first, then at the next. RESULTS_REACH.md beside
this script is the table.md of a run.

    python experiments/compare.py            # about two hours of one CPU core
    python experiments/compare.py --quick    # three networks on one short task, under a minute
    python experiments/compare.py --report   # tables and picture of what has been trained so far
"""

import contextlib
import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import Progress

from launching import (
    SEED,
    SIZE,
    Range,
    check_ranges,
    display,
    fill_in,
    prepare,
    refusing,
    resumable,
)
from learning.choices import choose
from learning.comparison import SHORTEST, TASKS, Outcome, Training, reach, search, train
from learning.contenders import NETWORKS
from learning.keeping import Kept, NotMeasuredError
from learning.reach_picture import draw
from learning.reach_tables import show, write
from learning.verdicts import judge, ranked

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Config:
    """Train cells from several starts on several tasks, and ask whether reach predicts learning."""

    out: Path = Path("results/reach")
    """Folder of tables, picture, numbers and all runs; made if it does not exist."""
    quick: bool = False
    """One task, fewer networks and steps; options given by hand still win."""
    report: bool = False
    """Train nothing: tables and picture of the problems that all networks have been trained on."""
    publish: bool = False
    """Also write RESULTS_REACH.md and .json beside this script, and the guide's picture."""
    networks: tuple[str, ...] = ()
    """Which networks (every cell and six other starts; quick: three)."""
    tasks: tuple[str, ...] = ()
    """Which tasks (adding, temporal order, selective copy; quick: adding)."""
    lengths: tuple[int, ...] = ()
    """T in steps (50 100 200 400, quick 20); learning rates are searched at the first."""
    hidden: int | None = None
    """H, hidden units (24, quick 8)."""
    batch_size: int = 16
    """Sequences of each training step."""
    steps: int | None = None
    """Training steps at most (400, quick 100)."""
    seeds: int | None = None
    """Networks from each start (8)."""
    seed: int = 0
    """Of the data."""


DEFAULTS: dict[str, tuple[Any, Any]] = {
    "networks": (tuple(NETWORKS), ("SimpleRNN", "GRU", "LSTM")),
    "tasks": (tuple(TASKS), ("adding",)),
    "lengths": ((50, 100, 200, 400), (20,)),
    "hidden": (24, 8),
    "steps": (400, 100),
    "seeds": (8, 8),
}
RANGES = {
    "lengths": Range(SHORTEST),
    # Heads, blocks and modules divide H.
    "hidden": Range(8),
    "batch_size": SIZE,
    "steps": SIZE,
    "seeds": SIZE,
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
    for name in config.tasks:
        choose("task", name, TASKS)
    if (config.hidden or 0) % 8:
        raise ValueError(
            f"--hidden must be a multiple of 8, as heads, blocks and modules divide it; got "
            f"{config.hidden}. Pass for example 32."
        )
    return config


def run(config: Config, progress: Progress) -> list[Outcome]:
    """All combinations: every network at the first length, then at the next."""
    training = Training(
        hidden=config.hidden or 0,
        batch_size=config.batch_size,
        steps=config.steps or 0,
        seeds=config.seeds or 0,
        seed=config.seed,
    )
    kept, lengths = Kept(config.out / "runs", reads_only=config.report), config.lengths
    crossed = list(itertools.product(lengths, config.tasks, config.networks))
    bar = progress.add_task("", total=len(crossed))
    outcomes = []
    for length, task, network in crossed:
        progress.update(bar, description=f"{task} {length}: {network}")
        with contextlib.suppress(NotMeasuredError):
            outcomes.append(measure(network, task, length, lengths, training, kept))
        progress.advance(bar)
        # Each combination is a program of its own; kept, they fill the process's memory map.
        jax.clear_caches()
    if not outcomes:
        raise ValueError(
            f"--report needs combinations that were trained; got none in {kept.folder}. Leave "
            "--report out to train them."
        )
    return outcomes


def measure(
    network: str,
    task: str,
    length: int,
    lengths: tuple[int, ...],
    training: Training,
    kept: Kept,
) -> Outcome:
    """One combination: the learning rate, what is learnt with it, and reach before training."""
    found = search(network, task, lengths[0], training, kept)
    learnt, parameters, seconds = train(network, task, length, training, found.rate, kept)
    before = reach(network, task, lengths, max(lengths), training, kept)[length]
    seconds += before.seconds + (found.seconds if length == lengths[0] else 0.0)
    return Outcome(
        network=network,
        cell=NETWORKS[network].cell,
        kind=NETWORKS[network].kind,
        task=task,
        length=length,
        steps=training.steps,
        rate=found.rate,
        parameters=parameters,
        solved_at=learnt.solved_at,
        loss=learnt.loss,
        reach=before.reach,
        horizon=before.horizon,
        exponent=before.exponent,
        seconds=seconds,
    )


def main() -> None:
    console = Console()
    config = prepare(Config, resolve, console)
    with refusing(console):
        with resumable(console), display(console) as progress:
            outcomes = run(config, progress)
        table = ranked(outcomes)
        if not table.problems:
            raise ValueError(
                "--report needs a problem that all networks were trained on; got none in "
                f"{config.out}. Leave --report out to train the rest."
            )
        settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in NOT_OF_A_STUDY}
        verdicts = judge(table)
        write(
            settings, outcomes, table, verdicts, config.out / "table.md", config.out / "rows.json"
        )
        draw(outcomes, table, config.out / "reach.png")
        if config.publish:
            for name, where in PUBLISHED.items():
                where.write_bytes((config.out / name).read_bytes())
    show(console, table, verdicts)
    console.print(f"Written to {config.out}: reach.png, table.md, rows.json, runs/")


# What says how a run is started, not what is measured.
NOT_OF_A_STUDY = ("out", "report", "publish")
PUBLISHED = {
    "table.md": HERE / "RESULTS_REACH.md",
    "rows.json": HERE / "RESULTS_REACH.json",
    "reach.png": HERE.parent / "docs" / "images" / "reach_and_learning.png",
}

if __name__ == "__main__":
    main()
