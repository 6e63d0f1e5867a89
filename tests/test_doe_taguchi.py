"""Ratios by definition; analysis of variance, means and intervals against statsmodels; published and
simulated checks of the rest."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from statsmodels.stats.anova import anova_lm

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.core.runtime import stream
from spectral_diffusion.doe.anova import choose_pool
from spectral_diffusion.doe.arrays import orthogonal_array
from spectral_diffusion.doe.confirm import confirm, optimum, predict
from spectral_diffusion.doe.lenth import half_normal, lenth
from spectral_diffusion.doe.ranking import ranking
from spectral_diffusion.doe.signal_to_noise import signal_to_noise
from spectral_diffusion.doe.taguchi import analyze
from spectral_diffusion.doe.terms import contrasts, model_blocks, read_design

GOALS = {
    "smaller": lambda r, t: -10 * math.log10(sum(v * v for v in r) / len(r)),
    "larger": lambda r, t: -10 * math.log10(sum(1 / (v * v) for v in r) / len(r)),
    "nominal": lambda r, t: (
        10 * math.log10((sum(r) / len(r)) ** 2 / (sum((v - sum(r) / len(r)) ** 2 for v in r) / (len(r) - 1)))
    ),
    "nominal_variance": lambda r, t: (
        -10 * math.log10(sum((v - sum(r) / len(r)) ** 2 for v in r) / (len(r) - 1))
    ),
    "target": lambda r, t: -10 * math.log10(sum((v - t) ** 2 for v in r) / len(r)),
}


@given(goal=st.sampled_from(list(GOALS)), n=st.integers(1, 5), r=st.integers(2, 6), seed=st.integers(0, 9999))
def test_ratios_by_definition(goal, n, r, seed):
    y = np.random.default_rng(seed).uniform(0.1, 9, size=(n, r))
    got = signal_to_noise(y, goal, 3.3 if goal == "target" else None)
    assert got == pytest.approx([GOALS[goal](row, 3.3) for row in y.tolist()], abs=1e-9)


@pytest.mark.parametrize(
    "y, goal, said",
    [
        ([[1, 0]], "larger", "row 0"),
        ([[1, 1], [2, -1]], "smaller", "row 1"),
        ([[0, 0]], "smaller", "not all 0"),
        ([[1], [2]], "nominal", "two replicates"),
        ([[1, 1]], "nominal", "that differ"),
        ([[1, -1]], "nominal", "mean that is not 0"),
        ([[3, 3]], "target", "deviation"),
        ([[np.nan, 1]], "smaller", r"rows \[0\]"),
        ([[np.inf, 1]], "smaller", "finite"),
        ([[]], "smaller", "one row a run"),
        ([[1, 2]], "biggest", "unknown goal"),
    ],
)
def test_ratios_refuse(y, goal, said):
    with pytest.raises(InputError, match=said):
        signal_to_noise(y, goal, 3.0)


def test_missing_values_are_named():
    y = [[1.0, 2.0], [np.nan, 3.0]]
    with pytest.warns(UserWarning, match=r"1 missing responses left out, in rows \[1\]"):
        got = signal_to_noise(y, "smaller", missing="drop")
    assert got[1] == pytest.approx(-20 * math.log10(3))
    with pytest.raises(InputError, match="no response at all"), np.errstate(all="ignore"):
        signal_to_noise([[np.nan], [1.0]], "smaller", missing="drop")


def random_design(seed, rows, sizes):
    rng = np.random.default_rng(seed)
    design = pd.DataFrame({f: rng.integers(0, q, rows) for f, q in zip("pqrs", sizes)})
    y = sum(rng.normal(size=q)[design[f]] for f, q in zip("pqrs", sizes)) + rng.normal(size=rows) + 20
    return design, y


def ours_and_theirs(design, y, formula, typ=2, **options):
    frame = design.assign(y=y)
    model = smf.ols("y ~ " + formula, frame).fit()
    return analyze(design, y, response="mean", **options), model, anova_lm(model, typ=typ)


@given(
    seed=st.integers(0, 99_999),
    rows=st.integers(14, 40),
    sizes=st.lists(st.integers(2, 4), min_size=1, max_size=4),
)
def test_anova_against_statsmodels(seed, rows, sizes):
    "Random, unbalanced designs: sums of squares, F, p, and the error with lack of fit joined to it."
    design, y = random_design(seed, rows, sizes)
    assume(all(design[f].nunique() == q for f, q in zip(design, sizes)))
    x = np.column_stack(
        [np.ones(rows), *(pd.get_dummies(design[f], drop_first=True) for f in design)]
    ).astype(float)
    assume(np.linalg.matrix_rank(x) == x.shape[1] < rows - 2)
    got, model, table = ours_and_theirs(
        design, y, "+".join(f"C({f}, Sum)" for f in design), pool="lack of fit"
    )
    for f in design:
        row = table.loc[f"C({f}, Sum)"]
        assert got.anova.loc[f, "sum_sq"] == pytest.approx(row["sum_sq"], rel=1e-9, abs=1e-9)
        assert got.anova.loc[f, "F"] == pytest.approx(row["F"], rel=1e-8, abs=1e-9)
        assert got.anova.loc[f, "p"] == pytest.approx(row["PR(>F)"], rel=1e-8, abs=1e-9)
    assert got.fit.mse == pytest.approx(model.mse_resid, rel=1e-9) and got.error_dof == model.df_resid


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 99_999), rows=st.integers(20, 40))
def test_interactions_and_intervals_against_statsmodels(seed, rows):
    """Type II with an interaction; means of levels with weights equal over the other levels, and their
    intervals."""
    design, y = random_design(seed, rows, (2, 3, 3))
    assume(
        len(design.drop_duplicates()) > 12
        and design.groupby(["p", "q"]).ngroups == 6
        and design["r"].nunique() == 3
    )
    formula = "C(p, Sum)*C(q, Sum) + C(r, Sum)"
    got, model, table = ours_and_theirs(design, y, formula, interactions=[("p", "q")], pool=["lack of fit"])
    for ours, theirs in (
        ("p", "C(p, Sum)"),
        ("q", "C(q, Sum)"),
        ("r", "C(r, Sum)"),
        ("p x q", "C(p, Sum):C(q, Sum)"),
    ):
        assert got.anova.loc[ours, "sum_sq"] == pytest.approx(table.loc[theirs, "sum_sq"], rel=1e-9, abs=1e-9)
        assert got.anova.loc[ours, "p"] == pytest.approx(table.loc[theirs, "PR(>F)"], rel=1e-8, abs=1e-9)
    grid = pd.DataFrame(
        [(a, b, c) for a in range(2) for b in range(3) for c in range(3)], columns=list("pqr")
    )
    cells = smf.ols("y ~ " + formula, grid.assign(y=0.0)).exog  # the same coding, one row a cell
    for f, level, _, mean, _, low, high in got.effects.itertuples(index=False):
        test = model.t_test(cells[(grid[f] == level).to_numpy()].mean(0))
        assert mean == pytest.approx(test.effect[0], rel=1e-9)
        assert (low, high) == pytest.approx(tuple(test.conf_int()[0]), rel=1e-8)
    setting = {"p": 1, "q": 2, "r": 0}
    summary = model.get_prediction(pd.DataFrame([setting])).summary_frame(alpha=0.05).iloc[0]
    said, check = predict(got, setting), confirm(got, [[20.0]], setting)
    assert (said.value, said.low, said.high) == pytest.approx(
        (summary["mean"], summary["mean_ci_lower"], summary["mean_ci_upper"]), rel=1e-8
    )
    assert (check.low, check.high) == pytest.approx(
        (summary["obs_ci_lower"], summary["obs_ci_upper"]), rel=1e-8
    )


@pytest.mark.parametrize("name", ["L9", "L18", "L8", "L16(2^9 4^2)"])
def test_pure_error_and_lack_of_fit_against_nested_models(name):
    """With replicates the error is that of the model with one mean a setting, and lack of fit is the step
    between the two models."""
    a = orthogonal_array(name)[:, :3]
    rng = np.random.default_rng(len(a))
    y = 5 + a[:, :1] * a[:, 1:2] + rng.normal(size=(len(a), 2))
    got = analyze(a, y, response="raw")
    frame = pd.DataFrame(np.repeat(a, 2, axis=0), columns=list("pqr")).assign(y=y.ravel())
    small, cells = smf.ols("y ~ C(p) + C(q) + C(r)", frame).fit(), smf.ols("y ~ C(p):C(q):C(r)", frame).fit()
    assert got.fit.mse == pytest.approx(cells.mse_resid, rel=1e-9) and got.error_dof == cells.df_resid
    table = anova_lm(small, cells)
    if table.loc[1, "df_diff"] > 0:
        assert got.anova.loc["lack of fit", "F"] == pytest.approx(table.loc[1, "F"], rel=1e-8)
        assert got.anova.loc["lack of fit", "p"] == pytest.approx(table.loc[1, "Pr(>F)"], rel=1e-8, abs=1e-12)
    else:
        assert "lack of fit" not in got.anova.index


@pytest.mark.parametrize(
    "name, pool", [("L8", ["E", "F", "G"]), ("L18", ["F", "G", "H"]), ("L9", ["D"]), ("L12", list("GHIJK"))]
)
def test_pooling_is_leaving_the_terms_out(name, pool):
    a = orthogonal_array(name)
    y = 9 + a[:, 0] + np.random.default_rng(5).normal(size=len(a))
    got, names = (
        analyze(a, y, response="mean", pool=pool),
        [chr(65 + j) for j in range(a.shape[1])],
    )  # statsmodels keeps C for itself: lower case there
    kept = [f for f in names if f not in pool]
    model = smf.ols(
        "y ~ " + "+".join(f"C({f.lower()})" for f in kept),
        pd.DataFrame(a, columns=[f.lower() for f in names]).assign(y=y),
    ).fit()
    table = anova_lm(model, typ=2)
    assert got.anova.loc[kept, "p"].to_numpy() == pytest.approx(table["PR(>F)"][:-1].to_numpy(), rel=1e-8)
    assert got.anova.loc[[*kept, "error"], "sum_sq"].sum() == pytest.approx(
        got.anova.loc["total", "sum_sq"], rel=1e-9
    )
    assert got.anova.loc[[*kept, "error"], "pure_contribution"].sum() == pytest.approx(100, abs=1e-8)


def test_auto_pooling_stops_at_half():
    for name, dof in (("L8", 3), ("L12", 5), ("L16", 7)):
        a = orthogonal_array(name)
        got = analyze(a, np.random.default_rng(1).normal(size=len(a)), response="mean", pool="auto")
        squares = got.anova["sum_sq"].drop(["error", "total"])
        assert got.error_dof == dof and set(got.pooled) == set(squares.nsmallest(dof).index)
        assert any("optimistic" in n for n in got.notes)


@pytest.mark.parametrize("seed", range(20))
def test_each_pooled_term_is_the_smallest_that_may_go(seed):
    rng = np.random.default_rng(seed)
    pairs = [pair for pair in itertools.combinations("ABC", 2) if rng.random() < 0.6]
    blocks = model_blocks(read_design(orthogonal_array("L16")[:, [0, 1, 3, 7]]), pairs)
    squares = dict(zip(blocks, rng.permutation(len(blocks)).tolist(), strict=True))
    kept, dof = set(blocks), 0
    for term in choose_pool(blocks, squares, 0, 15):
        inside = {f for t in kept if " x " in t for f in t.split(" x ")}
        assert dof < 7
        assert term == min(kept - inside, key=squares.get)
        kept, dof = kept - {term}, dof + 1
    assert dof >= 7 or len(kept) == 1


def test_saturated_says_so():
    got = analyze(orthogonal_array("L9"), np.random.default_rng(2).uniform(1, 2, size=(9, 3)), "smaller")
    assert (
        got.error_dof == 0 and got.anova["F"].isna().all() and got.effects[["low", "high"]].isna().all().all()
    )
    assert "no error estimate" in got.sentence() and any("saturated" in n for n in got.notes)
    with pytest.raises(InputError, match="no prediction interval"):
        confirm(got, [1.0, 2.0, 3.0])
    assert math.isnan(optimum(got).low) and ranking(got)["first"].isna().all()


def test_lenth_keeps_its_level():
    """Ye and Hamada (2000) give the exact 5 % points for 15 effects in units of PSE: 2.156 for one, 4.240 for
    the largest. Lenth's are conservative."""
    rng = np.random.default_rng(0)
    c = rng.normal(size=(4000, 15))
    margins = [lenth(row) for row in c]
    sizes = np.abs(c) / np.array([[m.pse] for m in margins])
    assert (sizes > 2.156).mean() == pytest.approx(0.05, abs=0.006) and (
        sizes.max(1) > 4.240
    ).mean() == pytest.approx(0.05, abs=0.012)
    assert margins[0].me / margins[0].pse > 2.156 and margins[0].sme / margins[0].pse > 4.240


