"""Strength and word lengths of every array against OApackage; merges, projections, assignments and files on
random cases."""

import itertools

import numpy as np
import oapackage
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.doe.aliasing import (
    alias_report,
    interaction_table,
    linear_graph,
    triple_words,
    word_lengths,
)
from spectral_diffusion.doe.arrays import (
    ARRAYS,
    USUAL,
    canonical,
    name_of,
    orthogonal_array,
    read_array,
    write_array,
)
from spectral_diffusion.doe.assign import assign
from spectral_diffusion.doe.balance import balance, levels, offending_pairs, strength, verify
from spectral_diffusion.doe.constructions import (
    difference_scheme,
    dummy_level,
    from_hadamard,
    hadamard,
    merge_columns,
)
from spectral_diffusion.doe.fields import bush, field, rao_hamming

SMALL = [n for n in ARRAYS if orthogonal_array(n).shape[1] <= 16]


def link(a):
    "As OApackage wants it: columns with more levels first, which changes neither strength nor word lengths."
    a = a[:, np.argsort(-a.max(0), kind="stable")]
    return oapackage.array_link(np.ascontiguousarray(a).astype(np.int32))


@pytest.mark.parametrize("name", list(ARRAYS))
def test_strength_against_oapackage(name):
    a = orthogonal_array(name)
    assert name_of(a) == name and strength(a) == link(a).strength() == 2


@pytest.mark.parametrize("name", [n for n in ARRAYS if orthogonal_array(n).shape[1] <= 31])
def test_word_lengths_against_oapackage(name):
    "Its pattern is computed in floats from the same distances; with more columns than this it overflows."
    a = orthogonal_array(name)
    ours, theirs = word_lengths(a), np.array(link(a).GWLP())
    assert np.allclose(ours, theirs, rtol=1e-6, atol=1e-6 * max(ours))


@pytest.mark.parametrize("name", list(ARRAYS))
def test_words_count_repeated_runs(name):
    """The sum of the pattern is the number of all combinations over n^2 times the number of equal pairs of
    runs."""
    a = orthogonal_array(name)
    equal = (a[:, None] == a[None]).all(-1).sum()
    total = float(np.prod(np.array(levels(a), dtype=float))) * equal / len(a) ** 2
    assert word_lengths(a).sum() == pytest.approx(total, rel=1e-9)


@given(name=st.sampled_from(SMALL), data=st.data())
def test_projections_against_oapackage(name, data):
    a = orthogonal_array(name)
    columns = data.draw(st.lists(st.integers(0, a.shape[1] - 1), min_size=2, max_size=6, unique=True))
    part = a[data.draw(st.permutations(range(len(a))))][:, columns]
    assert strength(part) == link(part).strength() >= 2
    assert np.allclose(word_lengths(part), link(part).GWLP(), atol=1e-9)


@given(n=st.integers(4, 12), k=st.integers(2, 5), q=st.integers(2, 3), seed=st.integers(0, 9999))
def test_random_tables_against_oapackage(n, k, q, seed):
    a = np.random.default_rng(seed).integers(0, q, size=(n, k))
    assume(all(len(set(c)) == q for c in a.T.tolist()))
    assert strength(a) == link(a).strength()
    assert np.allclose(word_lengths(a), link(a).GWLP(), atol=1e-9)
    good = strength(a) >= 2
    assert good == (not offending_pairs(a) and all(len(set(c)) == 1 for c in balance(a)))
    if not good:
        with pytest.raises(InputError, match="not an orthogonal array"):
            verify(a)


@pytest.mark.parametrize(
    "q, t",
    [(2, 2), (2, 3), (3, 2), (3, 3), (3, 4), (4, 2), (4, 3), (5, 2), (5, 3), (5, 4), (7, 2), (8, 2), (9, 2)],
)
def test_bush(q, t):
    a = bush(q, t)
    assert len(a) == q**t and strength(a) == link(a).strength() == t
    assert a.shape[1] == q + 1 + (q % 2 == 0 and t == 3)


@pytest.mark.parametrize("n", [1, 2, *range(4, 92, 4), 128])
def test_hadamard(n):
    h = hadamard(n)
    assert (np.abs(h) == 1).all() and (h @ h.T == n * np.eye(n)).all() and (h.T @ h == n * np.eye(n)).all()
    if n >= 8:
        assert len(np.unique(h, axis=0)) == n


