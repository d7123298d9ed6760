"""The tangent of a recurrence as the solution of a linear system, to be differentiated again.

With carries c_t after each step, A_t the derivative of a step by its carry, and what drives it,

ċ_0 = ċ,    ċ_t − A_t ċ_{t−1} = b_t

is block-bidiagonal. `lax.custom_linear_solve` is told how to solve it and its transpose, each one
recurrence, and differentiates nothing but the left-hand side, which takes all steps at once: so
each higher derivative costs some more of the same recurrences, and parallel work.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.cells.stages import Products, Saved, advance_step, coefficients_of, tangent_step
from rnn_jax.cells.structure import FusedForm, stages_of, state_rows
from rnn_jax.sequence.running.boundaries import Boundaries, select
from rnn_jax.sequence.running.scanned import (
    Carry,
    Inputs,
    Recorded,
    Run,
    Settings,
    Tangents,
    driven_by,
    split_products,
    tangent_products,
)


class Unknowns(NamedTuple):
    """Of the system, and with the same fields its right-hand side.

    Attributes:
      carry: the tangent where the run starts, each part (..., H).
      initial: that where sequences start, likewise.
      after: those after each step, each part (T, ..., H), in the order in which they are run.
    """

    carry: Carry
    initial: Carry
    after: Carry

    def packed(self) -> jax.Array:
        """In one array, (2 + T, parts, ..., H).

        JAX transposes a solve only if every array of the right-hand side is linear in what is
        differentiated, and the tangent of a carry may be a constant 0.
        """
        ahead = jax.tree.map(lambda a, b: jnp.stack([a, b]), self.carry, self.initial)
        whole = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), ahead, self.after)
        return jnp.stack(jax.tree.leaves(whole), axis=1)

    @classmethod
    def unpacked(cls, array: jax.Array, like: Carry) -> "Unknowns":
        """The inverse, `like` being any carry."""
        structure = jax.tree.structure(like)
        parts = [jnp.squeeze(part, 1) for part in jnp.split(array, array.shape[1], axis=1)]
        fields = [[part[at] for part in parts] for at in (0, 1, slice(2, None))]
        return cls(*(jax.tree.unflatten(structure, field) for field in fields))


# (settings with carries, record, tangents) -> the tangents after each step, in the order of time.
Solve = Callable[[Settings, Recorded, Tangents], Carry]
# (settings, record, cotangents of these) -> Tangents of carry, initial and added.
TransposeSolve = Callable[[Settings, Recorded, Carry], Tangents]


def tangent_by_system(
    settings: Settings,
    record: Recorded,
    tangents: Tangents,
    *,
    starts: bool,
    solve: Solve,
    transpose_solve: TransposeSolve,
) -> Run:
    """As `tangent_by_scan`, in a form that every mode of differentiation takes.

    Args:
      settings, record, tangents, starts: as there.
      solve, transpose_solve: run the recurrence of tangents and its transpose.
    """
    in_order = _flipped if settings.reverse else _same
    carries = settings._replace(return_carries=True)
    kernels, *steps = record
    ordered = Recorded(kernels, *in_order(steps))
    nothing = jax.tree.map(lambda a: jnp.zeros_like(a[0]), record.starts)
    first = nothing if tangents.carry is None else tangents.carry
    initial = nothing if tangents.initial is None else tangents.initial
    driven = _driven(settings, ordered, tangents._replace(xs=in_order(tangents.xs)))
    if tangents.added is not None:
        valid = ordered.boundaries.valid
        added = in_order(tangents.added)
        added = added if valid is None else _masked(valid, added)
        driven = jax.tree.map(jnp.add, driven, added)

    def left(packed: jax.Array) -> jax.Array:
        unknowns = Unknowns.unpacked(packed, nothing)
        moved = _moved(settings, ordered, _before(unknowns), unknowns.initial)
        after = jax.tree.map(jnp.subtract, unknowns.after, moved)
        return unknowns._replace(after=after).packed()

    def solved(_: Any, packed: jax.Array) -> jax.Array:
        right = Unknowns.unpacked(packed, nothing)
        absent = (None,) * len(record.kernels)
        of = Tangents(absent, None, right.carry, right.initial, in_order(right.after))
        return right._replace(after=in_order(solve(carries, record, of))).packed()

    def solved_transposed(_: Any, packed: jax.Array) -> jax.Array:
        right = Unknowns.unpacked(packed, nothing)
        found = transpose_solve(carries, record, in_order(right.after))
        return Unknowns(
            jax.tree.map(jnp.add, right.carry, found.carry),
            jax.tree.map(jnp.add, right.initial, found.initial),
            in_order(found.added),
        ).packed()

    right = Unknowns(first, initial, driven).packed()
    packed = lax.custom_linear_solve(left, right, solved, solved_transposed)
    unknowns = Unknowns.unpacked(packed, nothing)
    after, valid = unknowns.after, ordered.boundaries.valid
    ys = settings.mathematics.hidden(after)
    from_starts = _starts(ordered.boundaries, _before(unknowns), unknowns.initial)
    return Run(
        last=jax.tree.map(lambda a: a[-1], after),
        ys=in_order(ys if valid is None else _masked(valid, ys)),
        carries=in_order(after) if settings.return_carries else None,
        starts=in_order(from_starts) if starts else None,
    )


def saved_by_steps(settings: Settings, inputs: Inputs, starts: Carry) -> Saved:
    """What steps save, of all steps at once, from the carries that they were computed from."""
    form = settings.form(inputs.kernels)
    products_of, ready = split_products(form, inputs.xs, inside=False)
    return advance_step(settings.mathematics, starts, products_of(ready))[1]


def _moved(settings: Settings, record: Recorded, before: Carry, initial: Carry) -> Carry:
    """A_t applied to the tangents before each step, (T, ..., H); skipped steps hand them on."""
    boundaries, form = record.boundaries, settings.form(record.kernels)
    starts = _starts(boundaries, before, initial)
    nothing = (None,) * len(form.kernels)
    rows = state_rows(form, record.xs.shape[-1])
    after = _stepped(record, form, starts, tangent_products(form, rows, nothing, like=starts))
    if boundaries.valid is None:
        return after
    return select(boundaries.valid, after, _entering(boundaries, before, initial))


def _driven(settings: Settings, record: Recorded, tangents: Tangents) -> Carry:
    """What weights and inputs add to the tangent after each step, 0 where it is skipped."""
    valid, form = record.boundaries.valid, settings.form(record.kernels)
    driven = driven_by(form, record, tangents.kernels, tangents.xs)
    nothing = jax.tree.map(jnp.zeros_like, record.starts)
    if all(u is None for u in driven):
        return nothing
    # What groups of the first stage see has no tangent here.
    of_first = len(stages_of(form.mathematics)[0].groups)
    rows = state_rows(form, record.xs.shape[-1])
    later = [None if k < of_first else w for k, w in enumerate(rows)]
    after = _stepped(record, form, nothing, tangent_products(form, later, driven, like=nothing))
    return after if valid is None else _masked(valid, after)


def _stepped(record: Recorded, form: FusedForm, starts: Carry, products: Products) -> Carry:
    """The tangents after each step from those before, all steps at once."""
    coefficients = coefficients_of(form.mathematics, record.starts, record.saved)
    return tangent_step(form.mathematics, coefficients, starts, products)


def _before(unknowns: Unknowns) -> Carry:
    """The tangents before each step, as they come from the step before."""
    return jax.tree.map(
        lambda first, after: jnp.concatenate([first[None], after[:-1]]),
        unknowns.carry,
        unknowns.after,
    )


def _entering(boundaries: Boundaries, before: Carry, initial: Carry) -> Carry:
    """The tangents that enter each step: of the initial carry where a sequence starts."""
    if boundaries.resets is None:
        return before
    start = jax.tree.map(lambda i, b: jnp.broadcast_to(i[None], b.shape), initial, before)
    return select(boundaries.resets, start, before)


def _starts(boundaries: Boundaries, before: Carry, initial: Carry) -> Carry:
    """The tangents of what each step is computed from: 0 where it is skipped."""
    entering = _entering(boundaries, before, initial)
    return entering if boundaries.valid is None else _masked(boundaries.valid, entering)


def _masked(valid: jax.Array, tree: Any) -> Any:
    return select(valid, tree, jax.tree.map(jnp.zeros_like, tree))


def _flipped(tree: Any) -> Any:
    return jax.tree.map(lambda a: jnp.flip(a, 0), tree)


def _same(tree: Any) -> Any:
    return tree
