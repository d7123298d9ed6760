"""Running cells over time."""

from rnn_jax.sequence.bidirectional import Bidirectional
from rnn_jax.sequence.model import SequenceModel
from rnn_jax.sequence.readout import RidgeReadout, ridge_readout
from rnn_jax.sequence.stack import StackedCell
from rnn_jax.sequence.unroll import unroll

__all__ = [
    "Bidirectional",
    "RidgeReadout",
    "SequenceModel",
    "StackedCell",
    "ridge_readout",
    "unroll",
]
