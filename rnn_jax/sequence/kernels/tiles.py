"""How a run is cut into blocks of a graphics card: rows, units, warps."""

from typing import NamedTuple

from rnn_jax.sequence.kernels.card import Card
from rnn_jax.sequence.kernels.products import operand_bytes
from rnn_jax.sequence.kernels.rules import StepRule


class Tiles(NamedTuple):
    """How a kernel is cut into blocks.

    Attributes:
      rows: of the batch in one tile.
      split: C, blocks that share a tile, each with a slice of the units.
      warps: of 32 threads in a block.
      parts: adjoint: in how many parts a block takes its units, which keeps the layouts of Triton's
        products apart from those of loads and stores.
      chunks: forward, blocks that exchange: in how many parts the state enters a product.
      at_once: blocks that may run at the same time, the card's multiprocessors.
    """

    rows: int
    split: int
    warps: int
    parts: int
    chunks: int
    at_once: int


SMALLEST_TILE = 16  # Rows, and units of all slices together: Triton's products take no less.
SMALLEST_SLICE = 8
# The adjoint reads a tile of every slice, each by code of its own.
MOST_SLICES = 64
ROWS = (16, 32, 64, 128)
LARGEST = 1024
# Of what each thread holds of the state, 32-bit registers; it has 255 for everything.
MOST_REGISTERS = 128
# Bytes that the compiler takes for itself, or rounds up.
SPARE_BYTES = 1024


def padded_units(units: int) -> int:
    """Units in a kernel: a power of two, at least 16."""
    return max(SMALLEST_TILE, 1 << (units - 1).bit_length())


def padded_rows(rows: int, tile_rows: int) -> int:
    """Rows in a kernel: whole tiles."""
    return -(-rows // tile_rows) * tile_rows


def joined_count(rule: StepRule) -> int:
    """Blocks in the one product of a step: a power of two, which Triton can split and join."""
    seeing = sum(group.blocks for group in rule.groups if group.sees_state)
    return 1 << (seeing - 1).bit_length()


def shared_bytes(blocks: int, units: int, tiles: Tiles, precision: str, which: str) -> int:
    """Shared memory that a kernel takes: its weights, and the tile that changes layout.

    What the compiler was seen to take; the tests hold it against what it does take.

    Args:
      blocks: in the product, `joined_count`.
      units: padded.
      tiles: of the kernel.
      precision: of the products.
      which: "forward" or "adjoint".
    """
    split = units // tiles.split  # Units of a slice.
    operand = 8 if precision == "tf32x3" else 4
    if which == "forward":
        copies = 2 if tiles.split == 1 else 1
        moved = copies * tiles.rows * (units // tiles.chunks) * operand + tiles.rows * split * 4
    else:
        moved = tiles.rows * max(units * 4, blocks * split * operand)
    return units * blocks * split * operand_bytes(precision) + moved


class Choice(NamedTuple):
    """Tiles, or why there are none.

    Attributes:
      tiles: None if the kernels cannot serve; then a scan is to be taken.
      reason: in that case what stands against them.
    """

    tiles: Tiles | None
    reason: str = ""


def choose_tiles(
    rule: StepRule,
    rows: int,
    units: int,
    *,
    members: int,
    precision: str,
    card: Card,
    which: str,
) -> Choice:
    """The tiles of a run on a card.

    As few rows in a tile and as many slices of the units as the card has multiprocessors for: what
    takes time is one step after another, not work. Measured on an H100 with a prototype.

    Args:
      rule: of the step; its groups matter, not what it computes.
      rows: B.
      units: H.
      members: M.
      precision: of the products, one of `products.PRECISIONS`.
      card: what is compiled for.
      which: "forward" or "adjoint".

    Returns:
      `Choice`.
    """
    if card.compute_capability < (8, 0):
        found = ".".join(map(str, card.compute_capability))
        return Choice(
            None, f"kernels need a card of compute capability 8.0 or more; this has {found}"
        )
    blocks, all_units = joined_count(rule), padded_units(units)
    if all_units > LARGEST:
        return Choice(None, f"kernels have at most {LARGEST} units; these are {units}")
    enough, most_waves = False, _most_waves(all_units)
    for waves in range(1, most_waves + 1):
        for split in _wanted_splits(blocks, all_units):
            for tile_rows in ROWS:
                if tile_rows > ROWS[0] and tile_rows >= 2 * rows:
                    break
                pairs = members * -(-rows // tile_rows)
                tiles = _tiles(tile_rows, split, all_units, precision, card, which)
                enough |= _fits(tiles, blocks, all_units, precision, card, which)
                while tiles.split > 1 and pairs * tiles.split > waves * card.multiprocessors:
                    tiles = _tiles(tile_rows, tiles.split // 2, all_units, precision, card, which)
                if _fits(tiles, blocks, all_units, precision, card, which):
                    return Choice(tiles)
    if enough:
        return Choice(
            None,
            f"{members} x {rows} rows of {units} units would take more than {most_waves} launches "
            f"one after another on {card.multiprocessors} multiprocessors",
        )
    return Choice(
        None,
        f"{blocks} blocks of weights of {units} x {units} ({precision}) do not fit into "
        f"{card.multiprocessors} times {card.shared_memory} bytes of shared memory",
    )


def _most_waves(units: int) -> int:
    """Launches one after another that may still be quicker than a scan; reckoned, not measured.

    A scan's step waits for launches, whatever its size, until its products are large.
    """
    return 4 if units <= 256 else 2 if units <= 512 else 1


def _wanted_splits(blocks: int, units: int) -> list[int]:
    """Into how many slices the units should go; more of them if the weights do not fit."""
    if units <= 32 or (blocks == 1 and units <= 128):
        wanted = 1
    else:
        wanted = units // (32 if blocks == 1 else 16)
    most = min(MOST_SLICES, units // SMALLEST_SLICE)
    return [min(wanted, most)] + [s for s in (2 * wanted, 4 * wanted, 8 * wanted) if s <= most]


def _tiles(rows: int, split: int, units: int, precision: str, card: Card, which: str) -> Tiles:
    eight = rows >= 32 or (split == 1 and units >= 64) or (units >= 1024 and units // split >= 16)
    return Tiles(
        rows=rows,
        split=split,
        warps=8 if eight else 4,
        parts=2 if which == "adjoint" and split == 1 and units >= 32 else 1,
        chunks=_chunks(rows, units, precision) if which == "forward" and split > 1 else 1,
        at_once=card.multiprocessors,
    )


def _chunks(rows: int, units: int, precision: str) -> int:
    """As few as do with few or no spilled registers, compiled for an H100."""
    if precision == "tf32x3":
        return {256: 2, 512: 2 if rows == SMALLEST_TILE else 4, 1024: 8}.get(units, 1)
    return max(1, units // (256 if precision == "bf16x3" else 512))


def _fits(tiles: Tiles, blocks: int, units: int, precision: str, card: Card, which: str) -> bool:
    """Whether weights and state fit, blocks run at once that wait for one another, can be polled.

    A slice of 8 units makes products of bfloat16 in so many registers that they do not stay there.
    """
    threads = 32 * tiles.warps
    polled = tiles.rows * units // (tiles.chunks if which == "forward" else tiles.split)
    return (
        shared_bytes(blocks, units, tiles, precision, which) + SPARE_BYTES <= card.shared_memory
        and tiles.rows * units <= MOST_REGISTERS * threads
        and tiles.split <= card.multiprocessors
        and (tiles.split == 1 or polled >= threads)
        and (units // tiles.split >= 16 or not precision.startswith("bf16"))
    )
