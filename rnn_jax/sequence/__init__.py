"""Running cells over time."""

from rnn_jax.sequence.bidirectional import Bidirectional
from rnn_jax.sequence.model import SequenceModel
from rnn_jax.sequence.stack import StackedCell
from rnn_jax.sequence.unroll import unroll

__all__ = ["Bidirectional", "SequenceModel", "StackedCell", "unroll"]
