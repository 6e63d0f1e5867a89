"signals.fourier against numpy's transforms, on any size."

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.signals.fourier import bin_weights, full_precision, hermitian, irfft2, radius, rfft2

sides = st.integers(1, 20)


def images(h, w, *, seed=0, dtype=torch.float64):
    return torch.randn(2, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@given(sides, sides)
def test_agrees_with_numpy(h, w):
    for dtype, eps in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        x = images(h, w, dtype=dtype)
        X = rfft2(x)
        assert X.dtype == dtype.to_complex() and X.shape == (2, h, w // 2 + 1)
        assert np.abs(X.numpy() - np.fft.rfft2(x.double().numpy(), norm="ortho")).max() < eps
        assert (irfft2(X, (h, w)) - x).abs().max() < eps


@given(sides, sides)
def test_radius_and_weights_count_the_full_plane(h, w):
    full = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)[None])
    half = np.repeat(radius(h, w).numpy().ravel(), bin_weights(h, w).numpy().ravel().astype(int))
    assert np.abs(np.sort(full.ravel()) - np.sort(half)).max() < 1e-15


@given(sides, sides)
def test_inverse_of_any_complex_numbers(h, w):
    "numpy's inverse ignores the parts that belong to no image; so do we, by an explicit projection."
    gen = torch.Generator().manual_seed(h * 100 + w)
    X = torch.complex(*torch.randn(2, 3, h, w // 2 + 1, generator=gen, dtype=torch.float64))
    x = irfft2(X, (h, w))
    assert np.abs(x.numpy() - np.fft.irfft2(X.numpy(), s=(h, w), axes=(-2, -1), norm="ortho")).max() < 1e-12
    assert (rfft2(x) - hermitian(X, (h, w))).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    x = images(6, 7, dtype=dtype)  # 7 is no power of two: a half-precision FFT would fail on a GPU
    assert torch.equal(rfft2(x), rfft2(x.float())) and rfft2(x).dtype == torch.complex64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(irfft2(rfft2(x), (6, 7)), irfft2(rfft2(x.float()), (6, 7)))


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_complex_half_is_taken_to_single():
    assert full_precision(torch.zeros(2, 2, dtype=torch.complex32)).dtype == torch.complex64


def test_gradcheck():
    x = images(5, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: irfft2(rfft2(z) * radius(5, 6), (5, 6)), x)
    X = torch.complex(
        *torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: irfft2(z, (5, 6)), X)


@pytest.mark.parametrize(
    "call",
    [
        lambda: rfft2(torch.zeros(4, 4, dtype=torch.uint8)),
        lambda: rfft2(torch.zeros(4)),
        lambda: rfft2(torch.zeros(0, 4)),
        lambda: rfft2(torch.zeros(4, 4, dtype=torch.complex64)),
        lambda: irfft2(torch.zeros(4, 3, dtype=torch.complex64), (4, 6)),
        lambda: irfft2(torch.zeros(4, 3, dtype=torch.complex64), (5, 4)),
        lambda: radius(0, 3),
        lambda: bin_weights(3, 0),
    ],
)
def test_bad_input(call):
    with pytest.raises(InputError):
        call()


def test_size_is_required():
    with pytest.raises(TypeError):
        irfft2(torch.zeros(4, 3, dtype=torch.complex64))
