"""Can, Krishnamurthy and Schwab (2020): what gain takes a GRU from rest, whatever its update gate.

At rest h = 0 a step hands on u + (1 − u) r g e^{iθ}, in a wide network with a candidate's recurrent
matrix of gain g, r = σ(b_r) and u = σ(b_u). That is on the unit circle at g_c = 1/r.
"""

import functools
from dataclasses import dataclass

import numpy as np
from flax import nnx
from matplotlib.figure import Figure

import rnn_jax as rj
from published.record import Outcome, Progress, Result
from published.resting import draw_exponents, measure_gains, set_gain

PUBLISHED = {0.0: 2.0, 1.0: 1.368}


@dataclass(frozen=True)
class Protocol:
    """Biases of reset and update gate.

    Critical gains are means over `draws` networks, of which one differs from another by 2 %.
    """

    hidden: int = 400
    biases: tuple[tuple[float, float], ...] = ((0.0, 0.0), (0.0, 2.0), (1.0, 0.0), (1.0, 2.0))
    draws: int = 20
    shares: tuple[float, ...] = (0.4, 0.6, 0.8, 1.0, 1.2, 1.4)
    steps: int = 400


def run(protocol: Protocol, progress: Progress) -> Outcome:
    """Critical gains, and exponents at rest by gain."""
    settings = {
        f"b_r = {reset:g}, b_u = {update:g}": (
            functools.partial(network, biases=(reset, update), hidden=protocol.hidden),
            PUBLISHED[reset],
        )
        for reset, update in protocol.biases
    }
    return measure_gains(settings, protocol, progress)


def network(gain: float, seed: int, biases: tuple[float, float], hidden: int) -> rj.GRUCell:
    """A GRU with Gaussian recurrent weights, these biases of its gates, and no others."""
    cell = rj.GRUCell(1, hidden, recurrent_kernel_init="gaussian", rngs=nnx.Rngs(seed))
    cell.bias[...] = np.repeat(np.array([*biases, 0.0]), hidden)
    return set_gain(cell, gain)


def draw(outcome: Outcome) -> Figure:
    """λ₁ at rest by gain."""
    return draw_exponents(outcome.curves)


RESULT = Result(
    name="can2020_gru_critical_gain",
    source="Can, Krishnamurthy and Schwab, 2020",
    says="A GRU's rest is left at the gain 1/σ(b_r), whatever its update gate.",
    protocol=Protocol(),
    quick=Protocol(hidden=24, biases=((0.0, 2.0),), draws=2, shares=(0.5, 1.0), steps=40),
    run=run,
    draw=draw,
    minutes=0.3,
)