def test_paley_is_the_plackett_burman_row():
    "The cyclic generator of Plackett and Burman (1946) for 12 runs has the same word lengths as our L12."
    row = [1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0]
    printed = np.array([row[-i:] + row[:-i] for i in range(11)] + [[0] * 11])
    assert strength(printed) == 2
    assert np.allclose(word_lengths(printed), word_lengths(from_hadamard(12)))


def test_printed_tables():
    "L8 and L18 row by row as they are printed (Phadke 1989, appendix C), up to the order of columns for L18."
    l8 = ["1111111", "1112222", "1221122", "1222211", "2121212", "2122121", "2211221", "2212112"]
    assert (orthogonal_array("L8") + 1).tolist() == [[int(c) for c in r] for r in l8]
    l18 = (
        np.array(
            [
                [int(c) for c in r]
                for r in [
                    "11111111",
                    "11222222",
                    "11333333",
                    "12112233",
                    "12223311",
                    "12331122",
                    "13121323",
                    "13232131",
                    "13313212",
                    "21133221",
                    "21211332",
                    "21322113",
                    "22123132",
                    "22231213",
                    "22312321",
                    "23132312",
                    "23213123",
                    "23321231",
                ]
            ]
        )
        - 1
    )
    assert strength(l18) == 2 and np.allclose(word_lengths(l18), word_lengths(orthogonal_array("L18")))


@given(m=st.integers(3, 5), data=st.data())
def test_merges_of_regular_arrays(m, data):
    a = rao_hamming(2, m)
    i, j = data.draw(st.lists(st.integers(0, 2**m - 2), min_size=2, max_size=2, unique=True))
    b = merge_columns(a, (i, j))
    assert levels(b) == (2,) * (2**m - 4) + (4,) and link(b).strength() == strength(b) == 2
    k = (i + 1 ^ j + 1) - 1
    assert interaction_table(a)[i, j] == k
    assert (b[:, :-1] == np.delete(a, [i, j, k], axis=1)).all() and (b[:, -1] == 2 * a[:, i] + a[:, j]).all()


@given(name=st.sampled_from(["L9", "L18", "L16(4^5)", "L25", "L27"]), data=st.data())
def test_dummy_levels_stay_proportional(name, data):
    a = orthogonal_array(name)
    column = data.draw(st.sampled_from([j for j, q in enumerate(levels(a)) if q > 2]))
    q = levels(a)[column]
    b = dummy_level(a, column, data.draw(st.integers(0, q - 2)))
    assert levels(b)[column] == q - 1 and sorted(balance(b)[column])[-1] == 2 * len(a) // q
    assert not offending_pairs(b) and (np.delete(b, column, 1) == np.delete(a, column, 1)).all()


@pytest.mark.parametrize("name", ["L8", "L12", "L9", "L18", "L16(2^9 4^2)"])
def test_triple_words_are_the_patterns_of_triples(name):
    a = orthogonal_array(name)
    words = triple_words(a)
    for s in itertools.combinations(range(a.shape[1]), 3):
        assert words[s] == pytest.approx(link(a[:, list(s)]).GWLP()[3], abs=1e-9)
    report = alias_report(a)
    assert report["share"].between(0, 1 + 1e-9).all()


def test_l27_interactions_take_two_columns():
    """In a regular three-level array an interaction has four degrees of freedom: two columns, each fully
    aliased."""
    report = alias_report(orthogonal_array("L27"))
    assert (report["kind"] == "full").all() and (report.groupby(["a", "b"]).size() == 2).all()


@given(data=st.data())
def test_assignments_keep_their_promise(data):
    q = data.draw(st.sampled_from([2, 2, 3]))
    names = list("ABCDEF")[: data.draw(st.integers(2, 5 if q == 2 else 4))]
    pairs = data.draw(
        st.lists(st.sampled_from(list(itertools.combinations(names, 2))), max_size=2, unique=True)
    )
    got = assign(dict.fromkeys(names, q), avoid=pairs)
    columns = list(got.columns.values())
    assert len(set(columns)) == len(names) and [levels(got.array)[c] for c in columns] == [q] * len(names)
    part = got.array[:, columns]
    x = {f: np.eye(q)[part[:, i]] - 1 / q for i, f in enumerate(names)}
    spaces = [np.column_stack([u * v for u in x[a].T for v in x[b].T]) for a, b in pairs]
    for space in spaces:
        for f in names:
            assert np.abs(space.T @ x[f]).max() < 1e-9
    for u, v in itertools.combinations(spaces, 2):
        assert np.abs(u.T @ v).max() < 1e-9


