"""Claim C10 and the clock beside claim C9: training on the adding problem, all seeds at once."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

import rnn_jax as rj
from vanishing.networks import COMPARED

# Steps of training between evaluations: the granularity of progress and stopping.
CHUNK = 50


@dataclass(frozen=True)
class TrainingConfig:
    """How every network is trained.

    Attributes:
      length: T of the adding problem, in steps.
      hidden: H.
      batch_size: sequences for each training step.
      steps: training steps at most.
      seeds: networks trained at once.
      learning_rate: of Adam; gradients are clipped at a global norm of 1.
    """

    length: int
    hidden: int
    batch_size: int
    steps: int
    seeds: int
    learning_rate: float = 3e-3


@dataclass(frozen=True)
class Training:
    """What training did.

    Attributes:
      at: training steps done at each evaluation, (K,).
      loss: mean squared error on fresh data then, (K, seeds).
      solved_at: for each seed the training steps done when it was first below the task's threshold;
        nan if it never was.
    """

    at: np.ndarray
    loss: np.ndarray
    solved_at: np.ndarray

    @property
    def solved(self) -> int:
        """How many seeds solved the task."""
        return int(np.isfinite(self.solved_at).sum())


def train(
    name: str, config: TrainingConfig, seed: int, on_chunk: Callable[[int], None]
) -> Training:
    """Trains one kind of network from several seeds in one program; stops when all solve it."""
    seeds = range(config.seeds * seed, config.seeds * (seed + 1))
    fit = _fit(config, seed, on_evaluation=lambda row: on_chunk(CHUNK))
    history = fit(rj.ensemble(_maker(name, config), seeds), steps=config.steps).history
    return Training(history.step, history.metrics["mse"].T, history.solved_at)


def time_per_step(
    names: tuple[str, ...], config: TrainingConfig, seed: int, rounds: int
) -> dict[str, float]:
    """Seconds for one training step of each network: the fastest of chunks taken in turn.

    From one evaluation to the next, so that neither compiling nor what `fit` does once counts.
    """
    fit = _fit(config, seed, stop_when_solved=False)
    models = {name: _maker(name, config)(jax.random.key(seed)) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, model in models.items():
            evaluated: list[float] = []
            fit(
                model,
                steps=3 * CHUNK,
                on_evaluation=lambda _, at=evaluated: at.append(time.perf_counter()),
            )
            seconds[name] += list(np.diff(evaluated) / CHUNK)
    return {name: float(min(values)) for name, values in seconds.items()}


def _fit(config: TrainingConfig, seed: int, **options: Any) -> Callable[..., rj.FitResult]:
    return partial(
        rj.fit,
        task=rj.tasks.Adding(config.length),
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(config.learning_rate)),
        batch_size=config.batch_size,
        seed=seed,
        evaluate_every=CHUNK,
        **options,
    )


def _maker(name: str, config: TrainingConfig) -> Callable[[jax.Array], rj.SequenceModel]:
    def make(key: jax.Array) -> rj.SequenceModel:
        rngs = nnx.Rngs(jax.random.fold_in(key, 1))
        return rj.SequenceModel(COMPARED[name](config.hidden, key), 1, rngs=rngs)

    return make
