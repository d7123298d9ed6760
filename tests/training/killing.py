"""Processes killed without warning, at moments of the clock or before the n-th use of the disk."""

import dataclasses
import itertools
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from training import runs

# What the interpreter says before it touches a file.
_TOUCHES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link")


@dataclasses.dataclass(frozen=True)
class Moment:
    """When to kill: after so many rows of metrics, and then a share of the time a row takes.

    With no rows, a share of the time from the process's start to its first row.
    """

    rows: int
    share: float


@dataclasses.dataclass
class Pace:
    """How long a process takes to its first row, and from one row to the next, in seconds."""

    first: float
    row: float


def draw_moments(seed: list[int], evaluations: int, count: int, early: int) -> list[Moment]:
    """Random moments in the order of a run, each in a part of it; `early` ones before any row.

    The part after the last row but one is left out, so that what is to be killed is still alive.
    """
    rng = np.random.default_rng(seed)
    edges = np.linspace(1, evaluations - 1, count + 1)
    places = [int(rng.uniform(low, high)) for low, high in itertools.pairwise(edges)]
    moments = [Moment(rows, rng.uniform()) for rows in places]
    for place in sorted(rng.choice(count, early, replace=False), reverse=True):
        moments.insert(place, Moment(0, rng.uniform()))
    return moments


def watch(process: BaseProcess, directory: Path) -> Pace:
    """Waits for a process, and tells its pace."""
    started, times, size = time.monotonic(), [], 0
    while process.is_alive():
        process.join(0.001)
        if (now := _size(directory / "metrics.jsonl")) > size:
            size = now
            times.append(time.monotonic())
    between = [later - earlier for earlier, later in itertools.pairwise(times)]
    return Pace(first=times[0] - started, row=statistics.median(between))


def start_and_kill(
    moment: Moment, case: str, directory: Path, lengths: list[int], pace: Pace
) -> None:
    """Starts a run, or goes on with it, and kills its process at a moment.

    However late this process is to see the moment, that one is alive: it stops at the first use of
    the disk after the row that follows, or before the last one, and says so.

    Args:
      moment: when.
      case: of `runs.CASES`.
      directory: of the run.
      lengths: bytes of metrics.jsonl after each row.
      pace: of such processes; brought up to date, as the first of them had more to compile.
    """
    started, metrics = time.monotonic(), directory / "metrics.jsonl"
    before = len(runs.sessions(directory, "start"))
    stopped = directory.with_name(f"{directory.name}.stopped")
    stopped.unlink(missing_ok=True)
    last = lengths[moment.rows] if moment.rows else lengths[-2]
    process = runs.start(_fit_and_stop, case, runs.weights_of(case), directory, last, stopped)

    def reach(place: Callable[[], bool]) -> bool:
        wait(process, lambda: stopped.exists() or place())
        return not stopped.exists()

    if moment.rows == 0:
        process.join(moment.share * pace.first)
    # What an earlier process wrote beyond the checkpoint is cut before the session is noted.
    elif reach(lambda: len(runs.sessions(directory, "start")) > before):
        size = _size(metrics)
        if reach(lambda: _size(metrics) > size):
            pace.first = min(pace.first, time.monotonic() - started)
        reach(lambda: _size(metrics) >= lengths[moment.rows - 1])
        process.join(moment.share * pace.row)
    process.kill()
    assert runs.exit_status(process) == -signal.SIGKILL


@dataclasses.dataclass(frozen=True)
class Trap:
    """Before which use of its directory a process dies.

    Attributes:
      begins: how the use begins, as "os.rename checkpoints".
    """

    begins: str


def start_trapped(case: str, directory: Path, trap: Trap) -> BaseProcess:
    """A process that makes a run until the trap closes."""
    return runs.start(_fit_and_die, case, runs.weights_of(case), directory, trap)


def _fit_and_die(case: str, weights: Any, directory: Path, trap: Trap) -> None:
    def look(use: str) -> None:
        if use.startswith(trap.begins):
            os.kill(os.getpid(), signal.SIGKILL)

    _before_uses(directory, look)
    runs.fit_from(case, weights, directory)


def _fit_and_stop(case: str, weights: Any, directory: Path, size: int, stopped: Path) -> None:
    def look(use: str) -> None:
        if _size(directory / "metrics.jsonl") >= size:
            stopped.touch()
            time.sleep(600)

    _before_uses(directory, look)
    runs.fit_from(case, weights, directory)


def _before_uses(directory: Path, look: Callable[[str], None]) -> None:
    """Has something called before each use of a directory, as "os.rename checkpoints/0.ckpt"."""
    within = f"{directory}{os.sep}"

    def touch(event: str, details: tuple[Any, ...]) -> None:
        if event not in _TOUCHES or not isinstance(details[0], (str, os.PathLike)):
            return
        path = os.fspath(details[0])
        # In deleting a tree, names are relative to descriptors of its folders.
        deletes = event in ("os.remove", "os.rmdir") and not os.path.isabs(path)
        if path.startswith(within) or deletes:
            look(f"{event} {path.removeprefix(within)}")

    sys.addaudithook(touch)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def wait(process: BaseProcess, until: Callable[[], bool]) -> None:
    """Until something is so, or the process is no more."""
    while process.is_alive() and not until():
        process.join(0.001)
