"""Whether reach predicts learning: the hypotheses of `compare.py`, estimated and judged."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from learning.comparison import Outcome
from learning.contenders import KINDS
from learning.rank_statistics import Estimate, cluster_bootstrap, spearman, superiority

# What is known of a network before training; more is said to be better.
MEASURES: dict[str, Callable[[Outcome], float]] = {
    "reach": lambda outcome: _median(outcome.reach),
    "horizon": lambda outcome: _median(outcome.horizon),
    "−|λ₁|": lambda outcome: -abs(_median(outcome.exponent)),
    "parameters": lambda outcome: float(outcome.parameters),
}
# Fewer networks have no rank correlation worth the name.
FEWEST = 5


@dataclass(frozen=True)
class Ranked:
    """Outcomes as arrays: P problems that every one of N networks was trained on.

    Attributes:
      networks, kinds: (N,) names.
      problems: (task, T) of each.
      measures: of each of `MEASURES`, (P, N).
      learning: −score, (P, N): the larger the better.
      solved: by at least half of the seeds, (P, N).
    """

    networks: tuple[str, ...]
    kinds: tuple[str, ...]
    problems: tuple[tuple[str, int], ...]
    measures: dict[str, np.ndarray]
    learning: np.ndarray
    solved: np.ndarray


def ranked(outcomes: Sequence[Outcome]) -> Ranked:
    """The problems on which all networks were trained; others are left out."""
    by_problem: dict[tuple[str, int], dict[str, Outcome]] = {}
    for outcome in outcomes:
        by_problem.setdefault((outcome.task, outcome.length), {})[outcome.network] = outcome
    kinds = {outcome.network: outcome.kind for outcome in outcomes}
    whole = [problem for problem, found in by_problem.items() if len(found) == len(kinds)]
    rows = [[by_problem[problem][network] for network in kinds] for problem in whole]

    def array(value: Callable[[Outcome], float]) -> np.ndarray:
        return np.array([[value(outcome) for outcome in row] for row in rows], float)

    return Ranked(
        networks=tuple(kinds),
        kinds=tuple(kinds.values()),
        problems=tuple(whole),
        measures={name: array(value) for name, value in MEASURES.items()},
        learning=array(lambda outcome: -outcome.score),
        solved=array(lambda outcome: 2 * outcome.solved >= len(outcome.solved_at)).astype(bool),
    )


@dataclass(frozen=True)
class Verdict:
    """A hypothesis and what came of it.

    Attributes:
      name: as in the docstring of `compare.py`.
      says: in words.
      estimate: of its statistic.
      null: supported if the interval lies above it.
      weak: refuted if the interval lies below it.
      verdict: "supported", "refuted", "undecided", or "not measured".
    """

    name: str
    says: str
    estimate: Estimate
    null: float
    weak: float
    verdict: str


def judge(table: Ranked) -> list[Verdict]:
    """All hypotheses, in their order."""
    gated = [index for index, kind in enumerate(table.kinds) if kind == KINDS[0]]
    others = [index for index, kind in enumerate(table.kinds) if kind != KINDS[0]]
    found = [
        ("H1", "reach predicts learning", correlation(table, "reach"), 0.0, 0.3),
        ("H2", "more so for longer sequences", _growth(table), 0.0, 0.1),
        ("H3a", "more than the parameters do", _advantage(table, "parameters"), 0.0, 0.1),
        ("H3b", "more than −|λ₁| does", _advantage(table, "−|λ₁|"), 0.0, 0.1),
        ("H4", "who solves reaches further", superior(table, "reach"), 0.5, 0.6),
        ("H5a", "among gated cells alone", correlation(table, "reach", gated), 0.0, 0.3),
        ("H5b", "among the others alone", correlation(table, "reach", others), 0.0, 0.3),
    ]
    return [
        Verdict(name, says, estimate, null, weak, verdict_of(estimate, null, weak))
        for name, says, estimate, null, weak in found
    ]


def verdict_of(estimate: Estimate, null: float, weak: float) -> str:
    """By the interval: above the null value, or below what would be more than weak."""
    if math.isnan(estimate.value):
        return "not measured"
    if estimate.low > null:
        return "supported"
    return "refuted" if estimate.high < weak else "undecided"


def correlation(
    table: Ranked,
    measure: str,
    networks: Sequence[int] | None = None,
    problems: Sequence[int] | None = None,
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray] = spearman,
) -> Estimate:
    """The mean over problems of a rank correlation of a measure with learning.

    Args:
      table: the outcomes.
      measure: one of `MEASURES`.
      networks, problems: which; None is all.
      statistic: `spearman` or `kendall`.
    """
    some = np.arange(len(table.networks)) if networks is None else np.asarray(networks, int)
    rows = np.arange(len(table.problems)) if problems is None else np.asarray(problems, int)
    return _bootstrap(lambda draws: _mean(table, measure, rows, some[draws], statistic), some, rows)


def by_problem(table: Ranked, measure: str) -> list[Estimate]:
    """The correlation within each problem."""
    return [correlation(table, measure, problems=[row]) for row in range(len(table.problems))]


def superior(table: Ranked, measure: str) -> Estimate:
    """How often, of a network that solves a problem and one that does not, the former has more."""
    values, solved = table.measures[measure], table.solved

    def statistic(draws: np.ndarray) -> np.ndarray:
        above, pairs = superiority(values[:, draws], solved[:, draws])
        total = pairs.sum(0).astype(float)
        return np.divide(above.sum(0), total, out=np.full_like(total, np.nan), where=total > 0)

    return _bootstrap(statistic, np.arange(len(table.networks)), np.arange(len(table.problems)))


def across_lengths(table: Ranked, measure: str | None) -> Estimate:
    """The mean over tasks of ρ over all networks and lengths of a task together.

    Args:
      table: the outcomes.
      measure: one of `MEASURES`; None is −T, the length alone.
    """
    tasks = list(dict.fromkeys(task for task, _ in table.problems))
    rows = [[i for i, (name, _) in enumerate(table.problems) if name == task] for task in tasks]
    lengths = np.array([length for _, length in table.problems], float)[:, None]
    of_length = np.broadcast_to(-lengths, table.learning.shape)
    values = of_length if measure is None else table.measures[measure]

    def statistic(draws: np.ndarray) -> np.ndarray:
        found = []
        for task_rows in rows:
            x, y = (
                np.moveaxis(array[task_rows][:, draws], 0, 1).reshape(len(draws), -1)
                for array in (values, table.learning)
            )
            found.append(spearman(x, y))
        return np.mean(found, axis=0)

    several = np.arange(len(table.problems)) if len(set(lengths.flat)) > 1 else np.arange(0)
    return _bootstrap(statistic, np.arange(len(table.networks)), several)


def _growth(table: Ranked) -> Estimate:
    """At the longest T less at the shortest, over tasks that were run at both."""
    lengths = [length for _, length in table.problems]
    shortest, longest = min(lengths, default=0), max(lengths, default=0)
    both = {task for task, length in table.problems if length == longest} & {
        task for task, length in table.problems if length == shortest
    }
    rows = [i for i, (task, _) in enumerate(table.problems) if task in both]
    short = np.array([i for i in rows if lengths[i] == shortest], int)
    long = np.array([i for i in rows if lengths[i] == longest], int)
    return _bootstrap(
        lambda draws: _mean(table, "reach", long, draws) - _mean(table, "reach", short, draws),
        np.arange(len(table.networks)),
        short if shortest < longest else np.arange(0),
    )


def _advantage(table: Ranked, other: str) -> Estimate:
    rows = np.arange(len(table.problems))
    return _bootstrap(
        lambda draws: _mean(table, "reach", rows, draws) - _mean(table, other, rows, draws),
        np.arange(len(table.networks)),
        rows,
    )


def _mean(
    table: Ranked,
    measure: str,
    rows: np.ndarray,
    draws: np.ndarray,
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray] = spearman,
) -> np.ndarray:
    """Over the problems in which not all is equal; NaN if it is in all of them."""
    found = np.array(
        [statistic(table.measures[measure][row][draws], table.learning[row][draws]) for row in rows]
    )
    count = np.isfinite(found).sum(0)
    total = np.nansum(found, axis=0)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], networks: np.ndarray, problems: np.ndarray
) -> Estimate:
    if networks.size < FEWEST or not problems.size:
        return Estimate(float("nan"), float("nan"), float("nan"), networks.size)
    return cluster_bootstrap(statistic, networks.size)


def _median(values: Sequence[float | None]) -> float:
    """Over seeds; what is not a number counts as −∞."""
    return float(np.median([-np.inf if value is None else value for value in values]))
