"""The recurrence of a fused form and its tangent as plain scans: the form that holds everywhere.

`recurrence.py` lowers to these where no kernel runs, and the tests hold the kernels against them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.cells.stages import (
    Products,
    Saved,
    advance_step,
    coefficients_of,
    products_at,
    states_seen,
    tangent_step,
)
from rnn_jax.cells.structure import (
    FusedForm,
    Grouped,
    Mathematics,
    affine,
    groups_of,
    input_rows,
    product,
    seen,
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

    mathematics: Mathematics
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
      saved: what the tangent needs of each step, blocks (T, ..., H) by stage.
    """

    last: Carry
    ys: jax.Array
    carries: Carry | None = None
    starts: Carry | None = None
    saved: Saved | None = None


class Recorded(NamedTuple):
    """What a tangent is linear with: inputs and record of a run; the fields as named there."""

    kernels: Kernels
    xs: jax.Array
    boundaries: Boundaries
    starts: Carry
    saved: Saved


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
    products_of, ready = split_products(settings.form(inputs.kernels), inputs.xs, inside=inside)

    def advance(start: Carry, at: Any) -> tuple[Carry, jax.Array, Any]:
        after, saved = advance_step(mathematics, start, products_of(at))
        return after, mathematics.hidden(after), (start, saved) if save else None

    spare = None if inputs.boundaries.valid is None else spare_carry(inputs.initial)
    body = within(advance, inputs.initial, spare, return_carries=settings.return_carries)
    last, (ys, carries, record) = lax.scan(
        body, inputs.carry, (ready, inputs.boundaries), reverse=settings.reverse
    )
    return Run(last, ys, carries, *(record or ()))


def split_products(
    form: FusedForm, xs: jax.Array, *, inside: bool
) -> tuple[Callable[[Any], Products], Any]:
    """How a step computes its pre-activations from what it is given to do so, and that."""
    if inside:
        return functools.partial(products_at, form), xs
    h_rows, kind = state_rows(form, xs.shape[-1]), form.product_type

    def apart(z: Grouped) -> Products:
        def products(k: int, h: jax.Array | None) -> jax.Array:
            w = h_rows[k]
            return z[k] if h is None or w is None else z[k] + product(h, w, kind)

        return products

    return apart, projected(form, xs)


def projected(form: FusedForm, xs: jax.Array) -> Grouped:
    """What inputs and biases add to the pre-activations, by one product over all steps."""
    kind = form.product_type
    return tuple(
        affine(seen(group, None, xs, kind), kernel if w_h is None else kernel[w_h.shape[0] :], kind)
        for group, kernel, w_h in zip(
            groups_of(form.mathematics), form.kernels, state_rows(form, xs.shape[-1]), strict=True
        )
    )


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
    form = settings.form(record.kernels)
    w_h = state_rows(form, record.xs.shape[-1])
    nothing = jax.tree.map(lambda a: jnp.zeros_like(a[0]), record.starts)
    d_carry = nothing if tangents.carry is None else tangents.carry
    d_initial = nothing if tangents.initial is None else tangents.initial

    def advance(d_carry: Carry, at: Any) -> tuple[Carry, jax.Array, Any]:
        coefficients, driven, added = at
        products = tangent_products(form, w_h, driven, like=d_carry)
        after = tangent_step(mathematics, coefficients, d_carry, products)
        if added is not None:
            after = jax.tree.map(jnp.add, after, added)
        return after, mathematics.hidden(after), d_carry if starts else None

    # Coefficients are made again from what was saved, not kept.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def chunk(d_carry: Carry, part: Any) -> tuple[Carry, Any]:
        steps, d_xs, added = part
        of_chunk = Recorded(record.kernels, *steps)
        driven = driven_by(form, of_chunk, tangents.kernels, d_xs)
        coefficients = coefficients_of(mathematics, of_chunk.starts, of_chunk.saved)
        boundaries = of_chunk.boundaries
        spare = None if boundaries.valid is None else nothing
        body = within(advance, d_initial, spare, return_carries=settings.return_carries)
        return lax.scan(body, d_carry, ((coefficients, driven, added), boundaries), reverse=reverse)

    parts = (tuple(record[1:]), tangents.xs, tangents.added)
    every = even_interval(record.xs.shape[0], _CHUNK, most=2 * _CHUNK)
    last, (ys, carries, d_starts) = scan_chunks(chunk, d_carry, parts, every=every, reverse=reverse)
    return Run(last, ys, carries, d_starts)


def driven_by(
    form: FusedForm,
    record: Recorded,
    d_kernels: tuple[jax.Array | None, ...],
    d_xs: jax.Array | None,
) -> tuple[jax.Array | None, ...]:
    """[h, x, 1] K̇ + ẋ K_x for all steps at once: what enters the tangent from outside the loop.

    By group, (T, ..., P); None where nothing does. K̇ is never rounded, so that neither is its
    transpose, the gradient by K.
    """
    mathematics, kernels, kind = form
    xs = record.xs
    states = states_seen(mathematics, record.starts, record.saved)
    rows = input_rows(form, xs.shape[-1])
    driven = []
    for k, group in enumerate(groups_of(mathematics)):
        d_kernel, w_x = d_kernels[k], rows[k]
        shape = (*xs.shape[:-1], kernels[k].shape[1])
        u = None
        # Flat, because the transpose is then a product that XLA runs without a copy.
        if d_kernel is not None:
            value = seen(group, states[k], xs, kind).astype(d_kernel.dtype)
            u = (value.reshape(-1, value.shape[-1]) @ d_kernel).reshape(shape)
        if w_x is not None and d_xs is not None:
            u = _added(u, product(d_xs.reshape(-1, xs.shape[-1]), w_x, kind).reshape(shape))
        driven.append(u)
    return tuple(driven)


def tangent_products(
    form: FusedForm,
    w_h: Sequence[jax.Array | None],
    driven: Sequence[jax.Array | None],
    *,
    like: Carry,
) -> Products:
    """ḣ K_h and what else enters the tangents of pre-activations.

    Args:
      form: of the cell.
      w_h: K_h by group, (H, P); None where the state is not seen or has no tangent.
      driven: by group, (..., P); None where nothing else enters.
      like: any carry of these rows, (..., H) a part.
    """
    rows = jax.tree.leaves(like)[0].shape[:-1]

    def products(k: int, d_h: jax.Array | None) -> jax.Array:
        w = w_h[k]
        u = driven[k]
        if d_h is not None and w is not None:
            u = _added(u, product(d_h, w, form.product_type))
        kernel = form.kernels[k]
        return jnp.zeros((*rows, kernel.shape[1]), kernel.dtype) if u is None else u

    return products


def _added(one: jax.Array | None, other: jax.Array | None) -> jax.Array | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other
