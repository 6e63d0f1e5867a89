"signals.cosine against scipy.fft."

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.signals import cosine
from spectral_diffusion.signals.cosine import dct2, dct_matrix, frequency, idct2

SIZES = [(8, 8), (7, 9), (1, 1), (1, 6), (33, 64), (63, 32), (255, 256)]


def images(h, w, dtype=torch.float64):
    return torch.randn(
        2, 3, h, w, generator=torch.Generator().manual_seed(h + 1000 * w), dtype=torch.float64
    ).to(dtype)


@pytest.mark.parametrize("size", SIZES)
def test_agrees_with_scipy_in_double(size):
    x = images(*size)
    for ours, theirs in ((dct2, scipy.fft.dctn), (idct2, scipy.fft.idctn)):
        want = theirs(x.numpy(), axes=(-2, -1), norm="ortho")
        assert np.abs(ours(x).numpy() - want).max() < 1e-12 * np.abs(want).max()


@given(st.integers(1, 24), st.integers(1, 24))
def test_agrees_with_scipy_on_any_size(h, w):
    x = images(h, w, torch.float32)
    want = scipy.fft.dctn(x.double().numpy(), axes=(-2, -1), norm="ortho")
    assert (
        np.abs(dct2(x).numpy() - want).max() < 2e-6 * np.abs(want).max()
    )  # a few roundings of single precision
    assert dct2(x).dtype == torch.float32 and (idct2(dct2(x)) - x).abs().max() < 5e-6


def test_matrix_is_scipys():
    for n in (1, 2, 5, 8, 129, 512):
        want = scipy.fft.dct(np.eye(n), axis=0, norm="ortho")
        assert np.abs(dct_matrix(n).numpy() - want).max() < 1e-14


def test_round_trip_at_512_in_single():
    x = 2 * torch.rand(3, 512, 512, generator=torch.Generator().manual_seed(0)) - 1
    assert (idct2(dct2(x)) - x).abs().max() < 5e-6


def test_half_precision_and_autocast():
    x = images(16, 17, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = dct2(x), idct2(x), dct2(x.float())
    assert (
        torch.equal(inside[0], dct2(x.float()))
        and torch.equal(inside[1], idct2(x.float()))
        and torch.equal(inside[2], inside[0])
    )
    assert inside[0].dtype == torch.float32


def test_gradients_and_inference_mode():
    cosine._matrix.cache_clear()
    with torch.inference_mode():
        dct2(images(5, 6))  # fills the cache
    x = images(5, 6)[0, 0].requires_grad_()
    assert torch.autograd.gradcheck(lambda z: dct2(z).pow(2), x) and torch.autograd.gradcheck(
        lambda z: idct2(z).pow(2), x
    )


def test_cache_is_bounded():
    for n in range(1, 60):
        dct2(torch.zeros(n, n))
    assert cosine._matrix.cache_info().currsize <= cosine._matrix.cache_info().maxsize <= 64


def test_frequency():
    f = frequency(4, 6)
    assert f.dtype == torch.float64 and f[0, 0] == 0
    assert f[3, 5].item() == pytest.approx(((3 / 8) ** 2 + (5 / 12) ** 2) ** 0.5, abs=1e-15)


@pytest.mark.parametrize(
    "call",
    [
        lambda: dct_matrix(0),
        lambda: frequency(0, 2),
        lambda: dct2(torch.zeros(4, 4, dtype=torch.int64)),
        lambda: dct2(torch.zeros(3)),
        lambda: idct2(torch.zeros(4, 4, dtype=torch.complex64)),
    ],
)
def test_bad_input(call):
    with pytest.raises(InputError):
        call()
