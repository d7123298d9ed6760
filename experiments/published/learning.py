"""Training that several results share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optax

import rnn_jax as rj


@dataclass(frozen=True)
class Learnt:
    """What came of all seeds of one network on one task.

    Attributes:
      steps: training steps done at each evaluation, (K,).
      loss: the task's loss there, on data that no training step has seen, (seeds, K).
      accuracy: share of right answers there, (seeds, K); None for a regression.
      solved_at: training steps until it was solved, by seed; infinity if it was not.
      models: the trained ensemble.
      terms: of an objective, by name, their means in training, (seeds, K).
    """

    steps: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray | None
    solved_at: np.ndarray
    models: Any
    terms: dict[str, np.ndarray]

    @property
    def solved(self) -> int:
        """How many seeds have solved it."""
        return int(np.isfinite(self.solved_at).sum())

    @property
    def median(self) -> float:
        """Median steps to solve; infinity if half of the seeds or more did not."""
        return float(np.median(self.solved_at))


def learn(
    models: Any,
    task: Any,
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    batch_size: int,
    seed: int = 0,
    on_share: Callable[[float], None] = lambda _: None,
    **options: Any,
) -> Learnt:
    """Trains all seeds in one program, until all of it has solved the task or the steps are done.

    Args:
      models: an ensemble.
      task: what is learnt.
      optimizer: of optax.
      steps, batch_size, seed: as of `rnn_jax.fit`.
      on_share: called with the share of the steps that are done.
      options: further ones of `rnn_jax.fit`.
    """
    result = rj.fit(
        models,
        task,
        optimizer,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        on_evaluation=lambda row: on_share(row["step"] / steps),
        **{"evaluate_every": max(1, min(50, steps // 4)), **options},
    )
    history = result.history
    at = np.asarray(history.solved_at, float)
    return Learnt(
        steps=np.asarray(history.step),
        loss=np.asarray(history.metrics["loss"]),
        accuracy=np.asarray(history.metrics["accuracy"]) if "accuracy" in history.metrics else None,
        solved_at=np.where(np.isnan(at), np.inf, at),
        models=result.model,
        terms=history.terms,
    )
