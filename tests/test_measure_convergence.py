"The bounded exponential against scipy's own solvers, the rate of its intervals, and its invariances."

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import least_squares, lsq_linear
from scipy.stats import binom, linregress

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.measure.convergence import Shapes, compare_shapes, fit_as_published, fit_exponential
from spectral_diffusion.measure.profile import bounded_line, read_curve


def curve(n, k, asymptote=0.3, amplitude=0.7):
    return asymptote + amplitude * np.exp(-k * (n - n[0]))


@given(
    seed=st.integers(0, 9_999),
    size=st.integers(4, 30),
    slope=st.floats(-2, 3),
    rate=st.floats(0.01, 3),
    top=st.sampled_from(["min", "far", "low"]),
)
def test_bounded_line_against_lsq_linear(seed, size, slope, rate, top):
    rng = np.random.default_rng(seed)
    e = np.exp(-rate * np.arange(size))
    y = np.abs(0.3 + slope * e + 0.2 * rng.normal(size=size))
    ceiling = {"min": y.min(), "far": 1e9, "low": 0.5 * y.min()}[top]
    got = bounded_line(e, y, ceiling)
    other = lsq_linear(np.stack([np.ones(size), e], 1), y, ([0, 0], [ceiling, np.inf]), method="bvls")
    assert got.residual == pytest.approx(2 * other.cost, rel=1e-8, abs=1e-12)
    assert 0 <= got.asymptote <= ceiling and got.amplitude >= 0


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("ceiling", [None, math.inf])
def test_against_least_squares(seed, ceiling):
    "Three free parameters with bounds, from several starts; the best of them."
    rng = np.random.default_rng(seed)
    n, k = np.cumsum(rng.integers(1, 5, size=40)).astype(float), rng.uniform(0.015, 0.04)
    y = curve(n, k, rng.uniform(0.05, 0.6)) + 0.01 * rng.normal(size=40)
    got = fit_exponential(n, y, ceiling=ceiling)
    high = [y.min() if ceiling is None else np.inf, np.inf, np.inf]

    def rest(p):
        return p[0] + p[1] * np.exp(-p[2] * (n - n[0])) - y

    fits = [
        least_squares(
            rest,
            (0.5 * y.min(), y[0], start),
            bounds=([0, 0, 1e-9], high),
            x_scale=(0.1, 1, start),
            ftol=1e-15,
            xtol=1e-15,
            gtol=1e-15,
        )
        for start in (0.003, 0.03, 0.3)
    ]
    other = min(fits, key=lambda f: f.cost)
    assert np.allclose(
        [got.asymptote, got.amplitude, got.k], other.x, rtol=1e-4, atol=1e-5
    )  # least_squares stays off its bounds
    assert ((got.predict(n) - y) ** 2).sum() <= 2 * other.cost * (1 + 1e-9)
    assert got.r2 == pytest.approx(1 - 2 * other.cost / ((y - y.mean()) ** 2).sum(), abs=1e-6)


@pytest.mark.parametrize("points", [6, 8, 60])
def test_the_interval_holds_the_truth_as_often_as_it_says(points):
    "With few points Student's limit matters: the one of chi-squared is too short."
    rng, hits, total = np.random.default_rng(points), 0, 200
    for _ in range(total):
        n = np.arange(float(points))
        k = rng.uniform(1.5, 2.5) / n[-1]
        fit = fit_exponential(n, curve(n, k) + 0.005 * rng.normal(size=points))
        hits += fit.k_interval[0] <= k <= fit.k_interval[1]
    low, high = binom.interval(0.999, total, 0.95)
    assert low <= hits <= high


def test_asymptote_interval_against_a_fit_with_fixed_asymptote():
    "At the ends of the interval the best fit with that asymptote reaches the limit of the sum of squares."
    n = np.arange(50.0)
    y = curve(n, 0.06) + 0.01 * np.random.default_rng(3).normal(size=50)
    fit = fit_exponential(n, y, ceiling=math.inf)
    best = ((fit.predict(n) - y) ** 2).sum()

    def rise(c):
        return (
            2
            * least_squares(
                lambda p: c + p[0] * np.exp(-p[1] * n) - y,
                (0.7, 0.06),
                x_scale=(1, 0.06),
                xtol=1e-14,
                ftol=1e-14,
            ).cost
            / best
            - 1
        )

    told = [rise(c) for c in fit.asymptote_interval]
    assert told == pytest.approx(
        [2.01174**2 / 47] * 2, rel=0.02
    )  # Student's point at 47 degrees; the ends are read off a grid of rates


@given(
    seed=st.integers(0, 999),
    loss=st.floats(1e-3, 1e3),
    step=st.floats(1e-2, 1e3),
    start=st.integers(0, 10_000),
)
def test_units(seed, loss, step, start):
    n = np.arange(40.0)
    y = curve(n, 0.06) + 0.005 * np.random.default_rng(seed).normal(size=40)
    one, two = fit_exponential(n, y), fit_exponential(step * (n + start), loss * y)
    scale = np.array([1 / step, 1, step, loss, loss])
    assert np.allclose(two[:5], one[:5] * scale, rtol=1e-4)
    assert np.allclose(two.k_interval, np.array(one.k_interval) / step, rtol=1e-4)
    assert np.allclose(
        two.asymptote_interval, np.array(one.asymptote_interval) * loss, rtol=1e-2, atol=1e-4 * loss
    )
    assert one.identifiable == two.identifiable


