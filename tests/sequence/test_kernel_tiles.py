"""How a kernel is laid out on a card: tiles that fit, and why there are none."""

import pytest
from kernel_rules import GRU, LSTM, simple

from rnn_jax.sequence.kernels.card import H100, Card
from rnn_jax.sequence.kernels.tiles import choose_tiles, joined_count, shared_bytes

CARDS = {"H100": H100, "99 KiB": Card(84, 101376, (8, 6))}


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
@pytest.mark.parametrize("which", ["forward", "adjoint"])
def test_chosen_tiles_fit_the_card_and_can_be_polled(card, which):
    served = 0
    for step in (LSTM, GRU, simple()):
        blocks = joined_count(step.forward)
        for units in (16, 32, 64, 128, 256, 512, 1024):
            for members, rows in ((1, 1), (1, 64), (1, 512), (8, 64)):
                for precision in ("tf32", "bf16x3", "tf32x3", "bf16"):
                    options = {"members": members, "precision": precision, "card": card}
                    tiles, reason = choose_tiles(step.forward, rows, units, **options, which=which)
                    assert (tiles is None) == bool(reason)
                    if tiles is None:
                        continue
                    served += 1
                    assert shared_bytes(blocks, units, tiles, precision, which) < card.shared_memory
                    assert tiles.split <= card.multiprocessors
                    if tiles.split > 1:
                        polled = tiles.chunks if which == "forward" else tiles.split
                        assert tiles.rows * units // polled >= 32 * tiles.warps
    assert served > 200


def test_choices_measured_with_the_prototype():
    """Of GPU.md's table: rows, slices, warps."""
    table = {
        (64, 32): {LSTM: (16, 1, 4), GRU: (16, 1, 4), simple(): (16, 1, 4)},
        (64, 64): {LSTM: (16, 4, 4), GRU: (16, 4, 4), simple(): (16, 1, 8)},
        (64, 128): {LSTM: (16, 8, 4), GRU: (16, 8, 4), simple(): (16, 1, 8)},
        (32, 128): {LSTM: (16, 8, 4), GRU: (16, 8, 4), simple(): (16, 1, 8)},
        (16, 256): {LSTM: (16, 16, 4), GRU: (16, 16, 4), simple(): (16, 8, 4)},
        (128, 512): {LSTM: (32, 32, 8), GRU: (32, 32, 8), simple(): (16, 16, 4)},
        (512, 128): {LSTM: (16, 4, 4), GRU: (16, 4, 4), simple(): (16, 1, 8)},
    }
    for (rows, units), by_step in table.items():
        for step, expected in by_step.items():
            for which in ("forward", "adjoint"):
                options = {"members": 1, "precision": "tf32", "card": H100, "which": which}
                tiles = choose_tiles(step.forward, rows, units, **options).tiles
                assert (tiles.rows, tiles.split, tiles.warps) == expected


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"card": Card(80, 98304, (7, 0))}, "compute capability 8.0"),
        ({"units": 1025}, "at most 1024 units"),
        ({"units": 1024, "precision": "tf32x3"}, "do not fit into 132 times 232448 bytes"),
        ({"units": 512, "members": 64}, "more than 2 launches"),
    ],
)
def test_why_there_are_no_tiles(changed, words):
    options = {"units": 64, "members": 1, "precision": "tf32", "card": H100} | changed
    units = options.pop("units")
    tiles, reason = choose_tiles(LSTM.forward, 64, units, which="forward", **options)
    assert tiles is None
    assert words in reason
