"""Pascanu, Mikolov and Bengio (2013): clipping and their penalty let a tanh network learn order.

Temporal order, T = 50, H = 50, stochastic gradient descent at 0.01, batches of 20. Clipping at 1
against exploding gradients, the penalty Ω with weight 4 against vanishing ones.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import optax
from flax import nnx

import rnn_jax as rj
from published.learning import learn
from published.pictures import accuracies_by_step
from published.record import Finding, Outcome, Progress, Result

ARMS = ("neither", "clipping", "clipping and Ω")


@dataclass(frozen=True)
class Protocol:
    """The task and its training."""

    length: int = 50
    hidden: int = 50
    batch_size: int = 20
    learning_rate: float = 0.01
    weight: float = 4.0
    steps: int = 20_000
    seeds: int = 5


def run(protocol: Protocol, progress: Progress) -> Outcome:
    """How many seeds solve it in each arm."""
    solved, curves = {}, {}
    for index, arm in enumerate(ARMS):

        def on_share(share: float, arm: str = arm, index: int = index) -> None:
            progress(arm, (index + share) / len(ARMS))

        found = train(arm, protocol, on_share)
        solved[arm] = found.solved / protocol.seeds
        assert found.accuracy is not None
        curves[arm] = [found.steps.tolist(), np.mean(found.accuracy, axis=0).tolist()]
    both = solved["clipping and Ω"]
    findings = (
        Finding("clipping and Ω: share of seeds that solve it", 0.8, both, "at least"),
        Finding("clipping alone: share, less that with Ω", 0.0, solved["clipping"] - both, "below"),
        Finding("neither: share, less that with Ω", 0.0, solved["neither"] - both, "below"),
    )
    return Outcome(findings, curves=curves)


def train(arm: str, protocol: Protocol, on_share: Any) -> Any:
    """One arm."""
    descent = optax.sgd(protocol.learning_rate)
    clipped = optax.chain(optax.clip_by_global_norm(1.0), descent)
    objective = rj.Vanishing(protocol.weight, immediate=True) if "Ω" in arm else None
    task = rj.tasks.TemporalOrder(protocol.length)

    def make(rngs: nnx.Rngs) -> rj.SequenceModel:
        cell = rj.SimpleRNNCell(
            task.in_features, protocol.hidden, recurrent_kernel_init="orthogonal(0.9)", rngs=rngs
        )
        return rj.SequenceModel(cell, task.out_features, readout=task.readout, rngs=rngs)

    return learn(
        rj.ensemble(make, protocol.seeds),
        task,
        descent if arm == "neither" else clipped,
        steps=protocol.steps,
        batch_size=protocol.batch_size,
        on_share=on_share,
        objective=objective,
        evaluate_every=max(1, protocol.steps // 100),
    )


RESULT = Result(
    name="pascanu2013_temporal_order",
    source="Pascanu, Mikolov and Bengio, 2013",
    says="A tanh network learns temporal order with clipping and Ω, not with clipping alone or "
    "neither.",
    protocol=Protocol(),
    quick=Protocol(length=10, hidden=4, batch_size=2, steps=4, seeds=2),
    run=run,
    draw=accuracies_by_step,
    minutes=3.6,
)
