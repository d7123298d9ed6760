"""`experiments/compare.py`: what it measures, what it says of it, and what it leaves behind."""

import dataclasses
import io
import json

import numpy as np
import pytest
from modes import ordinary_mode
from rich.console import Console

import compare
import rnn_jax as rj
from learning.comparison import Outcome, predict
from learning.reach_picture import draw

TINY = {"networks": ("tanh", "GRU"), "lengths": (4,), "steps": 4, "seeds": 2, "hidden": 3}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare")
    config = compare.Config(out=out, quick=True, batch_size=4, **TINY)
    config = compare.resolve(config)
    with ordinary_mode():
        return config, compare.run(config, Console(file=io.StringIO()))


def outcome(reach, solved_at, network="a", size=10):
    both = np.stack([reach, np.zeros_like(reach)]).astype(float)
    horizon = np.array([[size // 2] * len(reach), [size - 1] * len(reach)])
    return Outcome(
        network=network,
        task="adding",
        size=size,
        steps=size,
        solved_at=np.asarray(solved_at, float),
        chance=1 / 6,
        loss=np.full(len(reach), 0.1),
        horizon=horizon,
        reach=both,
        exponent=both,
    )


def test_reach_is_that_of_the_untrained_and_the_trained_network(finished):
    config, outcomes = finished
    assert [o.network for o in outcomes] == ["tanh", "GRU"]
    found = outcomes[1]
    task = rj.tasks.Adding(4)
    assert found.steps == task.steps
    assert found.horizon.shape == found.reach.shape == found.exponent.shape == (2, 2)
    assert (found.reach[0] != found.reach[1]).all()
    name = "adding-4-GRU"
    rows = (config.out / "runs" / name / "probes.jsonl").read_text().splitlines()
    flows = [json.loads(row) for row in rows if "gradient_flow" in row]
    assert [row["step"] for row in flows] == [0, 4]
    by_lag = np.array(flows[0]["values"]["by_lag"])
    np.testing.assert_allclose(found.reach[0], by_lag[:, 2] - by_lag[:, 0], rtol=1e-6)


def test_a_run_that_is_there_is_not_trained_again(finished):
    config, outcomes = finished
    file = config.out / "runs" / "adding-4-tanh" / "metrics.jsonl"
    before = file.read_bytes()
    with ordinary_mode():
        again = compare.run(config, Console(file=io.StringIO()))
    assert file.read_bytes() == before
    np.testing.assert_array_equal(again[0].reach, outcomes[0].reach)


def test_perfect_prediction_and_its_opposite():
    further_is_faster = [outcome([-1, -2, -3, -4], [100, 200, np.inf, np.inf])]
    good = predict(further_is_faster, lambda o: o.reach[0])
    # The two that were not solved tie, so the ranks cannot agree altogether.
    assert -1 < good.rank_correlation < -0.9
    assert good.separation == 1
    assert (good.runs, good.solved) == (4, 2)
    bad = predict(further_is_faster, lambda o: -o.reach[0])
    assert bad.rank_correlation == pytest.approx(-good.rank_correlation)
    assert bad.separation == 0


def test_without_any_contrast_nothing_is_claimed():
    solved = predict([outcome([-1, -2], [100, 200])], lambda o: o.reach[0])
    assert np.isnan(solved.separation)
    equal = predict([outcome([-1, -1], [100, np.inf])], lambda o: np.array([2.0, 2.0]))
    assert equal.separation == 0.5
    assert np.isnan(equal.rank_correlation)


@pytest.mark.parametrize(
    ("reach", "solved_at", "said"),
    [
        ([-1, -2, -3], [np.inf] * 3, ["none was solved", "no pair of a solved", "0 of 3 solved"]),
        ([-1, -2, -3], [50] * 3, ["all were solved at step 50", "no pair of a solved"]),
        ([-1, -2, -3], [50, 60, 70], ["correlation with steps to solve", "no pair of a solved"]),
        ([-1, -1, -1], [50, 60, np.inf], ["the same in all runs", "0.50 of pairs"]),
        ([-1, -2], [50, np.inf], ["fewer than three runs", "1.00 of pairs"]),
        ([-1, np.nan, -3], [50, 60, np.inf], ["not finite in some runs", "no pair"]),
        ([-1, -np.inf, -3], [50, 60, np.inf], ["rank correlation", "of pairs"]),
    ],
)
def test_what_cannot_be_computed_is_said_in_words(reach, solved_at, said):
    prediction = predict([outcome(np.asarray(reach, float), solved_at)], lambda o: o.reach[0])
    text = compare.sentence("reach", prediction)
    for words in said:
        assert words in text
    assert "nan" not in text
    row = compare.cells(outcome(np.asarray(reach, float), solved_at))
    assert "nan" not in " ".join(row)


def test_quick_is_two_programs():
    """What a quick run takes is what compiling takes: one program for each combination."""
    config = compare.resolve(compare.Config(quick=True))
    assert len(config.networks) * len(config.tasks) * len(config.lengths) == 2
    assert config.steps <= 300
    assert max(config.lengths) <= 20


def test_files_table_and_picture(finished, tmp_path):
    config, _ = finished
    outcomes = [
        outcome([-1, -40], [100, np.inf]),
        outcome([-2, -np.inf], [np.inf, np.inf], network="b", size=20),
    ]
    predictions = {"reach": predict(outcomes, lambda o: o.reach[0])}
    compare.write(dataclasses.replace(config, out=tmp_path), outcomes, predictions)
    draw(outcomes, 500, tmp_path / "compare.png")
    assert (tmp_path / "compare.png").stat().st_size > 10_000
    table = (tmp_path / "table.md").read_text()
    assert "| adding 10 | a | 1 of 2 | 100 |" in table
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["outcomes"][0]["solved_at"] == [100, None]
    console = Console(file=io.StringIO(), width=80, record=True)
    compare.show(console, outcomes, predictions)
    assert "rank correlation" in console.export_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"networks": ("nothing",)}, "unknown network 'nothing'"),
        ({"tasks": ("nothing",)}, "unknown task 'nothing'"),
        ({"lengths": (0,)}, "--lengths must be at least 1; got 0"),
        ({"steps": 0}, "--steps must be at least 1"),
        ({"seeds": 0}, "--seeds must be at least 1"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(change, said):
    with pytest.raises(ValueError, match=said):
        compare.resolve(dataclasses.replace(compare.Config(), **change))
