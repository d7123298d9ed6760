"""Running cells over time."""

from rnn_jax.sequence.bidirectional import Bidirectional
from rnn_jax.sequence.method import UnrollMethod, unroll_method
from rnn_jax.sequence.model import SequenceModel
from rnn_jax.sequence.newton import NewtonSolution, newton_unroll
from rnn_jax.sequence.readout import RidgeReadout, ridge_readout
from rnn_jax.sequence.stack import StackedCell
from rnn_jax.sequence.unroll import unroll

__all__ = [
    "Bidirectional",
    "NewtonSolution",
    "RidgeReadout",
    "SequenceModel",
    "StackedCell",
    "UnrollMethod",
    "newton_unroll",
    "ridge_readout",
    "unroll",
    "unroll_method",
]
