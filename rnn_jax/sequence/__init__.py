"""Running cells over time."""

from rnn_jax.sequence.bidirectional import Bidirectional
from rnn_jax.sequence.method import UnrollMethod, unroll_method
from rnn_jax.sequence.model import SequenceModel
from rnn_jax.sequence.stack import StackedCell
from rnn_jax.sequence.unroll import unroll

__all__ = [
    "Bidirectional",
    "SequenceModel",
    "StackedCell",
    "UnrollMethod",
    "unroll",
    "unroll_method",
]
