"The coder against entropies of numpy, tables against scipy, and the promise that only InputError comes out."

import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("constriction")
from spectral_diffusion.codec import entropy  # noqa: E402
from spectral_diffusion.codec.entropy import (
    FARTHEST,
    Reader,
    Tables,
    Writer,
    code_length,
    integer_counts,
    split_excess,
)  # noqa: E402
from spectral_diffusion.core.registry import InputError  # noqa: E402

REFERENCE = {"gaussian": scipy.stats.norm, "logistic": scipy.stats.logistic(scale=np.sqrt(3) / np.pi)}


@pytest.mark.parametrize("family", REFERENCE)
def test_code_length_is_that_of_scipy(family):
    for scale in (0.2, 1.0, 9.0):
        k = np.arange(-6, 7)
        d = REFERENCE[family]
        mass = np.where(
            k > 0,
            d.sf((k - 0.5) / scale) - d.sf((k + 0.5) / scale),
            d.cdf((k + 0.5) / scale) - d.cdf((k - 0.5) / scale),
        )
        ours = code_length(
            torch.tensor(k, dtype=torch.float64), torch.full((13,), scale, dtype=torch.float64), family
        ).numpy()
        assert np.abs(ours - -np.log2(np.maximum(mass, 1e-9))).max() < 1e-6


@pytest.mark.parametrize("family", REFERENCE)
def test_tables_are_the_probabilities_of_scipy(family):
    tables = Tables(family=family)
    for scale, counts in list(zip(tables.scales, tables.counts, strict=True))[::7]:
        top = len(counts) // 2 - 1
        k = np.arange(-top, top + 1)
        d = REFERENCE[family]
        p = [*(d.cdf((k + 0.5) / scale) - d.cdf((k - 0.5) / scale)), 2 * d.sf((top + 0.5) / scale)]
        assert sum(counts) == 1 << 16 and min(counts) >= 1
        sums = np.cumsum(np.array(counts) - 1) - np.cumsum(p) * ((1 << 16) - len(counts))
        assert np.abs(sums).max() <= 0.5 + 1e-6  # rounded to the nearest
        assert p[-1] <= tables.tail or top == 1


@given(st.lists(st.floats(0, 1), min_size=2, max_size=60), st.integers(100, 1 << 20))
def test_counts_are_positive_and_sum_to_the_total(weights, total):
    p = (np.array(weights) + 1e-9) / (np.array(weights) + 1e-9).sum()
    counts = integer_counts(p.tolist(), total)
    assert sum(counts) == total and min(counts) >= 1
    assert np.abs(np.cumsum(np.array(counts) - 1) - np.cumsum(p) * (total - len(p))).max() <= 0.5 + 1e-6


@given(
    st.lists(
        st.tuples(st.one_of(st.integers(-5, 5), st.integers(-FARTHEST, FARTHEST)), st.integers(0, 63)),
        max_size=80,
    ),
    st.integers(1, 3),
)
def test_what_is_written_is_read(pairs, groups):
    tables, k, i = (
        Tables(),
        np.array([p[0] for p in pairs], dtype=int),
        np.array([p[1] for p in pairs], dtype=int),
    )
    writer = Writer(tables)
    for g in range(groups):
        writer.put(k[g::groups], i[g::groups])
    reader = Reader(writer.finish(), tables)
    for g in range(groups):
        assert (reader.take(i[g::groups]) == k[g::groups]).all()
    reader.finish()


def test_bytes_are_within_a_per_cent_of_the_empirical_entropy():
    rng, tables, n = np.random.default_rng(0), Tables(), 40_000
    index = rng.choice([20, 35, 50], n)
    k = np.round(np.array(tables.scales)[index] * rng.standard_normal(n)).astype(int)
    writer = Writer(tables)
    writer.put(k, index)
    entropy_bits = 0.0
    for i in np.unique(index):
        share = np.unique(k[index == i], return_counts=True)[1] / (index == i).sum()
        entropy_bits += -(index == i).sum() * (share * np.log2(share)).sum()
    bits = 8 * len(writer.finish())
    assert 0.99 * entropy_bits < bits < 1.01 * entropy_bits


def test_an_excess_is_split_as_by_bit_length():
    far = np.array([1, -1, 2, 3, -4, 5, 1023, 1024, -FARTHEST])
    head, bits, rest = split_excess(far)
    for f, h, b, r in zip(far, head, bits, rest, strict=True):
        assert b == int(abs(f)).bit_length() and h == 2 * (b - 1) + (f < 0) and r == abs(f) - (1 << (b - 1))


@given(st.binary(max_size=200), st.lists(st.integers(0, 63), max_size=300))
def test_any_bytes_give_symbols_or_an_input_error(data, index):
    try:
        reader = Reader(data, Tables())
        k = reader.take(np.array(index, dtype=int))
        reader.finish()
    except InputError:
        return
    assert len(k) == len(index) and (not len(k) or np.abs(k).max() <= FARTHEST)


def test_tables_repeat_in_a_fresh_process_with_other_threads():
    program = "from spectral_diffusion.codec.entropy import Tables; print(Tables().mark)"
    mark = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert mark.strip() == Tables().mark


def test_without_constriction_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(InputError, match=r"pip install -e .\.\[codec\]"):
        entropy.range_coder()
