"""How arrays lie in a kernel: sizes padded to whole tiles, weights cut into slices of units.

Padded units have no weights and padded rows no drive, so that neither reaches what is cut back.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.sequence.kernels.rules import StepRule
from rnn_jax.sequence.kernels.tiles import Tiles, joined_count, padded_rows, padded_units


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


def seeing_blocks(rule: StepRule) -> list[int]:
    """The blocks of pre-activations that see the state, counted over all groups."""
    sees = [group.sees_state for group in rule.groups for _ in range(group.blocks)]
    return [index for index, sees_state in enumerate(sees) if sees_state]


def joined_weights(rule: StepRule, weights: Any, sizes: Sizes) -> jax.Array:
    """All weights as (M, H', blocks, H'), with zeros for what is missing to a power of two.

    One product and not one for each group: with several that meet in one result, Triton lets every
    warp compute all of them.
    """
    seeing = [group for group in rule.groups if group.sees_state]
    blocks = [
        w.reshape(*w.shape[:-1], group.blocks, sizes.units)
        for group, w in zip(seeing, weights, strict=True)
    ]
    w = blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=2)
    w = _lengthened(_lengthened(w, 3, sizes.all_units), 1, sizes.all_units)
    return _lengthened(w, 2, joined_count(rule))


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


def forward_weights(w: jax.Array, sizes: Sizes) -> jax.Array:
    """What the product of a slice reads: (M, C, blocks·H'/C, H'), by block, then unit."""
    members, units, blocks, _ = w.shape
    w = w.reshape(members, units, blocks, -1, sizes.slice_units)
    return w.transpose(0, 3, 2, 4, 1).reshape(members, -1, blocks * sizes.slice_units, units)


def adjoint_weights(w: jax.Array, sizes: Sizes, parts: int) -> jax.Array:
    """What the product of a slice reads: (M, C, H', blocks·H'/C).

    In the last axis by unit, then part of the slice, then block, as `interleaved` joins them.
    """
    members, units, blocks, _ = w.shape
    w = w.reshape(members, units, blocks, -1, parts, sizes.slice_units // parts)
    return w.transpose(0, 3, 1, 5, 4, 2).reshape(members, -1, units, blocks * sizes.slice_units)


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
