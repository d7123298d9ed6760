"""Recurrent cells, one family per file; `base` says what a cell is, `wrapper` what wraps one."""

from rnn_jax.cells.as_cell import as_cell
from rnn_jax.cells.cell import Cell, RNNCell
from rnn_jax.cells.gru import GRUCell
from rnn_jax.cells.lmu import LMUCell
from rnn_jax.cells.lru import LRUCell
from rnn_jax.cells.lstm import LSTMCell
from rnn_jax.cells.rg_lru import RGLRUCell
from rnn_jax.cells.s5 import S5Cell
from rnn_jax.cells.simple import SimpleRNNCell
from rnn_jax.cells.wrappers.learned_carry import LearnedCarry
from rnn_jax.cells.wrappers.recurrent_dropout import RecurrentDropout
from rnn_jax.cells.wrappers.zoneout import Zoneout
from rnn_jax.cells.xlstm import MLSTMCell, SLSTMCell

__all__ = [
    "Cell",
    "GRUCell",
    "LMUCell",
    "LRUCell",
    "LSTMCell",
    "LearnedCarry",
    "MLSTMCell",
    "RGLRUCell",
    "RNNCell",
    "RecurrentDropout",
    "S5Cell",
    "SLSTMCell",
    "SimpleRNNCell",
    "Zoneout",
    "as_cell",
]
