"""Rusch et al. (2022): long expressive memory learns the adding problem over 2000 steps.

H = 128, batches of 50, Adam 2.6e-3, Δt = 0.0242; 0.0046 after 2000 steps in the authors' log.
"""

from dataclasses import dataclass

import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure

import rnn_jax as rj
from published.learning import learn
from published.pictures import losses_by_step
from published.record import Finding, Outcome, Progress, Result

SOLVED = 0.01


@dataclass(frozen=True)
class Protocol:
    """The adding problem and its training."""

    length: int = 2000
    hidden: int = 128
    time_step: float = 0.0242
    batch_size: int = 50
    learning_rate: float = 2.6e-3
    steps: int = 3000
    seeds: int = 1


def run(protocol: Protocol, progress: Progress) -> Outcome:
    """The error by step 3000."""

    def make(rngs: nnx.Rngs) -> rj.SequenceModel:
        cell = rj.LEMCell(2, protocol.hidden, time_step=protocol.time_step, rngs=rngs)
        return rj.SequenceModel(cell, 1, rngs=rngs)

    found = learn(
        rj.ensemble(make, protocol.seeds),
        rj.tasks.Adding(protocol.length),
        optax.adam(protocol.learning_rate),
        steps=protocol.steps,
        batch_size=protocol.batch_size,
        on_share=lambda share: progress("LEM", share),
    )
    worst = float(np.max(found.loss.min(axis=1)))
    findings = (Finding("least error by the last step", SOLVED, worst, "below"),)
    curves = {"LEM": [found.steps.tolist(), np.median(found.loss, axis=0).tolist()]}
    return Outcome(findings, curves=curves)


def draw(outcome: Outcome) -> Figure:
    """The error while learning."""
    return losses_by_step(outcome.curves, "mean square error", SOLVED, "solved below")


RESULT = Result(
    name="rusch2022_lem",
    source="Rusch et al., 2022",
    says="LEM learns the adding problem over 2000 steps within 3000 steps of training.",
    protocol=Protocol(),
    quick=Protocol(length=6, hidden=4, batch_size=2, steps=4, seeds=2),
    run=run,
    draw=draw,
    minutes=15.0,
    device="gpu",
)
