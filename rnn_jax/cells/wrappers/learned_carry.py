"""An initial carry that is learned."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.cells.asking import carry_features, make_carry, part_names
from rnn_jax.cells.cell import Carry
from rnn_jax.cells.claims import owner_of
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
      cell: any cell with an initial carry, plain or wrapped, that says how many features it takes;
        see `rnn_jax.as_cell`.
      carry_init: initialiser of each part of θ, by name or callable; None begins at the cell's own
        initial carry.
      rngs: source of the initial values; not needed without `carry_init`.

    Attributes:
      initial: θ by part of the carry: `initial["h"]` of shape (H,). Parts of a cell that has no
        names for them (`carry_parts`) are called as their paths in the carry, "carry" if it is one
        array. Parts that are no floats, such as counters, are not learned.

    Raises:
      ValueError: an unknown initialiser, or one that cannot fill a part.
      TypeError: no cell with an initial carry, one that does not say its features, one whose carry
        is learned already or has nothing to learn, or an `rngs` that is no `nnx.Rngs`.

    Example:
      >>> learned = rj.LearnedCarry(cell)
      >>> learned.initial["h"].shape
      (8,)
      >>> slope = jax.grad(lambda learned: rj.unroll(learned, xs)[1].sum())(learned)
      >>> bool((slope.initial["h"][...] != 0).all())
      True
    """

    def __init__(
        self,
        cell: Any,
        *,
        carry_init: InitializerLike | None = None,
        rngs: nnx.Rngs | None = None,
    ):
        super().__init__(cell)
        if any(isinstance(inner, LearnedCarry) for inner in within(cell)):
            raise TypeError(
                "LearnedCarry needs a cell whose carry is not learned yet; got one that has a "
                "LearnedCarry inside, whose parameter nothing would read. Wrap it once."
            )
        if rngs is not None or carry_init is not None:
            check_rngs(rngs)
        features = carry_features(self.cell, "LearnedCarry")
        own = make_carry(self.cell, (features,))
        names = part_names(self.cell, own)
        learned = dict(zip(names, map(jnp.asarray, jax.tree.leaves(own)), strict=True))
        learned = {name: value for name, value in learned.items() if _is_learned(value)}
        if not learned:
            raise TypeError(
                "LearnedCarry needs a cell whose carry has floats to learn; got the carry "
                f"{jax.tree.map(jnp.result_type, own)}. Leave LearnedCarry out."
            )
        dtype = getattr(owner_of(self.cell), "param_dtype", None)
        init = None if carry_init is None else get_initializer("carry_init", carry_init, "unit")
        parts = {}
        for name, value in learned.items():
            kind = value.dtype if dtype is None else dtype
            if init is not None and rngs is not None:
                value = initialize("carry_init", init, rngs.params(), value.shape, kind)
            parts[name] = nnx.Param(value.astype(kind))
        self.initial = nnx.Dict(parts)

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
          What the cell makes, each part that is learned being θ.

        Raises:
          ValueError, TypeError: as `RNNCell.initialize_carry`.
        """
        drawn = make_carry(self.cell, input_shape, rngs, carry_init)
        if carry_init is not None:
            return drawn
        leaves, structure = jax.tree.flatten(drawn)

        def start(name: str, leaf: jax.Array) -> jax.Array:
            if name not in self.initial:
                return leaf
            return jnp.broadcast_to(self.initial[name][...].astype(leaf.dtype), leaf.shape)

        names = part_names(self.cell, drawn)
        return jax.tree.unflatten(structure, map(start, names, map(jnp.asarray, leaves)))


def _is_learned(value: jax.Array) -> bool:
    return bool(jnp.issubdtype(value.dtype, jnp.inexact))
