"""Lezcano-Casado and Martínez-Rubio (2019): an expRNN copies over 1000 steps.

H = 190, batches of 128, RMSprop 2e-4, and 2e-5 for the orthogonal matrix.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from matplotlib.figure import Figure

from published.copying import learn_to_copy, without_memory
from published.pictures import losses_by_step
from published.record import Finding, Outcome, Progress, Result


@dataclass(frozen=True)
class Protocol:
    """The copy problem and its training."""

    delay: int = 1000
    hidden: int = 190
    batch_size: int = 128
    learning_rate: float = 2e-4
    orthogonal_rate: float = 2e-5
    steps: int = 4000
    seeds: int = 1
    within: float = 0.002


def run(protocol: Protocol, progress: Progress) -> Outcome:
    """The least loss, and that of a predictor without memory."""
    found = learn_to_copy(
        protocol,
        optax.partition(
            {
                "orthogonal": optax.rmsprop(protocol.orthogonal_rate, decay=0.9),
                "other": optax.rmsprop(protocol.learning_rate, decay=0.9),
            },
            labels,
        ),
        progress,
        stop_when_solved=False,
    )
    worst = float(np.max(found.loss.min(axis=1)))
    chance = without_memory(protocol.delay)
    findings = (
        chance,
        Finding("expRNN: least loss", protocol.within, worst, "below", unit="nats"),
    )
    curves = {"expRNN": [found.steps.tolist(), np.median(found.loss, axis=0).tolist()]}
    return Outcome(findings, curves=curves | {"chance": chance.published})


def labels(params: Any) -> Any:
    """Which rate each parameter has."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "orthogonal" if "recurrent" in jax.tree_util.keystr(path) else "other",
        params,
    )


def draw(outcome: Outcome) -> Figure:
    """The loss while learning."""
    curves = {"expRNN": outcome.curves["expRNN"]}
    return losses_by_step(
        curves, "cross-entropy (nats a symbol)", outcome.curves["chance"], "without memory"
    )


RESULT = Result(
    name="lezcano2019_long_copy",
    source="Lezcano-Casado and Martínez-Rubio, 2019",
    says="An expRNN copies over 1000 steps, far below the loss without memory.",
    protocol=Protocol(),
    quick=Protocol(delay=5, hidden=4, batch_size=2, steps=4, seeds=2),
    run=run,
    draw=draw,
    minutes=30.0,
    device="gpu",
)
