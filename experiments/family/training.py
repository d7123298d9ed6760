"""Every cell on every task: how many training steps until it is solved."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optax

import rnn_jax as rj
from family.networks import LEARNING_RATES, make_network, parameter_count
from launching import plain


def _copy(steps: int) -> rj.tasks.CopyMemory:
    """Ten bits to be kept: five symbols of four."""
    return rj.tasks.CopyMemory(steps - 10, symbols=5, alphabet=4)


# By name, from the number of steps T.
TASKS: dict[str, Callable[[int], Any]] = {"adding": rj.tasks.Adding, "copy": _copy}
SHORTEST = 11


def steps_or_more(
    solved_at: Sequence[int | None], loss: Sequence[float | None], steps: int
) -> float:
    """Mean over the seeds of the steps to solve, and beyond the most where it was not solved.

    There it is by a tenth of the most for each tenth of the loss that is left: nothing learnt
    counts as twice the most.

    Args:
      solved_at: by seed; None where it was not solved.
      loss: at the end, by seed, as a share of what is lost without memory; None if not finite.
      steps: training steps at most.
    """
    left = [1.0 if share is None else min(round(share, 1), 1.0) for share in loss]
    return float(
        np.mean(
            [
                steps * (1 + share) if at is None else at
                for at, share in zip(solved_at, left, strict=True)
            ]
        )
    )


@dataclass(frozen=True)
class Training:
    """How every network is trained.

    Attributes:
      hidden: H.
      batch_size: sequences of each step.
      steps: at most.
      seeds: networks trained at once.
      learning_rate: of Adam, but for `LEARNING_RATES`; gradients are clipped at a global norm of 1.
      seed: of the data.
    """

    hidden: int
    batch_size: int
    steps: int
    seeds: int
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What came of one cell on one task; lists have one entry for each seed.

    Attributes:
      cell, task: names.
      length: T.
      solved_at: training steps until it was solved; None if it was not.
      loss: on fresh data at the end, as a share of what is lost without memory; None if it is not
        finite.
      steps: training steps at most.
      learning_rate: of Adam.
      parameters: how many numbers are trained.
      seconds: of the processor since the run was last started, compiling included.
    """

    cell: str
    task: str
    length: int
    solved_at: list[int | None]
    loss: list[float | None]
    steps: int
    learning_rate: float
    parameters: int
    seconds: float

    @property
    def score(self) -> float:
        """Of `steps_or_more`."""
        return steps_or_more(self.solved_at, self.loss, self.steps)

    @property
    def solved(self) -> int:
        """How many seeds have solved it."""
        return sum(at is not None for at in self.solved_at)


def train(
    cell: str,
    task_name: str,
    length: int,
    training: Training,
    folder: Path,
    on_steps: Callable[[int], None],
) -> Outcome:
    """Trains all seeds in one program, resumable in `folder`, or reads what came of it before.

    Args:
      cell, task_name, length: a name of `cell_names`, one of `TASKS`, and T.
      training: how.
      folder: of this run alone.
      on_steps: called with the training steps done.
    """
    rate = LEARNING_RATES.get((cell, task_name), training.learning_rate)
    settings = {**asdict(training), "learning_rate": rate, "rnn_jax": rj.__version__}
    record = folder / "outcome.json"
    if record.exists():
        written = json.loads(record.read_text())
        if written["settings"] == settings:
            return Outcome(**written["outcome"])
    task = TASKS[task_name](length)
    networks = rj.ensemble(make_network(cell, training.hidden, task_name, task), training.seeds)
    start = time.process_time()
    result = rj.fit(
        networks,
        task,
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
        steps=training.steps,
        batch_size=training.batch_size,
        seed=training.seed,
        members=training.seeds,
        directory=folder,
        evaluate_every=min(50, training.steps),
        on_evaluation=lambda row: on_steps(row["step"]),
    )
    history = result.history
    outcome = Outcome(
        cell=cell,
        task=task_name,
        length=length,
        solved_at=[None if np.isnan(at) else int(at) for at in history.solved_at],
        loss=[float(loss) for loss in history.metrics["loss"][:, -1] / task.chance_loss],
        steps=training.steps,
        learning_rate=rate,
        parameters=parameter_count(rj.member(networks, 0)),
        seconds=time.process_time() - start,
    )
    written = plain({"settings": settings, "outcome": outcome})
    record.write_text(json.dumps(written, indent=1) + "\n")
    return Outcome(**written["outcome"])
