"""Which of the orbits found are which: minimal periods, and one of each.

Orbits are arrays (N, n, S), each point's successor beside it, the first point after the last.
"""

from typing import NamedTuple

import numpy as np


class Distinct(NamedTuple):
    """One of each orbit.

    Attributes:
      kept: which orbits stand for all, (K,), in the order that they were given in.
      labels: which of `kept` each orbit is, (N,).
    """

    kept: np.ndarray
    labels: np.ndarray


def has_lower_period(orbit: np.ndarray, distance: float) -> bool:
    """Whether an orbit (n, S) returns to its start before n steps: a divisor of n is its period."""
    period = len(orbit)
    divisors = [d for d in range(1, period) if period % d == 0]
    return any(gap(orbit, np.roll(orbit, -d, axis=0)) <= distance for d in divisors)


def gap(one: np.ndarray, other: np.ndarray) -> float:
    """The largest distance between points in the same place of two orbits (n, S)."""
    return float(np.linalg.norm(one - other, axis=-1).max())


def distinct(orbits: np.ndarray, order: np.ndarray, distances: np.ndarray) -> Distinct:
    """Orbits that lie further apart than a distance; the first in `order` stands for the others.

    Args:
      orbits: (N, n, S); two that differ only in where they start are the same.
      order: the best first, a permutation of N.
      distances: how near another orbit is the same as this one, (N,).
    """
    labels = np.full(len(orbits), -1)
    kept: list[int] = []
    for index in order:
        same = _nearest(orbits[index], orbits, kept, distances)
        if same is None:
            labels[index] = len(kept)
            kept.append(index)
        else:
            labels[index] = same
    return Distinct(np.asarray(kept, int), labels)


def _nearest(
    orbit: np.ndarray, orbits: np.ndarray, kept: list[int], distances: np.ndarray
) -> int | None:
    """Which of the orbits that are kept this one is, whatever point it starts at."""
    if not kept:
        return None
    others = orbits[kept]
    gaps = np.min(
        [
            np.linalg.norm(others - np.roll(orbit, -shift, axis=0), axis=-1).max(axis=1)
            for shift in range(len(orbit))
        ],
        axis=0,
    )
    place = int(np.argmin(gaps))
    return place if gaps[place] <= distances[kept[place]] else None