@pytest.mark.parametrize(
    "make",
    [
        list,
        np.array,
        pd.Series,
        torch.tensor,
        lambda z: torch.tensor(z, requires_grad=True),
        lambda z: torch.tensor(z).to(torch.bfloat16),
    ],
)
def test_kinds_of_input(make):
    n, y = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0], [1.0, 0.75, 0.625, 0.53125, 0.5, 0.5]  # exact in bfloat16
    assert fit_exponential(make(n), make(y)) == fit_exponential(n, y)
    assert compare_shapes(make(n), make(y)) == compare_shapes(n, y)
    assert isinstance(fit_exponential(make(n), make(y)).identifiable, bool)


def test_series_with_a_strange_index():
    n, y = np.arange(9.0), curve(np.arange(9.0), 0.4)
    shuffled = pd.Series(y, index=n[::-1])
    assert fit_exponential(n, shuffled) == fit_exponential(n, y)


@pytest.mark.parametrize("bend, expect", [(0.5, False), (3.0, True), (12.0, True)])
def test_identifiable_once_bent(bend, expect):
    n = np.arange(100.0)
    fits = [
        fit_exponential(
            n, curve(n, bend / 99) + 0.002 * np.random.default_rng(s).normal(size=100), ceiling=math.inf
        )
        for s in range(5)
    ]
    assert [f.identifiable for f in fits] == [expect] * 5
    assert all(f.sentence().startswith("not identifiable: ") != expect for f in fits)


def test_intervals_of_rate_and_half_life_are_one():
    n = np.arange(100.0)
    fit = fit_exponential(n, curve(n, 0.02))
    assert fit.half_life == math.log(2) / fit.k
    assert fit.half_life_interval == (math.log(2) / fit.k_interval[1], math.log(2) / fit.k_interval[0])
    for level in (0.3, 0.4, 1 / 3, 7.1, 1e-9, 1e9 / 3, 0.0):  # the mean of some is not exactly the constant
        still = fit_exponential(n[:30], np.full(30, level))
        assert (
            still.k_interval == (0, math.inf)
            and still.half_life_interval == (0, math.inf)
            and math.isnan(still.r2)
        )
        assert (still.k, still.half_life) == (0, math.inf) and np.allclose(
            still.predict(n), level, rtol=1e-12
        )


@pytest.mark.parametrize("seed", range(4))
def test_shapes_against_aic_by_hand(seed):
    "Line by linregress, the other two by least_squares with the same bounds."
    rng, n = np.random.default_rng(seed), np.arange(1.0, 41)
    y = curve(n, 0.05) + 0.02 * rng.normal(size=40)
    got = compare_shapes(n, y, ceiling=math.inf)
    line = linregress(n, y)
    squares = {"line": ((y - line.intercept - line.slope * n) ** 2).sum()}
    for name, u in (("exponential", n - 1), ("power", np.log(n))):
        squares[name] = min(
            2
            * least_squares(
                lambda p, u=u: p[0] + p[1] * np.exp(-p[2] * u) - y,
                (0.1, 0.7, k),
                bounds=(0, np.inf),
                xtol=1e-14,
                ftol=1e-14,
            ).cost
            for k in (0.03, 0.3)
        )
    aic = {name: 40 * math.log(s) + 2 * (2 if name == "line" else 3) for name, s in squares.items()}
    best = min(aic, key=aic.get)
    assert got.best == best
    for name in aic:
        assert getattr(got, name) == pytest.approx(aic[name] - aic[best], abs=1e-3)


def test_undecided_shapes_say_so():
    near, far = Shapes("line", 1.9, 0.0, 9.0), Shapes("line", 2.1, 0.0, 9.0)
    assert (
        not near.decided
        and near.sentence() == "line fits best (AIC: exponential +1.9, power +9.0); undecided"
    )
    assert far.decided and not far.sentence().endswith("undecided")


def test_published_definition():
    "The half-life is infinite for a rate of zero and below; steps are counted from the first."
    n = np.arange(30.0)
    scatter = [fit_as_published(n, 0.5 + 0.05 * np.random.default_rng(s).normal(size=30)) for s in range(6)]
    assert min(f.k for f in scatter) < 0 < max(f.k for f in scatter)
    for f in scatter:
        assert f.half_life == (math.log(2) / f.k if f.k > 0 else math.inf)
    falling, late = fit_as_published(n, curve(n, 0.1)), fit_as_published(n + 500, curve(n, 0.1))
    assert falling.k == pytest.approx(0.1, rel=1e-6) and late == falling


@pytest.mark.parametrize(
    "step, loss, words",
    [
        ([0, 1, 2], [1, 1, 1], "at least 4 points"),
        ([0, 1, 2, 3], [1, 1, 1], "one length"),
        ([[0, 1, 2, 3]], [[1, 1, 1, 1]], "two rows"),
        ([0, 2, 1, 3], [1, 1, 1, 1], "must rise"),
        ([0, 1, 1, 3], [1, 1, 1, 1], "must rise"),
        ([-1, 0, 1, 3], [1, 1, 1, 1], "must rise from 0"),
        ([0, 1, 2, 3], [1, math.nan, 1, 1], "finite"),
        ([0, 1, 2, math.inf], [1, 1, 1, 1], "finite"),
        ([0, 1, 2, 3], [1, 1, -0.1, 1], "not be negative"),
    ],
)
@pytest.mark.parametrize("use", [read_curve, fit_exponential, compare_shapes, fit_as_published])
def test_bad_input(use, step, loss, words):
    with pytest.raises(InputError, match=words):
        use(step, loss)


@pytest.mark.parametrize("ceiling", [-0.1, math.nan])
def test_bad_ceiling(ceiling):
    with pytest.raises(InputError, match="ceiling"):
        fit_exponential(range(5), [5, 4, 3, 2, 1.5], ceiling=ceiling)
