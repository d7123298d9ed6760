"""Two cells over one sequence, one in each direction of time."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.cells.cell import RNNCell, promote
from rnn_jax.cells.wrappers.wrapper import CellWrapper, check_unshared
from rnn_jax.checks import check_key, kind_of
from rnn_jax.sequence.calling import ArrayLike, Carry
from rnn_jax.sequence.unroll import unroll


class Bidirectional(nnx.Module):
    """A cell that runs forward and one that runs backward, their outputs side by side.

    f_t = cell_f(f_{t−1}, x_t),    b_t = cell_b(b_{t+1}, x_t),    y_t = [f_t, b_t]

    It is no cell: it sees the future, so it has no single step to take, and what asks for a cell
    refuses it. `SequenceModel` takes it as a layer.

    Args:
      forward: a cell of this package, plain or wrapped.
      backward: another, of the same `in_features`.

    Raises:
      ValueError: the cells take different features, or are one and the same.
      TypeError: one of them is no cell of this package.

    References:
      M. Schuster and K. K. Paliwal, "Bidirectional recurrent neural networks", 1997.
    """

    # What asks for a cell looks here; see `as_pytree`.
    sees_future = True

    def __init__(self, forward: RNNCell | CellWrapper, backward: RNNCell | CellWrapper):
        for name, cell in (("forward", forward), ("backward", backward)):
            if not isinstance(cell, (RNNCell, CellWrapper)):
                raise TypeError(
                    f"{name} must be a cell of this package, plain or wrapped; got "
                    f"{kind_of(cell)}. For another cell, call unroll twice, once with reverse=True."
                )
        check_unshared((forward, backward))
        if forward.in_features != backward.in_features:
            raise ValueError(
                "forward and backward must take the same features; got in_features="
                f"{forward.in_features} and {backward.in_features}. Build both with the features "
                "of the sequence."
            )
        self.forward = forward
        self.backward = backward

    def __call__(
        self,
        xs: ArrayLike,
        carry: tuple[Carry | None, Carry | None] | None = None,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        checkpoint: int | str | None = None,
        truncate: int | None = None,
        key: jax.Array | None = None,
    ) -> tuple[tuple[Carry, Carry], jax.Array]:
        """Runs both cells over whole sequences.

        Args:
          xs: inputs, (..., T, I).
          carry: (where forward starts, where backward starts: behind the last valid step); None,
            for both or for one, asks the cells.
          lengths: valid steps of each sequence, (...); as for `unroll`. The backward cell starts
            at the last valid step.
          resets: booleans, (..., T), first steps of sequences packed into one row; as for
            `unroll`. Both cells keep within them.
          checkpoint, truncate: as for `unroll`, in both directions.
          key: source of the cells' noise, split between them; None is without noise.

        Returns:
          ((last carry of forward, last carry of backward), ys (..., T, H_f + H_b), forward's
          first). Both cells' outputs stand at the step whose input they belong to.

        Raises:
          ValueError: a carry that is no pair, or as `unroll`.
          TypeError: as `unroll`.
        """
        if carry is None:
            carry = (None, None)
        if not isinstance(carry, (tuple, list)) or len(carry) != 2:
            arrived = f"{len(carry)} of them" if isinstance(carry, (tuple, list)) else type(carry)
            raise ValueError(
                "carry must be a pair of carries, (forward's, backward's); got "
                f"{arrived}. Leave it out to start from the cells' own, or pass (carry, None)."
            )
        keys = (None, None) if key is None else jax.random.split(check_key(key))
        options: dict[str, Any] = {
            "lengths": lengths,
            "resets": resets,
            "checkpoint": checkpoint,
            "truncate": truncate,
        }
        last_f, ys_f = unroll(self.forward, xs, carry[0], key=keys[0], **options)
        last_b, ys_b = unroll(self.backward, xs, carry[1], key=keys[1], reverse=True, **options)
        return (last_f, last_b), jnp.concatenate(promote(ys_f, ys_b), axis=-1)

    @property
    def in_features(self) -> int:
        """I, the features of one input."""
        return self.forward.in_features

    @property
    def hidden_features(self) -> int:
        """H_f + H_b, the features of one output."""
        return self.forward.hidden_features + self.backward.hidden_features

    @property
    def param_dtype(self) -> Any:
        """The type of the parameters, forward's and backward's promoted."""
        return jnp.promote_types(self.forward.param_dtype, self.backward.param_dtype)
