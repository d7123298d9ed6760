"""The recurrence of a cell in fused form, differentiated in one sweep.

The derivative of u_t = [h_{t−1}, x_t, 1] K by K needs no recurrence: it is one product over many
steps, [h_{t−1}, x_t, 1] K̇, and what remains inside the loop is ḣ_{t−1} K_h. Written as a tangent
(`custom_jvp`), that holds for forward mode as it stands, and for reverse mode by transposition: the
weights' gradient is then one product over many steps too, where a plain scan adds up T small ones.

Two things more make it fast. Tangents go in chunks of steps that stay in the processor's cache, so
that no array of pre-activations of the whole sequence is ever written. And what is saved by the
forward pass is the gates alone; coefficients are recomputed chunk by chunk.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from rnn_jax.cells.structure import (
    FusedForm,
    Grouped,
    UnitMathematics,
    input_rows,
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
    """What is fixed when a call is compiled."""

    mathematics: UnitMathematics
    reverse: bool
    return_carries: bool


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def fused_scan(
    settings: Settings,
    kernels: Kernels,
    xs: jax.Array,
    boundaries: Boundaries,
    carry: Carry,
    initial: Carry,
) -> tuple[Carry, jax.Array, Carry | None]:
    """Runs a cell in fused form over sequences that lie side by side, time first.

    Args:
      settings: the cell's mathematics and the direction.
      kernels: as in `FusedForm`, of one type with the inputs and carries.
      xs: inputs, (T, ..., I).
      boundaries: of the sequences, (T, ...).
      carry: where to start, each part (..., H).
      initial: where sequences start that begin within a row, likewise.

    Returns:
      (last carry, ys (T, ..., H), the carries (T, ..., H) or None), as `lax.scan` over the cell
      gives.
    """
    last, (ys, carries, _) = _forward(settings, kernels, xs, boundaries, carry, initial, save=False)
    return last, ys, carries


def _jvp(settings: Settings, primals: Any, tangents: Any) -> tuple[Any, Any]:
    kernels, xs, boundaries, carry, initial = primals
    last, (ys, carries, (starts, saved)) = _forward(
        settings, kernels, xs, boundaries, carry, initial, save=True
    )
    d_kernels, d_xs, _, d_carry, d_initial = tangents
    d_carry, d_initial = _instantiated(d_carry, carry), _instantiated(d_initial, initial)
    mathematics, reverse, return_carries = settings
    form = FusedForm(mathematics, kernels)
    w_h = state_rows(form, xs.shape[-1])
    no_tangent = None if boundaries.valid is None else jax.tree.map(jnp.zeros_like, initial)

    def advance(d_carry: Carry, at: Any) -> tuple[Carry, jax.Array, None]:
        coefficients, driven = at
        d_h = mathematics.hidden(d_carry)
        pre = tuple(u if w is None else u + d_h @ w for u, w in zip(driven, w_h, strict=True))
        after = mathematics.tangent(coefficients, d_carry, split_blocks(mathematics.groups, pre))
        return after, mathematics.hidden(after), None

    # Coefficients are made again from what was saved, not kept.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def chunk(d_carry: Carry, part: Any) -> tuple[Carry, Any]:
        xs, d_xs, starts, saved, boundaries = part
        driven = _drive(form, d_kernels, starts, xs, d_xs)
        coefficients = mathematics.coefficients(starts, saved)
        body = within(advance, d_initial, no_tangent, return_carries=return_carries)
        return lax.scan(body, d_carry, ((coefficients, driven), boundaries), reverse=reverse)

    parts = (xs, _none_if_zero(d_xs), starts, saved, boundaries)
    every = even_interval(xs.shape[0], _CHUNK, most=2 * _CHUNK)
    d_last, (d_ys, d_carries, _) = scan_chunks(chunk, d_carry, parts, every=every, reverse=reverse)
    return (last, ys, carries), (d_last, d_ys, d_carries)


fused_scan.defjvp(_jvp, symbolic_zeros=True)


def _forward(
    settings: Settings,
    kernels: Kernels,
    xs: jax.Array,
    boundaries: Boundaries,
    carry: Carry,
    initial: Carry,
    *,
    save: bool,
) -> tuple[Carry, Any]:
    """The scan; with `save`, it also stacks the carry before each step and the step's gates."""
    mathematics, reverse, return_carries = settings
    pre_activations, inputs = _split(FusedForm(mathematics, kernels), xs)

    def advance(start: Carry, at: Any) -> tuple[Carry, jax.Array, Any]:
        pre = split_blocks(mathematics.groups, pre_activations(start, at))
        after, saved = mathematics.advance(start, pre)
        return after, mathematics.hidden(after), (start, saved) if save else None

    spare = None if boundaries.valid is None else spare_carry(initial)
    body = within(advance, initial, spare, return_carries=return_carries)
    return lax.scan(body, carry, (inputs, boundaries), reverse=reverse)