def test_intervals_hold_the_truth_as_often_as_they_say():
    a, rng, hits = orthogonal_array("L18")[:, :4], np.random.default_rng(1), 0
    truth = 10 + 1.0 * a[:, 0] + 0.7 * a[:, 1]
    for _ in range(150):
        rows = analyze(a, truth + rng.normal(size=18), response="mean").effects
        hits += sum(
            low <= truth[a[:, ord(f) - 65] == level].mean() <= high
            for f, level, _, _, _, low, high in rows.itertuples(index=False)
        )
    assert 0.93 < hits / (150 * 11) < 0.97


def test_half_normal_sizes_are_standardised():
    "Unbalanced designs too: under pure scatter each size has the same variance."
    design, _ = random_design(3, 25, (2, 3, 2))
    rng = np.random.default_rng(4)
    draws = [
        half_normal(analyze(design, rng.normal(size=25), response="mean")).set_index("contrast")["effect"]
        for _ in range(250)
    ]
    sd = pd.concat(draws, axis=1).std(axis=1) * 5
    assert sd.between(0.85, 1.15).all()


@given(seed=st.integers(0, 9999), goal=st.sampled_from(["larger", "smaller"]))
def test_optimum_is_the_best_of_all_predictions(seed, goal):
    a = orthogonal_array("L18")[:, :3]
    y = np.random.default_rng(seed).uniform(1, 9, size=(18, 3))
    for response, interactions in (("sn", []), ("mean", [("A", "B")]), ("raw", [("A", "B")])):
        s = analyze(a, y, goal, response=response, interactions=interactions)
        every = [
            predict(s, {"A": i, "B": j, "C": k}).value for i in range(2) for j in range(3) for k in range(3)
        ]
        best = min(every) if goal == "smaller" and response != "sn" else max(every)
        assert optimum(s).value == pytest.approx(best, rel=1e-12)


