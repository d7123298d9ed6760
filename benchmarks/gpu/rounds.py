"""Compares the candidates of a row, then times them in interleaved rounds."""

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.gpu.candidates import TOLERANCES, Candidate, Results
from benchmarks.timing import time_in_turn

# A column's content: {"best", "median"} in milliseconds, {"error"}, or what else a table defines.
Cell = dict[str, Any]


class Effort(NamedTuple):
    """How long to measure a row.

    Attributes:
      rounds: counted ones.
      at_least: milliseconds that a round of the quickest candidate takes, if repeating it does it.
      at_most: milliseconds beyond which a round is not repeated for the sake of the slowest.
    """

    rounds: int
    at_least: float = 20.0
    at_most: float = 500.0


class Measured(NamedTuple):
    """One row.

    Attributes:
      cells: by column.
      repeats: n, the runs in a row of each round.
    """

    cells: dict[str, Cell]
    repeats: int


def measure(makes: Mapping[str, Callable[[], Candidate]], effort: Effort) -> Measured:
    """Makes, compares and times candidates; of one that fails, its error is its cell.

    A candidate that deviates from the first one that works by more than `TOLERANCES` is not timed.

    Args:
      makes: by column, what makes the candidate.
      effort: how many rounds, and how long one takes.
    """
    cells: dict[str, Cell] = {}
    working, results = prepare(makes, cells)
    for name, error in deviations(working, results).items():
        if not error <= TOLERANCES[working[name].precision]:
            cells[name] = {"error": f"deviates by {error:.1e} from {next(iter(results))}"}
        else:
            cells[name] = {"deviation": error}
    results.clear()
    right = {name: one for name, one in working.items() if "error" not in cells[name]}
    repeats = _repeats(right, cells, effort)
    for name, timing in _timed(right, cells, repeats, effort.rounds).items():
        cells[name] |= {"best": timing.best / repeats, "median": timing.median / repeats}
    return Measured({name: cells[name] for name in makes}, repeats)


def first_line(error: BaseException) -> str:
    """What of an error goes into a cell of a table."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"


def deviation(value: Results, reference: Results) -> float:
    """The largest ‖a − b‖ / ‖b‖ of the named arrays; NaN if there is one, ∞ of other shapes."""

    def of(a: np.ndarray, b: np.ndarray) -> float:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if a.shape != b.shape:
            return float("inf")
        return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-30))

    # Of nothing 0; and a NaN is larger than everything.
    return float(np.max([0.0, *(of(value[name], reference[name]) for name in reference)]))


def deviations(
    candidates: Mapping[str, Candidate], results: Mapping[str, Results]
) -> dict[str, float]:
    """Of each from the first; its own is 0 unless it is not finite."""
    if not results:
        return {}
    reference = results[next(iter(results))]
    return {name: deviation(results[name], reference) for name in candidates}


def prepare(
    makes: Mapping[str, Callable[[], Candidate]], cells: dict[str, Cell]
) -> tuple[dict[str, Candidate], dict[str, Results]]:
    """Those that can be made and run, with what they compute; errors go to `cells`.

    They are compiled beside one another, and then run one by one.
    """
    made: dict[str, Candidate] = {}
    for name, make in makes.items():
        with caught(name, cells):
            made[name] = make()

    def compile(name: str) -> None:
        with caught(name, cells):
            made[name].compile()

    # Which takes most of the time, and does not hold Python's lock. What runs comes after all of
    # it: a compiler that tries out products would take multiprocessors from kernels that wait.
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(compile, made))
    found: dict[str, Results] = {}
    for name, one in made.items():
        if name not in cells:
            with caught(name, cells):
                found[name] = one.results()
    return {name: made[name] for name in found}, found


def _repeats(candidates: Mapping[str, Candidate], cells: dict[str, Cell], effort: Effort) -> int:
    """n, the same for all: so that the quickest takes long enough, if the slowest allows it."""
    taken = []
    for name, one in candidates.items():
        with caught(name, cells):
            one.run(1)
            start = time.perf_counter()
            one.run(2)
            taken.append(1e3 * (time.perf_counter() - start) / 2)
    if not taken:
        return 1
    wanted, allowed = effort.at_least / min(taken), effort.at_most / max(taken)
    return max(1, min(math.ceil(wanted), math.floor(allowed)))


def _timed(
    candidates: Mapping[str, Candidate], cells: dict[str, Cell], repeats: int, rounds: int
) -> dict[str, Any]:
    """Timings of a round by name, without those that failed on the way."""

    def guarded(name: str) -> None:
        if "error" not in cells[name]:
            with caught(name, cells):
                candidates[name].run(repeats)

    calls = {name: partial(guarded, name) for name in candidates if "error" not in cells[name]}
    if not calls:
        return {}
    timings = time_in_turn(calls, rounds=rounds)
    return {name: timing for name, timing in timings.items() if "error" not in cells[name]}


class caught:
    """Puts the error of a candidate into its cell, and goes on; an interrupt ends the run."""

    def __init__(self, name: str, cells: dict[str, Cell]):
        self.name, self.cells = name, cells

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        if not isinstance(error, Exception):
            return False
        self.cells[self.name] = {"error": first_line(error)}
        return True
