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


SMALLEST_TILE = 16  # Triton's products take no less.


def padded_units(units: int) -> int:
    """Units in a kernel: a power of two, at least 16."""
    return max(SMALLEST_TILE, 1 << (units - 1).bit_length())


def padded_rows(rows: int, tile_rows: int) -> int:
    """Rows in a kernel: whole tiles."""
    return -(-rows // tile_rows) * tile_rows


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

    Args:
      rule: of the step; its groups and parts matter, not what it computes.
      rows: B.
      units: H.
      members: M.
      precision: of the products.
      card: what it is compiled for.
      which: "forward" or "adjoint".
    """
    if card.compute_capability < (8, 0):
        major, minor = card.compute_capability
        return Choice(
            None, f"a card of compute capability 8.0 or more is needed; got {major}.{minor}"
        )
    per_unit = sum(group.blocks for group in rule.groups if group.sees_state)
    all_units = padded_units(units)
    wide = per_unit > 1
    one_block = all_units <= 32 or (not wide and all_units <= 128)
    want = 1 if one_block else all_units // (16 if wide else 32)
    best = None
    for tile_rows in (16, 32, 64, 128):
        row_tiles = -(-rows // tile_rows)
        split = want
        while split > 1 and members * row_tiles * split > card.multiprocessors:
            split //= 2
        weights = all_units * per_unit * (all_units // split) * operand_bytes(precision)
        if weights <= 0.65 * card.shared_memory:
            best = (tile_rows, split)
            break
        if row_tiles == 1:
            break
    if best is None:
        return Choice(None, f"weights of {units} units do not fit into the card's shared memory")
    tile_rows, split = best
    warps = 8 if (tile_rows >= 32 or (split == 1 and all_units >= 64)) else 4
    parts = 2 if which == "adjoint" and split == 1 and all_units >= 32 else 1
    return Choice(Tiles(tile_rows, split, warps, parts, 1, card.multiprocessors))
