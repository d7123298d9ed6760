"""The main job: verdicts follow the numbers, and a small run writes what it promises."""

import dataclasses
import io
import json
import re

import numpy as np
import pytest
from modes import left_with, ordinary_mode
from rich.console import Console
from rich.progress import Progress

import vanishing_gradient
from vanishing.claims import CONDITION, FAILS, HOLDS, judge
from vanishing.report import print_table
from vanishing.training import train


@pytest.fixture(scope="module")
def results():
    """The whole job, tiny."""
    sizes = {"steps": 40, "hidden": 6, "weight_seeds": 1}
    training = {"train_length": 4, "train_steps": 50, "train_seeds": 2}
    with ordinary_mode():
        config = vanishing_gradient.resolve(vanishing_gradient.Config(**sizes, **training))
        return vanishing_gradient.run(config, Progress(disable=True))


@pytest.fixture(scope="module")
def written(results, tmp_path_factory):
    out = tmp_path_factory.mktemp("vanishing")
    claims = judge(results)
    with ordinary_mode():
        vanishing_gradient.save(vanishing_gradient.Config(out=out), results, claims, 1.0)
    return out


@pytest.mark.parametrize("width", [80, 160])
def test_it_prints_a_verdict_for_each_claim(results, width):
    console = Console(width=width, record=True, file=io.StringIO())
    print_table(console, judge(results))
    printed = console.export_text()
    for number in range(1, 11):
        assert re.search(rf"│ C{number}\s+│ (holds|does not)", printed)
    assert max(map(len, printed.splitlines())) <= width


def test_the_page_is_one_file_that_needs_no_network(written):
    out = written
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == len(list(out.glob("*.png")))
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "http" not in page.split("base64")[0]
    for number in range(1, 11):
        assert f'<section id="C{number}">' in page


def test_the_numbers_are_on_disk_and_agree_with_the_verdicts(written):
    metrics = json.loads((written / "metrics.json").read_text(encoding="utf-8"))
    assert set(metrics["claims"]) == {f"C{number}" for number in range(1, 11)}
    assert {claim["verdict"] for claim in metrics["claims"].values()} <= {HOLDS, CONDITION, FAILS}
    assert metrics["claims"]["C3"]["numbers"]["rate"] == metrics["networks"]["sigmoid"]["rate"]
    assert len(metrics["networks"]["tanh"]["log_norm_by_lag"]) == 40


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "3"], "--steps must be at least 20; got 3"),
        (["--train-seeds", "0"], "--train-seeds must be at least 1; got 0"),
        (["--out", "/dev/null/x"], "error:"),
    ],
)
def test_bad_options_end_in_one_line_and_a_non_zero_exit(arguments, words, monkeypatch, capsys):
    status, said = left_with("vanishing_gradient", arguments, monkeypatch, capsys)
    assert status == 2
    assert words in said
    assert said.count("\n") == 1


def test_help_explains_every_option(monkeypatch, capsys):
    status, said = left_with("vanishing_gradient", ["--help"], monkeypatch, capsys)
    assert status == 0
    options = re.findall(r"--([a-z-]+)", said)
    assert {"out", "quick", "steps", "hidden", "train-steps", "seed"} <= set(options)
    assert "adding problem" in said


def test_worked_examples_multiply_to_the_derivative(results):
    for example in results.chains:
        product = np.linalg.multi_dot([np.asarray(f) for f in example.factors.values()])
        np.testing.assert_allclose(product, example.automatic, rtol=1e-14)
        assert example.difference < 1e-15


def test_training_is_reproducible_and_seeds_differ(results):
    with ordinary_mode():
        again = train("GRU", results.training_config, results.seed, on_chunk=lambda n: None)
    first = results.training["GRU"]
    np.testing.assert_array_equal(again.loss, first.loss)
    assert first.loss[0, 0] != first.loss[0, 1]


def test_verdicts_turn_when_the_numbers_turn(results):
    """Each judge is fed numbers that contradict its claim, and must say so."""
    good = results
    verdicts = {claim.number: claim.verdict for claim in judge(good)}
    assert verdicts["C1"] == verdicts["C2"] == verdicts["C6"] == HOLDS

    off = dataclasses.replace(good.chains[0], difference=1e-3)
    steep = dataclasses.replace(good.slopes["sigmoid"], greatest=0.3)
    swapped = {**good.reach, "tanh": good.reach["sigmoid"], "sigmoid": good.reach["tanh"]}
    nothing = {
        name: dataclasses.replace(run, solved_at=np.full_like(run.solved_at, np.nan))
        for name, run in good.training.items()
    }
    flat = dict.fromkeys(good.shares, np.zeros(20))
    contradicted = dataclasses.replace(
        good,
        chains=[off],
        slopes={**good.slopes, "sigmoid": steep},
        reach=swapped,
        shares=flat,
        signal=flat,
        training=nothing,
    )
    verdicts = {claim.number: claim.verdict for claim in judge(contradicted)}
    for number in ("C1", "C2", "C4", "C5", "C6", "C10"):
        assert verdicts[number] == FAILS, number


def ninth(results):
    (claim,) = (claim for claim in judge(results) if claim.number == "C9")
    return claim


def with_gru(results, **changes):
    gru = dataclasses.replace(results.reach["GRU"], **changes)
    return dataclasses.replace(results, reach={**results.reach, "GRU": gru})


@pytest.mark.parametrize("ratio", [0.1, 0.92, 1.01, 1.02, 10.0])
def test_the_clock_stands_beside_the_ninth_verdict_and_does_not_decide_it(results, ratio):
    # A rate as good as the LSTM's, so that computation alone decides.
    fair = with_gru(results, rate=results.reach["LSTM, forget bias 1"].rate)
    seconds = {**fair.seconds, "GRU": ratio * fair.seconds["LSTM, forget bias 1"]}
    claim = ninth(dataclasses.replace(fair, seconds=seconds))
    assert claim.verdict == HOLDS
    assert f"{ratio:.2f} of its time" in claim.measured
    assert "0.7" in claim.measured


@pytest.mark.parametrize("what", ["parameters", "operations"])
def test_a_gru_that_learns_or_computes_more_fails(results, what):
    fair = with_gru(results, rate=results.reach["LSTM, forget bias 1"].rate)
    more = getattr(results.reach["LSTM, forget bias 1"], what) + 1
    assert ninth(with_gru(fair, **{what: more})).verdict == FAILS


def test_operations_are_those_of_the_products_and_little_more(results):
    hidden, inputs = results.hidden, 2
    for name, blocks in (("tanh", 1), ("GRU", 3), ("LSTM, forget bias 1", 4)):
        products = 2 * blocks * hidden * (hidden + inputs)
        assert products < results.reach[name].operations < products + 20 * blocks * hidden
