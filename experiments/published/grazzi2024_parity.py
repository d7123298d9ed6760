"""Grazzi et al. (2024): parity needs eigenvalues below 0.

A diagonal linear recurrence whose eigenvalues lie in [0, 1] cannot tell the parity of sequences
longer than those it has seen; with [−1, 1] it can. Two layers of minGRU, as it is and with
1 − 2z in place of 1 − z, trained on T = 40 and tested on T = 256.

The abstract names no such protocol. Learning rate, depth and T were picked by the accuracy at
T = 256, so seeds and test sequences here are others than those they were picked with.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure

import rnn_jax as rj
from published.learning import learn
from published.pictures import lines, new_axes
from published.record import Finding, Outcome, Progress, Result
from rnn_jax.plotting.axes import finish

RANGES = {"[0, 1]": False, "[−1, 1]": True}

CONDITION = (
    "Two layers, a learning rate of 0.03 and training on T = 40 were picked among six settings by "
    "the accuracy at T = 256; the seeds of this run are new. Of the six, one layer stayed near "
    ".52, the others came to between .88 and 1."
)


@dataclass(frozen=True)
class Protocol:
    """The training, and the length that is tested."""

    length: int = 40
    tested: int = 256
    hidden: int = 32
    layers: int = 2
    batch_size: int = 64
    learning_rate: float = 0.03
    steps: int = 3000
    seeds: int = 3
    first_seed: int = 1000


def run(protocol: Protocol, progress: Progress) -> Outcome:
    """The share of right answers beyond the lengths of the training."""
    curves: dict[str, Any] = {}
    for index, name in enumerate(RANGES):

        def on_share(share: float, name: str = name, index: int = index) -> None:
            progress(f"eigenvalues in {name}", (index + share) / len(RANGES))

        found = learn(
            rj.ensemble(
                make_network(RANGES[name], protocol),
                range(protocol.first_seed, protocol.first_seed + protocol.seeds),
            ),
            rj.tasks.Parity(protocol.length, readout="all"),
            optax.chain(optax.clip_by_global_norm(1.0), optax.adam(protocol.learning_rate)),
            steps=protocol.steps,
            batch_size=protocol.batch_size,
            seed=protocol.first_seed,
            on_share=on_share,
            stop_when_solved=False,
        )
        curves[name] = by_step(found.models, protocol).tolist()
    beyond = {name: float(np.mean(curve[protocol.length :])) for name, curve in curves.items()}
    findings = (
        Finding("eigenvalues in [−1, 1]: right beyond T", 0.99, beyond["[−1, 1]"], "above"),
        Finding("eigenvalues in [0, 1]: right beyond T", 0.6, beyond["[0, 1]"], "at most"),
    )
    return Outcome(findings, condition=CONDITION, curves=curves | {"trained": protocol.length})


def make_network(negative: bool, protocol: Protocol) -> Any:
    """Builds layers of minGRU with an answer at every step."""

    def make(rngs: nnx.Rngs) -> rj.SequenceModel:
        sizes = [1, *[protocol.hidden] * protocol.layers]
        cells = [
            rj.MinGRUCell(
                below,
                above,
                negative_eigenvalues=negative,
                positive_candidate=False,
                use_bias=True,
                rngs=rngs,
            )
            for below, above in itertools.pairwise(sizes)
        ]
        return rj.SequenceModel(cells, 2, readout="all", rngs=rngs)

    return make


def by_step(models: Any, protocol: Protocol) -> np.ndarray:
    """The share of right answers at each step of longer sequences, over all seeds, (T,)."""
    batch = rj.tasks.Parity(protocol.tested, readout="all").sample(
        jax.random.key(protocol.first_seed + 1), 256
    )
    right = [
        np.asarray(rj.member(models, seed)(batch.inputs)).argmax(-1) == batch.targets
        for seed in range(protocol.seeds)
    ]
    return np.mean(right, axis=(0, 1))


def draw(outcome: Outcome) -> Figure:
    """Accuracy by step."""
    figure, ax = new_axes()
    curves = {name: outcome.curves[name] for name in RANGES}
    steps = np.arange(1, len(next(iter(curves.values()))) + 1)
    lines(ax, steps, {f"eigenvalues in {name}": curve for name, curve in curves.items()})
    ax.axvline(outcome.curves["trained"], color="0.4", linestyle=":", linewidth=1)
    ax.set_ylim(0.4, 1.05)
    ax.set_xlabel("step  (dotted: the length of the training)")
    ax.set_ylabel("share of right answers")
    ax.legend(loc="center right")
    finish(ax)
    return figure


RESULT = Result(
    name="grazzi2024_parity",
    source="Grazzi et al., 2024",
    says="A diagonal linear recurrence tells parity beyond the lengths it was trained on only with "
    "eigenvalues below 0.",
    protocol=Protocol(),
    quick=Protocol(5, 12, 4, 1, batch_size=2, steps=4, seeds=2),
    run=run,
    draw=draw,
    minutes=1.1,
)
