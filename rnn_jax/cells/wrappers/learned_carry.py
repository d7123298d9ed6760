"""An initial carry that is learned."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.cells.cell import Carry, RNNCell
from rnn_jax.cells.wrappers.wrapper import CellWrapper, within
from rnn_jax.checks import check_rngs
from rnn_jax.initializers import Initializer, InitializerLike, get_initializer, initialize


class LearnedCarry(CellWrapper):
    """A cell whose initial carry is a parameter.

    carry_0 = θ,    carry_t = cell(carry_{t−1}, x_t)

    One θ for all sequences. Gradients reach it through `unroll`, from every sequence that starts,
    also from each that `resets` marks in a packed row: resets return to θ, where a call goes on
    from a `carry=` too.

    Args:
      cell: a cell of this package, or one that is wrapped already.
      carry_init: initialiser of each part of θ, by name or callable.
      rngs: source of the initial values.

    Attributes:
      initial: θ by part of the carry, `initial["h"]` of shape (H,).

    Raises:
      ValueError: an unknown initialiser, or one that cannot fill a vector.
      TypeError: a cell that is none of this package's, or whose carry is learned already, or an
        `rngs` that is no `nnx.Rngs`.
    """

    def __init__(
        self,
        cell: RNNCell | CellWrapper,
        *,
        carry_init: InitializerLike = "zeros",
        rngs: nnx.Rngs,
    ):
        super().__init__(cell)
        if any(isinstance(inner, LearnedCarry) for inner in within(cell)):
            raise TypeError(
                "LearnedCarry needs a cell whose carry is not learned yet; got one that has a "
                "LearnedCarry inside, whose parameter nothing would read. Wrap it once."
            )
        check_rngs(rngs)
        init = get_initializer("carry_init", carry_init)
        shape, dtype = (self.hidden_features,), self.param_dtype
        self.initial = nnx.Dict(
            {
                part: nnx.Param(initialize("carry_init", init, rngs.params(), shape, dtype))
                for part in self.carry_parts
            }
        )

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Initializer | None = None,
    ) -> Carry:
        """θ for every input of a batch; a `carry_init` draws another carry in its place.

        Args:
          input_shape: (..., I), the shape of one input.
          rngs, carry_init: as for `RNNCell.initialize_carry`.

        Returns:
          One array of shape (..., H), or a tuple of them in the order of `carry_parts`.

        Raises:
          ValueError, TypeError: as `RNNCell.initialize_carry`.
        """
        drawn = self.cell.initialize_carry(input_shape, rngs, carry_init)
        if carry_init is not None:
            return drawn
        learned: list[Any] = [self.initial[part][...] for part in self.carry_parts]

        def broadcast(value: jax.Array, like: jax.Array) -> jax.Array:
            return jnp.broadcast_to(value.astype(like.dtype), like.shape)

        leaves, structure = jax.tree.flatten(drawn)
        return jax.tree.unflatten(structure, map(broadcast, learned, leaves))
