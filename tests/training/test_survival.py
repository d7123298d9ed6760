"""Runs that are killed without warning, and end as if they had not been."""

import contextlib
import functools
import itertools
import signal

import numpy as np
import pytest

import rnn_jax as rj
from rnn_jax.training.disk.checkpoints import read_checkpoint
from training import dying, killing, runs, toys
from training.killing import Trap

KILLED = ["simple, dropout, loader", "gru, ensemble"]
MOMENTS = 7


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """By case, (directory, result, pace) of a run that nothing happens to."""

    @functools.cache
    def make(case):
        directory = tmp_path_factory.mktemp("whole")
        keep = directory.with_name(f"{directory.name}.kept")
        process = runs.start_fit(case, directory, keep=keep)
        pace = killing.watch(process, directory)
        assert process.exitcode == 0
        return directory, runs.kept(keep), pace

    return make


def assert_ends_as(case, undisturbed, result, directory, keep):
    """Started once more, a run ends as the undisturbed one did, and is whole."""
    process = runs.start_fit(case, directory, keep=keep)
    assert runs.exit_status(process) == 0
    assert runs.records(directory) == runs.records(undisturbed)
    assert runs.kept(keep) == result
    model = runs.CASES[case][0]()
    for which in ("last", "best"):
        found = rj.restore(directory, model, which=which)
        assert runs.bits(found) == runs.bits(rj.restore(undisturbed, model, which=which))
    assert runs.sessions(directory, "end")[-1]["how"] == "finished"


def rows_in(directory):
    """Whole ones."""
    metrics = directory / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


@pytest.mark.parametrize("case", KILLED)
def test_a_run_that_is_killed_at_random_moments_ends_bit_for_bit_as_it_would_have(
    case, whole, tmp_path
):
    undisturbed, result, pace = whole(case)
    lines = runs.records(undisturbed)["metrics.jsonl"].splitlines(keepends=True)
    lengths = np.cumsum([len(line) for line in lines])
    directory, keep = tmp_path / "run", tmp_path / "kept"
    killed = []
    for moment in killing.draw_moments(list(case.encode()), len(lines), MOMENTS - 1, early=1):
        killing.start_and_kill(moment, case, directory, lengths, pace)
        killed.append(rows_in(directory))
    assert_ends_as(case, undisturbed, result, directory, keep)

    # And the kills were such that there was something to survive.
    steps = [row["step"] for row in runs.rows(undisturbed / "metrics.jsonl")]
    begun_at = [row["from_step"] for row in runs.sessions(directory, "start")]
    assert len({step for step in begun_at if 0 < step < steps[-1]}) >= 3
    assert sum(rows > 0 for rows in killed) >= MOMENTS - 3


# Any use of all is the matter of `test_a_run_that_dies_at_any_use_of_the_disk_ends_bit_for_bit`.
def test_a_run_that_is_killed_before_a_use_of_its_directory_ends_bit_for_bit(whole, tmp_path):
    case = "simple, dropout, loader"
    undisturbed, result, _ = whole(case)
    directory, keep = tmp_path / "run", tmp_path / "kept"
    traps = [
        Trap(begins="os.rename config.json"),
        Trap(begins="os.mkdir checkpoints"),
        Trap(begins="os.rename checkpoints/4.ckpt"),
        # The oldest of three checkpoints.
        Trap(begins="os.remove checkpoints/0.ckpt"),
    ]
    for trap in traps:
        process = killing.start_trapped(case, directory, trap)
        assert runs.exit_status(process) == -signal.SIGKILL
    assert_ends_as(case, undisturbed, result, directory, keep)


def kept_of_failure(directory):
    """The state that a member had before it failed."""
    folder = directory / "nonfinite" / f"member-0-step-{runs.BREAKS_AT}"
    return read_checkpoint(folder / "state.ckpt")[0]


def test_what_a_member_was_before_it_failed_is_kept_even_if_its_run_is_killed(whole, tmp_path):
    case = "simple, breaking"
    undisturbed, result, _ = whole(case)
    directory, keep = tmp_path / "run", tmp_path / "kept"
    process = killing.start_trapped(case, directory, Trap(begins="os.mkdir nonfinite"))
    assert runs.exit_status(process) == -signal.SIGKILL
    assert_ends_as(case, undisturbed, result, directory, keep)
    assert runs.bits(kept_of_failure(directory)) == runs.bits(kept_of_failure(undisturbed))


@pytest.fixture
def light(monkeypatch):
    """Without what takes time and leaves nothing: questions to git."""
    monkeypatch.setenv("PATH", "")


# Of three batches, so that an epoch ends within the run.
BREAKING = {
    "task": toys.loader([toys.batch(seed) for seed in range(3)]),
    "optimizer": toys.breaking(3),
    "on_nonfinite": "stop",
}


def places_in(uses):
    """One of each kind of use: of many in a row that are alike the first, a middle and the last."""
    found = []
    for _, alike in itertools.groupby(range(len(uses)), key=uses.__getitem__):
        alike = list(alike)
        found += sorted({alike[0], alike[len(alike) // 2], alike[-1]})
    return found


@pytest.mark.filterwarnings("ignore:member:RuntimeWarning")
@pytest.mark.parametrize(
    ("changes", "since"),
    # Up to the failure both do the same.
    [({}, "mkdir "), (BREAKING, "mkdir /nonfinite/member-0-step-0")],
    ids=["whole", "loader, breaking"],
)
def test_a_run_that_dies_at_any_use_of_the_disk_ends_bit_for_bit(changes, since, tmp_path, light):
    changes = {**changes, "steps": 4}
    with dying.life_in(tmp_path / "whole") as life:
        result = runs.result_bits(runs.toy(tmp_path / "whole", **changes))
    records = runs.records(tmp_path / "whole")
    assert sum(use.startswith("write") for use in life.uses) >= 20
    first = life.uses.index(since)
    for end in [place for place in places_in(life.uses) if place >= first]:
        directory = tmp_path / str(end)
        with pytest.raises(dying.Died), dying.life_in(directory, end):
            runs.toy(directory, **changes)
        again = runs.result_bits(runs.toy(directory, **changes))
        assert (again, runs.records(directory)) == (result, records), life.uses[end]
        assert not list(directory.rglob("checkpoints/*.part"))


def test_a_run_that_dies_again_and_again_ends_bit_for_bit(tmp_path, light):
    changes = {"steps": 6}
    result = runs.result_bits(runs.toy(tmp_path / "whole", **changes))
    rng = np.random.default_rng(0)
    for end in rng.integers(1, 60, 12):
        with contextlib.suppress(dying.Died), dying.life_in(tmp_path / "run", int(end)):
            runs.toy(tmp_path / "run", **changes)
    again = runs.result_bits(runs.toy(tmp_path / "run", **changes))
    assert (again, runs.records(tmp_path / "run")) == (result, runs.records(tmp_path / "whole"))
