"""Fixed points of trained networks: found, counted, held against a plain loop, and drawn."""

import dataclasses
import io
import json

import numpy as np
import pytest
from modes import ordinary_mode
from rich.console import Console
from rich.progress import Progress

import fixed_points
import rnn_jax as rj
from resting import flip_flops


@pytest.fixture(scope="module")
def config():
    sizes = {"hidden": 6, "bits": 1, "trainings": 1, "train_steps": 120, "starts": 12, "length": 12}
    return fixed_points.resolve(fixed_points.Config(learning_rate=2e-2, **sizes))


@pytest.fixture(scope="module")
def results(config):
    with ordinary_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed_points, "CELLS", {"GRU": rj.GRUCell})
        return fixed_points.run(config, Progress(disable=True))


def test_a_bit_is_two_stable_points(results):
    (network,) = results["GRU"]
    assert network.stable == 2
    assert network.fixed >= 3  # and a saddle between them
    assert network.found.certified[network.found.is_fixed].all()
    assert network.by_directions(1).sum() == network.fixed
    # Whatever a search has found is known, and what it has missed is the rest.
    assert len(network.known) == network.fixed + network.missed[0]
    assert len(network.known) == len(network.plain.points) + network.missed[1]


def test_the_verdict_turns_with_the_numbers(results):
    said = " ".join(fixed_points.verdict(results, 1))
    assert "GRU: 1 of 1 trainings have a stable fixed point for each of the 2 states" in said
    (network,) = results["GRU"]
    worse = dataclasses.replace(network, missed=(7, 0))
    said = " ".join(fixed_points.verdict({"GRU": [worse]}, 3))
    assert "0 of 1 trainings" in said
    assert "the search missed 7 and the plain loop 0" in said


def test_files_and_tables(config, results, tmp_path):
    config = dataclasses.replace(config, out=tmp_path)
    said = fixed_points.verdict(results, 1)
    with ordinary_mode():
        fixed_points.save(config, results, said, 1.0)
    assert {path.name for path in tmp_path.iterdir()} == {"fixed_points.png", "metrics.json"}
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    (row,) = metrics["networks"]["GRU"]
    assert row["stable"] == 2
    assert row["proven"] == row["fixed"]
    console = Console(width=80, record=True, file=io.StringIO())
    fixed_points.show(console, config, results, said)
    printed = console.export_text()
    assert "loop" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_the_union_counts_each_point_once():
    one, other = np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 1e-9], [2.0, 0.0]])
    assert len(flip_flops._union([one, other])) == 3


def test_quick_is_smaller_and_options_win():
    quick = fixed_points.resolve(fixed_points.Config(quick=True, hidden=24))
    assert (quick.hidden, quick.bits) == (24, 1)
    assert quick.starts < fixed_points.resolve(fixed_points.Config()).starts
    with pytest.raises(ValueError, match="--bits must be between 1 and 6; got 9"):
        fixed_points.resolve(fixed_points.Config(bits=9))
    with pytest.raises(ValueError, match="--noise must be at least 0; got -1"):
        fixed_points.resolve(fixed_points.Config(noise=-1.0))
