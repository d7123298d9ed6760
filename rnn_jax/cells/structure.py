"""What a cell must tell for its recurrence to be differentiated in one sweep.

`rnn_jax.sequence.running.fused_scan` runs and differentiates a recurrence whose only weights are
those of affine maps of the state and the input, and whose other mathematics acts on each unit by
itself:

u_t = [h_{t−1}, x_t, 1] K    for each kernel K,        carry_t = φ(carry_{t−1}, u_t)

φ speaks in *blocks*, arrays (..., H) with one number a unit: each part of the carry is one, each
gate has one of pre-activations. So it can be traced by a loop over whole sequences as it can by a
kernel that holds a few units of a few rows on a chip. Blocks that see the same lie side by side in
one kernel: a *group*.

A cell of that form describes itself by a `FusedForm`; its `step` remains the definition, and the
oracle that the tests hold this form against.
"""

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rnn_jax.cells.claims import claim, owner_of

Carry = Any
# A tuple of arrays (..., H): pre-activations by block, or what a step saves.
Blocks = tuple[jax.Array, ...]
# Pre-activations by group, (..., blocks · H) each.
Grouped = tuple[jax.Array, ...]


class Group(NamedTuple):
    """Pre-activations that are one product with one kernel.

    Attributes:
      blocks: how many.
      sees_state: whether they see h.
      sees_input: whether they see x.
    """

    blocks: int
    sees_state: bool
    sees_input: bool


Groups = tuple[Group, ...]


class UnitMathematics(Protocol):
    """φ and its derivative, unit by unit. Holds no arrays and hashes, so that `jit` can key on it.

    No method may join or cut blocks, or mix their units.
    """

    @property
    def groups(self) -> Groups:
        """What the blocks of pre-activations see, in their order."""

    def advance(self, carry: Carry, pre: Blocks) -> tuple[Carry, Blocks]:
        """(the carry after the step, what `coefficients` needs of it)."""

    def coefficients(self, carry: Carry, saved: Blocks) -> Any:
        """The blocks that `tangent` is linear with, from the carry before the step."""

    def tangent(self, coefficients: Any, carry: Carry, pre: Blocks) -> Carry:
        """The derivative of `advance` applied to tangents of its two arguments."""

    def hidden(self, carry: Carry) -> jax.Array:
        """The part of the carry that the kernels see, which is also the output."""


class FusedForm(NamedTuple):
    """A cell as affine maps and mathematics that act on each unit by itself.

    Attributes:
      mathematics: φ and its derivative.
      kernels: for each group the rows for h (if seen), for x (if seen) and one row of biases:
        shape (H + I + 1, blocks · H) where both are seen.
    """

    mathematics: UnitMathematics
    kernels: tuple[jax.Array, ...]


def fused_form(cell: Any) -> FusedForm | None:
    """The cell's `FusedForm`; None if it has none that holds for the mathematics it runs."""
    form = claim(cell, "fused_form")
    return None if form is None else form()


def fused_form_for(cell: Any, xs: Any, carry: Carry) -> FusedForm | None:
    """The cell's `FusedForm`, if its kernels, the inputs and the carry are all of one type.

    Whole numbers are of every type, being cast to that of the kernels.
    """
    form = fused_form(cell)
    if form is None or not hasattr(xs, "dtype"):  # Several inputs are for another step.
        return None
    kind = xs.dtype if jnp.issubdtype(xs.dtype, jnp.inexact) else form.kernels[0].dtype
    types = {kind} | {leaf.dtype for leaf in jax.tree.leaves((form.kernels, carry))}
    computed_in = getattr(owner_of(cell), "dtype", None) or kind
    return form if types == {jnp.dtype(computed_in)} else None


def split_blocks(groups: Groups, grouped: Iterable[jax.Array]) -> Blocks:
    """Blocks (..., H) of pre-activations by group (..., blocks · H)."""
    parts = [
        jnp.split(pre, group.blocks, axis=-1) if group.blocks > 1 else [pre]
        for group, pre in zip(groups, grouped, strict=True)
    ]
    return tuple(itertools.chain.from_iterable(parts))


def join_blocks(groups: Groups, blocks: Iterable[jax.Array]) -> Grouped:
    """The inverse of `split_blocks`."""
    rest = iter(blocks)
    return tuple(
        jnp.concatenate(list(itertools.islice(rest, group.blocks)), axis=-1) for group in groups
    )


def seen(groups: Groups, h: jax.Array, x: jax.Array) -> list[jax.Array]:
    """[h, x, 1] for each group, without what it does not see."""
    one = jnp.ones((*x.shape[:-1], 1), x.dtype)
    return [
        jnp.concatenate(
            [*([h] if group.sees_state else []), *([x] if group.sees_input else []), one], axis=-1
        )
        for group in groups
    ]


def state_rows(form: FusedForm, features: int) -> list[jax.Array | None]:
    """The rows of each kernel that the state meets, (H, P); None where it does not see it."""
    return [
        kernel[: -1 - (features if group.sees_input else 0)] if group.sees_state else None
        for kernel, group in zip(form.kernels, form.mathematics.groups, strict=True)
    ]


def input_rows(form: FusedForm, features: int) -> list[jax.Array | None]:
    """The rows of each kernel that the input meets, (I, P); None where it does not see it."""
    return [
        kernel[-1 - features : -1] if group.sees_input else None
        for kernel, group in zip(form.kernels, form.mathematics.groups, strict=True)
    ]
