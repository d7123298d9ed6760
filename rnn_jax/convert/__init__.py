"""Weights from PyTorch, Flax and Keras, and back."""

from rnn_jax.convert.flax_cells import from_flax, to_flax
from rnn_jax.convert.keras_layers import from_keras, to_keras
from rnn_jax.convert.pytorch import from_torch, to_torch

__all__ = ["from_flax", "from_keras", "from_torch", "to_flax", "to_keras", "to_torch"]
