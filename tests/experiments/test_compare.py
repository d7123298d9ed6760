"""`experiments/compare.py`: what it measures, how it judges, and what it leaves behind."""

import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from modes import ordinary_mode
from rich.console import Console
from rich.progress import Progress

import compare
import rnn_jax as rj
from family.networks import cell_names, make_network
from learning import comparison
from learning.comparison import RATES, TASKS, Outcome
from learning.contenders import KINDS, NETWORKS
from learning.keeping import Kept, NotMeasuredError
from learning.rank_statistics import Estimate
from learning.reach_picture import draw
from learning.reach_tables import both, measure_rows, network_rows, problem_rows, show, write
from learning.verdicts import FEWEST, correlation, judge, ranked, superior, verdict_of

TINY = {"networks": ("GRU", "LRU"), "lengths": (10, 12), "steps": 4, "hidden": 8, "batch_size": 2}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare")
    return compare.resolve(compare.Config(out=out, quick=True, **TINY))


def run(config):
    with ordinary_mode():
        return compare.run(config, Progress(disable=True))


@pytest.fixture(scope="module")
def finished(config):
    return run(config)


def test_every_network_is_trained_at_the_first_length_before_the_next(finished):
    assert [(o.network, o.length) for o in finished] == [
        ("GRU", 10),
        ("LRU", 10),
        ("GRU", 12),
        ("LRU", 12),
    ]
    for outcome in finished:
        assert outcome.rate in RATES
        assert outcome.steps == 4
        assert len(outcome.solved_at) == len(outcome.loss) == len(outcome.reach) == 8
    # One search for each network and task, at the first length.
    assert finished[0].rate == finished[2].rate
    assert finished[0].parameters == finished[2].parameters > 100


def test_reach_is_that_of_the_untrained_cell_along_the_task(finished):
    with ordinary_mode():
        task = rj.tasks.Adding(12)
        xs = task.sample(jax.random.key(2), 8).inputs
        network = rj.member(rj.ensemble(make_network("GRUCell", 8, "adding", task), 8), 3)
        curve = np.asarray(rj.gradient_flow(network.cells[0], xs[3]).by_lag())
        exponents = rj.lyapunov_exponents(network.cells[0], xs[3], warmup=1).exponents
    assert finished[2].reach[3] == pytest.approx(curve[6] - curve[0], rel=1e-4)
    # The shorter length is read from the same sequences.
    assert finished[0].reach[3] == pytest.approx(curve[5] - curve[0], rel=1e-4)
    assert finished[2].exponent[3] == pytest.approx(float(exponents[0]), rel=1e-3)


def test_a_linear_cell_is_measured_behind_its_dense_layer(finished):
    """Its gradients depend on no input, so that they are the same along zeros."""
    with ordinary_mode():
        task = rj.tasks.Adding(12)
        network = rj.member(rj.ensemble(make_network("LRUCell", 8, "adding", task), 8), 3)
        (cell,) = network.recurrence.cells
        curve = np.asarray(rj.gradient_flow(cell, np.zeros((12, 8), np.float32)).by_lag())
    lru = finished[3]
    assert lru.reach[3] == pytest.approx(curve[6] - curve[0], rel=1e-4)
    # The paper's ring: |λ| from 0.9 to 0.999.
    assert all(np.log(0.9) < value < np.log(0.9991) for value in lru.exponent)
    assert lru.kind == KINDS[3]


def test_a_stopped_run_goes_on_and_a_finished_one_is_not_trained_again(
    config, finished, monkeypatch
):
    lost = config.out / "runs" / "adding-GRU-12.json"
    lost.unlink()
    with pytest.raises(NotMeasuredError):
        Kept(config.out / "runs", reads_only=True).result("adding-GRU-12", {}, dict, dict)
    reported = run(dataclasses.replace(config, report=True))
    assert reported == [finished[0], finished[1], finished[3]]
    again = run(config)
    assert [o.loss for o in again] == [o.loss for o in finished]
    monkeypatch.setattr(comparison.rj, "fit", None)
    assert run(config) == again
    # Other settings are another run.
    with pytest.raises(TypeError):
        run(dataclasses.replace(config, steps=5))


