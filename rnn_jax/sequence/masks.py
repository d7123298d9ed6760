"""Which steps of a row belong to a sequence, and which ones begin another."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import as_steps, read_whole_numbers
from rnn_jax.sequence.calling import ArrayLike


class Marks(NamedTuple):
    """What a call says of the steps of its rows, checked; None where it says nothing.

    Attributes:
      lengths: the number of steps, counted from the first, that belong to each row, (...).
      mask: whether each step belongs to a sequence, (..., T).
      resets: whether a sequence starts at the step, (..., T).
      in_range: whether each row's length lies in [0, T], (...), where that could not be read.
    """

    lengths: jax.Array | None
    mask: jax.Array | None
    resets: jax.Array | None
    in_range: jax.Array | None


def read_marks(
    shape: tuple[int, ...],
    lengths: ArrayLike | None,
    mask: ArrayLike | None,
    resets: ArrayLike | None,
) -> Marks:
    """Checks what a call says of the steps of rows (..., T).

    Raises:
      TypeError: lengths that are no whole numbers, a mask or resets that are no booleans.
      ValueError: another shape than that of the rows, lengths out of range, or lengths and a mask.
    """
    if lengths is not None and mask is not None:
        raise ValueError(
            "lengths= and mask= cannot be given together, because each says by itself which steps "
            "count; got both. Pass one mask: mask & (jnp.arange(T) < lengths[..., None])."
        )
    in_range = None
    if lengths is not None:
        lengths, in_range = _read_lengths(lengths, shape)
    if mask is not None:
        mask = _read_booleans("mask", mask, shape)
    if resets is not None:
        resets = _read_booleans("resets", resets, shape)
    return Marks(lengths, mask, resets, in_range)


def valid_steps(marks: Marks, steps: int) -> jax.Array | None:
    """Whether each step belongs to a sequence, (..., T); None where all do."""
    if marks.lengths is None:
        return marks.mask
    shape = (*marks.lengths.shape, steps)
    step = jax.lax.broadcasted_iota(marks.lengths.dtype, shape, len(shape) - 1)
    return step < jnp.broadcast_to(marks.lengths[..., None], shape)


def effective_resets(marks: Marks, valid: jax.Array | None) -> jax.Array | None:
    """The resets that count: a row ends at its length, and nothing beyond the end is of it."""
    if marks.resets is None or marks.lengths is None or valid is None:
        return marks.resets
    return marks.resets & valid


def _read_lengths(lengths: ArrayLike, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array | None]:
    """(lengths, whether each is in range if that could not be read)."""
    *batch, steps = shape
    array = read_whole_numbers(
        "lengths",
        lengths,
        rule="an array of whole numbers",
        fix="Cast them, for example lengths.astype(jnp.int32).",
        for_booleans="Pass booleans for each step as mask=.",
    )
    if array.shape != tuple(batch):
        raise ValueError(
            f"lengths must have one entry for each sequence, shape {tuple(batch)}; got shape "
            f"{array.shape}. Pass one whole number for each row of xs."
        )
    if not isinstance(array, np.ndarray):
        traced = as_steps(array, steps)
        return traced, (traced >= 0) & (traced <= steps)
    outside = (array < 0) | (array > steps)
    if outside.any():
        raise ValueError(
            f"lengths must lie in [0, {steps}], the number of steps in xs; got "
            f"{array[outside][0]}. Clip them, or pad xs."
        )
    return as_steps(array, steps), None


def _read_booleans(name: str, values: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    try:
        array = jnp.asarray(values)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be an array of booleans; got {type(values).__name__}. Pass a JAX or "
            f"NumPy array. ({error})"
        ) from error
    if array.dtype != jnp.bool_:
        raise TypeError(
            f"{name} must be booleans; got dtype {array.dtype}. Compare first, for example "
            f"{name} == 1."
        )
    if array.shape != shape:
        raise ValueError(
            f"{name} must have the shape of xs without features, {shape}; got shape "
            f"{array.shape}. Pass one boolean for each step."
        )
    return array
