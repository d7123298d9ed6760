"""Claim C10 and the clock of claim C9: training on the adding problem, all seeds at once."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import rnn_jax as rj
from vanishing.networks import COMPARED

# Steps of training for each call of the compiled loop: the granularity of progress and stopping.
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
      at: training steps at which the loss was averaged, (K,).
      loss: mean squared error over the chunk that ended there, (K, seeds).
      solved_at: for each seed the training step from which on the chunk's mean error is below the
        task's threshold; nan if it never is.
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
    task = rj.tasks.Adding(config.length)
    run, models, states = _prepare(name, config, seed)
    keys = jax.random.split(jax.random.key(seed + 1), config.seeds)
    losses: list[np.ndarray] = []
    for chunk in range(-(-config.steps // CHUNK)):
        models, states, loss = run(
            models, states, jax.vmap(jax.random.fold_in)(keys, _full(chunk, keys))
        )
        losses.append(np.asarray(loss).mean(axis=1))
        on_chunk(CHUNK)
        if np.all(losses[-1] < task.solved_below):
            break
    table = np.stack(losses)
    at = CHUNK * np.arange(1, len(table) + 1)
    return Training(at, table, _first_solved(table, at, task.solved_below))


def time_per_step(
    names: tuple[str, ...], config: TrainingConfig, seed: int, rounds: int
) -> dict[str, float]:
    """Seconds for one training step of each network: median of rounds taken in turn."""
    single = TrainingConfig(config.length, config.hidden, config.batch_size, CHUNK, 1)
    prepared = {name: _prepare(name, single, seed) for name in names}
    keys = jax.random.split(jax.random.key(seed), 1)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name, (run, models, states) in prepared.items():
            start = time.perf_counter()
            models, states, loss = run(models, states, keys)
            jax.block_until_ready(loss)
            if turn > 0:  # The first call compiles.
                seconds[name].append((time.perf_counter() - start) / CHUNK)
            prepared[name] = (run, models, states)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def _prepare(name: str, config: TrainingConfig, seed: int) -> tuple[Any, Any, Any]:
    """(the jitted loop over one chunk, models, optimiser states), a leading axis for the seeds."""
    task = rj.tasks.Adding(config.length)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(config.learning_rate))

    def make(key: jax.Array) -> rj.SequenceModel:
        cell = COMPARED[name](config.hidden, key)
        readout_key = jax.random.fold_in(key, 1)
        return rj.SequenceModel(cell, task.out_features, rngs=nnx.Rngs(readout_key))

    def update(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        model, optimizer_state = state
        batch = task.sample(key, config.batch_size)
        loss, gradient = jax.value_and_grad(lambda m: task.loss(m(batch.inputs), batch))(model)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, model)
        return (optax.apply_updates(model, updates), optimizer_state), loss

    @partial(jax.jit, donate_argnums=(0, 1))
    @jax.vmap
    def run(model: Any, optimizer_state: Any, key: jax.Array) -> tuple[Any, Any, jax.Array]:
        keys = jax.random.split(key, CHUNK)
        (model, optimizer_state), losses = jax.lax.scan(update, (model, optimizer_state), keys)
        return model, optimizer_state, losses

    models = jax.vmap(make)(jax.random.split(jax.random.key(seed), config.seeds))
    return run, models, jax.vmap(optimizer.init)(models)


def _full(value: int, keys: jax.Array) -> jax.Array:
    return jnp.full(keys.shape[0], value, jnp.uint32)


def _first_solved(losses: np.ndarray, at: np.ndarray, threshold: float) -> np.ndarray:
    """The step from which on every chunk stays below the threshold, by seed; nan if none."""
    below = losses < threshold
    stays = np.flip(np.logical_and.accumulate(np.flip(below, 0), axis=0), 0)
    first = at[stays.argmax(axis=0)].astype(float)
    return np.where(stays.any(axis=0), first, np.nan)
