"""`experiments/cells.py`: claims that can fail, ranks, and what a run leaves behind."""

import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from modes import ordinary_mode
from rich.console import Console
from rich.progress import Progress

import cells
import rnn_jax as rj
from claims.cases import CASES
from claims.record import Claim
from family import training
from family.networks import LEARNING_RATES, OPTIONS, cell_names, make_network
from family.picture import draw
from family.ranking import predictions, rank
from family.reach import Reach
from family.training import TASKS, Outcome

H, T = 4, 8

# Of each kind of claim one, and what the carry must be multiplied by after each step to break it.
TAMPERED = {
    ("UnICORNNCell", ""): {"norm by lag": 1e3, "volume": 1.01, "does not vanish": 1e-3},
    ("AntisymmetricRNNCell", "γ = 0"): {"eigenvalues": 1.001, "does not vanish": 0.1},
    ("IndRNNCell", "tanh"): {"product by unit": 1.01},
    ("RGLRUCell", ""): {"product by unit": 1.01, "slowest decay": 0.5},
    ("LRUCell", ""): {"powers of λ": 1.01, "forward gain": 1.01},
}


def tampered(kind):
    """A class of the same equations whose carry is multiplied by `factor` after each step."""

    class Tampered(kind):
        def step(self, carry, z):
            carry, y = super().step(carry, z)
            return jax.tree.map(lambda part: self.factor[...] * part, carry), y

    return Tampered


def verdicts(case, kind, factor):
    trial = case.trial(H, T, 0, kind)
    trial.cell.factor = nnx.Param(jnp.asarray(factor))
    return {claim.name: claim for claim in (judge(trial) for judge in case.judges)}


@pytest.mark.parametrize("which", TAMPERED, ids=lambda which: which[0])
def test_a_cell_that_breaks_its_claim_is_found_out(which):
    (case,) = (case for case in CASES if (case.cell, case.setting) == which)
    # One class for both, so that they share their programs.
    kind = tampered(getattr(rj.cells, case.cell))
    honest = verdicts(case, kind, 1.0)
    assert set(honest) == set(TAMPERED[which])
    assert all(claim.holds for claim in honest.values())
    for name, factor in TAMPERED[which].items():
        claim = verdicts(case, kind, factor)[name]
        assert not claim.holds, name
        assert cells.claim_row(claim)[3] == "does not hold"
        assert claim.finding.startswith("differs" if claim.relation == "equal" else "missed by")


def claim(relation, expected, measured, **changes):
    rest = {"cell": "CoRNNCell", "setting": "", "name": "n", "says": "s", "source": "o"}
    given = {**rest, "basis": "paper", "along": "lag", "tolerance": 1e-3, **changes}
    curves = {"expected": np.array(expected, float), "measured": np.array(measured, float)}
    return Claim(relation=relation, **curves, **given)


@pytest.mark.parametrize(
    ("relation", "expected", "measured", "holds"),
    [
        ("equal", [1, -np.inf], [1, -np.inf], True),
        ("equal", [1, 2], [1, 2.01], False),
        ("equal", [1, 2], [1, np.nan], False),
        ("equal", [1, 2], [1, -np.inf], False),
        ("at most", [1, 2], [-np.inf, 2.0005], True),
        ("at most", [1, 2], [0, 2.01], False),
        ("at most", [1, 2], [0, np.nan], False),
        ("at least", [1, 2], [1, 30], True),
        ("at least", [1, 2], [1, -np.inf], False),
    ],
)
def test_verdicts_follow_the_curves(relation, expected, measured, holds):
    found = claim(relation, expected, measured)
    assert found.holds is holds
    assert found.finding


def test_every_cell_is_there_and_has_a_network_for_every_task():
    names = cell_names()
    assert {case.cell for case in CASES} | set(OPTIONS) <= set(names)
    assert {cell for cell, _ in LEARNING_RATES} <= set(names)
    assert {"LSTMCell", "SLSTMCell", "ScoRNNCell", "LMUCell"} <= set(names)
    assert not {"RNNCell", "Cell", "Zoneout", "LearnedCarry"} & set(names)
    for make_task in TASKS.values():
        assert make_task(20).steps == 20


def outcome(cell, solved_at, loss, length=20):
    sizes = {"steps": 100, "learning_rate": 1e-3, "parameters": 5, "seconds": 1.0}
    return Outcome(cell, "adding", length, solved_at, loss, **sizes)


def reach(horizon, exponent):
    both = np.array([horizon, horizon]), np.array([exponent, exponent])
    return Reach(20, *both, by_lag=np.zeros(20), parameters=5)


