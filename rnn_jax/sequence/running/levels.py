"""Levels of `jax.vmap`, written down: which operands of a call have a leading axis in each."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

# By operand, whether it has a leading axis; of the outermost level first.
Level = tuple[bool, ...]
Levels = tuple[Level, ...]


def mapped_over(levels: Levels, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of arrays, mapped as the levels say; its results have every leading axis."""
    for level in reversed(levels):
        function = jax.vmap(function, in_axes=tuple(0 if mapped else None for mapped in level))
    return function


def batching_rule(primitive: Any) -> Callable[..., Any]:
    """The rule of `jax.vmap` for a primitive whose parameter `call` has levels: one level more."""

    def rule(operands: Sequence[Any], axes: Sequence[Any], *, call: Any) -> Any:
        level = tuple(axis is not None for axis in axes)
        leading = [
            jnp.moveaxis(operand, axis, 0) if mapped else operand
            for operand, axis, mapped in zip(operands, axes, level, strict=True)
        ]
        results = primitive.bind(*leading, call=call._replace(levels=(level, *call.levels)))
        return results, [0] * len(results)

    return rule


def by_operand(levels: Levels, operands: int) -> list[Level]:
    """By operand, whether it has a leading axis in each level."""
    return [tuple(level[k] for level in levels) for k in range(operands)]


def sizes_of(levels: Sequence[Level], operands: Sequence[Any]) -> tuple[int, ...]:
    """How long each level is, from the outermost on; `levels` by operand."""
    sizes = []
    for depth in range(len(levels[0])):
        of = next(k for k, level in enumerate(levels) if level[depth])
        sizes.append(operands[of].shape[sum(levels[of][:depth])])
    return tuple(sizes)


@dataclass(frozen=True)
class Fold:
    """How arrays of a mapped call lie as members, steps and rows, and back.

    Attributes:
      sizes: of the levels.
      member: by level, whether it is one of members, whose kernels differ; else one of rows.
      batch: axes of rows that the call has by itself.
    """

    sizes: tuple[int, ...]
    member: tuple[bool, ...]
    batch: tuple[int, ...]

    @property
    def _order(self) -> tuple[list[int], list[int]]:
        """(the levels of members, the levels of rows)."""
        levels = range(len(self.sizes))
        return [k for k in levels if self.member[k]], [k for k in levels if not self.member[k]]

    @property
    def members(self) -> int:
        """M."""
        return math.prod(self.sizes[k] for k in self._order[0])

    @property
    def all_rows(self) -> int:
        """N, of the levels and of the batch."""
        return math.prod(self.sizes[k] for k in self._order[1]) * math.prod(self.batch)

    def kernel(self, leaf: jax.Array, level: Level) -> jax.Array:
        """(M, R, P) of a kernel that has the leading axes of some levels of members."""
        spread = self._spread(leaf, level)
        index = tuple(slice(None) if is_member else 0 for is_member in self.member)
        return spread[index].reshape(self.members, *leaf.shape[-2:])

    def steps(self, leaf: jax.Array, level: Level) -> jax.Array:
        """(M, T, N, …) of an array (levels…, T, batch…, …)."""
        spread, depth = self._spread(leaf, level), len(self.sizes)
        of_members, of_rows = self._order
        rest = range(depth + 1, spread.ndim)
        moved = spread.transpose(*of_members, depth, *of_rows, *rest)
        kept = spread.shape[depth + 1 + len(self.batch) :]
        return moved.reshape(self.members, spread.shape[depth], -1, *kept)

    def rows(self, leaf: jax.Array, level: Level) -> jax.Array:
        """(M, N, …) of an array (levels…, batch…, …)."""
        return self.steps(jnp.expand_dims(leaf, sum(level)), level)[:, 0]

    def steps_back(self, array: jax.Array) -> jax.Array:
        """(levels…, T, batch…, …) of an array (M, T, N, …)."""
        of_members, of_rows = self._order
        depth, axes = len(self.sizes), [*of_members, *of_rows]
        split = array.reshape(
            *(self.sizes[k] for k in of_members),
            array.shape[1],
            *(self.sizes[k] for k in of_rows),
            *self.batch,
            *array.shape[3:],
        )
        time = len(of_members)
        # Where level k stands, the steps' axis lying between members and rows.
        at = {k: i if i < time else i + 1 for i, k in enumerate(axes)}
        return split.transpose(*(at[k] for k in range(depth)), time, *range(depth + 1, split.ndim))

    def rows_back(self, array: jax.Array) -> jax.Array:
        """(levels…, batch…, …) of an array (M, N, …)."""
        return jnp.squeeze(self.steps_back(array[:, None]), len(self.sizes))

    def _spread(self, leaf: jax.Array, level: Level) -> jax.Array:
        """A leaf with the axes of all levels."""
        depth = len(self.sizes)
        own = [k for k in range(depth) if not level[k]]
        leaf = jnp.expand_dims(leaf, own)
        return jnp.broadcast_to(leaf, (*self.sizes, *leaf.shape[depth:]))
