"""Calls that are started before the last one is read: in which order, and that it is all one."""

import types

import jax
import numpy as np
import optax
import pytest

from rnn_jax.training.compiled.fed_program import FedProgram
from rnn_jax.training.compiled.program import Call, Program
from rnn_jax.training.devices.layout import Layout
from rnn_jax.training.look_ahead import LookAhead
from rnn_jax.training.plan import make_plan
from rnn_jax.training.report import NEVER
from training import runs, toys


class Noted:
    """A program that trains nothing and notes what it is asked; its state is the number of calls.

    Args:
      ready: whether data are there.
      breaks_at: the step at which no call can be started.
    """

    def __init__(self, *, ready=True, breaks_at=None):
        self.events, self._ready, self._breaks_at = [], ready, breaks_at
        self.plan = types.SimpleNamespace(next_length=lambda done, steps: min(3, steps - done))

    def advance(self, state, first, length):
        self.events.append(f"start {first}+{length}")
        if first == self._breaks_at:
            raise OSError("broken")
        return Call(state + 1, f"report {first}", first, length)

    def ready(self, length):
        return self._ready

    def read(self, call):
        self.events.append(f"read {call.first}")
        return call.report


def all_calls(program, done=0, steps=7):
    """Every call of a run, as (state, steps done, report)."""
    calls, found = LookAhead(program, done // 3, done, steps), []
    while done < steps:
        call, report = calls.next()
        done = call.done
        found.append((call.state, done, report))
    return found


def test_a_call_is_started_before_the_one_before_is_read():
    program = Noted()
    assert all_calls(program) == [(1, 3, "report 0"), (2, 6, "report 3"), (3, 7, "report 6")]
    assert program.events == ["start 0+3", "start 3+3", "read 0", "start 6+1", "read 3", "read 6"]


def test_a_run_that_goes_on_is_ahead_in_the_same_way():
    program = Noted()
    assert all_calls(program, done=3) == [(2, 6, "report 3"), (3, 7, "report 6")]
    assert program.events == ["start 3+3", "start 6+1", "read 3", "read 6"]


def test_nothing_is_started_ahead_where_that_would_wait_for_data():
    program = Noted(ready=False)
    assert all_calls(program) == all_calls(Noted())
    assert program.events == ["start 0+3", "read 0", "start 3+3", "read 3", "start 6+1", "read 6"]


@pytest.mark.parametrize("ready", [True, False])
def test_what_a_call_raises_is_raised_when_it_is_its_turn(ready):
    program = Noted(ready=ready, breaks_at=3)
    calls = LookAhead(program, 0, 0, 7)
    assert calls.next()[1] == "report 0"
    for _ in range(2):
        with pytest.raises(OSError, match="broken"):
            calls.next()
    assert program.events[-1] == ("read 0" if ready else "start 3+3")


def test_fit_has_the_next_call_under_way_while_it_deals_with_one(monkeypatch):
    events, advance = [], Program.advance

    def noted(self, state, first, length):
        events.append(f"start {first}")
        return advance(self, state, first, length)

    monkeypatch.setattr(Program, "advance", noted)
    runs.toy(None, steps=6, on_evaluation=lambda row: events.append(f"row {row['step']}"))
    assert events == ["start 0", "start 2", "row 2", "start 4", "row 4", "row 6"]


# Whether a call is started ahead or not.


def _loader():
    return toys.loader([toys.batch(seed, 3) for seed in range(4)])


RUNS = {
    "to the end": {"steps": 7},
    "solved": {"steps": 100, "task": toys.Mixing(solved_below=1.0)},
    "members, solved one after another": {
        "model": toys.linears(0, 1, 2),
        "members": 3,
        "steps": 100,
        "task": toys.Mixing(solved_below=1.0),
    },
    "not finite": {"steps": 12, "optimizer": toys.breaking(5)},
    "not finite, raised": {"optimizer": toys.breaking(5), "on_nonfinite": "raise"},
    "a loader": {"task": _loader(), "batch_size": None, "steps": 7},
    "a loader, out of patience": {
        "task": _loader(),
        "batch_size": None,
        "steps": 40,
        "patience": 2,
        "min_delta": 0.5,
    },
}


def outcome(directory, **options):
    """All that a run gives and leaves, and what it raised."""
    rows, raised, found = [], None, None
    try:
        found = runs.result_bits(runs.toy(directory, on_evaluation=rows.append, **options))
    except FloatingPointError as error:
        raised = str(error).replace(str(directory), "")
    return rows, raised, found, lasting(directory)


def lasting(directory):
    """The files that say nothing of when and where."""
    files = runs.tree_of(directory)
    names = ("checkpoints", "metrics", "probes", "nonfinite")
    return {name: content for name, content in files.items() if name.startswith(names)}


@pytest.mark.filterwarnings("ignore:member 0:RuntimeWarning")
@pytest.mark.parametrize("name", RUNS)
def test_a_call_that_was_started_ahead_leaves_nothing_of_its_own(name, tmp_path, monkeypatch):
    def leaves(folder, ready):
        for program in (Program, FedProgram):
            monkeypatch.setattr(program, "ready", lambda self, length: ready)
        at_once = outcome(folder / "at once", **RUNS[name])
        leave = runs.leave_after(at_once[0][1]["step"])
        with pytest.raises(runs.Enough):
            runs.toy(folder / "cut", on_evaluation=leave, **RUNS[name])
        halfway = lasting(folder / "cut")
        return at_once, halfway, outcome(folder / "cut", **RUNS[name])

    ahead, without = (leaves(tmp_path / str(ready), ready) for ready in (True, False))
    assert ahead == without
    (rows, raised, found, files), _, (_, raised_again, found_again, files_again) = ahead
    assert (raised, found, files) == (raised_again, found_again, files_again)
    assert (raised is None) == (found is not None)
    assert len(rows) >= 2


def _program(members, **options):
    plan = make_plan(
        toys.Mixing(),
        optax.sgd(0.1),
        batch_size=3,
        evaluation_size=6,
        evaluate_every=2,
        probes=runs.Weights(every=2),
        hyperparameters=None,
        **{"stop_when_solved": True, "on_nonfinite": "stop", **options},
    )
    return Program(plan, Layout(members), 0, None)


def _with_status(state, **changes):
    changed = {name: jax.numpy.asarray(value, "int32") for name, value in changes.items()}
    return state._replace(status=state.status._replace(**changed))


STOPPED = {
    "solved": {"solved_at": [2, 2]},
    "failed": {"failed_at": [1, 0]},
    "one of each": {"stopped_at": [2, NEVER], "failed_at": [NEVER, 1]},
}


@pytest.mark.parametrize("name", STOPPED)
def test_a_call_after_all_have_stopped_does_nothing(name):
    program = _program(2)
    state = _with_status(program.start(toys.linears(0, 1)), **STOPPED[name])
    call = program.advance(state, 2, 2)
    toys.identical(call.state, state)
    np.testing.assert_array_equal(program.read(call).updates, [0, 0])


GOING_ON = {
    "one of two": ({"solved_at": [2, NEVER]}, {}, [0, 2]),
    "solved, and that is no end": ({"solved_at": [2, 2]}, {"stop_when_solved": False}, [2, 2]),
    "failed, and such steps are skipped": (
        {"failed_at": [1, 1]},
        {"on_nonfinite": "skip"},
        [2, 2],
    ),
}


@pytest.mark.parametrize("name", GOING_ON)
def test_as_long_as_one_member_goes_on_a_call_does_all(name):
    status, options, updates = GOING_ON[name]
    program = _program(2, **options)
    call = program.advance(_with_status(program.start(toys.linears(0, 1)), **status), 2, 2)
    report = program.read(call)
    np.testing.assert_array_equal(report.updates, updates)
    assert np.all(report.metrics["mse"] > 0)