def entries():
    reaches = {"GRUCell": reach(5, -0.5), "LSTMCell": reach(19, 0.0), "MGUCell": reach(2, -np.inf)}
    outcomes = [
        outcome("GRUCell", [60, None], [0.01, 0.5]),
        outcome("LSTMCell", [40, 20], [0.01, 0.02]),
        outcome("MGUCell", [None, None], [1.3, None]),
    ]
    return rank(reaches, outcomes)


def test_those_that_do_not_solve_it_come_last_by_what_is_left():
    found = entries()
    assert [entry.cell for entry in found] == ["LSTMCell", "GRUCell", "MGUCell"]
    assert [entry.outcomes[0].score for entry in found] == [30, (60 + 150) / 2, 200]
    assert [entry.rank for entry in found] == [1, 2, 3]
    rows = [cells.entry_row(entry) for entry in found]
    assert rows[0][3:5] == ("≥ 19", "40, 20")
    assert rows[1][4] == "60, > 100 (50%)"
    assert [cells.in_short(entry.outcomes[0]) for entry in found] == ["30", "60 1/2", "130% left"]
    assert rows[2][2] == "−∞"
    assert "nan" not in str(rows)
    assert "no rank correlation" in cells.sentence(predictions(found)[0])


def test_who_reaches_further_learns_faster_or_the_other_way_round():
    names = cell_names()[:6]
    reaches = {name: reach(2 + i, -0.1 * i) for i, name in enumerate(names)}
    outcomes = [outcome(name, [90 - i], [0.01]) for i, name in enumerate(names)]
    horizon, exponent = predictions(rank(reaches, outcomes))
    assert horizon.correlation == pytest.approx(1)
    assert exponent.correlation == pytest.approx(-1)
    assert "-1.00" in cells.sentence(exponent)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    sizes = {"hidden": 8, "steps": 4, "seeds": 1, "measured_steps": 10, "batch_size": 4}
    which = {"cells": ("LRUCell",), "lengths": (11,), "out": tmp_path_factory.mktemp("cells")}
    return cells.resolve(cells.Config(quick=True, **sizes, **which))


def compare(config):
    with ordinary_mode():
        return cells.compare(config, Progress(disable=True))


def test_a_run_goes_on_where_it_was_and_is_not_trained_again(config, monkeypatch):
    (first,) = compare(config)
    folder = config.out / "runs" / "adding-11-LRUCell"
    losses = (folder / "metrics.jsonl").read_bytes()
    # As if stopped after training, before the outcome was written.
    (folder / "outcome.json").unlink()
    (again,) = compare(config)
    assert again.outcomes[0].loss == first.outcomes[0].loss
    assert (folder / "metrics.jsonl").read_bytes() == losses

    monkeypatch.setattr(training.rj, "fit", None)
    (read,) = compare(config)
    assert read.outcomes == again.outcomes
    with pytest.raises(TypeError):
        compare(dataclasses.replace(config, steps=5))


def test_files_tables_and_picture(tmp_path):
    found, claims = entries(), [
        claim("equal", [0, 0], [0, 1e-12]),
        claim("at most", [1, 2], [0, 3]),
        claim("at least", [-5, -5], [0, -9], basis="criterion", cell="LEMCell", first=0),
    ]  # fmt: skip
    with ordinary_mode():
        draw(claims, found, tmp_path / "cells.png")
    assert (tmp_path / "cells.png").stat().st_size > 10_000
    cells.write(cells.Config(out=tmp_path), claims, found, predictions(found), 1.0)
    table = (tmp_path / "table.md").read_text()
    assert "Written by `python experiments/cells.py` on " in table
    assert "| LSTMCell | 5 | +0.000 | ≥ 19 | 40, 20 | 1.0 |" in table
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [one["holds"] for one in metrics["claims"]] == [True, False, False]
    assert metrics["cells"][2]["reach"]["exponent"] == [None, None]
    console = Console(file=io.StringIO(), width=80, record=True)
    cells.show(console, claims, found, predictions(found))
    printed = console.export_text()
    assert printed.count("does not hold") == 2
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cells": ("nothing",)}, "unknown cell 'nothing'"),
        ({"tasks": ("nothing",)}, "unknown task 'nothing'"),
        ({"lengths": (10,)}, "--lengths must be at least 11; got 10"),
        ({"hidden": 12}, "--hidden must be a multiple of 8"),
        ({"steps": 0}, "--steps must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_trained(change, said):
    with pytest.raises(ValueError, match=said):
        cells.resolve(dataclasses.replace(cells.Config(), **change))


def test_linear_cells_stand_between_layers_that_are_not():
    with ordinary_mode():
        task = TASKS["copy"](12)
        network = make_network("LRUCell", 8, "copy", task)(nnx.Rngs(0))
        assert network(jnp.ones((2, 12, task.in_features))).shape == (2, 12, task.out_features)
        plain = make_network("GRUCell", 8, "copy", task)(nnx.Rngs(0))
        assert isinstance(plain, rj.SequenceModel)
