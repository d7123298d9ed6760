"""Recurrent cells, one family per file; `base` says what a cell is, `wrapper` what wraps one."""

from rnn_jax.cells.as_cell import as_cell
from rnn_jax.cells.cell import Cell, RNNCell
from rnn_jax.cells.fast_grnn import FastGRNNCell
from rnn_jax.cells.gru import GRUCell
from rnn_jax.cells.indrnn import IndRNNCell
from rnn_jax.cells.layer_norm import LayerNormGRUCell, LayerNormLSTMCell
from rnn_jax.cells.leaky import LeakyIntegratorCell
from rnn_jax.cells.lstm import LSTMCell
from rnn_jax.cells.min_gru import MinGRUCell, MinLSTMCell
from rnn_jax.cells.minimal_gated import MGUCell, UGRNNCell
from rnn_jax.cells.minimal_rnn import MinimalRNNCell
from rnn_jax.cells.simple import SimpleRNNCell
from rnn_jax.cells.wrappers.learned_carry import LearnedCarry
from rnn_jax.cells.wrappers.recurrent_dropout import RecurrentDropout
from rnn_jax.cells.wrappers.zoneout import Zoneout

__all__ = [
    "Cell",
    "FastGRNNCell",
    "GRUCell",
    "IndRNNCell",
    "LSTMCell",
    "LayerNormGRUCell",
    "LayerNormLSTMCell",
    "LeakyIntegratorCell",
    "LearnedCarry",
    "MGUCell",
    "MinGRUCell",
    "MinLSTMCell",
    "MinimalRNNCell",
    "RNNCell",
    "RecurrentDropout",
    "SimpleRNNCell",
    "UGRNNCell",
    "Zoneout",
    "as_cell",
]