def _split(form: FusedForm, xs: jax.Array) -> tuple[Callable[[Carry, Any], Grouped], Any]:
    """What a step computes its pre-activations with, and what it is given to do so."""
    mathematics, kernels = form
    if projects_inside():

        def together(start: Carry, x: jax.Array) -> Grouped:
            values = seen(mathematics.groups, mathematics.hidden(start), x)
            return tuple(value @ kernel for value, kernel in zip(values, kernels, strict=True))

        return together, xs
    # What the input and the bias add, in one product over all steps.
    no_state = tuple(group._replace(sees_state=False) for group in mathematics.groups)
    h_rows = state_rows(form, xs.shape[-1])
    own_rows = [
        kernel if w_h is None else kernel[w_h.shape[0] :]
        for kernel, w_h in zip(kernels, h_rows, strict=True)
    ]
    zs = tuple(value @ rows for value, rows in zip(seen(no_state, xs, xs), own_rows, strict=True))

    def apart(start: Carry, z: Grouped) -> Grouped:
        h = mathematics.hidden(start)
        return tuple(u if w is None else u + h @ w for u, w in zip(z, h_rows, strict=True))

    return apart, zs


def projects_inside() -> bool:
    """Whether a step projects its own input, where its kernel is in cache already.

    On a CPU that is faster than one product over the whole sequence, whose result, four times as
    large as the carries, must be written to memory and read again. On an accelerator the fewer and
    the larger products win.
    """
    return jax.default_backend() == "cpu"


def _drive(
    form: FusedForm,
    d_kernels: Kernels,
    starts: Carry,
    xs: jax.Array,
    d_xs: jax.Array | None,
) -> Grouped:
    """[h, x, 1] K̇ + ẋ K_x for all steps at once: what enters the tangent from outside the loop."""
    mathematics, kernels = form
    values = seen(mathematics.groups, mathematics.hidden(starts), xs)
    rows = input_rows(form, xs.shape[-1])
    driven = []
    for value, kernel, d_kernel, w_x in zip(values, kernels, d_kernels, rows, strict=True):
        shape = (*xs.shape[:-1], kernel.shape[1])
        u = jnp.zeros(shape, kernel.dtype)
        # Flat, because the transpose is then a product that XLA runs without a copy.
        if not isinstance(d_kernel, SymbolicZero):
            u = (value.reshape(-1, value.shape[-1]) @ d_kernel).reshape(shape)
        if w_x is not None and d_xs is not None:
            u = u + (d_xs.reshape(-1, xs.shape[-1]) @ w_x).reshape(shape)
        driven.append(u)
    return tuple(driven)


def _none_if_zero(tangent: Any) -> Any:
    return None if isinstance(tangent, SymbolicZero) else tangent


def _instantiated(tangents: Any, primals: Any) -> Any:
    """Tangents with symbolic zeros written out."""
    return jax.tree.map(
        lambda p, t: jnp.zeros_like(p) if isinstance(t, SymbolicZero) else t, primals, tangents
    )
