"""Stacked cells with a dense readout."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.cells.base import RNNCell, affine, promote
from rnn_jax.checks import check_choice, check_rngs, check_size
from rnn_jax.initializers import InitializerLike, get_initializer, initialize
from rnn_jax.sequence.calling import ArrayLike
from rnn_jax.sequence.stack import check_layers
from rnn_jax.sequence.unroll import unroll


class SequenceModel(nnx.Module):
    """Recurrent cells stacked in depth, read out by a dense layer.

    h¹ = unroll(cell₁, x),  h² = unroll(cell₂, h¹), …,    o = h_last W_o + b_o

    Args:
      cells: one cell, or the layers from input to output; each takes the features that the one
        below gives.
      out_features: O.
      readout: "last", one output from each sequence's last step, or "all", one from every step.
      kernel_init: initialiser of W_o, by name or callable.
      rngs: source of the readout's initial weights.

    Raises:
      ValueError: no cell, layers that do not fit, an unknown readout, or a size below 1.
      TypeError: a layer that is no cell of this package, or an `rngs` that is no `nnx.Rngs`.
    """

    def __init__(
        self,
        cells: RNNCell | Sequence[RNNCell],
        out_features: int,
        *,
        readout: str = "last",
        kernel_init: InitializerLike = "lecun_normal",
        rngs: nnx.Rngs,
    ):
        layers = check_layers(cells)
        check_rngs(rngs)
        self.cells = nnx.List(layers)
        self.out_features = check_size("out_features", out_features)
        self.readout = check_choice("readout", readout, ("last", "all"))
        init = get_initializer("kernel_init", kernel_init)
        top = layers[-1]
        shape = (top.hidden_features, self.out_features)
        self.kernel = nnx.Param(
            initialize("kernel_init", init, rngs.params(), shape, top.param_dtype)
        )
        self.bias = nnx.Param(jnp.zeros(self.out_features, top.param_dtype))

    def __call__(self, xs: ArrayLike, *, lengths: ArrayLike | None = None) -> jax.Array:
        """Outputs for a batch of sequences.

        Args:
          xs: inputs, (..., T, I).
          lengths: valid steps of each sequence, (...); the last valid step is the one read.

        Returns:
          (..., O) for readout "last", (..., T, O) for "all".

        Raises:
          ValueError, TypeError: as `unroll`.
        """
        for cell in self.cells:
            _, xs = unroll(cell, xs, lengths=lengths)
        hs = jnp.asarray(xs)
        if self.readout == "last":
            hs = hs[..., -1, :] if lengths is None else _at_end(hs, jnp.asarray(lengths))
        return affine(*promote(hs, self.kernel[...], self.bias[...]))


def _at_end(hs: jax.Array, lengths: jax.Array) -> jax.Array:
    """The output at each sequence's last valid step; an empty sequence has none and gives 0."""
    index = jnp.maximum(lengths - 1, 0)[..., None, None]
    index = jnp.broadcast_to(index, (*hs.shape[:-2], 1, hs.shape[-1]))
    last = jnp.take_along_axis(hs, index, axis=-2)
    return last[..., 0, :]
