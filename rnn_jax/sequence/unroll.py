"""Running a cell over a sequence."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.arrays import call_automatic, nan_unless, varying_like
from rnn_jax.cells.asking import as_pytree
from rnn_jax.cells.structure import FusedForm, fused_form_for
from rnn_jax.cells.wrappers.noise import Noise, draw_noise, has_noise, project_with
from rnn_jax.checks import check_choice, check_flag, check_key, check_size, is_key
from rnn_jax.sequence.calling import (
    ArrayLike,
    Carry,
    check_batch_axes,
    check_carry_leaves,
    resolve_starts,
)
from rnn_jax.sequence.inputs import (
    input_of_step,
    is_float,
    read_inputs,
    resolve_feature_axes,
)
from rnn_jax.sequence.masks import Marks, effective_resets, read_marks, valid_steps
from rnn_jax.sequence.method import METHODS, resolve_method, without_leading
from rnn_jax.sequence.running.boundaries import Boundaries
from rnn_jax.sequence.running.checkpointing import resolve_interval
from rnn_jax.sequence.running.platforms import why_no_kernel
from rnn_jax.sequence.running.ways import (
    IMPLEMENTATIONS,
    Options,
    scan_fused,
    scan_linear,
    scan_plain,
)


def unroll(
    cell: Any,
    xs: Any,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
    initial: Carry | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reverse: bool = False,
    return_carries: bool = False,
    checkpoint: int | str | None = None,
    truncate: int | None = None,
    key: jax.Array | None = None,
    implementation: str = "auto",
    method: str = "auto",
) -> Any:
    """Runs a cell over a sequence, as `lax.scan` does.

    carry_t, y_t = cell(carry_{t−1}, x_t)    for t = 1 … T

    This package's cells are run in their fused form (`rnn_jax.sequence.running.fused_scan`), which
    gives every mode of differentiation and forms the weights' gradient outside the loop; a cell
    that has none is scanned as it is, with its `project` hoisted out of the loop, or, if it is
    linear in its carry, run in parallel over time where that is faster. On an NVIDIA GPU
    a fused form in float32 is one kernel for all steps (`rnn_jax.sequence.kernels`), in every mode
    of differentiation, with products at the precision that `jax.default_matmul_precision` says, or
    of bfloat16 for a cell with dtype=bfloat16 and carry_dtype=float32.

    Cutting a row in pieces and handing the last carry of each on to the next as its `carry` gives
    what the whole row gives, values and gradients, under every option, and what lies outside a
    sequence changes neither. Three things are counted from the start of the row that a call is
    given: the stretches of `truncate`, so cut at a multiple of it; the noise that `key` draws; and
    `lengths`.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y) on one sequence's step.
      xs: inputs, (..., T, I): an array, or a pytree of arrays that all lead with (..., T), of which
        the cell is given one step; tuples and lists of arrays are pytrees, and not stacked. Real
        numbers of any type: whole numbers and booleans are promoted by this package's cells to the
        type of their parameters.
      feature_axes: how many trailing axes of xs are features: 3 for images (..., T, height, width,
        channels), 0 for tokens (..., T). Of a pytree, those of the leaf with the most axes; the
        axes before them are those that all leaves lead with. None asks the cell
        (`cell.num_feature_axes`), and is 1 if it does not say.
      carry: where to go on, its leaves with the leading axes of xs: the last carry of the steps
        before. None starts a sequence.
      initial: where sequences start, in the form of `carry`: at the row's first step if `carry` is
        None, and at each that `resets` marks. None asks the cell for its own, which may be learned.
      lengths: whole numbers in [0, T], of shape (...): a row ends there, and nothing beyond its end
        is of it, marks included. Where they cannot be read (inside `jit`), one out of range makes
        that row's results NaN.
      mask: booleans, (..., T), False at steps that belong to no sequence, wherever they lie, as
        padding on the left or as gaps. They are skipped: the carry passes by as it is, outputs are
        0, and gradients there are exactly 0 whatever they hold.
      resets: booleans, (..., T): True marks the first step of a new sequence packed into the same
        row; between it and the step before, the carry returns to the initial one. A mark on a
        masked step counts: the sequence starts with padding.
      reverse: run from the last step to the first; ys stay aligned with xs, and `lengths`, `mask`
        and `resets` mean the same steps. A sequence is then left through its first step: if
        `resets` marks the row's first step, the last carry is the initial one, ready for the row
        before (`return_carries` has the state in which the sequence ended).
      return_carries: also return the carry after each step.
      checkpoint: keep only every k-th state for the gradient and recompute the others: an
        interval in steps, or "sqrt" for √T; None keeps all.
      truncate: let no gradient pass from one stretch of so many steps to the one before, nor to
        `carry`, which comes from there; to `initial` it passes (truncated backpropagation through
        time; Williams and Peng, 1990). Values stay as they are. None lets it pass everywhere.
      key: a random key for the noise of a cell that has some (`Zoneout`, `RecurrentDropout`), split
        into one for each row of a batch; a step's noise depends on the key and its place in the
        row alone. None is without noise; a cell that has none ignores it.
      implementation: "auto" takes the kernels where the program is compiled for an NVIDIA GPU and
        they apply, and scans everywhere else; "scan" scans; "kernel" refuses to compile what
        kernels cannot run, and says why; "interpret" runs the kernels on a CPU, far slower, to
        test them.
      method: "scan" goes one step after another; "associative" runs a cell that is linear in its
        carry (`LinearForm`) in parallel over time, by an associative scan in chunks, with the same
        derivatives; "auto" takes that where it may be expected to be faster, see `unroll_method`.

    Returns:
      (carry, ys): the last carry and the outputs (..., T, H); with `return_carries`,
      (carry, ys, carries), each leaf of `carries` (..., T, ·), aligned with ys.

    Weights are shared, so their gradient adds up over all sequences of a row and a batch: one that
    is itself not finite makes the sum so, unless `mask` leaves it out.

    Raises:
      ValueError: wrong shapes, an empty sequence, lengths out of range, lengths and a mask, several
        keys, an unknown implementation or one that cannot be had, a method that is unknown or that
        the cell has not, or a cell that does not return (carry, y) or does not keep its carry's
        shape.
      TypeError: inputs that are no real numbers, a cell that needs `carry`, or, with resets and a
        carry, `initial`; a flag that is no bool, or a `key` that is no key.

    Example:
      >>> carry, ys = rj.unroll(cell, xs)
      >>> ys.shape
      (20, 8)
      >>> first, _ = rj.unroll(cell, xs[:12])  # In two pieces, the carry handed on
      >>> last, _ = rj.unroll(cell, xs[12:], first)
      >>> bool(jnp.allclose(last, carry, atol=1e-6))
      True
    """
    xs, leading = read_inputs(xs, resolve_feature_axes(cell, feature_axes), batched=True)
    batch, steps = leading[:-1], leading[-1]
    options = Options(
        batch_axes=len(batch),
        reverse=check_flag("reverse", reverse),
        return_carries=check_flag("return_carries", return_carries),
        every=resolve_interval(checkpoint, steps),
        truncate=None if truncate is None else min(check_size("truncate", truncate), steps),
        implementation=check_choice("implementation", implementation, IMPLEMENTATIONS),
        method=check_choice("method", method, METHODS),
    )
    if method == "associative" and implementation in ("kernel", "interpret"):
        raise ValueError(
            f'implementation="{implementation}" runs kernels, which go step by step, so it cannot '
            'stand beside method="associative"; got both. Pass one of the two.'
        )
    marks = read_marks(leading, lengths, mask, resets)
    for name, start in (("carry", carry), ("initial", initial)):
        if start is not None:
            check_batch_axes(check_carry_leaves(start, name), batch, name)
    keys = None if key is None else split_for(batch, check_key(key))
    return _unroll(as_pytree(cell), xs, carry, initial, marks, keys, options=options)


@functools.partial(jax.jit, static_argnames="options")
def _unroll(
    cell: Any,
    xs: Any,
    carry: Carry | None,
    initial: Carry | None,
    marks: Marks,
    keys: jax.Array | None,
    *,
    options: Options,
) -> Any:
    run = functools.partial(_run_rows, options=options)
    # Rows are spread over devices as they come; how the rest lies is the compiler's to find.
    like = jax.tree.leaves(xs)[0]
    return call_automatic(
        run, cell, xs, carry, initial, marks, keys, like=like, axes=options.batch_axes
    )


def _run_rows(
    cell: Any,
    xs: Any,
    carry: Carry | None,
    initial: Carry | None,
    marks: Marks,
    keys: jax.Array | None,
    *,
    options: Options,
) -> Any:
    batch_axes = options.batch_axes
    *batch, steps = jax.tree.leaves(xs)[0].shape[: batch_axes + 1]
    valid = valid_steps(marks, steps)
    resets = effective_resets(marks, valid)
    starts = functools.partial(_starts, cell, resets=resets is not None, skips=valid is not None)
    start, other = mapped(starts, batch_axes)(xs, carry, initial)
    start, initial = varying_like(
        (start, start if other is None else other), cell, xs, carry, initial, marks, keys
    )
    if carry is not None and options.truncate is not None:
        start = lax.stop_gradient(start)
    if valid is not None:
        xs = mapped(_without_padding, batch_axes)(xs, valid)
    noise = None
    if keys is not None:
        draw = functools.partial(draw_noise, cell, steps=steps)
        noise = mapped(draw, batch_axes)(keys)
    boundaries = Boundaries(valid, resets)
    linear = resolve_method(
        cell,
        without_leading(xs, batch_axes + 1),
        without_leading(start, batch_axes),
        noise,
        steps=steps,
        rows=math.prod(batch),
        method=options.method,
        implementation=options.implementation,
    )
    form = None if has_noise(noise) else fused_form_for(cell, xs, start)
    if options.implementation in ("kernel", "interpret"):
        _check_kernel(options.implementation, form, noise)
    if linear.form is not None:
        methods = {platform: one.method for platform, one in linear.by_platform.items()}
        project = functools.partial(project_with, cell, noise=None)
        zs = mapped(project, batch_axes + 1)(xs)
        last, ys, carries = scan_linear(
            linear.form, methods, zs, start, initial, boundaries, options
        )
    elif form is not None:
        last, ys, carries = scan_fused(form, xs, start, initial, boundaries, options)
    else:
        scan = functools.partial(scan_plain, cell, options=options)
        last, ys, carries = mapped(scan, batch_axes)(xs, start, initial, boundaries, noise)
    result = (last, ys, carries) if options.return_carries else (last, ys)
    if marks.in_range is not None:
        result = mapped(_nan_unless, batch_axes)(marks.in_range, result)
    return result


def split_for(batch: tuple[int, ...], key: jax.Array) -> jax.Array:
    """A key for each sequence of a batch; a sequence alone has the key itself."""
    return jax.random.split(key, batch) if batch else key


def mapped(function: Callable[..., Any], batch_axes: int) -> Callable[..., Any]:
    """A function of one sequence, for leading batch axes."""
    for _ in range(batch_axes):
        function = jax.vmap(function)
    return function


def _starts(
    cell: Any,
    xs: Any,
    carry: Carry | None,
    initial: Carry | None,
    *,
    resets: bool,
    skips: bool,
) -> tuple[Carry, Carry | None]:
    """(where one row goes on, where sequences start within it if that is elsewhere)."""
    return resolve_starts(cell, input_of_step(xs), carry, initial, resets=resets, skips=skips)


def _without_padding(xs: Any, valid: jax.Array) -> Any:
    """One row's inputs, each leaf (T, ...), those of skipped steps replaced.

    Padding may hold anything, NaN too: kept out before it can reach a derivative. A skipped step is
    computed all the same, so what stands in must be an input where the cell has a derivative, and
    the first of the row's own is one. A row without any has 1/2, which lies where roots,
    logarithms, norms and what is defined on [0, 1] are smooth; in whole numbers 0, the first token.
    """

    def replaced(leaf: jax.Array) -> jax.Array:
        if is_key(leaf):
            return leaf  # Every key is one to draw with.
        first = leaf[jnp.argmax(valid)]
        without_any = jnp.full_like(first, 0.5 if is_float(leaf) else 0)
        stand_in = lax.select(jnp.any(valid), first, without_any)
        keep = jnp.expand_dims(valid, tuple(range(1, leaf.ndim)))
        return jnp.where(
            jnp.broadcast_to(keep, leaf.shape),
            leaf,
            jnp.broadcast_to(lax.stop_gradient(stand_in), leaf.shape),
        )

    return jax.tree.map(replaced, xs)


def _check_kernel(implementation: str, form: FusedForm | None, noise: Noise) -> None:
    """Raises ValueError unless a kernel can run what is to be run, whatever it is compiled for."""
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    reason: str | None
    if has_noise(noise):
        reason = "this one has noise in every step"
    elif form is None:
        reason = "this cell has no fused form for such inputs and such a carry"
    else:
        dtypes = {kernel.dtype for kernel in form.kernels}
        reason = why_no_kernel(form.mathematics, dtypes, precision, form.product_type)
    if reason is not None:
        raise ValueError(
            f'implementation="{implementation}" needs a recurrence that the kernels can run; '
            f'{reason}. Pass implementation="auto", which scans it instead.'
        )


def _nan_unless(condition: jax.Array, tree: Any) -> Any:
    def mark(leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        return nan_unless(jnp.broadcast_to(condition, leaf.shape), leaf)

    return jax.tree.map(mark, tree)
