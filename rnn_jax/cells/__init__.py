"""Recurrent cells, one family per file; `base` says what a cell is, `wrapper` what wraps one."""

from rnn_jax.cells.antisymmetric import AntisymmetricRNNCell
from rnn_jax.cells.as_cell import as_cell
from rnn_jax.cells.cell import Cell, RNNCell
from rnn_jax.cells.cfc import CfCCell
from rnn_jax.cells.cornn import CoRNNCell, UnICORNNCell
from rnn_jax.cells.gru import GRUCell
from rnn_jax.cells.lem import LEMCell
from rnn_jax.cells.lstm import LSTMCell
from rnn_jax.cells.orthogonal import ExpRNNCell, ScoRNNCell
from rnn_jax.cells.simple import SimpleRNNCell
from rnn_jax.cells.unitary import UnitaryRNNCell
from rnn_jax.cells.wrappers.learned_carry import LearnedCarry
from rnn_jax.cells.wrappers.recurrent_dropout import RecurrentDropout
from rnn_jax.cells.wrappers.zoneout import Zoneout

__all__ = [
    "AntisymmetricRNNCell",
    "Cell",
    "CfCCell",
    "CoRNNCell",
    "ExpRNNCell",
    "GRUCell",
    "LEMCell",
    "LSTMCell",
    "LearnedCarry",
    "RNNCell",
    "RecurrentDropout",
    "ScoRNNCell",
    "SimpleRNNCell",
    "UnICORNNCell",
    "UnitaryRNNCell",
    "Zoneout",
    "as_cell",
]
