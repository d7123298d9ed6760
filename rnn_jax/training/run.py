"""One run from its last checkpoint to its end."""

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from rnn_jax.training.compiled.program import Program
from rnn_jax.training.devices import processes
from rnn_jax.training.devices.layout import fetch
from rnn_jax.training.disk.checkpoints import from_arrays, to_arrays
from rnn_jax.training.disk.failures import Failure, new_failures
from rnn_jax.training.disk.journal import Journal
from rnn_jax.training.disk.records import Row
from rnn_jax.training.disk.tensorboard import TensorBoard
from rnn_jax.training.display import Display
from rnn_jax.training.history import last_probe_rows, probe_rows, row_of
from rnn_jax.training.look_ahead import LookAhead
from rnn_jax.training.report import MemberStatus, Report, has_stopped
from rnn_jax.training.step import TrainState
from rnn_jax.training.stopping import Stopping, Terminated


class Run:
    """A run under way.

    Attributes:
      state: of all members.
      done: training steps.
      journal: what is recorded.
      board: for TensorBoard, or None.
    """

    def __init__(self, program: Program, journal: Journal, state: TrainState, done: int):
        self.state, self.done, self.journal = state, done, journal
        self._saved = done
        self.board: TensorBoard | None = None
        self._program, self._plan = program, program.plan
        # A run that goes on beyond its former end has measured there already.
        self._measured = {(row["probe"], row["step"]) for row in journal.probe_rows}

    def go(
        self,
        steps: int,
        stopping: Stopping,
        display: Display,
        on_evaluation: Callable[[Row], None],
    ) -> None:
        """Trains until `steps` are done, all members have stopped, or the run is asked to leave.

        Raises:
          FloatingPointError: a member failed, and the plan says "raise".
          Terminated: it was asked to leave, and has saved.
        """
        display.begin(self.done)
        self._program.begin(self.done, steps)
        calls = LookAhead(self._program, self.state, self.done, steps)
        status: MemberStatus = fetch(self.state.status)
        if self._plan.on_nonfinite == "raise":
            for failure in new_failures(None, status):
                failure.report("raise", display)
        if steps == 0:
            self._record([], last_probe_rows(0, self._program.measure(self.state)))
        while self.done < steps and not np.all(has_stopped(self._plan, status)):
            before, (report, first) = status, self._advance(calls)
            status = report.status
            finished = self.done >= steps or bool(np.all(has_stopped(self._plan, status)))
            self._record_call(report, first, finished)
            failures = new_failures(before, status, report.broken)
            asked = processes.largest(stopping.requested or 0)
            due = processes.largest(self.journal.save_is_due())
            if finished or asked or due or failures:
                self._save(failures)
            display.update(self.done, report, finished=finished)
            on_evaluation(copy.deepcopy(self.journal.metric_rows[-1]))
            for failure in failures:
                failure.report(self._plan.on_nonfinite, display)
            if asked:
                break
        asked = processes.largest(stopping.requested or 0)
        if asked:
            raise Terminated(asked, self.done, self.journal.path)

    def _advance(self, calls: LookAhead) -> tuple[Report, int]:
        """(what the next call of the loop reports, steps done before it)."""
        try:
            call, report = calls.next()
        except Exception:  # Such as of a loader: what is done stays done.
            if self.done > self._saved:
                self._save([])
            raise
        self.state, self.done = call.state, call.done
        return report, call.first

    def _record_call(self, report: Report, first: int, finished: bool) -> None:
        members = self._program.layout.members
        measured = probe_rows(self._plan, report.probes, first, self.done - first, members)
        if finished:
            measured += last_probe_rows(self.done, self._program.measure(self.state))
        self._record([row_of(self.done, report)], measured)

    def _record(self, rows: list[Row], measured: list[Row]) -> None:
        new = [row for row in measured if (row["probe"], row["step"]) not in self._measured]
        # What goes wrong with the first process's disk must reach the others, or they wait for it.
        processes.only_first(lambda: self.journal.record(rows, new))
        if not processes.is_first():
            self.journal.record(rows, new)
        if self.board is not None:
            self.board.write(rows)

    def _save(self, failures: list[Failure]) -> None:
        state = fetch(self.state)
        processes.only_first(lambda: self._keep(state, failures))
        self._saved = self.done

    def _keep(self, state: TrainState, failures: list[Failure]) -> None:
        # First, because a process that goes on from the checkpoint no longer sees them fail. What
        # skips a step is not as it was before it, so there is nothing to keep.
        for failure in failures if self._plan.on_nonfinite != "skip" else ():
            own = failure.state_of(state, self._program.layout.members)
            failure.kept = self.journal.keep_failed(failure.name, own, failure.notes)
        self.journal.save(self.done, state, self._program.position)


@contextlib.contextmanager
def opened(
    program: Program, open_journal: Callable[[], Journal], start: TrainState
) -> Iterator[Run]:
    """A run that begins, or goes on from its last checkpoint; on leaving, its journal is closed.

    With several processes the first one reads the disk for all.
    """
    journal = _journal_of_first(open_journal)
    run = None
    try:
        state, done = _restored(program, journal, start)
        run = Run(program, journal, state, done)
        yield run
    except Terminated as leaving:
        journal.close("asked to leave", leaving.step)
        if processes.is_first():
            print(leaving, file=sys.stderr, flush=True)  # Python itself ends without a word.
        raise
    except BaseException:
        with contextlib.suppress(OSError):  # Of two errors the first one is to be heard.
            journal.close("failed", 0 if run is None else run.done)
        raise
    journal.close("finished", run.done)


def _journal_of_first(open_journal: Callable[[], Journal]) -> Journal:
    journal = Journal()

    def begin() -> None:
        nonlocal journal
        journal = open_journal()

    processes.only_first(begin)
    return journal


def _restored(program: Program, journal: Journal, start: TrainState) -> tuple[TrainState, int]:
    """(state, steps done) in every process, and the rows recorded before."""
    host, done = fetch(start), 0

    def read() -> dict[str, Any]:
        nonlocal host
        host, done = journal.restore(host, program.position)
        return {
            "done": done,
            "metrics": journal.metric_rows,
            "probes": journal.probe_rows,
            "data": journal.data_position,
        }

    answer = processes.only_first(read)
    done = answer["done"]
    journal.metric_rows, journal.probe_rows = answer["metrics"], answer["probes"]
    if answer["data"] is not None:
        program.go_to(answer["data"])
    if done == 0:
        return start, 0
    if jax.process_count() > 1:
        host = from_arrays(processes.arrays_from_first(to_arrays(host)), host)
    return program.layout.place(host), done
