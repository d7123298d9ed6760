"""Fair timing on shared machines: all candidates in one process, in turn, several rounds."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one candidate: the best round, and the median of all."""

    best: float
    median: float


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
        for name, call in candidates.items():
            start = time.perf_counter()
            call()
            if turn > 0:
                taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: Timing(min(ms), float(np.median(ms))) for name, ms in taken.items()}
