"""Launching a kernel over members and tiles of rows, in waves where not all of it fits at once."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from rnn_jax.arrays import varying_like
from rnn_jax.sequence.kernels.tiles import Tiles


class Place(NamedTuple):
    """Which part of the work a block does, and access to its part of an array.

    Attributes:
      member: whose weights, in 0 … M − 1.
      pair: (member, tile of rows) counted within this launch, for what its blocks exchange.
      slice: which slice of the units; 0 for a block that has them all.
      rows: of the tile.
      units: of the slice.
    """

    member: Any
    pair: Any
    slice: Any
    rows: Any
    units: Any

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.size, self.units.size

    def part(self, index: int, parts: int) -> "Place":
        """A part of the slice of units."""
        size = self.units.size // parts
        return self._replace(units=pl.ds(self.units.start + index * size, size))

    def units_of_block(self, block: int, units: int) -> Any:
        """The slice's units in an array of several blocks side by side, `units` each."""
        return pl.ds(block * units + self.units.start, self.units.size)

    def load(self, refs: Any, t: Any = None) -> Any:
        """The place's part of each array (M, B, H), or of step t of (M, T, B, H)."""
        return jax.tree.map(lambda ref: ref[self._index(t)], refs)

    def store(self, refs: Any, values: Any, t: Any = None) -> None:
        """Writes it; into arrays that are None nothing."""
        if isinstance(refs, tuple):
            for ref, value in zip(refs, values, strict=False):
                self.store(ref, value, t)
        elif refs is not None:
            refs[self._index(t)] = values

    def load_marks(self, ref: Any, t: Any) -> Any:
        """The rows' bits in step t, (rows,); None without marks."""
        return None if ref is None else ref[self.member, t, self.rows]

    def _index(self, t: Any) -> tuple[Any, ...]:
        time = () if t is None else (t,)
        return (self.member, *time, self.rows, self.units)


def check_interpretable(tiles: Tiles) -> None:
    """Raises ValueError if blocks wait for one another."""
    if tiles.split > 1:
        raise ValueError(
            "in interpret mode blocks must not wait for one another, because they run one after "
            f"another; got tiles.split={tiles.split}. Pass tiles with split=1."
        )


def launch(
    kernel: Callable[[Place, Any, Any, Any], None],
    inputs: Any,
    outputs: Any,
    *,
    members: int,
    row_tiles: int,
    slice_units: int,
    exchanged: tuple[int, ...],
    tiles: Tiles,
    name: str,
    interpret: bool,
) -> Any:
    """Runs a kernel for every member, tile of rows and slice of units.

    No more blocks than `tiles.at_once` are launched together if they exchange.

    Args:
      kernel: (place, refs of inputs, refs of outputs, ref of the buffer of exchange or None).
      inputs: arrays, any pytree.
      outputs: their shapes and types, any pytree.
      members: M.
      row_tiles: tiles of rows in each member.
      slice_units: units of one block.
      exchanged: the shape of what the blocks of one (member, tile) exchange, both buffers.
      tiles: rows and blocks of a tile.
      name: of the kernel, for profiles.
      interpret: whether Pallas interprets it, on a CPU.
    """
    pairs, split = members * row_tiles, tiles.split
    if interpret:
        check_interpretable(tiles)
    waves = 1 if split == 1 else -(-pairs // max(1, tiles.at_once // split))
    pairs_in_wave = -(-pairs // waves)
    flat_inputs, inputs_tree = jax.tree.flatten(inputs)
    flat_outputs, outputs_tree = jax.tree.flatten(outputs)

    def place(first: jax.Array | int) -> Place:
        local = pl.program_id(0)
        pair = local if waves == 1 else jnp.minimum(first + local, pairs - 1)
        if members == 1 or row_tiles == 1:
            member, tile = (0, pair) if members == 1 else (pair, 0)
        else:
            member = lax.div(pair, jnp.int32(row_tiles))
            tile = pair - member * row_tiles
        slice_ = pl.program_id(1) if split > 1 else 0
        return Place(
            member,
            local,
            slice_,
            pl.ds(tile * tiles.rows, tiles.rows),
            pl.ds(slice_ * slice_units, slice_units),
        )

    def body(*refs: Any) -> None:
        refs_in, rest = refs[: len(flat_inputs)], refs[len(flat_inputs) :]
        first = rest[0][0] if waves > 1 else 0
        refs_out = rest[len(rest) - len(flat_outputs) - (split > 1) :]
        buffer = refs_out[-1] if split > 1 else None
        kernel(
            place(first),
            jax.tree.unflatten(inputs_tree, refs_in),
            jax.tree.unflatten(outputs_tree, refs_out[: len(flat_outputs)]),
            buffer,
        )

    def empty() -> list[jax.Array]:
        """What is written to, its type saying over which devices it varies in a `shard_map`."""
        zeros = [jnp.zeros(shape.shape, shape.dtype) for shape in flat_outputs]
        return list(varying_like(zeros, flat_inputs))

    def wave(first: jax.Array | None, so_far: Sequence[jax.Array]) -> Sequence[jax.Array]:
        """One launch. What earlier waves wrote is handed on in place."""
        arrays = [*flat_inputs, *([] if first is None else [first.reshape(1)]), *so_far]
        shapes, aliases = jax.eval_shape(empty), {}
        aliases = {len(arrays) - len(so_far) + i: i for i in range(len(so_far))}
        if split > 1:
            buffer = jnp.zeros((pairs_in_wave, *exchanged), jnp.float32)
            buffer = varying_like(buffer, flat_inputs)
            aliases[len(arrays)] = len(shapes)
            arrays.append(buffer)
            shapes.append(jax.eval_shape(lambda: buffer))
        results = pl.pallas_call(
            body,
            out_shape=shapes,
            grid=(pairs_in_wave, split) if split > 1 else (pairs_in_wave,),
            input_output_aliases=aliases,
            interpret=interpret,
            name=name,
            compiler_params=plgpu.CompilerParams(num_warps=tiles.warps, num_stages=1),
        )(*arrays)
        return list(results)[: len(flat_outputs)]

    if waves == 1:
        results = wave(None, ())
    else:
        # The last wave may have too few pairs; its last blocks then repeat the last pair.
        results = lax.fori_loop(
            0,
            waves,
            lambda i, so_far: wave(jnp.int32(i) * pairs_in_wave, so_far),
            empty(),
        )
    return jax.tree.unflatten(outputs_tree, results)
