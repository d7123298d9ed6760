"""What a cell must tell for its recurrence to be differentiated in one sweep.

`rnn_jax.sequence.running.fused_scan` runs and differentiates a recurrence whose only weights are
those of affine maps of the state and the input, and whose other mathematics acts on each unit by
itself:

u_t = [h_{t−1}, x_t, 1] K    for each kernel K,        carry_t = φ(carry_{t−1}, u_t)

Where a cell multiplies in a narrower type than it keeps its carry in, values and weights are
rounded to it for a product, which is added up in the wider one. The row of K that meets 1, the
biases, is not rounded.

φ speaks in *blocks*, arrays (..., H) with one number a unit: each part of the carry is one, each
gate has one of pre-activations. So it can be traced by a loop over whole sequences as it can by a
kernel that holds a few units of a few rows on a chip. Blocks that see the same lie side by side in
one kernel: a *group*. As h a group sees the output, or whatever parts of the carry it names.

Where what φ computes meets weights in its turn, a step has several *stages*:

m_0 = carry_{t−1},    u_k = [parts of m_k, x_t, 1] K,    m_{k+1} = φ_k(m_k, u_k)

with m_k as many blocks as are needed, and the carry after the step at the end.

A cell of that form describes itself by a `FusedForm`; its `step` remains the definition, and the
oracle that the tests hold this form against. `rnn_jax.cells.stages` goes through a step.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
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
      parts: what h is: these parts of the carry, or of what the stage before computed, side by
        side; None is the output of the step before, and of the first stage alone.
    """

    blocks: int
    sees_state: bool
    sees_input: bool
    parts: tuple[int, ...] | None = None


Groups = tuple[Group, ...]


class Stage(Protocol):
    """φ and its derivative, unit by unit, in a step of one stage; else of one of them.

    Holds no arrays and hashes, so that `jit` can key on it. No method may join or cut blocks, or
    mix their units. `start` is the carry before the step or, in a later stage, a tuple of blocks.
    """

    @property
    def groups(self) -> Groups:
        """What the blocks of pre-activations see, in their order."""

    def advance(self, start: Any, pre: Blocks) -> tuple[Any, Blocks]:
        """(what it becomes, what `coefficients` needs of it)."""

    def coefficients(self, start: Any, saved: Blocks) -> Any:
        """The blocks that `tangent` is linear with."""

    def tangent(self, coefficients: Any, start: Any, pre: Blocks) -> Any:
        """The derivative of `advance` applied to tangents of its two arguments."""


class EarlyStage(Stage, Protocol):
    """A stage that another one follows."""

    def after(self, start: Any, saved: Blocks) -> tuple[jax.Array, ...]:
        """What `start` becomes, computed once more from what was saved."""


class UnitMathematics(Stage, Protocol):
    """The mathematics of a step in one stage."""

    def hidden(self, carry: Carry) -> jax.Array:
        """The output, of the carry after a step; what groups see in the next that name no parts.

        A part of the carry, or, where all groups name theirs, some of them joined.
        """


@dataclass(frozen=True)
class Stages:
    """The mathematics of a step in several stages.

    Attributes:
      early: the stages before the last.
      last: the last one, which gives the carry after the step.
      output: which part of the carry is the output; None of a carry that is one array.
    """

    early: tuple[EarlyStage, ...]
    last: Stage
    output: int | None = None

    def hidden(self, carry: Carry) -> jax.Array:
        """See `UnitMathematics`."""
        found: jax.Array = carry if self.output is None else carry[self.output]
        return found


Mathematics = UnitMathematics | Stages


def stages_of(mathematics: Mathematics) -> tuple[Stage, ...]:
    """The stages of a step, in their order."""
    if isinstance(mathematics, Stages):
        return (*mathematics.early, mathematics.last)
    return (mathematics,)


def groups_of(mathematics: Mathematics) -> Groups:
    """The groups of all stages, in the order of the kernels."""
    return tuple(itertools.chain.from_iterable(stage.groups for stage in stages_of(mathematics)))


def sees_output_alone(mathematics: Mathematics) -> bool:
    """Whether one stage is all, and what it sees of the carry is nothing but the output."""
    return not isinstance(mathematics, Stages) and all(
        group.parts is None for group in mathematics.groups
    )


class FusedForm(NamedTuple):
    """A cell as affine maps and mathematics that act on each unit by itself.

    Attributes:
      mathematics: φ and its derivative.
      kernels: for each group, stage by stage, the rows for h (if seen), for x (if seen) and one row
        of biases: shape (H + I + 1, blocks · H) where both are seen, h being one part.
      product_type: in which values are multiplied, narrower than the kernels'; None is theirs.
    """

    mathematics: Mathematics
    kernels: tuple[jax.Array, ...]
    product_type: Any = None

    @property
    def input_type(self) -> Any:
        """The type of inputs."""
        return self.kernels[0].dtype if self.product_type is None else self.product_type


