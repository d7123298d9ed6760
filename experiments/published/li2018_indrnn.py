"""Li et al. (2018): an IndRNN learns the adding problem over 1000 steps, an LSTM does not.

Two layers of 128 ReLU units, recurrent weights of at most 2^(1/T), Adam 2e-4, clipped at 10.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
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
    """The adding problem and the training of both networks."""

    length: int = 1000
    hidden: int = 128
    batch_size: int = 50
    learning_rate: float = 2e-4
    clip: float = 10.0
    steps: int = 20_000
    seeds: int = 1


def run(protocol: Protocol, progress: Progress) -> Outcome:
    """The least error of each network."""
    cap = 2 ** (1 / protocol.length)
    keep = rj.project_updates(
        lambda u: jnp.clip(u, -cap, cap), lambda path: path.endswith("recurrent_weights")
    )
    curves: dict[str, Any] = {}
    least = {}
    for index, (name, last) in enumerate({"IndRNN": [keep], "LSTM": []}.items()):

        def on_share(share: float, name: str = name, index: int = index) -> None:
            progress(name, (index + share) / 2)

        found = learn(
            rj.ensemble(make_network(name, protocol), protocol.seeds),
            rj.tasks.Adding(protocol.length),
            optax.chain(
                optax.clip_by_global_norm(protocol.clip), optax.adam(protocol.learning_rate), *last
            ),
            steps=protocol.steps,
            batch_size=protocol.batch_size,
            on_share=on_share,
        )
        curves[name] = [found.steps.tolist(), np.median(found.loss, axis=0).tolist()]
        least[name] = float(np.max(found.loss.min(axis=1)))
    findings = (
        Finding("IndRNN: least error", SOLVED, least["IndRNN"], "below"),
        Finding("LSTM: least error", SOLVED, least["LSTM"], "above"),
    )
    return Outcome(findings, curves=curves)


def make_network(name: str, protocol: Protocol) -> Any:
    """Builds two layers of IndRNN, or an LSTM."""
    size = protocol.hidden

    def make(rngs: nnx.Rngs) -> rj.SequenceModel:
        cells: Any = rj.LSTMCell(2, size, rngs=rngs)
        if name == "IndRNN":
            cells = [
                rj.IndRNNCell(below, size, length=protocol.length, rngs=rngs) for below in (2, size)
            ]
        return rj.SequenceModel(cells, 1, rngs=rngs)

    return make


def draw(outcome: Outcome) -> Figure:
    """Errors while learning."""
    return losses_by_step(outcome.curves, "mean square error", SOLVED, "solved below")


RESULT = Result(
    name="li2018_indrnn",
    source="Li et al., 2018",
    says="An IndRNN learns the adding problem over 1000 steps, an LSTM does not.",
    protocol=Protocol(),
    quick=Protocol(length=6, hidden=4, batch_size=2, steps=4, seeds=2),
    run=run,
    draw=draw,
    minutes=30.0,
    device="gpu",
)