def test_what_was_kept_and_cannot_be_read_is_said_so(config, finished, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "adding-GRU-rate.json").write_text("{")
    with pytest.raises(ValueError, match=r"adding-GRU-rate\.json must hold .* Remove the file"):
        run(dataclasses.replace(config, out=tmp_path))


def test_nothing_to_report_is_refused(config, tmp_path):
    with pytest.raises(ValueError, match="--report needs combinations that were trained"):
        run(dataclasses.replace(config, out=tmp_path, report=True))


def test_the_best_of_two_seeds_chooses_the_learning_rate(monkeypatch, tmp_path):
    """At 0.01 both are solved, at 0.03 one, else none."""
    solved_at = [None, None, None, None, 60, 40, 20, None]
    monkeypatch.setattr(
        comparison, "_train", lambda *_: (comparison.Learnt(solved_at, [0.9] * 8), 5)
    )
    training = comparison.Training(hidden=8, batch_size=2, steps=100, seeds=8, seed=0)
    found = comparison.search("GRU", "adding", 10, training, Kept(tmp_path))
    assert found.rate == 1e-2
    assert found.scores == [190, 190, 50, 105]


def test_every_cell_is_there_and_three_of_them_from_other_starts():
    assert {one.cell for one in NETWORKS.values()} == set(cell_names())
    assert len(NETWORKS) == len(cell_names()) + 6
    assert {one.kind for one in NETWORKS.values()} == set(KINDS)
    assert all(make(20).steps == 20 for make in TASKS.values())


def outcome(network, task, length, reach, at, *, kind=KINDS[0], loss=0.5, parameters=10):
    return Outcome(
        network=network,
        cell=network,
        kind=kind,
        task=task,
        length=length,
        steps=100,
        rate=0.01,
        parameters=parameters,
        solved_at=[at] * 3,
        loss=[loss] * 3,
        reach=[reach, reach, None],
        horizon=[5.0] * 3,
        exponent=[-0.1] * 3,
        seconds=60.0,
    )


def planted(sign, *, networks=16):
    """Those that reach further are faster (or slower), and half of them solve the problem."""
    found = []
    for task in ("adding", "temporal order"):
        for length in (50, 100):
            for i in range(networks):
                kind = KINDS[i % 2]
                solved = i >= networks // 2
                at, loss = (90 - i, 0.01) if solved else (None, 1.0 - i / networks)
                found.append(
                    outcome(
                        f"n{i}", task, length, sign * (i - networks), at, kind=kind, loss=loss,
                        parameters=10 + (7 * i) % networks,
                    )
                )  # fmt: skip
    return found


def test_a_planted_relation_is_supported_and_its_opposite_refuted():
    by_name = {v.name: v for v in judge(ranked(planted(+1)))}
    assert by_name["H1"].estimate.value > 0.97
    for name in ("H1", "H3a", "H4", "H5a", "H5b"):
        assert by_name[name].verdict == "supported", name
    # The same at both lengths, so it does not grow.
    assert by_name["H2"].verdict == "refuted"
    assert by_name["H2"].estimate.value == 0
    opposite = {v.name: v for v in judge(ranked(planted(-1)))}
    for name in ("H1", "H3a", "H4", "H5a", "H5b"):
        assert opposite[name].verdict == "refuted", name
    assert opposite["H4"].estimate.value == 0


