"""The networks that the main job compares, from matched weights."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

import rnn_jax as rj

MakeCell = Callable[[int, jax.Array], rj.RNNCell]

IN_FEATURES = 2


def _simple(activation: str, recurrent: str = "orthogonal") -> MakeCell:
    def make(hidden: int, key: jax.Array) -> rj.RNNCell:
        return rj.SimpleRNNCell(
            IN_FEATURES,
            hidden,
            activation=activation,
            recurrent_kernel_init=recurrent,
            rngs=nnx.Rngs(key),
        )

    return make


def _lstm(forget_bias: float) -> MakeCell:
    def make(hidden: int, key: jax.Array) -> rj.RNNCell:
        return rj.LSTMCell(IN_FEATURES, hidden, forget_bias=forget_bias, rngs=nnx.Rngs(key))

    return make


def _gru(update_bias: float) -> MakeCell:
    def make(hidden: int, key: jax.Array) -> rj.RNNCell:
        cell = rj.GRUCell(IN_FEATURES, hidden, rngs=nnx.Rngs(key))
        block = cell.blocks.index("update") * hidden
        cell.bias[...] = cell.bias[...].at[block : block + hidden].add(update_bias)
        return cell

    return make


# Equal keys give the four simple networks equal weights, and the LSTMs all weights but one bias.
COMPARED: dict[str, MakeCell] = {
    "sigmoid": _simple("sigmoid"),
    "tanh": _simple("tanh"),
    "ReLU": _simple("relu"),
    "leaky ReLU": _simple("leaky_relu"),
    "LSTM, forget bias 0": _lstm(0.0),
    "LSTM, forget bias 1": _lstm(1.0),
    "LSTM, forget bias 5": _lstm(5.0),
    "GRU": _gru(0.0),
}

# Needed to find the condition under which a claim holds.
CONTROLS: dict[str, MakeCell] = {
    "ReLU, W_h = identity": _simple("relu", "identity"),
    "GRU, update bias 1": _gru(1.0),
    "GRU, update bias 5": _gru(5.0),
}

SIMPLE = ("sigmoid", "tanh", "ReLU", "leaky ReLU")
GATED = ("LSTM, forget bias 0", "LSTM, forget bias 1", "LSTM, forget bias 5", "GRU")


def chaotic_sigmoid(hidden: int, key: jax.Array, gain: float = 12.0) -> rj.SimpleRNNCell:
    """A sigmoid network whose σ₁(W_h) is far above 4, kept in the steep middle of the sigmoid.

    σ(z) = ½ + ½ tanh(z/2), so with the bias −½ Σ W_h it is a random tanh network of a quarter of
    the gain, and chaotic where that exceeds 1 (Sompolinsky, Crisanti and Sommers, 1988).
    """
    cell = rj.SimpleRNNCell(IN_FEATURES, hidden, activation="sigmoid", rngs=nnx.Rngs(key))
    kernel = gain * jax.random.normal(key, (hidden, hidden)) / jnp.sqrt(hidden)
    cell.recurrent_kernel[...] = kernel
    cell.bias[...] = -0.5 * jnp.sum(kernel, axis=0)
    return cell


def parameter_count(cell: rj.RNNCell) -> int:
    """How many numbers a cell learns."""
    return sum(leaf.size for leaf in jax.tree.leaves(cell))
