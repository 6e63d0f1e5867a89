"Bands and radial spectra against numpy and scikit-image."

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.measure.pixel import mse
from spectral_diffusion.measure.spectral import (
    band_energy,
    band_mse,
    band_psnr,
    band_share,
    band_std,
    log_psd_distance,
)
from spectral_diffusion.signals.spectra import BANDS


def images(n, c, h, w, seed=0):
    return torch.randn(n, c, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def full_masks(h, w):
    "Bands on the full plane, by numpy."
    k = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)[None, :])
    return [(k >= low) & (k < high) for low, high in BANDS.values()]


shapes = st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(5, 20), st.integers(5, 20))


@given(shape=shapes, seed=st.integers(0, 10**6))
def test_band_energy_is_that_of_the_full_spectrum(shape, seed):
    x = images(*shape, seed)
    power = np.abs(np.fft.fft2(x.numpy(), norm="ortho")) ** 2
    reference = np.stack([(power * m).sum((1, 2, 3)) for m in full_masks(*shape[-2:])], -1)
    assert np.allclose(band_energy(x).numpy(), reference, rtol=1e-10, atol=1e-10)
    assert np.allclose(
        band_share(*shape[-2:]).numpy(), [m.mean() for m in full_masks(*shape[-2:])], atol=1e-12
    )


@given(shape=shapes, seed=st.integers(0, 10**6))
def test_bands_add_up_to_the_pixel_error(shape, seed):
    x, y = images(*shape, seed), images(*shape, seed + 1)
    total = (band_mse(x, y) * band_share(*shape[-2:])).sum(1)
    assert torch.allclose(total, mse(x, y, reduction="none"), rtol=1e-10)


def test_one_band_of_everything_is_the_psnr_of_scikit_image():
    x, y = images(2, 3, 9, 12, 1), images(2, 3, 9, 12, 2)
    ours = band_psnr(x, y, bands={"all": (0.0, 1.0)}, reduction="none")
    for i in range(2):
        assert math.isclose(
            ours[i, 0].item(),
            peak_signal_noise_ratio(x[i].numpy(), y[i].numpy(), data_range=2),
            rel_tol=1e-10,
        )


def test_white_noise_has_its_deviation_in_every_band():
    sd = band_std(0.5 * images(400, 1, 16, 17, 3))
    coefficients = 400 * band_share(16, 17) * 16 * 17
    assert ((sd / 0.5 - 1).abs() < 5 / (2 * coefficients).sqrt()).all()


def test_a_wave_is_in_one_band():
    w = 32
    n = torch.arange(w, dtype=torch.float64)
    zero = torch.zeros(1, 1, w, w, dtype=torch.float64)
    for cycles, band in ((1, 0), (4, 1), (12, 2), (16, 2)):
        e = band_energy(zero + torch.cos(2 * math.pi * cycles * n / w))[0]
        assert e[band] > 100 and e.sum() - e[band] < 1e-20


def radial(x):
    "Rings of width one cycle per picture on the full plane, by numpy."
    h = x.shape[-1]
    k = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(h)[None, :]) * h
    ring = np.rint(k).astype(int)
    power = (np.abs(np.fft.fft2(x.numpy(), norm="ortho")) ** 2).mean((0, 1))
    return np.array([power[ring == j].mean() for j in range(h // 2 + 1)])


@pytest.mark.parametrize("size", [16, 24])
def test_distance_is_that_of_numpy(size):
    x, y = images(4, 3, size, size, 4), 0.7 * images(6, 3, size, size, 5)
    reference = np.sqrt(np.mean((10 * np.log10(radial(x) / radial(y))) ** 2))
    assert math.isclose(log_psd_distance(x, y).value, reference, rel_tol=1e-9)


@given(seed=st.integers(0, 10**6), gain=st.floats(0.1, 10))
def test_distance_is_symmetric_zero_for_itself_and_known_for_a_gain(seed, gain):
    x, y = images(3, 1, 9, 8, seed), images(4, 1, 9, 8, seed + 1)
    assert log_psd_distance(x, x).value == 0
    assert np.allclose(log_psd_distance(x, y), log_psd_distance(y, x), rtol=1e-9)
    assert math.isclose(
        log_psd_distance(x, gain * x).value, abs(20 * math.log10(gain)), rel_tol=1e-9, abs_tol=1e-9
    )


def test_floor_falls_with_the_root_of_the_sample():
    floor = {n: log_psd_distance(images(n, 1, 16, 16, 6), images(n, 1, 16, 16, 7)).floor for n in (50, 800)}
    assert 3.0 < floor[50] / floor[800] < 5.3  # four, up to the noise of the spread in the first ring


def test_one_image_has_no_standard_error():
    d = log_psd_distance(images(1, 1, 8, 8, 8), images(4, 1, 8, 8, 9))
    assert math.isfinite(d.value) and math.isnan(d.stderr) and math.isnan(d.floor)


def test_bad_input_raises():
    x = images(2, 1, 8, 8)
    bad = x.clone()
    bad[0, 0, 0, 0] = math.nan
    for call in (
        lambda: band_psnr(x, x[:1]),
        lambda: band_mse(x, bad),
        lambda: band_energy(x[0]),
        lambda: log_psd_distance(x, images(2, 1, 8, 9)),
        lambda: log_psd_distance(x, bad),
        lambda: log_psd_distance(x, x, k_min=2.0),
        lambda: band_std(x, bands={"none": (0.8, 0.9)}),
        lambda: band_psnr(x, x, data_range=0.0),
        lambda: band_psnr(x, x, reduction="sum"),
        lambda: log_psd_distance(x.int(), x.int()),
    ):
        with pytest.raises(InputError):
            call()