def test_no_relation_is_not_supported():
    random = np.random.default_rng(0)
    found = planted(+1, networks=40)
    shuffled = dict(zip((f"n{i}" for i in range(40)), random.normal(size=40), strict=True))
    found = [dataclasses.replace(o, reach=[shuffled[o.network]] * 3) for o in found]
    verdicts = {v.name: v for v in judge(ranked(found))}
    assert verdicts["H1"].estimate.low < 0 < verdicts["H1"].estimate.high
    assert verdicts["H1"].verdict == "undecided"


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.1, 0.2, "supported"), (-0.1, 0.2, "refuted"), (-0.1, 0.4, "undecided")],
)
def test_verdicts_follow_the_interval(low, high, said):
    assert verdict_of(Estimate(0.1, low, high, 9), 0.0, 0.3) == said
    assert verdict_of(Estimate(np.nan, np.nan, np.nan, 9), 0.0, 0.3) == "not measured"


def test_problems_that_only_some_networks_were_trained_on_are_left_out():
    found = planted(+1)[:-1]
    assert ranked(found).problems == (
        ("adding", 50),
        ("adding", 100),
        ("temporal order", 50),
    )


def test_too_few_networks_and_equal_measures_are_said_to_be_no_result():
    few = ranked(planted(+1, networks=FEWEST - 1))
    assert {v.verdict for v in judge(few)} == {"not measured"}
    table = ranked(planted(+1))
    assert both(correlation(table, "horizon")) == "–"
    assert superior(table, "horizon").value == 0.5
    assert "nan" not in str(measure_rows(few) + measure_rows(table) + problem_rows(few))


def test_files_tables_and_picture(tmp_path):
    found = planted(+1)
    found[0] = dataclasses.replace(found[0], reach=[None] * 3, loss=[None] * 3, exponent=[None] * 3)
    table = ranked(found)
    verdicts = judge(table)
    settings = {"tasks": ["a", "b", "c"], "lengths": [50, 100], "seeds": 3}
    settings |= {"hidden": 8, "batch_size": 2, "steps": 100}
    with ordinary_mode():
        draw(found, table, tmp_path / "reach.png")
    assert (tmp_path / "reach.png").stat().st_size > 10_000
    write(settings, found, table, verdicts, tmp_path / "table.md", tmp_path / "rows.json")
    text = (tmp_path / "table.md").read_text()
    assert "| problems | 4 of 6 planned |" in text
    assert f"| processor minutes | {len(found)} |" in text
    assert "| H1 | reach predicts learning | supported | +" in text
    # Those that solve it are the eight networks at the end of each problem, half of each kind.
    assert f"| {KINDS[0]} | 8 | −9.0 | 16 of 32 |" in text
    assert "nan" not in text
    numbers = json.loads((tmp_path / "rows.json").read_text())
    assert len(numbers["rows"]) == len(found)
    assert numbers["rows"][0]["reach"] == [None] * 3
    assert numbers["verdicts"][0]["verdict"] == "supported"
    rows = network_rows(found, table)
    assert rows[0][0] == "n15"
    assert rows[0][-1] == "3: 75"
    assert next(row for row in rows if row[0] == "n7")[-1] == "0: 56%"
    console = Console(file=io.StringIO(), width=80, record=True)
    show(console, table, verdicts)
    assert "supported" in console.export_text()


def test_one_problem_alone_has_a_picture(tmp_path):
    found = planted(+1)[:16]
    with ordinary_mode():
        draw(found, ranked(found), tmp_path / "reach.png")
    assert (tmp_path / "reach.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"networks": ("nothing",)}, "unknown network 'nothing'"),
        ({"tasks": ("nothing",)}, "unknown task 'nothing'"),
        ({"lengths": (9,)}, "--lengths must be at least 10; got 9"),
        ({"steps": 0}, "--steps must be at least 1"),
        ({"seeds": 0}, "--seeds must be at least 1"),
        ({"hidden": 12}, "--hidden must be a multiple of 8"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(change, said):
    with pytest.raises(ValueError, match=said):
        compare.resolve(dataclasses.replace(compare.Config(), **change))
