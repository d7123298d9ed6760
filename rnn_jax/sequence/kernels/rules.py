"""What the kernels run: a rule for one step, and the records of what goes in and comes out.

Shapes: M members (copies with weights of their own), T steps, B rows, H units.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Arrays = tuple[jax.Array, ...]
# One array for each part of the carry; None where it was not asked for.
Parts = tuple[jax.Array | None, ...]


class Group(NamedTuple):
    """Blocks of pre-activations, (B, H) each, that share one product with the state.

    Attributes:
      blocks: how many.
      sees_state: whether there is such a product; without one the drive is all there is.
    """

    blocks: int
    sees_state: bool


class StepRule(NamedTuple):
    """One step of a recurrence whose mathematics acts on each unit by itself.

    Forward: u = drive + h W, (carry, emitted) = function(carry, u, streams).
    Adjoint: (λ before by the direct path, cotangents of u) = function(λ after, streams).

    Static and hashable. All values are tuples of arrays of one shape (rows, units).

    Attributes:
      groups: the blocks of u, in order.
      parts: arrays in the carry.
      hidden: which of them is h, the one that the products see.
      function: the mathematics.
      emits: arrays that a forward step emits.
    """

    groups: tuple[Group, ...]
    parts: int
    hidden: int
    function: Callable[..., tuple[tuple[Any, ...], tuple[Any, ...]]]
    emits: int = 0

    @property
    def blocks(self) -> int:
        """Blocks of pre-activations in all groups."""
        return sum(group.blocks for group in self.groups)


class Keep(NamedTuple):
    """What a run returns of every step.

    Attributes:
      ys: h after the step, 0 where the step is skipped.
      carries: the carry after the step; one answer for all parts, or one for each.
      starts: the carry that the step was computed from, likewise.
      emitted: what the step emits.
      lambdas: adjoint: the cotangent of the carry after the step, likewise.
    """

    ys: bool = False
    carries: bool | tuple[bool, ...] = False
    starts: bool | tuple[bool, ...] = False
    emitted: bool = False
    lambdas: bool | tuple[bool, ...] = False


class Forward(NamedTuple):
    """A recurrence that has run; what was not kept is None, part by part.

    Attributes:
      ys: (M, T, B, H).
      carries: (M, T, B, H) a part.
      starts: (M, T, B, H) a part.
      emitted: (M, T, B, H) each; empty if not kept.
      last: (M, B, H) a part, after the last step.
    """

    ys: jax.Array | None
    carries: Parts
    starts: Parts
    emitted: Arrays
    last: Arrays


class Adjoint(NamedTuple):
    """A transposed recurrence that has run.

    Attributes:
      d_drives: (M, T, B, blocks·H) a group, the cotangents of u.
      lambdas: (M, T, B, H) a part, the cotangents of the carry after each step; None if not kept.
      d_carry: (M, B, H) a part, of the carry before the first step.
      d_initial: (M, B, H) a part, of the carry that sequences start from; empty without marks.
    """

    d_drives: Arrays
    lambdas: Parts
    d_carry: Arrays
    d_initial: Arrays


def of_each_part(kept: bool | tuple[bool, ...], parts: int) -> tuple[bool, ...]:
    """One answer for each part of the carry."""
    return (kept,) * parts if isinstance(kept, bool) else kept


@dataclass(frozen=True)
class _Transposed:
    """The transpose of a function that is linear in a carry and pre-activations."""

    tangent: Callable[..., Any]
    parts: int
    blocks: int

    def __call__(self, cotangents: Arrays, streams: Arrays) -> tuple[Arrays, Arrays]:
        like = jax.ShapeDtypeStruct(cotangents[0].shape, cotangents[0].dtype)
        transpose = jax.linear_transpose(
            lambda carry, pre: self.tangent(carry, pre, streams)[0],
            (like,) * self.parts,
            (like,) * self.blocks,
        )
        before, pre = transpose(cotangents)
        zero = jnp.zeros(like.shape, like.dtype)
        before, pre = (tuple(zero if x is None else x for x in xs) for xs in (before, pre))
        return before, pre


def transposed(tangent: StepRule) -> StepRule:
    """The rule of the adjoint: the transpose of a step that is linear in carry and pre-activations.

    Args:
      tangent: function(carry, pre, streams) -> (carry, ()), with coefficients made of streams.
    """
    function = _Transposed(tangent.function, tangent.parts, tangent.blocks)
    return tangent._replace(function=function, emits=0)
