"""One network on one task, from several seeds: when solved, and how far gradients reached."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optax
from scipy import stats

import rnn_jax as rj
from learning.cell_options import CellOptions
from learning.choices import make_model


@dataclass(frozen=True)
class Training:
    """How every network is trained.

    Attributes:
      hidden: H.
      batch_size: sequences of each step.
      steps: at most.
      seeds: networks trained at once.
      learning_rate: of Adam; gradients are clipped at a global norm of 1.
      evaluate_every: steps between evaluations.
    """

    hidden: int
    batch_size: int
    steps: int
    seeds: int
    learning_rate: float
    evaluate_every: int


@dataclass(frozen=True)
class Outcome:
    """What came of one network on one task; arrays have one entry for each seed.

    Attributes:
      network, task: names.
      size: the task's length or delay, in steps.
      steps: T of its sequences.
      solved_at: training steps; inf if it was not solved.
      chance: the loss of a predictor that remembers nothing.
      loss: on fresh data at the end.
      horizon: largest lag with 1 % of the gradient at lag 0, (2, seeds): at first and at last.
      reach: ln norm at lag T/2, less that at lag 0, nats, (2, seeds).
      exponent: λ₁, nats a step, (2, seeds).
    """

    network: str
    task: str
    size: int
    steps: int
    solved_at: np.ndarray
    chance: float
    loss: np.ndarray
    horizon: np.ndarray
    reach: np.ndarray
    exponent: np.ndarray

    @property
    def solved(self) -> np.ndarray:
        """Which seeds solved it."""
        return np.isfinite(self.solved_at)


def compare(
    name: str,
    cell: CellOptions,
    task_name: str,
    size: int,
    task: Any,
    training: Training,
    seed: int,
    folder: Path,
) -> Outcome:
    """Trains all seeds in one program, resumable in `folder`, and reads what was measured."""
    steps = training.steps
    result = rj.fit(
        rj.ensemble(make_model(cell, task, training.hidden, 1), training.seeds),
        task,
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(training.learning_rate)),
        steps=steps,
        batch_size=training.batch_size,
        seed=seed,
        directory=folder,
        # Before the first step and after the last one.
        probes=(rj.GradientFlowProbe(every=steps), rj.LyapunovProbe(every=steps, k=1)),
        evaluate_every=training.evaluate_every,
    )
    history = result.history
    flow, spectrum = history.probes["gradient_flow"], history.probes["lyapunov"]
    by_lag = flow["by_lag"]
    return Outcome(
        network=name,
        task=task_name,
        size=size,
        steps=task.steps,
        solved_at=np.where(np.isnan(history.solved_at), np.inf, history.solved_at),
        chance=task.chance_loss,
        loss=history.metrics["loss"][:, -1],
        horizon=flow["horizon"].T,
        reach=_reach(by_lag[..., 0], by_lag[..., task.steps // 2]).T,
        exponent=spectrum["exponents"][..., 0].T,
    )


def _reach(near: np.ndarray, far: np.ndarray) -> np.ndarray:
    """The difference of logs; −inf where nothing arrives, as in a network that is dead."""
    alive = np.isfinite(near)
    return np.where(np.isneginf(far), -np.inf, far - np.where(alive, near, 0.0))


@dataclass(frozen=True)
class Prediction:
    """How well gradients before training tell who will learn.

    Attributes:
      rank_correlation: Spearman's, of reach before training and steps to solve (not solved counts
        as last); negative if those that reach further are faster, NaN if all are equal.
      p_value: of no correlation; NaN where there is none.
      why_no_correlation: in words, if it is NaN; else empty.
      separation: the chance that of two runs, one solved and one not, the one that was solved had
        the further reach (½ is guessing); NaN if all or none were solved, or a reach is NaN.
      runs: how many.
      solved: how many of them.
    """

    rank_correlation: float
    p_value: float
    why_no_correlation: str
    separation: float
    runs: int
    solved: int


def predict(outcomes: list[Outcome], measure: Callable[[Outcome], np.ndarray]) -> Prediction:
    """Over all runs of the outcomes, seed by seed."""
    before = np.concatenate([measure(outcome) for outcome in outcomes])
    solved_at = np.concatenate([outcome.solved_at for outcome in outcomes])
    solved = np.isfinite(solved_at)
    worst = 1.0 + 2.0 * np.max(solved_at[solved], initial=1.0)
    order = np.where(solved, solved_at, worst)
    why_not = _why_no_correlation(before, solved_at)
    correlation, p_value = (np.nan, np.nan) if why_not else stats.spearmanr(before, order)
    return Prediction(
        rank_correlation=float(correlation),
        p_value=float(p_value),
        why_no_correlation=why_not,
        separation=_separation(before[solved], before[~solved]),
        runs=before.size,
        solved=int(solved.sum()),
    )


def _why_no_correlation(before: np.ndarray, solved_at: np.ndarray) -> str:
    """Empty if there is something to correlate."""
    if np.isnan(before).any():
        return "not finite in some runs"
    if before.size < 3:
        return "fewer than three runs"
    if np.unique(before).size == 1:
        return "the same in all runs"
    if np.unique(solved_at).size == 1:
        at = solved_at[0]
        return f"all were solved at step {at:.0f}" if np.isfinite(at) else "none was solved"
    return ""


def _separation(solved: np.ndarray, others: np.ndarray) -> float:
    """The area under the ROC curve: P(solved > other) + ½ P(equal)."""
    if not solved.size or not others.size or np.isnan([*solved, *others]).any():
        return float("nan")
    larger = (solved[:, None] > others[None, :]).mean()
    equal = (solved[:, None] == others[None, :]).mean()
    return float(larger + 0.5 * equal)