def test_ranking_is_reproducible_and_counts_to_one():
    s = analyze(orthogonal_array("L8")[:, :4], np.random.default_rng(6).normal(size=(8, 3)), response="raw")
    one, two = (ranking(s, stream(1, "test"), draws=500) for _ in range(2))
    assert (
        one.equals(two) and one["first"].sum() == pytest.approx(1.0) and one["rank"].tolist() == [1, 2, 3, 4]
    )
    assert ((one["rank_low"] <= one["rank"]) & (one["rank"] <= one["rank_high"])).all()


def test_levels_of_any_kind_and_bad_designs():
    design = pd.DataFrame(
        {"net": ["a", "b", "a", "b"], "rate": [0.1, 0.1, 0.2, 0.2], "flag": [True, False, False, True]}
    )
    s = analyze(design, [1.0, 2.0, 3.0, 4.5], "larger", response="mean", pool=["flag"])
    assert optimum(s).setting == {"net": "b", "rate": 0.2, "flag": True} and s.error_dof == 1
    with pytest.raises(InputError, match="aliased"):
        analyze(design.assign(copy=design["net"]), [1.0, 2.0, 3.0, 4.0], response="mean")
    with pytest.raises(InputError, match="no level in rows"):
        analyze(design.assign(net=["a", None, "a", "b"]), [1.0, 2.0, 3.0, 4.0])
    with pytest.raises(InputError, match="unknown level"):
        predict(s, {"net": "c", "rate": 0.1, "flag": True})
    with pytest.raises(InputError, match="no best level"):
        optimum(analyze(design, [1.0, 2.0, 3.0, 4.5], "nominal", response="mean", pool=["flag"]))
    assert any(
        "not orthogonal in net-rate" in n
        for n in analyze(
            design.iloc[[0, 1, 2, 3, 0]], [1.0, 2.0, 3.0, 4.0, 2.0], response="mean", pool=["flag"]
        ).notes
    )


@pytest.mark.parametrize("q", range(2, 9))
def test_contrasts_are_the_polynomials(q):
    c, x = contrasts(q), np.arange(q)
    assert np.allclose(c.T @ c, q * np.eye(q - 1)) and np.allclose(c.sum(0), 0)
    for d in range(1, q):
        fit = np.polynomial.polynomial.polyfit(x, c[:, d - 1], d)
        assert np.allclose(np.polynomial.polynomial.polyval(x, fit), c[:, d - 1]) and fit[-1] > 0
