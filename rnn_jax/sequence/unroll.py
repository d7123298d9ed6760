"""Running a cell over a sequence."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax.cells.base import RNNCell
from rnn_jax.sequence.calling import (
    ArrayLike,
    Carry,
    as_pytree,
    as_sequence,
    check_batch_axes,
    check_carry_leaves,
    resolve_carry,
)
from rnn_jax.sequence.checkpointing import checkpointed_scan, resolve_interval


def unroll(
    cell: Any,
    xs: ArrayLike,
    carry: Carry | None = None,
    *,
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
    return_carries: bool = False,
    checkpoint: int | str | None = None,
) -> Any:
    """Runs a cell over a sequence, as `lax.scan` does.

    carry_t, y_t = cell(carry_{t−1}, x_t)    for t = 1 … T

    For this package's cells the projection of the inputs is hoisted out of the loop: one matrix
    product over the whole sequence.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y) on one sequence's step.
      xs: inputs, (..., T, I).
      carry: initial carry, its leaves with the leading axes of xs; None asks the cell.
      lengths: whole numbers in [0, T], of shape (...): from that step on the carry is frozen and
        outputs are 0, and gradients there are exactly 0 whatever the padding holds. Where they
        cannot be read (inside `jit`), one out of range makes that sequence's results NaN.
      resets: booleans, (..., T): True marks the first step of a new sequence packed into the same
        row; the carry returns to the initial one there.
      reverse: run from the last step to the first; ys stay aligned with xs. The boundaries that
        `lengths` and `resets` mark stay where they are.
      return_carries: also return the carry after each step.
      checkpoint: keep only every k-th state for the gradient and recompute the others: an
        interval in steps, or "sqrt" for √T; None keeps all.

    Returns:
      (carry, ys): the last carry and the outputs (..., T, H); with `return_carries`,
      (carry, ys, carries), each leaf of `carries` (..., T, ·), aligned with ys.

    Raises:
      ValueError: wrong shapes, an empty sequence, lengths out of range, or a cell that does not
        return (carry, y) or does not keep its carry's shape.
      TypeError: inputs that are no floats, or a cell that needs `carry`.
    """
    xs = as_sequence(xs, batched=True)
    batch, steps = xs.shape[:-2], xs.shape[-2]
    options = _Options(bool(reverse), bool(return_carries), resolve_interval(checkpoint, steps))
    if lengths is not None:
        lengths = _check_lengths(lengths, batch, steps)
    if resets is not None:
        resets = _check_resets(resets, xs.shape[:-1])
    check_carry_leaves(carry)
    if carry is not None:
        check_batch_axes(carry, batch)
    return _unroll(as_pytree(cell), xs, carry, lengths, resets, options=options)


class _Options(NamedTuple):
    """What is fixed when a call is compiled."""

    reverse: bool
    return_carries: bool
    every: int | None


@functools.partial(jax.jit, static_argnames="options")
def _unroll(
    cell: Any,
    xs: jax.Array,
    carry: Carry | None,
    lengths: jax.Array | None,
    resets: jax.Array | None,
    *,
    options: _Options,
) -> Any:
    """Maps the unbatched mathematics over the leading axes of xs."""
    run: Callable[..., Any] = functools.partial(_unroll_one, cell, options=options)
    for _ in xs.shape[:-2]:
        run = jax.vmap(run)
    return run(xs, carry, lengths, resets)


def _unroll_one(
    cell: Any,
    xs: jax.Array,
    carry: Carry | None,
    length: jax.Array | None,
    resets: jax.Array | None,
    *,
    options: _Options,
) -> Any:
    """One sequence (T, I)."""
    steps = xs.shape[0]
    initial = resolve_carry(cell, jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype), carry)
    valid = None
    if length is not None:
        valid = jnp.arange(steps) < length
        # Padding may hold anything, NaN too: kept out before it can reach a derivative.
        # The first input stands in, because a cell may have no derivative at 0.
        stand_in = lax.stop_gradient(lax.select(length > 0, xs[0], jnp.zeros_like(xs[0])))
        keep = jnp.broadcast_to(valid[:, None], xs.shape)
        xs = jnp.where(keep, xs, jnp.broadcast_to(stand_in, xs.shape))
    advance, zs = hoist_projection(cell, xs)
    if resets is not None and options.reverse:
        # Time runs backwards, so the boundary before step t is crossed on the way into t − 1.
        resets = jnp.append(resets[1:], False)

    def body(carry: Carry, at: Any) -> tuple[Carry, Any]:
        z, is_valid, is_reset = at
        start = carry if is_reset is None else _select(is_reset, initial, carry)
        after, y = advance(start, z)
        if is_valid is not None:
            # Frozen is what came in: a reset that the padding marks must not undo the last carry.
            after = _select(is_valid, after, carry)
            y = _select(is_valid, y, jax.tree.map(jnp.zeros_like, y))
        return after, (y, after) if options.return_carries else (y, None)

    inputs = (zs, valid, resets)
    if options.every is None:
        last, (ys, carries) = lax.scan(body, initial, inputs, reverse=options.reverse)
    else:
        last, (ys, carries) = checkpointed_scan(
            body, initial, inputs, every=options.every, reverse=options.reverse
        )
    result = (last, ys, carries) if options.return_carries else (last, ys)
    if length is not None:
        result = _nan_unless((length >= 0) & (length <= steps), result)
    return result


def hoist_projection(cell: Any, xs: jax.Array) -> tuple[Callable[..., Any], jax.Array]:
    """Splits a cell into what can be done before the loop and what cannot.

    Returns:
      (advance, zs) with advance(carry, zs[t]) equal to cell(carry, xs[t]).
    """
    if isinstance(cell, RNNCell):
        return cell.step, cell.project(xs)
    return cell, xs


def _select(condition: jax.Array, one: Any, other: Any) -> Any:
    """Leaf by leaf, `one` where a scalar condition holds and `other` where not."""
    return jax.tree.map(lambda a, b: lax.select(condition, a, b), one, other)


def _nan_unless(condition: jax.Array, tree: Any) -> Any:
    def mark(leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        return lax.select(condition, leaf, jnp.full_like(leaf, jnp.nan))

    return jax.tree.map(mark, tree)


def _check_lengths(lengths: ArrayLike, batch: tuple[int, ...], steps: int) -> jax.Array:
    array = _as_array("lengths", lengths, "whole numbers")
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"lengths must be whole numbers; got dtype {array.dtype}. Cast them, "
            "for example lengths.astype(jnp.int32)."
        )
    if array.shape != batch:
        raise ValueError(
            f"lengths must have one entry for each sequence, shape {batch}; got shape "
            f"{array.shape}. Pass one whole number for each row of xs."
        )
    try:
        values = np.asarray(array)
    except jax.errors.TracerArrayConversionError:
        return _as_index(array)  # Inside a transformation: marked by NaN where out of range.
    if ((values < 0) | (values > steps)).any():
        wrong = values[(values < 0) | (values > steps)]
        raise ValueError(
            f"lengths must lie in [0, {steps}], the number of steps in xs; got {wrong[0]}. "
            "Clip them, or pad xs."
        )
    return _as_index(array)


def _check_resets(resets: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    array = _as_array("resets", resets, "booleans")
    if array.dtype != jnp.bool_:
        raise TypeError(
            f"resets must be booleans; got dtype {array.dtype}. Compare first, for example "
            "resets == 1."
        )
    if array.shape != shape:
        raise ValueError(
            f"resets must have the shape of xs without features, {shape}; got shape {array.shape}. "
            "Pass one boolean for each step."
        )
    return array


def _as_array(name: str, values: ArrayLike, what: str) -> jax.Array:
    try:
        return jnp.asarray(values)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be an array of {what}; got {type(values).__name__}. Pass a JAX or NumPy "
            f"array. ({error})"
        ) from error


def _as_index(lengths: jax.Array) -> jax.Array:
    """In the type that steps are counted in: int8 could not be compared with step 200."""
    return lengths.astype(jax.dtypes.canonicalize_dtype(int))
