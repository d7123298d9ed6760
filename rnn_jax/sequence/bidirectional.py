"""Two cells over one sequence, one in each direction of time."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.arrays import promote
from rnn_jax.cells.asking import (
    check_cell,
    features_said_of_output,
    features_taken,
    parameter_dtype,
)
from rnn_jax.cells.wrappers.wrapper import check_unshared
from rnn_jax.checks import check_key, kind_of
from rnn_jax.sequence.calling import ArrayLike, Carry
from rnn_jax.sequence.unroll import unroll


class Bidirectional(nnx.Module):
    """A cell that runs forward and one that runs backward, their outputs side by side.

    f_t = cell_f(f_{t−1}, x_t),    b_t = cell_b(b_{t+1}, x_t),    y_t = [f_t, b_t]

    It is no cell: it sees the future, so it has no single step to take, and what asks for a cell
    refuses it. `SequenceModel` takes it as a layer.

    Args:
      forward: any cell with an initial carry, plain or wrapped; see `rnn_jax.as_cell`.
      backward: another, that takes the same features.

    Raises:
      ValueError: the cells take different features, or are one and the same.
      TypeError: one of them is no cell, or has no initial carry.

    Example:
      >>> backward = rj.GRUCell(2, 8, rngs=nnx.Rngs(1))
      >>> model = rj.SequenceModel(rj.Bidirectional(cell, backward), None, readout="all")
      >>> model(xs).shape  # Features of both directions, side by side
      (20, 16)

    References:
      M. Schuster and K. K. Paliwal, "Bidirectional recurrent neural networks", 1997.
    """

    # What asks for a cell looks here; see `as_pytree`.
    sees_future = True

    def __init__(self, forward: Any, backward: Any):
        # Marked as data, because Flax takes pytrees that are none of its own for constants.
        self.forward = nnx.data(check_cell(forward, "forward"))
        self.backward = nnx.data(check_cell(backward, "backward"))
        check_unshared((self.forward, self.backward))
        taken = [features_taken(cell) for cell in (self.forward, self.backward)]
        if None not in taken and taken[0] != taken[1]:
            raise ValueError(
                "forward and backward must take the same features; got in_features="
                f"{taken[0]} and {taken[1]}. Build both with the features of the sequence."
            )

    def __call__(
        self,
        xs: ArrayLike,
        carry: tuple[Carry | None, Carry | None] | None = None,
        *,
        initial: tuple[Carry | None, Carry | None] | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        checkpoint: int | str | None = None,
        truncate: int | None = None,
        key: jax.Array | None = None,
    ) -> tuple[tuple[Carry, Carry], jax.Array]:
        """Runs both cells over whole sequences.

        Args:
          xs: inputs, (..., T, I).
          carry: (where forward goes on, where backward goes on, behind the row); None, for both or
            for one, starts a sequence. The cells run in opposite directions, so of a row in pieces
            forward takes the first piece first and backward the last: each of them, run over the
            pieces by `unroll`, gives what this call gives for the whole row.
          initial: (where forward's sequences start, where backward's); None, for both or for one,
            asks the cells.
          lengths, mask, resets: as for `unroll`. The backward cell starts at the last valid step,
            and both cells keep within what `resets` marks.
          checkpoint, truncate: as for `unroll`, in both directions.
          key: source of the cells' noise, split between them; None is without noise.

        Returns:
          ((last carry of forward, last carry of backward), ys (..., T, H_f + H_b), forward's
          first). Both cells' outputs stand at the step whose input they belong to.

        Raises:
          ValueError: a carry that is no pair, or as `unroll`.
          TypeError: as `unroll`.
        """
        carries, initials = _pair("carry", carry), _pair("initial", initial)
        keys = (None, None) if key is None else jax.random.split(check_key(key))
        options: dict[str, Any] = {
            "lengths": lengths,
            "mask": mask,
            "resets": resets,
            "checkpoint": checkpoint,
            "truncate": truncate,
        }
        options_f = {**options, "initial": initials[0], "key": keys[0]}
        options_b = {**options, "initial": initials[1], "key": keys[1]}
        last_f, ys_f = unroll(self.forward, xs, carries[0], **options_f)
        last_b, ys_b = unroll(self.backward, xs, carries[1], reverse=True, **options_b)
        return (last_f, last_b), jnp.concatenate(promote(ys_f, ys_b), axis=-1)

    @property
    def in_features(self) -> int:
        """I, the features of one input; absent where neither cell says."""
        found = [features_taken(cell) for cell in (self.forward, self.backward)]
        said = next((size for size in found if size is not None), None)
        if said is None:
            raise AttributeError(
                "Bidirectional has the in_features of its cells; neither of them says how many it "
                "takes. Say so with rnn_jax.as_cell(cell, in_features=…)."
            )
        return said

    @property
    def hidden_features(self) -> int:
        """H_f + H_b, the features of one output; absent where a cell does not say."""
        cells = (self.forward, self.backward)
        return sum(map(features_said_of_output, cells))

    @property
    def param_dtype(self) -> Any:
        """The type of the parameters, forward's and backward's promoted."""
        return jnp.promote_types(parameter_dtype(self.forward), parameter_dtype(self.backward))


def _pair(name: str, carries: Any) -> tuple[Carry | None, Carry | None]:
    """A carry for each direction, or None for the cell's own."""
    if carries is None:
        return None, None
    if not isinstance(carries, (tuple, list)) or len(carries) != 2:
        several = isinstance(carries, (tuple, list))
        arrived = f"{len(carries)} of them" if several else kind_of(carries)
        raise ValueError(
            f"{name} must be a pair of carries, (forward's, backward's); got {arrived}. Leave it "
            f"out to start from the cells' own, or pass ({name}, None)."
        )
    return carries[0], carries[1]
