"""Can, Krishnamurthy and Schwab (2020): what gain takes an LSTM from rest.

At rest c = h = 0 a step hands on f + i o g e^{iθ}, in a wide network with a candidate's recurrent
matrix of gain g and f = σ(b_f). With i = o = ½ that is on the unit circle at g_c = 4(1 − σ(b_f)):
the longer an LSTM remembers, the smaller the weights that make it unstable.
"""

import functools
from dataclasses import dataclass

from flax import nnx
from matplotlib.figure import Figure

import rnn_jax as rj
from published.record import Outcome, Progress, Result
from published.resting import draw_exponents, measure_gains, set_gain

PUBLISHED = {0.0: 2.0, 1.0: 1.076, 2.0: 0.477}


@dataclass(frozen=True)
class Protocol:
    """Forget biases, the others being 0.

    Critical gains are means over `draws` networks, of which one differs from another by 2 %.
    """

    hidden: int = 400
    biases: tuple[float, ...] = (0.0, 1.0, 2.0)
    draws: int = 20
    shares: tuple[float, ...] = (0.4, 0.6, 0.8, 1.0, 1.2, 1.4)
    steps: int = 400


def run(protocol: Protocol, progress: Progress) -> Outcome:
    """Critical gains, and exponents at rest by gain."""
    settings = {
        f"b_f = {bias:g}": (
            functools.partial(network, bias=bias, hidden=protocol.hidden),
            PUBLISHED[bias],
        )
        for bias in protocol.biases
    }
    return measure_gains(settings, protocol, progress)


def network(gain: float, seed: int, bias: float, hidden: int) -> rj.LSTMCell:
    """An LSTM with Gaussian recurrent weights and no bias but the forget gate's."""
    cell = rj.LSTMCell(
        1, hidden, forget_bias=bias, recurrent_kernel_init="gaussian", rngs=nnx.Rngs(seed)
    )
    return set_gain(cell, gain)


def draw(outcome: Outcome) -> Figure:
    """λ₁ at rest by gain."""
    return draw_exponents(outcome.curves)


RESULT = Result(
    name="can2020_lstm_critical_gain",
    source="Can, Krishnamurthy and Schwab, 2020",
    says="An LSTM's rest is left at the gain 4(1 − σ(b_f)), its other biases being 0.",
    protocol=Protocol(),
    quick=Protocol(hidden=24, biases=(1.0,), draws=2, shares=(0.5, 1.0), steps=40),
    run=run,
    draw=draw,
    minutes=0.7,
)
