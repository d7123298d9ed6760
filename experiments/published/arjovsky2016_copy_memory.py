"""Arjovsky, Shah and Bengio (2016), Lezcano-Casado and Martínez-Rubio (2019): copying from memory.

A predictor without memory loses 10 ln 8 / (T + 20). A cell whose recurrent matrix stays orthogonal
gets far below that.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure

import rnn_jax as rj
from published.learning import learn
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
    task = rj.tasks.CopyMemory(protocol.delay)

    def make(rngs: nnx.Rngs) -> rj.SequenceModel:
        cell = rj.ExpRNNCell(task.in_features, protocol.hidden, rngs=rngs)
        return rj.SequenceModel(cell, task.out_features, readout=task.readout, rngs=rngs)

    found = learn(
        rj.ensemble(make, protocol.seeds),
        task,
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(protocol.learning_rate)),
        steps=protocol.steps,
        batch_size=protocol.batch_size,
        on_share=lambda share: progress("expRNN", share),
    )
    formula = 10 * np.log(8) / (protocol.delay + 20)
    left = float(np.max(found.loss.min(axis=1)) / formula)
    findings = (
        Finding("loss without memory", float(formula), task.chance_loss, tolerance=1e-6),
        Finding("expRNN: share of it that is left, worst seed", 0.1, left, "below"),
    )
    curves: dict[str, Any] = {"steps": found.steps.tolist(), "loss": found.loss.tolist()}
    return Outcome(findings, curves=curves | {"chance": float(formula)})


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