def test_assign_takes_the_smallest_and_names_the_next():
    assert assign(dict.fromkeys("ABCDEFG", 2)).name == "L8(2^7)"
    assert assign(dict.fromkeys("ABCDEFGH", 2)).name == "L12(2^11)"
    assert assign(dict.fromkeys("ABC", 2), avoid=[("A", "B"), ("A", "C"), ("B", "C")]).name == "L8(2^7)"
    with pytest.raises(InputError, match=r"L16\(2\^15\) works"):
        assign(dict.fromkeys("ABCDEFG", 2), "L12", [("A", "B")])
    with pytest.raises(InputError, match="unknown orthogonal array"):
        assign({"A": 2}, "L7")


@pytest.mark.parametrize("name", ["L8(4 2^4)", " l8(2^4 4^1) ", "L8(2^4x4)", "L8(4^1, 2^4)"])
def test_names_are_forgiving_about_form(name):
    assert (
        canonical(name) == "L8(2^4 4^1)" and (orthogonal_array(name) == orthogonal_array("L8(2^4 4^1)")).all()
    )


@pytest.mark.parametrize("name", ["L10", "L8(2^8)", "L8(2^", "", "L(2)", "8", None, 8])
def test_unknown_names(name):
    with pytest.raises(InputError, match="unknown orthogonal array"):
        orthogonal_array(name)


def test_contract_names():
    for name in (
        "L4(2^3)",
        "L8(2^7)",
        "L9(3^4)",
        "L12(2^11)",
        "L16(2^15)",
        "L16(4^5)",
        "L18(2^1 3^7)",
        "L20(2^19)",
        "L24(2^23)",
        "L25(5^6)",
        "L27(3^13)",
        "L32(2^31)",
        "L36(2^11 3^12)",
        "L64(2^63)",
        "L64(4^21)",
        "L16(4^2 2^9)",
    ):
        orthogonal_array(name)
    assert USUAL["L16"] == "L16(2^15)" and USUAL["L64"] == "L64(2^63)"


@pytest.mark.parametrize("q, r", [(3, 6), (3, 12), (3, 18), (5, 10)])
def test_difference_schemes(q, r):
    d = difference_scheme(q, r)
    assert all(
        (np.bincount((x - y) % q, minlength=q) == r // q).all() for x, y in itertools.combinations(d.T, 2)
    )


@pytest.mark.parametrize("q", [2, 3, 4, 5, 7, 8, 9, 25])
def test_fields_have_a_generator(q):
    "The nonzero elements of a finite field are the powers of one of them."
    mul, found = field(q).mul, False
    for g in range(1, q):
        x, seen = 1, set()
        while x not in seen:
            x = (seen.add(x), int(mul[x, g]))[1]
        found |= len(seen) == q - 1
    assert found


def test_files(tmp_path):
    a = orthogonal_array("L18")
    assert (read_array(write_array(a, tmp_path / "a.csv", names=list("ABCDEFGH"))).to_numpy() == a).all()
    (tmp_path / "one.csv").write_text("run,A,B\n1,1,1\n2,1,2\n3,2,1\n4,2,2\n")
    assert read_array(tmp_path / "one.csv", columns=["A", "B"]).to_numpy().tolist() == [
        [0, 0],
        [0, 1],
        [1, 0],
        [1, 1],
    ]
    (tmp_path / "bad.csv").write_text("A,B,C\n" + "\n".join(f"{i},{j},{i}" for i in (1, 2) for j in (1, 2)))
    with pytest.raises(InputError, match="1 of 3 pairs not orthogonal: A-C"):
        read_array(tmp_path / "bad.csv")
    with pytest.raises(InputError, match="different ones"):
        write_array(a, tmp_path / "b.csv", names=["A"] * 8)
    assert not (tmp_path / "b.csv").exists()


def test_graphs_refuse_collisions():
    a = orthogonal_array("L16")
    star = linear_graph(a, [(0, 1), (0, 3), (0, 7)])
    assert sorted([*star.points, *(c for *_, c in star.lines)]) == list(range(15))
    with pytest.raises(InputError, match="collide"):
        linear_graph(orthogonal_array("L12"), [(0, 1)])
