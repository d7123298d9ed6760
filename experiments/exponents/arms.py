"""Networks with and without flossing, from equal weights and on equal data."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import rnn_jax as rj
from exponents.descent import descend
from exponents.training import learn

# Steps between two QR decompositions while flossing: leading exponents stay within rounding.
INTERVAL = 5
# Steps over which exponents are reported, on a stream that no training has seen, and the warm-up.
MEASURED, WARMUP = 400, 100


@dataclass(frozen=True)
class ArmsConfig:
    """What all arms share, and how many directions are flossed in some.

    Attributes:
      hidden: H.
      gain: recurrent weights start as N(0, gain²/H).
      delay: of the recall task, whose sequences are 5/2 as long.
      directions: k of the flossed arms.
      floss_steps, floss_learning_rate: steps of flossing, each on a fresh sequence of the task, and
        Adam's rate.
      train_steps, batch_size, learning_rate: of the training, the same in every arm.
      seeds: networks in each arm.
    """

    hidden: int
    gain: float
    delay: int
    directions: tuple[int, ...]
    floss_steps: int
    train_steps: int
    seeds: int
    learning_rate: float = 1e-3
    floss_learning_rate: float = 3e-3
    batch_size: int = 16

    @property
    def task(self) -> rj.tasks.DelayedRecall:
        """What is learnt."""
        return rj.tasks.DelayedRecall(self.delay, length=max(self.delay + 1, 5 * self.delay // 2))


@dataclass(frozen=True)
class Arm:
    """One way to start, and what came of it.

    Attributes:
      title: for tables and pictures.
      directions: k that were flossed; 0 for none.
      start, ready, end: exponents of the initial weights, after flossing (if any) and after
        training, (seeds, H).
      penalty: the flossing penalty by step, (seeds, steps); empty without flossing.
      at: training steps done at each entry of the learning curve, (K,).
      loss: the task's mean squared error on the batches since the entry before, (seeds, K).
      floss_seconds, step_seconds: one step of flossing and of training, all seeds together.
    """

    title: str
    directions: int
    start: np.ndarray
    ready: np.ndarray
    end: np.ndarray
    penalty: np.ndarray
    at: np.ndarray
    loss: np.ndarray
    floss_seconds: float
    step_seconds: float

    @property
    def final(self) -> np.ndarray:
        """The task's mean squared error over the last tenth of the training, (seeds,)."""
        result: np.ndarray = self.loss[:, -max(1, self.loss.shape[1] // 10) :].mean(axis=1)
        return result

    @property
    def factors(self) -> np.ndarray:
        """How many times smaller flossing made the mean square of its exponents, (seeds,)."""
        before, after = (
            np.square(table[:, : self.directions]).mean(axis=1)
            for table in (self.start, self.ready)
        )
        ratio: np.ndarray = before / after
        return ratio

    @property
    def floss_cost(self) -> float:
        """How many training steps the flossing took as long as."""
        return self.penalty.shape[1] * self.floss_seconds / self.step_seconds

    def solved(self, threshold: float) -> int:
        """How many seeds end below the threshold."""
        return int((self.final < threshold).sum())


def compare(
    config: ArmsConfig, seed: int, on_arm: Callable[[str], Callable[[int], None]]
) -> list[Arm]:
    """Runs all arms: not flossed, flossed in k directions, and an orthogonal start as control.

    Args:
      config: sizes and rates.
      seed: of weights and data.
      on_arm: called with what begins; what it returns is called with the steps that were done.
    """
    task = config.task
    key_weights, key_floss, key_stream = jax.random.split(jax.random.key(seed), 3)
    weights, flossing = (jax.random.split(key, config.seeds) for key in (key_weights, key_floss))
    stream = jax.random.uniform(key_stream, (WARMUP + MEASURED, task.in_features))

    @jax.jit
    @jax.vmap
    def spectra(cell: rj.SimpleRNNCell) -> jax.Array:
        return rj.lyapunov_exponents(cell, stream, warmup=WARMUP).exponents

    def arm(title: str, cells: rj.SimpleRNNCell, directions: int) -> Arm:
        start = ready = np.asarray(spectra(cells))
        penalty, seconds = np.zeros((config.seeds, 0)), 0.0
        if directions:
            tick = on_arm(f"flossing: {title}")
            floss = descend(_penalty(config, directions), config.floss_learning_rate)
            flossed = floss(cells, flossing, config.floss_steps, tick)
            cells, penalty, seconds = flossed.networks, flossed.values, flossed.seconds
            ready = np.asarray(spectra(cells))
        models = jax.vmap(_with_readout)(cells, weights)
        trained = learn(
            models,
            task,
            steps=config.train_steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            seed=seed,
            on_chunk=on_arm(f"training: {title}"),
        )
        end = np.asarray(spectra(trained.networks.cells[0]))
        return Arm(
            title=title,
            directions=directions,
            start=start,
            ready=ready,
            end=end,
            penalty=penalty,
            at=trained.at,
            loss=trained.loss,
            floss_seconds=seconds,
            step_seconds=trained.seconds,
        )

    gaussian = jax.vmap(lambda key: _cell(config, _gaussian(config.gain), key))(weights)
    orthogonal = jax.vmap(lambda key: _cell(config, "orthogonal", key))(weights)
    return [
        arm("not flossed", gaussian, 0),
        *(arm(f"flossed, k = {k}", gaussian, k) for k in config.directions),
        arm("orthogonal", orthogonal, 0),
    ]


def _penalty(
    config: ArmsConfig, directions: int
) -> Callable[[rj.SimpleRNNCell, jax.Array], jax.Array]:
    def penalty(cell: rj.SimpleRNNCell, key: jax.Array) -> jax.Array:
        xs = config.task.sample(key, 1).inputs[0]
        return rj.flossing_penalty(cell, xs, k=directions, interval=min(INTERVAL, len(xs)))

    return penalty


def _gaussian(gain: float) -> Callable[..., jax.Array]:
    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        return gain * jax.random.normal(key, shape, dtype) / jnp.sqrt(shape[0])

    return init


def _cell(
    config: ArmsConfig, recurrent: str | Callable[..., jax.Array], key: jax.Array
) -> rj.SimpleRNNCell:
    inputs = config.task.in_features
    return rj.SimpleRNNCell(
        inputs, config.hidden, recurrent_kernel_init=recurrent, rngs=nnx.Rngs(key)
    )


def _with_readout(cell: rj.SimpleRNNCell, key: jax.Array) -> rj.SequenceModel:
    """A model that starts by predicting the mean.

    From a random readout the first steps repair the mean by way of the recurrent weights, and can
    drive the units into saturation for good.
    """
    model = rj.SequenceModel(cell, 1, readout="all", kernel_init="zeros", rngs=nnx.Rngs(key))
    model.bias[...] = model.bias[...] + 0.5
    return model
