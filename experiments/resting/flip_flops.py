"""Networks that have learnt the flip-flop memory, taken apart at their fixed points."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

import rnn_jax as rj
from resting.plain_loop import PlainSearch, search_by_loop

CELLS: dict[str, Any] = {"GRU": rj.GRUCell, "LSTM": rj.LSTMCell}


@dataclass(frozen=True)
class FlipFlopConfig:
    """Sizes of training and search."""

    bits: int
    hidden: int
    length: int
    trainings: int
    train_steps: int
    batch_size: int
    learning_rate: float
    starts: int
    noise: float

    @property
    def task(self) -> rj.tasks.FlipFlop:
        """What is learnt."""
        return rj.tasks.FlipFlop(length=self.length, channels=self.bits)


@dataclass(frozen=True)
class Dissection:
    """One trained network.

    Attributes:
      found: from `starts` starts.
      plain: from the same starts, one after another.
      known: true fixed points that any search found, those of the thorough one included, (K, S).
      missed: how many of them `found` lacks, and `plain`.
      states: carries along some trajectories, (B, T, S).
      loss: at the end of training.
      seconds: of the search, compiled before.
      first_seconds: of the search, compilation included.
    """

    found: rj.FixedPoints
    plain: PlainSearch
    known: np.ndarray
    missed: tuple[int, int]
    states: np.ndarray
    loss: float
    seconds: float
    first_seconds: float

    @property
    def stable(self) -> int:
        """How many stable fixed points there are."""
        return int((self.found.is_fixed & self.found.stable).sum())

    @property
    def fixed(self) -> int:
        """How many fixed points there are."""
        return int(self.found.is_fixed.sum())

    def by_directions(self, bits: int) -> np.ndarray:
        """How many fixed points have 0, 1, …, `bits` or more unstable directions."""
        counts = self.found.unstable_directions[self.found.is_fixed]
        return np.bincount(np.minimum(counts, bits), minlength=bits + 1)


def train(config: FlipFlopConfig, kind: str, seed: int, on_steps: Callable[[int], None]) -> Any:
    """(networks with a leading axis, their losses)."""

    def make(rngs: nnx.Rngs) -> rj.SequenceModel:
        cell = CELLS[kind](config.bits, config.hidden, rngs=rngs)
        return rj.SequenceModel(cell, config.bits, readout="all", rngs=rngs)

    every = max(1, config.train_steps // 10)
    result = rj.fit(
        rj.ensemble(make, seeds=config.trainings),
        config.task,
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(config.learning_rate)),
        steps=config.train_steps,
        batch_size=config.batch_size,
        seed=seed,
        evaluate_every=every,
        stop_when_solved=False,
        on_evaluation=lambda row: on_steps(every),
    )
    return result.model, np.asarray(result.history.metrics["loss"])[:, -1]


def dissect(config: FlipFlopConfig, network: Any, loss: float, seed: int) -> Dissection:
    """Searches the fixed points of one network under no pulse, three ways."""
    cell, x = network.cells[0], np.zeros(config.bits)
    keys = jax.random.split(jax.random.key(seed), 5)
    xs = config.task.sample(keys[0], 64).inputs
    starts = rj.sample_starts(cell, xs, config.starts, config.noise, key=keys[1])

    def search(starts: Any) -> tuple[rj.FixedPoints, float]:
        begun = time.perf_counter()
        return rj.fixed_points(cell, x, starts=starts), time.perf_counter() - begun

    _, first_seconds = search(starts)
    found, seconds = search(starts)
    plain = search_by_loop(cell, x, starts)
    known = [found.points[found.is_fixed], plain.points]
    for key, noise in zip(keys[2:4], (2 * config.noise, 4 * config.noise), strict=True):
        more = rj.sample_starts(cell, xs, 4 * config.starts, noise, key=key)
        thorough = rj.fixed_points(cell, x, starts=more, certify=False)
        known.append(thorough.points[thorough.is_fixed])
    union = _union(known)
    missed = tuple(len(union) - len(_union([points])) for points in known[:2])
    _, _, carries = rj.unroll(cell, xs[:24], return_carries=True)
    states = np.concatenate([np.asarray(a) for a in jax.tree.leaves(carries)], axis=-1)
    return Dissection(
        found, plain, union, (missed[0], missed[1]), states, loss, seconds, first_seconds
    )


def _union(sets: list[np.ndarray], distance: float = 1e-5) -> np.ndarray:
    """Points of several sets, those nearer than a distance once."""
    kept: list[np.ndarray] = []
    for point in np.concatenate(sets):
        if all(np.linalg.norm(point - other) > distance for other in kept):
            kept.append(point)
    return np.reshape(kept, (-1, sets[0].shape[1]))
