"""How cells rank on each problem, and whether their reach before training says so."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from family.reach import Reach
from family.training import Outcome


@dataclass(frozen=True)
class Entry:
    """One cell: how far its gradients reach untrained, what it learnt, and its place.

    Attributes:
      cell: the class's name.
      reach: before training.
      outcomes: on every problem, in one order for all cells.
      rank: mean over the problems of its rank in steps to solve, 1 the fastest; ties share theirs.
    """

    cell: str
    reach: Reach
    outcomes: tuple[Outcome, ...]
    rank: float

    @property
    def horizon(self) -> float:
        """The median over seeds."""
        return float(np.median(self.reach.horizon))

    @property
    def exponent(self) -> float:
        """λ₁, the median over seeds."""
        return float(np.median(self.reach.exponent))


def rank(reaches: dict[str, Reach], outcomes: Sequence[Outcome]) -> list[Entry]:
    """One entry for each cell, the fastest learner first; the further reach first among equals."""
    by_cell = {
        cell: tuple(outcome for outcome in outcomes if outcome.cell == cell) for cell in reaches
    }
    scores = np.array([[outcome.score for outcome in by_cell[cell]] for cell in reaches])
    places = stats.rankdata(scores, axis=0).mean(axis=1)
    entries = [
        Entry(cell, reach, by_cell[cell], float(place))
        for (cell, reach), place in zip(reaches.items(), places, strict=True)
    ]
    return sorted(entries, key=lambda entry: (entry.rank, -entry.horizon))


@dataclass(frozen=True)
class Prediction:
    """Whether a measure before training agrees with the ranks after it.

    Attributes:
      measure: in words.
      correlation: Spearman's, of the measure and the mean rank, positive if what is said to be
        better learns faster; NaN where either is the same for all, or there are fewer than five.
      p_value: of no correlation.
      cells: how many.
    """

    measure: str
    correlation: float
    p_value: float
    cells: int


def predictions(entries: Sequence[Entry]) -> list[Prediction]:
    """Of the horizon, the longer the better, and of λ₁, the nearer to 0 the better."""
    measures: dict[str, Callable[[Entry], float]] = {
        "horizon, the longer the better": lambda entry: entry.horizon,
        "λ₁, the nearer to 0 the better": lambda entry: -abs(entry.exponent),
    }
    return [_predict(name, measure, entries) for name, measure in measures.items()]


def _predict(name: str, measure: Callable[[Entry], float], entries: Sequence[Entry]) -> Prediction:
    values = np.array([measure(entry) for entry in entries])
    ranks = np.array([entry.rank for entry in entries])
    if len(entries) < 5 or np.ptp(ranks) == 0 or np.unique(values).size == 1:
        return Prediction(name, math.nan, math.nan, len(entries))
    correlation, p_value = stats.spearmanr(values, -ranks)
    return Prediction(name, float(correlation), float(p_value), len(entries))
