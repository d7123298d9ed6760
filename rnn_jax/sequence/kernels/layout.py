"""How arrays lie in a kernel: sizes padded to whole tiles, weights cut into slices of units.

Padded units have no weights and padded rows no drive, so that neither reaches what is cut back.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.sequence.kernels.rules import Group, StepRule
from rnn_jax.sequence.kernels.tiles import Tiles, padded_rows, padded_units


class Sizes(NamedTuple):
    """The sizes of a run, and what the kernel makes of them.

    Attributes:
      members, steps, rows, units: M, T, B, H of the arrays that are given.
      all_rows, all_units: the same in whole tiles.
      tile_rows: of one tile.
      slice_units: of one block.
    """

    members: int
    steps: int
    rows: int
    units: int
    all_rows: int
    all_units: int
    tile_rows: int
    slice_units: int

    def shapes(self) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """Of what a kernel writes: a part of the carry, and one in every step."""
        tile = (self.all_rows, self.all_units)
        return (
            jax.ShapeDtypeStruct((self.members, *tile), jnp.float32),
            jax.ShapeDtypeStruct((self.members, self.steps, *tile), jnp.float32),
        )


def sizes_of(members: int, steps: int, rows: int, units: int, tiles: Tiles) -> Sizes:
    """The sizes of a run with these tiles."""
    all_units = padded_units(units)
    return Sizes(
        members,
        steps,
        rows,
        units,
        padded_rows(rows, tiles.rows),
        all_units,
        tiles.rows,
        all_units // tiles.split,
    )


def padded(arrays: Any, sizes: Sizes, blocks: int = 1) -> Any:
    """Arrays (M, …, B, blocks·H), or (M, blocks·H), in whole tiles; any pytree of them."""

    def pad(x: jax.Array) -> jax.Array:
        if x.ndim > 2:
            x = _lengthened(x, -2, sizes.all_rows)
        if sizes.units == sizes.all_units:
            return x
        x = x.reshape(*x.shape[:-1], blocks, sizes.units)
        return _lengthened(x, -1, sizes.all_units).reshape(*x.shape[:-2], -1)

    return jax.tree.map(pad, arrays)


def padded_marks(marks: jax.Array | None, sizes: Sizes) -> jax.Array | None:
    """(M, T, B) in whole tiles: the rows that are added are never marked."""
    return None if marks is None else _lengthened(marks, -1, sizes.all_rows)


def padded_weights(rule: StepRule, weights: Any, sizes: Sizes) -> dict[int, jax.Array]:
    """By the index of their group, weights (M, H, blocks·H) as (M, H', blocks, H')."""
    seeing = [(index, group) for index, group in enumerate(rule.groups) if group.sees_state]
    found = {}
    for (index, group), w in zip(seeing, weights, strict=True):
        w = w.reshape(*w.shape[:-1], group.blocks, sizes.units)
        found[index] = _lengthened(_lengthened(w, -1, sizes.all_units), 1, sizes.all_units)
    return found


def _lengthened(x: jax.Array, axis: int, length: int) -> jax.Array:
    """x with zeros at the end of an axis; x itself if nothing is missing."""
    missing = length - x.shape[axis]
    if not missing:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, missing)
    return jnp.pad(x, widths)


def cut(arrays: Any, sizes: Sizes, blocks: int = 1) -> Any:
    """Arrays (…, B', blocks·H') cut back to (…, B, blocks·H); any pytree of them."""

    def cut_one(x: jax.Array) -> jax.Array:
        if sizes.rows != sizes.all_rows:
            x = x[..., : sizes.rows, :]
        if sizes.units == sizes.all_units:
            return x
        x = x.reshape(*x.shape[:-1], blocks, sizes.all_units)[..., : sizes.units]
        return x.reshape(*x.shape[:-2], blocks * sizes.units)

    return jax.tree.map(cut_one, arrays)


def inside(x: jax.Array, units: Any, sizes: Sizes) -> jax.Array:
    """A tile of these units with 0 in padded ones; inside of a kernel.

    A step may compute anything of zeros, NaN too, and 0 · NaN is not 0.
    """
    if sizes.units == sizes.all_units:
        return x
    unit = units.start + lax.broadcasted_iota(jnp.int32, x.shape, 1)
    return jnp.where(unit < sizes.units, x, 0.0)


class Joined(NamedTuple):
    """Blocks of one group that share a product: a power of two of them, which Triton can split.

    Attributes:
      group: which group of the rule.
      first: the first block, counted within its group.
      offset: the first block, counted over all groups.
      count: how many.
    """

    group: int
    first: int
    offset: int
    count: int


def products_of(groups: tuple[Group, ...]) -> tuple[Joined, ...]:
    """The products of a step: each group that sees the state, in powers of two of its blocks."""
    found, before = [], 0
    for index, group in enumerate(groups):
        first = 0
        while group.sees_state and first < group.blocks:
            count = 1 << ((group.blocks - first).bit_length() - 1)
            found.append(Joined(index, first, before + first, count))
            first += count
        before += group.blocks
    return tuple(found)


def forward_weights(w: jax.Array, joined: Joined, sizes: Sizes) -> jax.Array:
    """What each slice's product reads: (M, C, count·H'/C, H'), by block, then unit."""
    members, units, _, _ = w.shape
    w = w[:, :, joined.first : joined.first + joined.count]
    w = w.reshape(members, units, joined.count, -1, sizes.slice_units)
    return w.transpose(0, 3, 2, 4, 1).reshape(members, -1, joined.count * sizes.slice_units, units)


def adjoint_weights(w: jax.Array, joined: Joined, sizes: Sizes, parts: int) -> jax.Array:
    """What each slice's product reads: (M, C, H', count·H'/C).

    In the last axis by unit, then part of the slice, then block, as `interleaved` joins them.
    """
    members, units, _, _ = w.shape
    w = w[:, :, joined.first : joined.first + joined.count]
    w = w.reshape(members, units, joined.count, -1, parts, sizes.slice_units // parts)
    return w.transpose(0, 3, 1, 5, 4, 2).reshape(
        members, -1, units, joined.count * sizes.slice_units
    )


def interleaved(xs: list[jax.Array]) -> jax.Array:
    """Arrays (R, N), a power of two of them, as one (R, N·len(xs)), the arrays' index fastest.

    By nested pairs, because Triton joins two arrays at a time.
    """

    def stacked(xs: list[jax.Array]) -> jax.Array:
        if len(xs) == 1:
            return xs[0]
        return jnp.stack([stacked(xs[0::2]), stacked(xs[1::2])], axis=-1)

    rows, units = xs[0].shape
    return stacked(xs).reshape(rows, units * len(xs))
