"""The recurrence of a fused form and its tangent as plain scans: the form that holds everywhere.

`recurrence.py` lowers to these where no kernel runs, and the tests hold the kernels against them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.cells.structure import (
    Blocks,
    FusedForm,
    Grouped,
    UnitMathematics,
    affine,
    input_rows,
    product,
    seen,
    split_blocks,
    state_rows,
)
from rnn_jax.sequence.running.boundaries import Boundaries, spare_carry, within
from rnn_jax.sequence.running.chunks import even_interval, scan_chunks

Carry = Any
Kernels = tuple[jax.Array, ...]

# Steps that are swept together: enough for a good product, few enough to stay in cache.
_CHUNK = 16


class Settings(NamedTuple):
    """What is fixed when a call is traced.

    Attributes:
      mathematics: φ of the cell and its derivative.
      reverse: whether steps are run from the last to the first.
      return_carries: whether the carries after each step are wanted too.
      implementation: "auto", "scan", "kernel" or "interpret"; see `unroll`.
      precision: what `jax.default_matmul_precision` was where the call was traced, which is not
        where its scans are.
      product_type: see `FusedForm`.
    """

    mathematics: UnitMathematics
    reverse: bool
    return_carries: bool
    implementation: str = "auto"
    precision: str | None = None
    product_type: Any = None

    def form(self, kernels: "Kernels") -> FusedForm:
        """The cell of these kernels."""
        return FusedForm(self.mathematics, kernels, self.product_type)


class Inputs(NamedTuple):
    """What a recurrence is run on, time first, `...` being the rows.

    Attributes:
      kernels: as in `FusedForm`, of one type with the carries.
      xs: inputs, (T, ..., I), of the type of products.
      boundaries: of the sequences, (T, ...).
      carry: where to start, each part (..., H).
      initial: where sequences start that begin within a row, likewise.
    """

    kernels: Kernels
    xs: jax.Array
    boundaries: Boundaries
    carry: Carry
    initial: Carry


class Run(NamedTuple):
    """What a recurrence gives; None what was not asked for.

    Attributes:
      last: the carry after the last step, each part (..., H).
      ys: h after each step, 0 where skipped, (T, ..., H).
      carries: after each step, each part (T, ..., H).
      starts: the carries that the steps were computed from, likewise.
      saved: what the tangent needs of each step, blocks (T, ..., H).
    """

    last: Carry
    ys: jax.Array
    carries: Carry | None = None
    starts: Carry | None = None
    saved: Any = None


class Recorded(NamedTuple):
    """What a tangent is linear with: inputs and record of a run; the fields as named there."""

    kernels: Kernels
    xs: jax.Array
    boundaries: Boundaries
    starts: Carry
    saved: Any


class Tangents(NamedTuple):
    """What a tangent is linear in; None (of a kernel too) where it is 0.

    Attributes:
      kernels, xs, carry, initial: of `Inputs`.
      added: to the carry after each step that is not skipped, each part (T, ..., H).
    """

    kernels: tuple[jax.Array | None, ...]
    xs: jax.Array | None
    carry: Carry
    initial: Carry
    added: Carry | None = None


def run_by_scan(settings: Settings, inputs: Inputs, *, save: bool, inside: bool) -> Run:
    """The recurrence as a scan.

    Args:
      settings: see there.
      inputs: see there.
      save: whether starts and what steps save are returned.
      inside: whether a step projects its own input, where its kernel is in cache already. On a CPU
        that is faster than one product over the whole sequence, whose result, four times as large
        as the carries, must be written to memory and read again. On an accelerator the fewer and
        the larger products win.
    """
    mathematics = settings.mathematics
    form = settings.form(inputs.kernels)
    pre_activations, ready = split_products(form, inputs.xs, inside=inside)

    def advance(start: Carry, at: Any) -> tuple[Carry, jax.Array, Any]:
        pre = split_blocks(mathematics.groups, pre_activations(start, at))
        after, saved = mathematics.advance(start, pre)
        return after, mathematics.hidden(after), (start, saved) if save else None

    spare = None if inputs.boundaries.valid is None else spare_carry(inputs.initial)
    body = within(advance, inputs.initial, spare, return_carries=settings.return_carries)
    last, (ys, carries, record) = lax.scan(
        body, inputs.carry, (ready, inputs.boundaries), reverse=settings.reverse
    )
    return Run(last, ys, carries, *(record or ()))


def split_products(
    form: FusedForm, xs: jax.Array, *, inside: bool
) -> tuple[Callable[[Carry, Any], Grouped], Any]:
    """What a step computes its pre-activations with, and what it is given to do so."""
    mathematics, kernels, kind = form
    if inside:

        def together(start: Carry, x: jax.Array) -> Grouped:
            values = seen(mathematics.groups, mathematics.hidden(start), x, kind)
            return tuple(map(functools.partial(affine, product_type=kind), values, kernels))

        return together, xs
    h_rows = state_rows(form, xs.shape[-1])

    def apart(start: Carry, z: Grouped) -> Grouped:
        h = mathematics.hidden(start)
        return tuple(
            u if w is None else u + product(h, w, kind) for u, w in zip(z, h_rows, strict=True)
        )

    return apart, projected(form, xs)


def projected(form: FusedForm, xs: jax.Array) -> Grouped:
    """What inputs and biases add to the pre-activations, by one product over all steps."""
    groups, kernels, kind = form.mathematics.groups, form.kernels, form.product_type
    no_state = tuple(group._replace(sees_state=False) for group in groups)
    own_rows = [
        kernel if w_h is None else kernel[w_h.shape[0] :]
        for kernel, w_h in zip(kernels, state_rows(form, xs.shape[-1]), strict=True)
    ]
    values = seen(no_state, xs, xs, kind)
    return tuple(map(functools.partial(affine, product_type=kind), values, own_rows))


def tangent_by_scan(
    settings: Settings, record: Recorded, tangents: Tangents, *, starts: bool
) -> Run:
    """The derivative of a run along tangents of what it was run on.

    What needs no recurrence is one product over many steps, [h_{t−1}, x_t, 1] K̇; what remains in
    the loop is ḣ_{t−1} K_h. It goes in chunks of steps that stay in the processor's cache, so that
    no array of pre-activations of the whole sequence is ever written, and the coefficients are made
    again chunk by chunk from what was saved.

    Args:
      settings: see there.
      record: of the run.
      tangents: see there.
      starts: whether the tangents of the starts are wanted.

    Returns:
      A `Run` of tangents, without what steps save.
    """
    mathematics, reverse = settings.mathematics, settings.reverse
    kernels, xs, *_ = record
    form, kind = settings.form(kernels), settings.product_type
    w_h = state_rows(form, xs.shape[-1])
    nothing = jax.tree.map(lambda a: jnp.zeros_like(a[0]), record.starts)
    d_carry = nothing if tangents.carry is None else tangents.carry
    d_initial = nothing if tangents.initial is None else tangents.initial

    def advance(d_carry: Carry, at: Any) -> tuple[Carry, jax.Array, Any]:
        coefficients, driven, added = at
        d_h = mathematics.hidden(d_carry)
        pre = [
            _added(u, None if w is None else product(d_h, w, kind))
            for u, w in zip(driven, w_h, strict=True)
        ]
        after = mathematics.tangent(coefficients, d_carry, in_blocks(form, pre, d_h))
        if added is not None:
            after = jax.tree.map(jnp.add, after, added)
        return after, mathematics.hidden(after), d_carry if starts else None

    # Coefficients are made again from what was saved, not kept.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def chunk(d_carry: Carry, part: Any) -> tuple[Carry, Any]:
        (xs, boundaries, starts_of, saved), d_xs, added = part
        driven = driven_by(form, tangents.kernels, starts_of, xs, d_xs)
        coefficients = mathematics.coefficients(starts_of, saved)
        spare = None if boundaries.valid is None else nothing
        body = within(advance, d_initial, spare, return_carries=settings.return_carries)
        steps = ((coefficients, driven, added), boundaries)
        return lax.scan(body, d_carry, steps, reverse=reverse)

    parts = (tuple(record[1:]), tangents.xs, tangents.added)
    every = even_interval(xs.shape[0], _CHUNK, most=2 * _CHUNK)
    last, (ys, carries, d_starts) = scan_chunks(chunk, d_carry, parts, every=every, reverse=reverse)
    return Run(last, ys, carries, d_starts)


def driven_by(
    form: FusedForm,
    d_kernels: tuple[jax.Array | None, ...],
    starts: Carry,
    xs: jax.Array,
    d_xs: jax.Array | None,
) -> tuple[jax.Array | None, ...]:
    """[h, x, 1] K̇ + ẋ K_x for all steps at once: what enters the tangent from outside the loop.

    By group, (T, ..., P); None where nothing does. K̇ is never rounded, so that neither is its
    transpose, the gradient by K.
    """
    mathematics, kernels, kind = form
    values = seen(mathematics.groups, mathematics.hidden(starts), xs, kind)
    rows = input_rows(form, xs.shape[-1])
    driven = []
    for value, kernel, d_kernel, w_x in zip(values, kernels, d_kernels, rows, strict=True):
        shape = (*xs.shape[:-1], kernel.shape[1])
        u = None
        # Flat, because the transpose is then a product that XLA runs without a copy.
        if d_kernel is not None:
            value = value.astype(d_kernel.dtype).reshape(-1, value.shape[-1])
            u = (value @ d_kernel).reshape(shape)
        if w_x is not None and d_xs is not None:
            u = _added(u, product(d_xs.reshape(-1, xs.shape[-1]), w_x, kind).reshape(shape))
        driven.append(u)
    return tuple(driven)


def in_blocks(form: FusedForm, grouped: Sequence[jax.Array | None], like: jax.Array) -> Blocks:
    """Blocks of pre-activations by group, zeros (..., H) as `like` where a group is None."""
    whole = [
        jnp.zeros((*like.shape[:-1], kernel.shape[1]), kernel.dtype) if u is None else u
        for u, kernel in zip(grouped, form.kernels, strict=True)
    ]
    return split_blocks(form.mathematics.groups, whole)


def _added(one: jax.Array | None, other: jax.Array | None) -> jax.Array | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other