def fused_form(cell: Any) -> FusedForm | None:
    """The cell's `FusedForm`; None if it has none that holds for the mathematics it runs."""
    form = claim(cell, "fused_form")
    return None if form is None else form()


def fused_form_for(cell: Any, xs: Any, carry: Carry) -> FusedForm | None:
    """The cell's `FusedForm`, if its kernels, the inputs and the carry are all of one type.

    Whole numbers are of every type, being cast to that of the kernels. Or if the cell says that it
    multiplies in a narrower type than it keeps its carry in: kernels are then of the carry's type,
    and inputs are cast to the narrow one, whatever they are.
    """
    form = fused_form(cell)
    if form is None or not hasattr(xs, "dtype"):  # Several inputs are for another step.
        return None
    multiplied, kept = (getattr(owner_of(cell), name, None) for name in ("dtype", "carry_dtype"))
    if multiplied is not None and kept is not None and multiplied != kept:
        return _of_two_types(form, xs, carry, jnp.dtype(multiplied), jnp.dtype(kept))
    kind = xs.dtype if jnp.issubdtype(xs.dtype, jnp.inexact) else form.kernels[0].dtype
    types = {kind} | {leaf.dtype for leaf in jax.tree.leaves((form.kernels, carry))}
    return form if types == {jnp.dtype(multiplied or kind)} else None


def _of_two_types(
    form: FusedForm, xs: Any, carry: Carry, multiplied: Any, kept: Any
) -> FusedForm | None:
    """The form with products of one type and all else of another; None where that is not so."""
    # The range of float16 is too small for what a step may well compute.
    is_narrower = multiplied in (jnp.bfloat16, jnp.float32) and _holds(kept, multiplied)
    holds_weights = all(_holds(kept, kernel.dtype) for kernel in form.kernels)
    is_kept = all(leaf.dtype == kept for leaf in jax.tree.leaves(carry))
    if not (is_narrower and holds_weights and is_kept) or _is_complex(xs):
        return None
    return FusedForm(
        form.mathematics, tuple(kernel.astype(kept) for kernel in form.kernels), multiplied
    )


def _holds(wide: Any, narrow: Any) -> bool:
    """Whether one type of floats holds all numbers of another."""
    one, other = jnp.finfo(wide), jnp.finfo(narrow)
    return bool(one.nmant >= other.nmant and one.maxexp >= other.maxexp)


def _is_complex(array: Any) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.complexfloating))


def split_blocks(groups: Groups, grouped: Iterable[jax.Array]) -> Blocks:
    """Blocks (..., H) of pre-activations by group (..., blocks · H)."""
    parts = [
        jnp.split(pre, group.blocks, axis=-1) if group.blocks > 1 else [pre]
        for group, pre in zip(groups, grouped, strict=True)
    ]
    return tuple(itertools.chain.from_iterable(parts))


def product(values: jax.Array, rows: jax.Array, product_type: Any) -> jax.Array:
    """Values times rows of a kernel, added up in the kernel's own type; see `FusedForm`."""
    if product_type is None:
        return values @ rows
    return jnp.matmul(
        values.astype(product_type),
        rows.astype(product_type),
        preferred_element_type=rows.dtype,
    )


def affine(values: jax.Array, rows: jax.Array, product_type: Any) -> jax.Array:
    """Values [h, x, 1], or the last of these, times rows of a kernel down to its biases."""
    if product_type is None:
        return values @ rows
    u = product(values[..., :-1], rows[:-1], product_type)
    return u + jnp.broadcast_to(rows[-1], u.shape)


def seen(group: Group, h: jax.Array | None, x: jax.Array, product_type: Any = None) -> jax.Array:
    """[h, x, 1] without what a group does not see, in the type of products.

    Args:
      group: see there.
      h: the state that it sees; None if it sees none, or none is meant.
      x: inputs, (..., I).
      product_type: see `FusedForm`.
    """
    values = [*([] if h is None else [h]), *([x] if group.sees_input else [])]
    one = jnp.ones((*x.shape[:-1], 1), x.dtype)
    kind = x.dtype if product_type is None else product_type
    return jnp.concatenate([value.astype(kind) for value in (*values, one)], axis=-1)


def state_rows(form: FusedForm, features: int) -> list[jax.Array | None]:
    """The rows of each kernel that the state meets, (H, P); None where it does not see it."""
    return [
        kernel[: -1 - (features if group.sees_input else 0)] if group.sees_state else None
        for kernel, group in zip(form.kernels, groups_of(form.mathematics), strict=True)
    ]


def input_rows(form: FusedForm, features: int) -> list[jax.Array | None]:
    """The rows of each kernel that the input meets, (I, P); None where it does not see it."""
    return [
        kernel[-1 - features : -1] if group.sees_input else None
        for kernel, group in zip(form.kernels, groups_of(form.mathematics), strict=True)
    ]
