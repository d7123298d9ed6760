"""Arjovsky, Shah and Bengio (2016), Lezcano-Casado and Martínez-Rubio (2019): copying from memory.

A predictor without memory loses 10 ln 8 / (T + 20). A cell whose recurrent matrix stays orthogonal
gets far below that.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import optax
from matplotlib.figure import Figure

from published.copying import learn_to_copy, without_memory
from published.pictures import lines, new_axes
from published.record import Finding, Outcome, Progress, Result
from rnn_jax.plotting.axes import finish


@dataclass(frozen=True)
class Protocol:
    """The delay, and the training of an expRNN."""

    delay: int = 100
    hidden: int = 64
    batch_size: int = 32
    learning_rate: float = 3e-3
    steps: int = 2000
    seeds: int = 2


def run(protocol: Protocol, progress: Progress) -> Outcome:
    """The chance loss of the task, and what is left of it."""
    found = learn_to_copy(
        protocol,
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(protocol.learning_rate)),
        progress,
    )
    chance = without_memory(protocol.delay)
    left = float(np.max(found.loss.min(axis=1)) / chance.published)
    findings = (
        chance,
        Finding("expRNN: share of it that is left, worst seed", 0.1, left, "below"),
    )
    curves: dict[str, Any] = {"steps": found.steps.tolist(), "loss": found.loss.tolist()}
    return Outcome(findings, curves=curves | {"chance": chance.published})


def draw(outcome: Outcome) -> Figure:
    """The loss of every seed while learning."""
    figure, ax = new_axes()
    losses = {f"seed {i}": loss for i, loss in enumerate(outcome.curves["loss"])}
    lines(ax, outcome.curves["steps"], losses)
    ax.axhline(outcome.curves["chance"], color="0.4", linestyle=":", label="without memory")
    ax.set_yscale("log")
    ax.set_xlabel("training steps")
    ax.set_ylabel("cross-entropy (nats a symbol)")
    ax.legend()
    finish(ax)
    return figure


RESULT = Result(
    name="arjovsky2016_copy_memory",
    source="Arjovsky, Shah and Bengio, 2016; Lezcano-Casado and Martínez-Rubio, 2019",
    says="Without memory one loses 10 ln 8 / (T + 20); an orthogonal cell gets far below.",
    protocol=Protocol(),
    quick=Protocol(delay=5, hidden=8, batch_size=2, steps=4, seeds=2),
    run=run,
    draw=draw,
    minutes=0.6,
)
