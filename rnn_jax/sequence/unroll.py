"""Running a cell over a sequence."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax.cells.base import RNNCell
from rnn_jax.cells.fused import FusedForm, fused_form
from rnn_jax.sequence.boundaries import Boundaries, within
from rnn_jax.sequence.calling import (
    ArrayLike,
    Carry,
    as_pytree,
    as_sequence,
    check_batch_axes,
    check_carry_leaves,
    resolve_carry,
)
from rnn_jax.sequence.checkpointing import checkpointed, resolve_interval
from rnn_jax.sequence.chunks import Chunk
from rnn_jax.sequence.fused import Settings, fused_scan


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
    batch_axes, steps = xs.ndim - 2, xs.shape[-2]
    prepare = functools.partial(_prepare, cell, reverse=options.reverse)
    xs, initial, boundaries = _mapped(prepare, batch_axes)(xs, carry, lengths, resets)
    form = _fused_form(cell, xs, initial)
    if form is not None:
        result = _scan_fused(form, xs, initial, boundaries, options)
    else:
        scan = functools.partial(_scan_plain, cell, options=options)
        result = _mapped(scan, batch_axes)(xs, initial, boundaries)
    if lengths is not None:
        in_range = (lengths >= 0) & (lengths <= steps)
        result = _mapped(_nan_unless, batch_axes)(in_range, result)
    return result if options.return_carries else result[:2]


def _mapped(function: Callable[..., Any], batch_axes: int) -> Callable[..., Any]:
    for _ in range(batch_axes):
        function = jax.vmap(function)
    return function


def _prepare(
    cell: Any,
    xs: jax.Array,
    carry: Carry | None,
    length: jax.Array | None,
    resets: jax.Array | None,
    *,
    reverse: bool,
) -> tuple[jax.Array, Carry, Boundaries]:
    """(inputs, initial carry, boundaries) of one sequence (T, I), as a scan takes them."""
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
    if resets is not None and reverse:
        # Time runs backwards, so the boundary before step t is crossed on the way into t − 1.
        resets = jnp.append(resets[1:], False)
    return xs, initial, Boundaries(valid, resets)


def _scan_plain(
    cell: Any, xs: jax.Array, initial: Carry, boundaries: Boundaries, *, options: _Options
) -> tuple[Carry, Any, Carry | None]:
    """Any cell over one sequence: (last carry, ys, carries or None)."""
    advance, zs = hoist_projection(cell, xs)
    body = within(
        lambda carry, z: (*advance(carry, z), None),
        initial,
        return_carries=options.return_carries,
    )

    def run(carry: Carry, inputs: Any) -> tuple[Carry, Any]:
        last, (ys, carries, _) = lax.scan(body, carry, inputs, reverse=options.reverse)
        return last, (ys, carries)

    return _run(run, initial, (zs, boundaries), options)


def _scan_fused(
    form: FusedForm, xs: jax.Array, initial: Carry, boundaries: Boundaries, options: _Options
) -> tuple[Carry, Any, Carry | None]:
    """A cell in fused form over all sequences at once, time first: one product a step for all."""
    time = xs.ndim - 2

    def time_first(tree: Any) -> Any:
        return jax.tree.map(lambda a: jnp.moveaxis(a, time, 0), tree)

    def time_back(tree: Any) -> Any:
        return jax.tree.map(lambda a: jnp.moveaxis(a, 0, time), tree)

    settings = Settings(form.mathematics, options.reverse, options.return_carries)

    def run(carry: Carry, inputs: Any) -> tuple[Carry, Any]:
        last, ys, carries = fused_scan(settings, form.kernels, *inputs, carry, initial)
        return last, (ys, carries)

    last, ys, carries = _run(run, initial, time_first((xs, boundaries)), options)
    return last, time_back(ys), time_back(carries)


def _run(
    run: Chunk, initial: Carry, inputs: Any, options: _Options
) -> tuple[Carry, Any, Carry | None]:
    if options.every is None:
        last, (ys, carries) = run(initial, inputs)
    else:
        last, (ys, carries) = checkpointed(
            run, initial, inputs, every=options.every, reverse=options.reverse
        )
    return last, ys, carries


def _fused_form(cell: Any, xs: jax.Array, carry: Carry) -> FusedForm | None:
    """The cell's fused form, if all that takes part is of one type."""
    form = fused_form(cell) if isinstance(cell, RNNCell) else None
    if form is None:
        return None
    types = {leaf.dtype for leaf in jax.tree.leaves((form.kernels, xs, carry))}
    return form if types == {jnp.dtype(cell.dtype or xs.dtype)} else None


def hoist_projection(cell: Any, xs: jax.Array) -> tuple[Callable[..., Any], jax.Array]:
    """Splits a cell into what can be done before the loop and what cannot.

    Returns:
      (advance, zs) with advance(carry, zs[t]) equal to cell(carry, xs[t]).
    """
    if isinstance(cell, RNNCell):
        return cell.step, cell.project(xs)
    return cell, xs


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
