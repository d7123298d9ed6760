"""Recurrent cells, one family per file; `base` says what a cell is."""

from rnn_jax.cells.base import Cell, RNNCell
from rnn_jax.cells.gru import GRUCell
from rnn_jax.cells.lstm import LSTMCell
from rnn_jax.cells.simple import SimpleRNNCell

__all__ = ["Cell", "GRUCell", "LSTMCell", "RNNCell", "SimpleRNNCell"]
