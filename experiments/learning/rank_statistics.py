"""Rank statistics with intervals by a bootstrap over clusters."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A statistic and its percentile interval; NaN where it is not defined.

    Attributes:
      value: of all clusters.
      low, high: ends of the interval of `LEVEL`.
      clusters: how many there are to draw from.
    """

    value: float
    low: float
    high: float
    clusters: int


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's ρ along the last axis, equals sharing their mean rank; NaN where one is constant.

    Args:
      x, y: (..., N); −∞ and ∞ are ranked too.

    Returns:
      (...).
    """
    ranks = [stats.rankdata(values, axis=-1) for values in np.broadcast_arrays(x, y)]
    first, second = (rank - rank.mean(axis=-1, keepdims=True) for rank in ranks)
    scale = np.sqrt((first**2).sum(-1) * (second**2).sum(-1))
    product = (first * second).sum(-1)
    return np.divide(product, scale, out=np.full_like(scale, np.nan), where=scale > 0)


def kendall(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Kendall's τ_b along the last axis: (..., N) and (..., N) to (...)."""
    first, second = (
        np.greater(v[..., :, None], v[..., None, :]).astype(np.float64)
        - np.less(v[..., :, None], v[..., None, :])
        for v in np.broadcast_arrays(x, y)
    )
    scale = np.sqrt((first**2).sum((-2, -1)) * (second**2).sum((-2, -1)))
    product = (first * second).sum((-2, -1))
    return np.divide(product, scale, out=np.full_like(scale, np.nan), where=scale > 0)


def superiority(x: np.ndarray, wins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often one that wins has the larger x than one that does not, and of how many pairs.

    Args:
      x: (..., N).
      wins: booleans, (..., N).

    Returns:
      (the number of such pairs, equals counting half; the number of pairs), (...) each. Their ratio
      is the probability of superiority.
    """
    pairs = wins[..., :, None] & ~wins[..., None, :]
    above = np.greater(x[..., :, None], x[..., None, :])
    equal = np.equal(x[..., :, None], x[..., None, :])
    return ((above + 0.5 * equal) * pairs).sum((-2, -1)), pairs.sum((-2, -1))


def cluster_bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    clusters: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """A statistic with an interval from clusters drawn with replacement.

    Args:
      statistic: of indices of clusters (R, N), one value for each row, (R,). It takes all that
        belongs to a cluster as often as its index stands there.
      clusters: N.
      resamples: R.
      seed: of the draws.

    Returns:
      An `Estimate`. Draws in which the statistic is not defined are left out of the interval.
    """
    value = float(statistic(np.arange(clusters)[None, :])[0])
    draws = np.random.default_rng(seed).integers(clusters, size=(resamples, clusters))
    found = statistic(draws)
    found = found[np.isfinite(found)]
    if not np.isfinite(value) or not found.size:
        return Estimate(float("nan"), float("nan"), float("nan"), clusters)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), clusters)
