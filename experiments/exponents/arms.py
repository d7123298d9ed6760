"""Networks with and without flossing, from equal weights and on equal data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import rnn_jax as rj
from exponents.training import Learning, learn

Initializer = Callable[..., jax.Array]
Schedule = Callable[[jax.Array], jax.Array]

# Steps between two QR decompositions while flossing: leading exponents stay within rounding.
INTERVAL = 5
# Training steps from one step with flossing to the next, in the arm that is flossed in training.
EVERY = 10
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
    """One way to start or to train, and what came of it.

    Attributes:
      title: for tables and pictures.
      directions: k that were flossed; 0 for none.
      in_training: whether they were flossed now and then during training, and not before it.
      start, ready, end: exponents of the initial weights, after flossing (if any) and after
        training, (seeds, H).
      penalty: the flossing penalty by stretch of the steps that it was minimised in, their mean,
        (seeds, stretches); empty without flossing.
      at: training steps done at each entry of the learning curve, (K,).
      loss: the task's mean squared error on the batches since the entry before, (seeds, K).
      floss_cost: how many training steps the flossing took as long as.
      step_seconds: one step of training, all seeds together.
    """

    title: str
    directions: int
    in_training: bool
    start: np.ndarray
    ready: np.ndarray
    end: np.ndarray
    penalty: np.ndarray
    at: np.ndarray
    loss: np.ndarray
    floss_cost: float
    step_seconds: float

    @property
    def final(self) -> np.ndarray:
        """The task's mean squared error over the last tenth of the training, (seeds,)."""
        result: np.ndarray = self.loss[:, -max(1, self.loss.shape[1] // 10) :].mean(axis=1)
        return result

    @property
    def factors(self) -> np.ndarray:
        """How many times smaller flossing made the mean square of its exponents, (seeds,)."""
        flossed = self.end if self.in_training else self.ready
        before, after = (
            np.square(table[:, : self.directions]).mean(axis=1) for table in (self.start, flossed)
        )
        ratio: np.ndarray = before / after
        return ratio

    def solved(self, threshold: float) -> int:
        """How many seeds end below the threshold."""
        return int((self.final < threshold).sum())


def compare(
    config: ArmsConfig, seed: int, on_arm: Callable[[str], Callable[[int], None]]
) -> list[Arm]:
    """Runs all arms: not flossed, flossed before or in training, an orthogonal start as control.

    Args:
      config: sizes and rates.
      seed: of weights and data.
      on_arm: called with what begins; what it returns is called with the steps that were done.
    """
    task = config.task
    key_weights, _, key_stream = jax.random.split(jax.random.key(seed), 3)
    weights = jax.random.split(key_weights, config.seeds)
    stream = jax.random.uniform(key_stream, (WARMUP + MEASURED, task.in_features))

    @jax.jit
    @jax.vmap
    def spectra(model: rj.SequenceModel) -> jax.Array:
        return rj.lyapunov_exponents(model.cells[0], stream, warmup=WARMUP).exponents

    def train(what: str, models: rj.SequenceModel, **options: Any) -> Learning:
        return learn(models, task, seed=seed, on_chunk=on_arm(what), **options)

    def flossing(directions: int, weight: float | Schedule = 1.0) -> rj.Flossing:
        return rj.Flossing(weight, k=directions, interval=min(INTERVAL, task.steps))

    def arm(
        title: str,
        recurrent: str | Initializer,
        directions: int = 0,
        *,
        in_training: bool = False,
    ) -> Arm:
        models = jax.vmap(lambda key: _model(config, recurrent, key))(weights)
        start = ready = np.asarray(spectra(models))
        penalty, seconds, objective = np.zeros((config.seeds, 0)), 0.0, None
        if in_training:
            objective = flossing(directions, now_and_then)
        elif directions:
            # Each step on one sequence; the readout has no part in the exponents and stays.
            flossed = train(
                f"flossing: {title}",
                models,
                steps=config.floss_steps,
                batch_size=1,
                learning_rate=config.floss_learning_rate,
                objective={"task": 0.0, "flossing": flossing(directions)},
            )
            models, penalty = flossed.networks, flossed.terms["flossing"]
            seconds = config.floss_steps * flossed.seconds
            ready = np.asarray(spectra(models))
        trained = train(
            f"training: {title}",
            models,
            steps=config.train_steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            objective=objective,
        )
        return Arm(
            title=title,
            directions=directions,
            in_training=in_training,
            start=start,
            ready=ready,
            end=np.asarray(spectra(trained.networks)),
            penalty=trained.terms["flossing"] if in_training else penalty,
            at=trained.at,
            loss=trained.loss,
            floss_cost=seconds / trained.seconds,
            step_seconds=trained.seconds,
        )

    gaussian, most = rj.initializers.gaussian(config.gain), max(config.directions)
    return [
        arm("not flossed", gaussian),
        *(arm(f"flossed, k = {k}", gaussian, k) for k in config.directions),
        arm(f"flossed in training, k = {most}", gaussian, most, in_training=True),
        arm("orthogonal", "orthogonal"),
    ]


def now_and_then(step: jax.Array) -> jax.Array:
    """The weight of flossing in training: 1 at every `EVERY`-th step, 0 and no cost at others."""
    return jnp.where(step % EVERY == 0, 1.0, 0.0)


def _model(config: ArmsConfig, recurrent: str | Initializer, key: jax.Array) -> rj.SequenceModel:
    """A model that starts by predicting the mean.

    From a random readout the first steps repair the mean by way of the recurrent weights, and can
    drive the units into saturation for good.
    """
    cell = rj.SimpleRNNCell(
        config.task.in_features,
        config.hidden,
        recurrent_kernel_init=recurrent,
        rngs=nnx.Rngs(key),
    )
    model = rj.SequenceModel(cell, 1, readout="all", kernel_init="zeros", rngs=nnx.Rngs(key))
    model.bias = nnx.Param(jnp.full((1,), 0.5, cell.param_dtype))
    return model
