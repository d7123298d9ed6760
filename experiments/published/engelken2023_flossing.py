"""Engelken (2023): gradient flossing before training lets a tanh network bridge a delay.

Recall of what was shown 40 steps ago, N(0, 1/H) weights: leading Lyapunov exponents are pulled to
0 by gradient descent on their squares, then the task is trained, with and without.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure

import rnn_jax as rj
from published.learning import Learnt, learn
from published.pictures import losses_by_step
from published.record import Finding, Outcome, Progress, Result


@dataclass(frozen=True)
class Protocol:
    """The task, flossing, and the training."""

    delay: int = 40
    hidden: int = 64
    directions: int = 48
    floss_steps: int = 100
    floss_learning_rate: float = 3e-3
    steps: int = 1500
    learning_rate: float = 1e-3
    batch_size: int = 16
    seeds: int = 5

    @property
    def task(self) -> rj.tasks.DelayedRecall:
        """What is learnt."""
        return rj.tasks.DelayedRecall(self.delay, length=5 * self.delay // 2)


def run(protocol: Protocol, progress: Progress) -> Outcome:
    """How much smaller the exponents become, and who learns."""
    plain = rj.ensemble(lambda rngs: make_model(protocol, rngs), protocol.seeds)
    mean_square = mean_square_of(protocol)
    before = mean_square(plain)
    floss = rj.Flossing(1.0, k=protocol.directions, interval=5)
    flossed = learn(
        plain,
        protocol.task,
        adam(protocol.floss_learning_rate),
        steps=protocol.floss_steps,
        batch_size=1,
        objective={"task": 0.0, "flossing": floss},
        on_share=lambda share: progress("flossing", 0.2 * share),
    ).models
    after = mean_square(flossed)
    optimizer = adam(protocol.learning_rate)  # One object, and so one program for both.
    arms = {
        "not flossed": train(
            plain, optimizer, protocol, lambda share: progress("training", 0.2 + 0.4 * share)
        ),
        "flossed": train(
            flossed, optimizer, protocol, lambda share: progress("flossed", 0.6 + 0.4 * share)
        ),
    }
    last = {name: np.median(arm.loss[:, -1]) for name, arm in arms.items()}
    findings = (
        Finding(
            "mean λ² before, by that after", 10.0, float(np.median(before / after)), "at least"
        ),
        Finding(
            "error flossed, by that not flossed",
            1.0,
            float(last["flossed"] / last["not flossed"]),
            "below",
        ),
        Finding(
            "seeds that solve it, more than without",
            0,
            arms["flossed"].solved - arms["not flossed"].solved,
            "above",
        ),
    )
    curves: dict[str, Any] = {
        name: [arm.steps.tolist(), np.median(arm.loss, axis=0).tolist()]
        for name, arm in arms.items()
    }
    return Outcome(findings, curves=curves)


def make_model(protocol: Protocol, rngs: nnx.Rngs) -> rj.SequenceModel:
    """A tanh network that starts by predicting the mean, which its first steps would repair."""
    cell = rj.SimpleRNNCell(
        protocol.task.in_features, protocol.hidden, recurrent_kernel_init="gaussian", rngs=rngs
    )
    model = rj.SequenceModel(cell, 1, readout="all", kernel_init="zeros", rngs=rngs)
    model.bias[...] = jnp.full((1,), 0.5)
    return model


def adam(rate: float) -> optax.GradientTransformation:
    """Adam with clipping."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def train(
    models: Any, optimizer: optax.GradientTransformation, protocol: Protocol, on_share: Any
) -> Learnt:
    """The training, the same for both arms."""
    return learn(
        models,
        protocol.task,
        optimizer,
        steps=protocol.steps,
        batch_size=protocol.batch_size,
        evaluation_size=16 * protocol.batch_size,
        on_share=on_share,
    )


def mean_square_of(protocol: Protocol) -> Callable[[Any], np.ndarray]:
    """Of an ensemble: mean λ² of the flossed directions on a stream of its own, (seeds,)."""
    steps = 10 * protocol.delay
    stream = jax.random.uniform(jax.random.key(1), (steps + steps // 4, protocol.task.in_features))

    def exponents(model: rj.SequenceModel) -> jax.Array:
        spectrum = rj.lyapunov_exponents(
            model.cells[0], stream, k=protocol.directions, warmup=steps // 4
        )
        return spectrum.exponents

    of_all = jax.jit(jax.vmap(exponents))
    return lambda models: np.square(np.asarray(of_all(models))).mean(axis=1)


def draw(outcome: Outcome) -> Figure:
    """Errors while learning, and that of a predictor without memory."""
    return losses_by_step(
        outcome.curves, "mean square error, median of seeds", 1 / 12, "without memory"
    )


RESULT = Result(
    name="engelken2023_flossing",
    source="Engelken, 2023",
    says="Flossing makes exponents smaller and lets a network learn a delay that it did not.",
    protocol=Protocol(),
    quick=Protocol(delay=4, hidden=4, directions=2, floss_steps=4, steps=4, seeds=2),
    run=run,
    draw=draw,
    minutes=0.7,
)
