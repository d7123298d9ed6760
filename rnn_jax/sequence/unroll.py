"""Running a cell over a sequence."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax.cells.structure import FusedForm, fused_form_for
from rnn_jax.cells.wrappers.noise import Noise, draw_noise, has_noise, project_with, step_with
from rnn_jax.checks import check_key, check_size
from rnn_jax.sequence.calling import (
    ArrayLike,
    Carry,
    as_pytree,
    as_sequence,
    check_batch_axes,
    check_carry_leaves,
    resolve_carry,
)
from rnn_jax.sequence.running.boundaries import Boundaries, within
from rnn_jax.sequence.running.checkpointing import checkpointed, resolve_interval
from rnn_jax.sequence.running.chunks import Chunk
from rnn_jax.sequence.running.fused_scan import Settings, fused_scan
from rnn_jax.sequence.running.truncation import truncated


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
    truncate: int | None = None,
    key: jax.Array | None = None,
) -> Any:
    """Runs a cell over a sequence, as `lax.scan` does.

    carry_t, y_t = cell(carry_{t−1}, x_t)    for t = 1 … T

    This package's cells are run in their fused form (`rnn_jax.sequence.running.fused_scan`), which
    gives every mode of differentiation and forms the weights' gradient outside the loop; a cell
    that has none is scanned as it is, with its `project` hoisted out of the loop.

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
      truncate: let no gradient pass from one stretch of so many steps to the one before (truncated
        backpropagation through time; Williams and Peng, 1990); values stay as they are. None lets
        it pass everywhere.
      key: a random key for the noise of a cell that has some (`Zoneout`, `RecurrentDropout`), split
        into one for each sequence of a batch; a step's noise depends on neither T, `lengths`,
        `resets` nor `reverse`. None is without noise; a cell that has none ignores it.

    Returns:
      (carry, ys): the last carry and the outputs (..., T, H); with `return_carries`,
      (carry, ys, carries), each leaf of `carries` (..., T, ·), aligned with ys.

    Raises:
      ValueError: wrong shapes, an empty sequence, lengths out of range, several keys, or a cell
        that does not return (carry, y) or does not keep its carry's shape.
      TypeError: inputs that are no floats, a cell that needs `carry`, or a `key` that is no key.
    """
    xs = as_sequence(xs, batched=True)
    batch, steps = xs.shape[:-2], xs.shape[-2]
    options = _Options(
        reverse=bool(reverse),
        return_carries=bool(return_carries),
        every=resolve_interval(checkpoint, steps),
        truncate=None if truncate is None else min(check_size("truncate", truncate), steps),
    )
    if lengths is not None:
        lengths = _check_lengths(lengths, batch, steps)
    if resets is not None:
        resets = _check_resets(resets, xs.shape[:-1])
    check_carry_leaves(carry)
    if carry is not None:
        check_batch_axes(carry, batch)
    keys = None if key is None else split_for(batch, check_key(key))
    return _unroll(as_pytree(cell), xs, carry, lengths, resets, keys, options=options)


# advance(carry, z) -> (carry after the step, y)
Advance = Callable[[Carry, Any], tuple[Carry, Any]]


class _Options(NamedTuple):
    """What is fixed when a call is compiled."""

    reverse: bool
    return_carries: bool
    every: int | None
    truncate: int | None


@functools.partial(jax.jit, static_argnames="options")
def _unroll(
    cell: Any,
    xs: jax.Array,
    carry: Carry | None,
    lengths: jax.Array | None,
    resets: jax.Array | None,
    keys: jax.Array | None,
    *,
    options: _Options,
) -> Any:
    batch_axes, steps = xs.ndim - 2, xs.shape[-2]
    prepare = functools.partial(_prepare, cell, reverse=options.reverse)
    xs, initial, boundaries = mapped(prepare, batch_axes)(xs, carry, lengths, resets)
    noise = None
    if keys is not None:
        draw = functools.partial(draw_noise, cell, steps=steps)
        noise = mapped(draw, batch_axes)(keys)
    form = None if has_noise(noise) else fused_form_for(cell, xs, initial)
    if form is not None:
        result = _scan_fused(form, xs, initial, boundaries, options)
    else:
        scan = functools.partial(_scan_plain, cell, options=options)
        result = mapped(scan, batch_axes)(xs, initial, boundaries, noise)
    if lengths is not None:
        in_range = (lengths >= 0) & (lengths <= steps)
        result = mapped(_nan_unless, batch_axes)(in_range, result)
    return result if options.return_carries else result[:2]


def split_for(batch: tuple[int, ...], key: jax.Array) -> jax.Array:
    """A key for each sequence of a batch; a sequence alone has the key itself."""
    return jax.random.split(key, batch) if batch else key


def mapped(function: Callable[..., Any], batch_axes: int) -> Callable[..., Any]:
    """A function of one sequence, for leading batch axes."""
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
    cell: Any,
    xs: jax.Array,
    initial: Carry,
    boundaries: Boundaries,
    noise: Noise,
    *,
    options: _Options,
) -> tuple[Carry, Any, Carry | None]:
    """Any cell over one sequence: (last carry, ys, carries or None)."""
    advance, zs = hoist_projection(cell, xs, noise)
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
    """All steps, with the memory and the reach of gradients that the options ask for."""
    reverse = options.reverse

    def stretch(carry: Carry, part: Any) -> tuple[Carry, Any]:
        if options.every is None:
            return run(carry, part)
        return checkpointed(run, carry, part, every=options.every, reverse=reverse)

    if options.truncate is None:
        last, (ys, carries) = stretch(initial, inputs)
    else:
        last, (ys, carries) = truncated(
            stretch, initial, inputs, every=options.truncate, reverse=reverse
        )
    return last, ys, carries


def hoist_projection(cell: Any, xs: jax.Array, noise: Noise = None) -> tuple[Advance, Any]:
    """Splits a cell into what can be done before the loop and what cannot.

    Returns:
      (advance, zs) with advance(carry, zs[t]) equal to cell(carry, xs[t]), or to the step with the
      noise of step t if there is any.
    """
    # Step by step, because a projection of the user's own may take a whole sequence for one input.
    # What is mapped over all steps is one product all the same.
    zs = jax.vmap(functools.partial(project_with, cell))(xs, noise)
    return lambda carry, at: step_with(cell, carry, *at), (zs, noise)


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
        return as_index(array)  # Inside a transformation: marked by NaN where out of range.
    if ((values < 0) | (values > steps)).any():
        wrong = values[(values < 0) | (values > steps)]
        raise ValueError(
            f"lengths must lie in [0, {steps}], the number of steps in xs; got {wrong[0]}. "
            "Clip them, or pad xs."
        )
    return as_index(array)


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


def as_index(lengths: jax.Array) -> jax.Array:
    """In the type that steps are counted in: int8 could not be compared with step 200."""
    return lengths.astype(jax.dtypes.canonicalize_dtype(int))
