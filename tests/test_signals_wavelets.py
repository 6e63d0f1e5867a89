"signals.wavelets against PyWavelets, mode periodization."

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.signals.wavelets import (
    WAVELETS,
    Coefficients,
    dwt2,
    idwt2,
    max_levels,
    pack,
    scaling_filter,
    unpack,
)

EVEN = [(8, 8, 1), (16, 24, 3), (32, 32, 5), (64, 8, 3), (2, 2, 1), (4, 6, 1), (16, 16, 4)]


def images(h, w, dtype=torch.float64):
    return torch.randn(
        2, h, w, generator=torch.Generator().manual_seed(h + 1000 * w), dtype=torch.float64
    ).to(dtype)


def bands(c):
    return [c.coarse, *(band for d in c.details for band in d)]


def energy(c):
    return sum(band.double().square().sum() for band in bands(c))


@pytest.mark.parametrize("name", WAVELETS)
def test_filters(name):
    assert np.abs(scaling_filter(name).numpy() - pywt.Wavelet(name).rec_lo).max() < 1e-12


@pytest.mark.filterwarnings("ignore:Level value")
@pytest.mark.parametrize("name", WAVELETS)
@pytest.mark.parametrize("h,w,levels", EVEN)
def test_agrees_with_pywavelets_on_even_sizes(name, h, w, levels):
    "PyWavelets lists the coarsest level first, and names a band by what it shows: cH is our hl, cV our lh."
    x = images(h, w)
    ours, theirs = dwt2(x, name, levels), pywt.wavedec2(x.numpy(), name, mode="periodization", level=levels)
    assert np.abs(ours.coarse.numpy() - theirs[0]).max() < 1e-12
    for d, (horizontal, vertical, diagonal) in zip(ours.details, reversed(theirs[1:]), strict=True):
        for a, b in ((d.hl, horizontal), (d.lh, vertical), (d.hh, diagonal)):
            assert np.abs(a.numpy() - b).max() < 1e-12


def test_differs_from_pywavelets_on_odd_sizes():
    "PyWavelets repeats the last sample: one coefficient more and other energy. Ours keeps both."
    x = images(9, 9)
    c, (coarse, details) = dwt2(x), pywt.dwt2(x.numpy(), "haar", mode="periodization")
    assert coarse.size + sum(d.size for d in details) > x.numel() == sum(b.numel() for b in bands(c))
    assert abs((coarse**2).sum() + sum((d**2).sum() for d in details) - x.square().sum().item()) > 0.1
    assert abs(energy(c) - x.square().sum()) < 1e-11
    a, b = x[0, :8, :8], dwt2(x[0, :8, :8])
    assert torch.equal(c.coarse[0, :4, :4], b.coarse) and a.shape == (
        8,
        8,
    )  # away from the last row and column nothing differs
    assert torch.equal(c.coarse[0, -1, -1], x[0, -1, -1])  # the corner is passed as it is


@given(
    st.sampled_from(sorted(WAVELETS)),
    st.integers(1, 24),
    st.integers(1, 24),
    st.integers(0, 9),
    st.booleans(),
)
def test_orthogonal_on_any_size(name, h, w, levels, double):
    x = images(h, w, torch.float64 if double else torch.float32)
    levels = min(levels, max_levels(h, w))
    c, eps = dwt2(x, name, levels), 1e-12 if double else 2e-5
    assert (idwt2(c, name) - x).abs().max() < eps
    assert abs(energy(c) / x.double().square().sum() - 1) < eps
    assert pack(c).shape == x.shape and torch.equal(pack(unpack(pack(c), levels)), pack(c))
    y = pack(dwt2(x.flip(-1), name, levels))  # inner products too, not energy alone
    assert abs((pack(c) * y).sum() - (x * x.flip(-1)).sum()) < eps * x.numel()


def test_any_pair_will_do_and_dtype_follows():
    x = images(7, 10, torch.float32)
    c = dwt2(x, "db3", 2)
    assert torch.equal(idwt2((c.coarse, [tuple(d) for d in c.details]), "db3"), idwt2(c, "db3"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(dwt2(x.half(), "db3", 2).coarse, dwt2(x.half().float(), "db3", 2).coarse)
    assert dwt2(x.half()).coarse.dtype == torch.float32


def test_gradients():
    x = images(5, 6)[0].requires_grad_()
    for name in WAVELETS:
        assert torch.autograd.gradcheck(lambda z, name=name: pack(dwt2(z, name, 2)).pow(2), x)


@pytest.mark.parametrize(
    "call,says",
    [
        (lambda: dwt2(torch.zeros(9, 12), levels=5), "0 to 4"),
        (lambda: dwt2(torch.zeros(1, 12)), "0 to 0"),
        (lambda: dwt2(torch.zeros(8, 8), "db9"), "unknown wavelet"),
        (lambda: idwt2(dwt2(torch.zeros(8, 8)), "hear"), "did you mean 'haar'"),
        (lambda: dwt2(torch.zeros(8, 8, dtype=torch.int32)), "float"),
        (lambda: unpack(torch.zeros(4, 4), 3), "0 to 2"),
        (lambda: idwt2(Coefficients(torch.zeros(3, 3), dwt2(torch.zeros(12, 12)).details)), "level 1"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(InputError, match=says):
        call()
