"""Flossing before training: equal starts, verdicts that follow the numbers, and files."""

import dataclasses
import io
import json

import numpy as np
import pytest
from modes import left_with, ordinary_mode
from rich.console import Console
from rich.progress import Progress

import flossing


@pytest.fixture(scope="module")
def config():
    sizes = {"hidden": 6, "delay": 12, "floss_steps": 80, "train_steps": 7, "seeds": 2}
    return flossing.resolve(flossing.Config(directions=(2,), floss_learning_rate=1e-2, **sizes))


@pytest.fixture(scope="module")
def results(config):
    with ordinary_mode():
        return flossing.run(config, Progress(disable=True))


def test_flossing_brings_its_exponents_to_zero(results):
    _, (plain, flossed, _, control) = results
    assert (flossed.factors > 10).all()
    assert np.abs(flossed.ready[:, :2]).max() < 0.2
    assert flossed.penalty[:, -1].max() < flossed.penalty[:, 0].min() / 10
    assert plain.penalty.size == control.penalty.size == 0


def test_in_training_flossing_is_now_and_then(results):
    _, (plain, _, during, _) = results
    assert during.in_training
    np.testing.assert_array_equal(during.start, plain.start)
    np.testing.assert_array_equal(during.ready, plain.start)
    # Only the first of seven steps has it, in its objective and its series.
    np.testing.assert_array_equal(np.isfinite(during.penalty), [[True, *[False] * 6]] * 2)
    assert not np.allclose(during.end, plain.end)


def test_arms_start_from_equal_weights_and_see_equal_data(results):
    _, (plain, flossed, during, control) = results
    np.testing.assert_array_equal(plain.start, flossed.start)
    np.testing.assert_array_equal(plain.start, plain.ready)
    assert not np.allclose(plain.start, control.start)
    # All of them begin by predicting the mean, so equal batches cost the same.
    np.testing.assert_allclose(plain.loss[:, 0], flossed.loss[:, 0], rtol=1e-5)
    np.testing.assert_allclose(plain.loss[:, 0], control.loss[:, 0], rtol=1e-5)
    # Of the objective the curve shows the task alone.
    np.testing.assert_allclose(plain.loss[:, 0], during.loss[:, 0], rtol=1e-5)
    assert plain.loss[0, 0] != plain.loss[1, 0]
    assert plain.loss.shape == (2, 7)
    np.testing.assert_array_equal(plain.at, np.arange(1, 8))


def test_the_verdict_turns_with_the_numbers(results):
    _, (plain, flossed, _, control) = results
    good = np.full_like(plain.loss, 0.001)
    free = dataclasses.replace(flossed, loss=good, floss_cost=0.0)
    said = " ".join(flossing.verdict([plain, free, control]))
    assert "it helped here" in said
    assert "2 of 2 seeds" in said
    assert "not as good as the best of the others (flossed, k = 2)" in said
    # As good in the end, but in equal time there was none left to train.
    dear = dataclasses.replace(free, floss_cost=1e9)
    assert "it helped, if its own time is not counted, here" in " ".join(
        flossing.verdict([plain, dear, control])
    )
    same = dataclasses.replace(free, loss=plain.loss + 1)
    assert "it did not help here" in " ".join(flossing.verdict([plain, same, control]))


def test_files_and_tables(config, results, tmp_path):
    arms_config, arms = results
    config = dataclasses.replace(config, out=tmp_path)
    said = flossing.verdict(arms)
    with ordinary_mode():
        flossing.save(config, arms_config, arms, said, 1.0)
    assert {path.name for path in tmp_path.iterdir()} == {"flossing.png", "metrics.json"}
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    titles = ["not flossed", "flossed, k = 2", "flossed in training, k = 2", "orthogonal"]
    assert list(metrics["arms"]) == titles
    arm = metrics["arms"]["flossed, k = 2"]
    np.testing.assert_allclose(arm["factors"], arms[1].factors, rtol=1e-3)
    np.testing.assert_allclose(arm["final_loss"], arms[1].final, rtol=1e-3)
    console = Console(width=80, record=True, file=io.StringIO())
    flossing.show(console, arms_config, arms, said)
    printed = console.export_text()
    assert "of 2" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_quick_is_smaller_and_options_win():
    quick = flossing.resolve(flossing.Config(quick=True, hidden=24))
    assert (quick.hidden, quick.directions) == (24, (4, 20))
    assert quick.train_steps < flossing.resolve(flossing.Config()).train_steps
    with pytest.raises(ValueError, match="--learning-rate must be a number above 0; got 0"):
        flossing.resolve(flossing.Config(learning_rate=0.0))
    with pytest.raises(ValueError, match="--delay must be at least 1; got 0"):
        flossing.resolve(flossing.Config(delay=0))


def test_bad_options_end_in_one_line_and_a_non_zero_exit(monkeypatch, capsys):
    status, said = left_with("flossing", ["--directions", "80"], monkeypatch, capsys)
    assert status == 2
    assert "--directions must lie between 1 and --hidden, 64; got 80" in said
    assert said.count("\n") == 1
