"""The rank statistics of `experiments/compare.py`, against SciPy and planted relations."""

import numpy as np
import pytest
from scipy import stats

from learning.rank_statistics import cluster_bootstrap, kendall, spearman, superiority


def drawn(seed, size=30):
    """Two columns with equals among them."""
    return np.random.default_rng(seed).integers(0, 12, size=(2, size)).astype(float)


@pytest.mark.parametrize("seed", range(5))
def test_correlations_are_those_of_scipy(seed):
    x, y = drawn(seed)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


def test_correlations_along_the_last_axis_with_what_is_not_finite():
    x, y = np.stack([drawn(s)[0] for s in range(3)]), drawn(9)[1]
    assert spearman(x, y).tolist() == [spearman(row, y) for row in x]
    lowest = x[0].copy()
    lowest[lowest == lowest.min()] = -np.inf
    assert spearman(lowest, y) == spearman(x[0], y)
    assert kendall(lowest, y) == kendall(x[0], y)
    assert np.isnan(spearman(np.ones(5), np.arange(5.0)))


@pytest.mark.parametrize("seed", range(3))
def test_superiority_is_the_statistic_of_mann_and_whitney(seed):
    x, y = drawn(seed)
    wins = y > 6
    above, pairs = superiority(x, wins)
    assert pairs == wins.sum() * (~wins).sum()
    assert above == stats.mannwhitneyu(x[wins], x[~wins]).statistic


def clustered(seed, slope, clusters=30, runs=4):
    """A measure for each cluster, and a result of each run with a part that the cluster shares."""
    random = np.random.default_rng(seed)
    x = random.normal(size=clusters)
    shared = slope * x + random.normal(size=clusters)
    return x, shared[:, None] + 0.3 * random.normal(size=(clusters, runs))


def interval(x, y, resamples=500, seed=0):
    """Of the mean over runs of the correlation across clusters."""

    def statistic(draws):
        return np.mean([spearman(x[draws], column[draws]) for column in y.T], axis=0)

    return cluster_bootstrap(statistic, x.size, resamples=resamples, seed=seed)


def test_a_planted_relation_is_found_and_a_shuffled_one_is_not():
    x, y = clustered(0, slope=2.0)
    found = interval(x, y)
    assert found.value > 0.7
    assert 0.5 < found.low < found.value < found.high <= 1
    shuffled = interval(np.random.default_rng(1).permutation(x), y)
    assert shuffled.low < 0 < shuffled.high
    assert interval(-x, y).value == pytest.approx(-found.value)


def test_the_interval_covers_what_is_true_about_as_often_as_it_says():
    """Of no relation the correlation is 0. The percentile interval is known to be a bit narrow."""
    found = [interval(*clustered(100 + trial, slope=0.0), 300, trial) for trial in range(200)]
    covered = np.mean([one.low <= 0 <= one.high for one in found])
    assert 0.88 <= covered <= 0.99


def test_more_runs_of_the_same_networks_do_not_narrow_the_interval():
    x, y = clustered(3, slope=1.0)
    few, many = interval(x, y), interval(x, np.tile(y, 10))
    assert many.value == pytest.approx(few.value)
    assert many.high - many.low == pytest.approx(few.high - few.low)


def test_what_is_not_defined_is_not_a_number():
    found = cluster_bootstrap(lambda draws: np.full(len(draws), np.nan), 5, resamples=10)
    assert np.isnan([found.value, found.low, found.high]).all()
