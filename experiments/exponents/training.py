"""Learning a task, all seeds in one program, with a clock."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optax

import rnn_jax as rj

# Steps between two entries of the learning curve, at most: with fewer, small batches make it a
# band of noise.
EVERY = 50


class Learning(NamedTuple):
    """What training did.

    Attributes:
      networks: as they came out, with a leading axis for the seeds.
      at: training steps done at each entry, (K,).
      loss: mean of the task's loss in training since the entry before, (seeds, K).
      terms: of an objective, by name, likewise.
      seconds: that one step took for all seeds together, compilation left out.
    """

    networks: Any
    at: np.ndarray
    loss: np.ndarray
    terms: dict[str, np.ndarray]
    seconds: float


def learn(
    models: Any,
    task: rj.tasks.Task,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    on_chunk: Callable[[int], None],
    objective: Any = None,
) -> Learning:
    """Trains for all of `steps` by Adam, gradients clipped at a global norm of 1.

    Equal seeds mean equal data. `objective` is that of `fit`.
    """
    every = max(1, min(EVERY, steps // 4))
    clock: list[tuple[int, float]] = []

    def tick(row: dict[str, Any]) -> None:
        before = clock[-1][0] if clock else 0
        clock.append((row["step"], time.perf_counter()))
        on_chunk(row["step"] - before)

    result = rj.fit(
        models,
        task,
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate)),
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        evaluate_every=every,
        evaluation_size=batch_size,
        stop_when_solved=False,
        on_evaluation=tick,
        objective=objective,
    )
    done, moments = np.array(clock).T
    paces = np.diff(moments) / np.diff(done)
    history = result.history
    loss = history.terms.get("task", history.loss)
    return Learning(result.model, history.step, loss, history.terms, float(np.median(paces)))
