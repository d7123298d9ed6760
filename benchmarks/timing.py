"""Fair timing on shared machines: all candidates in one process, in turn, several rounds."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one candidate: the best round, and the median of all."""

    best: float
    median: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> "Timing":
        """Best and median of some rounds."""
        return cls(min(milliseconds), float(np.median(milliseconds)))

    def __str__(self) -> str:
        return f"{self.best:.1f} ({self.median:.1f})"


# A column's name and what stands in it.
Row = Mapping[str, Timing | str]


@dataclass(frozen=True)
class Benchmark:
    """One table of the results.

    Attributes:
      title: its heading.
      note: what is timed, in a sentence.
      cases: by label, a call that takes the number of rounds and measures one row.
    """

    title: str
    note: str
    cases: Mapping[str, Callable[[int], Row]]


def ratio(one: Timing, other: Timing) -> str:
    """How many times the other: by the best rounds and, in brackets, by the medians."""
    return f"{one.best / other.best:.2f} ({one.median / other.median:.2f})"


def time_in_turn(
    candidates: Mapping[str, Callable[[], object]], *, rounds: int
) -> dict[str, Timing]:
    """Times each candidate once a round, so that a slow spell of the machine hits them all.

    Args:
      candidates: by name, a call that returns only when its result is ready.
      rounds: counted rounds, after one that compiles and warms up.

    Returns:
      A `Timing` by name.
    """
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        # Each round begins with the next one, so that none always finds the memory that the same
        # other left behind.
        first = turn % len(candidates)
        in_turn = list(candidates.items())
        for name, call in in_turn[first:] + in_turn[:first]:
            start = time.perf_counter()
            call()
            if turn > 0:
                taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: Timing.of(ms) for name, ms in taken.items()}


def peak_memory(call: Callable[..., Any], *arguments: Any) -> str:
    """What the compiled program holds at once besides its arguments, as its compiler plans it."""
    plan = jax.jit(call).lower(*arguments).compile().memory_analysis()
    if plan is None:
        return "unknown"
    return f"{(plan.temp_size_in_bytes + plan.output_size_in_bytes) / 2**20:.1f} MiB"


def parts_of(only: str) -> list[str]:
    """The texts of an option `--only`, with commas between them; of nothing one that fits all."""
    return [text.strip().lower() for text in only.split(",") if text.strip()] or [""]
