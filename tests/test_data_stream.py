"""Batches against torch's own loader and numpy; properties over random sizes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.data import stream

cases = st.tuples(st.integers(1, 60), st.integers(0, 3), st.integers(0, 40), st.integers(1, 70))


@given(cases)
def test_a_step_is_a_slice_of_the_endless_sequence(case):
    n, seed, step, size = case
    epochs = range((step + 1) * size // n + 1)
    endless = torch.cat([stream.permutation(n, seed, e) for e in epochs])
    heads = torch.cat([stream.coins(n, seed, e) for e in epochs])
    here = slice(step * size, (step + 1) * size)
    assert torch.equal(stream.indices(n, seed, step, size), endless[here])
    assert torch.equal(stream.flips(n, seed, step, size), heads[here])


@given(cases, st.booleans())
def test_a_batch_of_two_is_two_batches(case, flip):
    n, seed, step, size = case
    x = torch.arange(n * 2 * 3).to(torch.uint8).reshape(n, 1, 2, 3)
    halves = torch.cat([stream.batch(x, seed, s, size, flip=flip) for s in (2 * step, 2 * step + 1)])
    assert torch.equal(stream.batch(x, seed, step, 2 * size, flip=flip), halves)


def test_a_loader_with_the_same_order_gives_the_same_batches():
    x = torch.randn(23, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(
        TensorDataset(x), batch_size=6, sampler=stream.permutation(23, 3, 0).tolist(), drop_last=True
    )
    for step, (theirs,) in enumerate(loader):
        assert torch.equal(stream.batch(x, 3, step, 6), theirs)
    assert step == 2


def test_every_order_is_equally_likely():
    "All 24 orders of four images: chi-square with 23 degrees of freedom, 0.9999 quantile."
    from scipy.stats import chi2

    seen = np.unique(
        [stream.permutation(4, 0, e).numpy() @ [64, 16, 4, 1] for e in range(4800)], return_counts=True
    )[1]
    assert len(seen) == 24 and ((seen - 200) ** 2 / 200).sum() < chi2.ppf(0.9999, 23)


def test_neighbouring_epochs_are_unrelated():
    ranks = torch.stack([stream.permutation(500, 0, e).argsort().double() for e in range(40)])
    off = torch.corrcoef(ranks) - torch.eye(40, dtype=torch.float64)
    assert off.abs().max() < 5.5 / 500**0.5  # 780 pairs: 5.5 standard errors


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.floats(0, 1), st.integers(0, 3))
def test_stratified_shares(sizes, fraction, seed):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    n = round(fraction * len(labels))
    index = stream.stratified(labels, n, seed)
    share = n * np.array(sizes) / len(labels)
    counts = labels[index].bincount(minlength=len(sizes)).numpy()
    assert len(index.unique()) == len(index) == n
    assert np.abs(counts - share).max() <= max(1, len(sizes) / 2)  # equal keys are settled by chance
    assert torch.equal(stream.stratified(labels, len(labels), seed)[:n], index)


def test_stratified_skips_empty_classes():
    labels = torch.tensor([0, 4, 4, 0])
    assert sorted(labels[stream.stratified(labels, 2, 0)].tolist()) == [0, 4]


def test_the_caller_cannot_write_into_the_cache():
    want = stream.indices(10, 0, 0, 10).clone()
    stream.indices(10, 0, 0, 10).zero_()
    stream.indices(10, 0, 0, 4).zero_()
    assert torch.equal(stream.indices(10, 0, 0, 10), want)


def test_the_cache_is_bounded():
    for seed in range(50):
        stream.indices(5, seed, 0, 5)
        stream.flips(5, seed, 0, 5)
    assert stream._order.cache_info().currsize <= 4 and stream._coins.cache_info().currsize <= 4


@pytest.mark.parametrize("arguments", [(-1, 4), (0, 0), (0, -3)])
def test_bad_steps_and_sizes(arguments):
    with pytest.raises(InputError):
        stream.batch(torch.zeros(5, 1, 2, 2), 0, *arguments)
