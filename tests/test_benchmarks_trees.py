"""The comparison of two versions of the package: which one is timed, in which order."""

from pathlib import Path

import pytest

import rnn_jax
from benchmarks import trees
from benchmarks.tree_cases import cases

ROOT = Path(rnn_jax.__file__).parents[1]
SHAPE = (2, 3, 2, 4)


class Scripted:
    """A worker whose rounds take what is written here."""

    def __init__(self, name, log, wall, once=False):
        self.name, self.log, self.wall, self.cases = name, log, list(wall), {"case": once}

    def time(self, case, times):
        self.log.append((self.name, times))
        wall = self.wall.pop(0)
        return {"error": wall} if isinstance(wall, str) else {"wall": wall, "cpu": wall / 2}


def compared(old, new, *, rounds=2, once=False):
    log = []
    workers = [Scripted("old", log, old, once), Scripted("new", log, new, once)]
    return trees.compare("case", workers, rounds, milliseconds=10.0), log


def test_rounds_alternate_after_a_warm_up():
    # The first run compiles, the second one says that five runs make a round.
    row, log = compared([90.0, 4.0, 2.0, 4.0], [90.0, 2.0, 3.0, 4.0])
    assert log[:4] == [("old", 1), ("new", 1)] * 2
    assert log[4:] == [("old", 5), ("new", 5), ("new", 5), ("old", 5)]
    assert row == "2.00 (3.00) | 3.00 (3.50) | 1.50 | 1.25 | 1.50"


def test_a_first_call_is_timed_one_by_one():
    row, log = compared([90.0, 20.0], [80.0, 30.0], rounds=1, once=True)
    assert log == [("old", 1), ("new", 1)] * 2
    assert row == "20.00 (20.00) | 30.00 (30.00) | 1.50 | 1.50 | 1.50"


def test_an_error_of_one_version_is_its_row():
    row, _ = compared([1.0], ["TypeError: no such argument"])
    assert row.startswith("TypeError: no such argument | ")


def test_a_worker_times_the_package_of_its_tree(tmp_path):
    worker = trees.Worker(ROOT, (",".join(map(str, SHAPE)),))
    name = f"forward, simple RNN {SHAPE}"
    assert worker.cases[name] is False
    answer = worker.time(name, 2)
    worker.end()
    assert answer["wall"] > 0
    assert answer["cpu"] > 0
    (tmp_path / "rnn_jax").mkdir()
    (tmp_path / "rnn_jax" / "__init__.py").write_text("raise SystemExit('not this one')")
    with pytest.raises(SystemExit, match="must hold a package rnn_jax that imports"):
        trees.Worker(tmp_path, ())


def test_the_cases_are_every_kind_and_shape():
    names = cases([SHAPE, (5, 6, 7, 8)])
    assert len([name for name in names if name.startswith("gradient, ")]) == 6
    assert {name for name, case in names.items() if case.once} == {
        name for name in names if name.startswith("first call of ")
    }
