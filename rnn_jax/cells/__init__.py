"""Recurrent cells, one family per file; `cell` says what a cell is, `wrappers` what wraps one."""

from rnn_jax.cells.antisymmetric import AntisymmetricRNNCell
from rnn_jax.cells.as_cell import as_cell
from rnn_jax.cells.cell import Cell, RNNCell
from rnn_jax.cells.cfc import CfCCell
from rnn_jax.cells.clockwork import ClockworkRNNCell
from rnn_jax.cells.cornn import CoRNNCell, UnICORNNCell
from rnn_jax.cells.echo_state import EchoStateCell
from rnn_jax.cells.fast_grnn import FastGRNNCell
from rnn_jax.cells.gru import GRUCell
from rnn_jax.cells.indrnn import IndRNNCell
from rnn_jax.cells.layer_norm import LayerNormGRUCell, LayerNormLSTMCell
from rnn_jax.cells.leaky import LeakyIntegratorCell
from rnn_jax.cells.lem import LEMCell
from rnn_jax.cells.linear import LinearForm
from rnn_jax.cells.lmu import LMUCell
from rnn_jax.cells.lru import LRUCell
from rnn_jax.cells.lstm import LSTMCell
from rnn_jax.cells.min_gru import MinGRUCell, MinLSTMCell
from rnn_jax.cells.minimal_gated import MGUCell, UGRNNCell
from rnn_jax.cells.minimal_rnn import MinimalRNNCell
from rnn_jax.cells.orthogonal import ExpRNNCell, ScoRNNCell
from rnn_jax.cells.rg_lru import RGLRUCell
from rnn_jax.cells.s5 import S5Cell
from rnn_jax.cells.simple import SimpleRNNCell
from rnn_jax.cells.unitary import UnitaryRNNCell
from rnn_jax.cells.wrappers.learned_carry import LearnedCarry
from rnn_jax.cells.wrappers.recurrent_dropout import RecurrentDropout
from rnn_jax.cells.wrappers.zoneout import Zoneout
from rnn_jax.cells.xlstm import MLSTMCell, SLSTMCell

__all__ = [
    "AntisymmetricRNNCell",
    "Cell",
    "CfCCell",
    "ClockworkRNNCell",
    "CoRNNCell",
    "EchoStateCell",
    "ExpRNNCell",
    "FastGRNNCell",
    "GRUCell",
    "IndRNNCell",
    "LEMCell",
    "LMUCell",
    "LRUCell",
    "LSTMCell",
    "LayerNormGRUCell",
    "LayerNormLSTMCell",
    "LeakyIntegratorCell",
    "LearnedCarry",
    "LinearForm",
    "MGUCell",
    "MLSTMCell",
    "MinGRUCell",
    "MinLSTMCell",
    "MinimalRNNCell",
    "RGLRUCell",
    "RNNCell",
    "RecurrentDropout",
    "S5Cell",
    "SLSTMCell",
    "ScoRNNCell",
    "SimpleRNNCell",
    "UGRNNCell",
    "UnICORNNCell",
    "UnitaryRNNCell",
    "Zoneout",
    "as_cell",
]
