"Our paired statistics against statsmodels, and against scipy by other roads."

import numpy as np
import pytest
from scipy import stats

from spectral_diffusion.study.pairs import compare_pairs, pairs_needed, power

reference = pytest.importorskip("statsmodels.stats.power").TTestPower()
weights = pytest.importorskip("statsmodels.stats.weightstats")


@pytest.mark.parametrize(
    "effect, sd, pairs, level",
    [
        (0.39, 1.9, 5, 0.05),
        (0.39, 0.58, 20, 0.05),
        (-1.0, 2.0, 33, 0.01),
        (0.05, 1.0, 400, 0.1),
        (2.0, 1.0, 3, 0.05),
    ],
)
def test_power_is_that_of_statsmodels(effect, sd, pairs, level):
    assert power(effect, sd, pairs, level=level) == pytest.approx(
        reference.power(abs(effect) / sd, pairs, level), abs=1e-9
    )


@pytest.mark.parametrize(
    "effect, sd, target", [(0.39, 2.0, 0.8), (0.39, 0.58, 0.8), (1.0, 2.3, 0.9), (0.1, 1.0, 0.5)]
)
def test_pairs_are_those_of_statsmodels_rounded_up(effect, sd, target):
    assert pairs_needed(effect, sd, target=target) == int(
        np.ceil(reference.solve_power(effect / sd, power=target, alpha=0.05) - 1e-6)
    )


@pytest.mark.parametrize("seed", range(5))
def test_interval_and_tests(seed):
    g = np.random.default_rng(seed)
    a, b = g.normal(70, 1, 25), g.normal(70.5, 2, 25)
    got, d = compare_pairs(a, b, confidence=0.9), weights.DescrStatsW(b - a)
    assert (got.low, got.high) == pytest.approx(d.tconfint_mean(0.1)) and got.p == pytest.approx(
        d.ttest_mean(0)[1]
    )
    # Levene about the medians is an analysis of variance of the distances to them
    assert got.levene == pytest.approx(
        stats.f_oneway(np.abs(a - np.median(a)), np.abs(b - np.median(b))).pvalue
    )
    ranks = stats.rankdata(np.abs(b - a))
    assert got.wilcoxon == pytest.approx(stats.wilcoxon(b - a).pvalue) and stats.wilcoxon(
        b - a
    ).statistic == min(ranks[b > a].sum(), ranks[b < a].sum())
    assert got.spread == pytest.approx((a.std(ddof=1), b.std(ddof=1))) and got.median == np.median(b - a)
