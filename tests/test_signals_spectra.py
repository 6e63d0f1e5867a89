"signals.spectra against numpy: rings, weighted line fits, phases."

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.signals.fourier import bin_weights, irfft2, radius, rfft2
from spectral_diffusion.signals.spectra import (
    BANDS,
    RadialPower,
    band_masks,
    band_split,
    fit_power_law,
    phase_coherence,
    radial_power,
    swap_phase,
)


def images(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def field(exponent, n, h, w, seed):
    "Gaussian images whose expected power is exactly k^-exponent, without a mean."
    k = radius(h, w)
    return irfft2(
        rfft2(images(n, h, w, seed=seed)) * torch.where(k > 0, k, torch.inf).pow(-exponent / 2), (h, w)
    )


@given(st.integers(3, 20), st.integers(3, 20), st.integers(0, 99))
def test_rings_are_numpys_over_the_full_plane(h, w, seed):
    x = images(2, 3, h, w, seed=seed)
    p, n = radial_power(x), max(h, w) // 2
    k = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)[None])
    power = (np.abs(np.fft.fft2(x.numpy(), norm="ortho")) ** 2).mean((0, 1))
    ring = np.minimum(np.round(2 * n * k).astype(int), n + 1).ravel()
    count = np.bincount(ring, minlength=n + 2)[:-1]
    seen = count > 0
    assert np.array_equal(p.count.numpy(), count)
    assert (
        np.abs(
            p.power.numpy()[seen]
            - (np.bincount(ring, power.ravel(), n + 2)[:-1] / np.maximum(count, 1))[seen]
        ).max()
        < 1e-10
    )
    assert (
        np.abs(
            p.k.numpy()[seen] - (np.bincount(ring, k.ravel(), n + 2)[:-1] / np.maximum(count, 1))[seen]
        ).max()
        < 1e-14
    )


def test_single_precision_gradient_and_shared_rings():
    x = images(2, 1, 16, 16)
    p = radial_power(x)
    assert ((radial_power(x.float()).power / p.power) - 1).abs().max() < 1e-5
    p.k.zero_(), p.count.zero_()  # the caller's own copies: the next call must not see it
    assert radial_power(x).k[-1] > 0.4 and radial_power(x).count[1] == 8
    assert torch.autograd.gradcheck(lambda z: radial_power(z).power, images(5, 6).requires_grad_())


def test_line_is_numpys_weighted_fit():
    p = radial_power(field(1.7, 6, 24, 25, 3))
    use = (p.k > 0).numpy() & (p.k <= 0.5).numpy()
    x, y, weight = p.k.log().numpy()[use], p.power.log().numpy()[use], (p.count * p.images / 2).numpy()[use]
    line, covariance = np.polyfit(x, y, 1, w=np.sqrt(weight), cov="unscaled")
    fit = fit_power_law(p)
    scatter = (weight * (y - np.polyval(line, x)) ** 2).sum() / (len(x) - 2)
    assert fit.exponent == pytest.approx(-line[0], abs=1e-10) and fit.amplitude == pytest.approx(
        np.exp(line[1]), rel=1e-10
    )
    assert fit.scatter == pytest.approx(scatter, rel=1e-9)
    assert fit.stderr == pytest.approx(np.sqrt(covariance[0, 0] * max(scatter, 1)), rel=1e-9)


def test_exact_power_laws_are_recovered_without_error():
    k = torch.linspace(0.05, 0.5, 12, dtype=torch.float64)
    for exponent in (-1.0, 0.0, 0.3, 2.0, 3.7):
        fit = fit_power_law(RadialPower(k, 5 * k**-exponent, torch.arange(1.0, 13.0).double(), 4))
        assert fit.exponent == pytest.approx(exponent, abs=1e-12) and fit.amplitude == pytest.approx(
            5, rel=1e-12
        )


@pytest.mark.parametrize("size", [(32, 32), (33, 31)])
def test_standard_error_covers_random_exponents(size):
    """Errors in units of the standard error: as often inside one and two as a normal variable, and not
    shifted."""
    trials, gen = 300, torch.Generator().manual_seed(7)
    z = []
    for seed in range(trials):
        exponent = 3 * torch.rand((), generator=gen, dtype=torch.float64).item()
        fit = fit_power_law(radial_power(field(exponent, 8, *size, seed + 10_000)), k_min=3 / 32)
        z.append((fit.exponent - exponent) / fit.stderr)
    z = np.array(z)
    for limit, share in ((1, 0.683), (2, 0.954)):
        spread = 4 * np.sqrt(share * (1 - share) / trials)
        assert (np.abs(z) < limit).mean() > share - spread
    assert (
        np.abs(z) < 1
    ).mean() < 0.683 + 0.15  # the error is not merely made large: it may be wide by the clamp alone
    assert abs(z.mean()) < 0.5


@given(st.integers(1, 20), st.integers(1, 20))
def test_bands_are_a_partition(h, w):
    masks, x = band_masks(h, w), images(2, h, w)
    assert list(masks) == list(BANDS) and torch.equal(
        sum(masks.values()), torch.ones(h, w // 2 + 1, dtype=torch.float64)
    )
    k = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)[None])
    for name, (low, high) in BANDS.items():
        assert (bin_weights(h, w) * masks[name]).sum() == ((k >= low) & (k < high)).sum()
    parts = band_split(x)
    assert (sum(parts.values()) - x).abs().max() < 1e-12
    assert abs(sum(p.square().sum() for p in parts.values()) - x.square().sum()) < 1e-9


@given(st.integers(2, 12), st.integers(2, 12))
def test_swap_phase_is_numpys(h, w):
    a, b = images(h, w, seed=1), images(h, w, seed=2)
    A, B = np.fft.fft2(a.numpy()), np.fft.fft2(b.numpy())
    assert (
        np.abs(swap_phase(a, b).numpy() - np.fft.ifft2(np.abs(A) * np.exp(1j * np.angle(B))).real).max()
        < 1e-11
    )
    assert (swap_phase(a, a) - a).abs().max() < 1e-12


def test_swap_phase_keeps_the_magnitude_where_the_phase_is_undefined():
    flat, x = torch.ones(6, 6, dtype=torch.float64), images(6, 6)
    assert ((rfft2(swap_phase(x, flat)).abs() - rfft2(x).abs()).abs()).max() < 1e-12


def test_phase_coherence_of_noise():
    "The mean of n uniform phases has the squared length 1/n on average."
    c = phase_coherence(images(50, 32, 32))[:, 1:-1]
    assert abs(c.square().mean().item() * 50 - 1) < 4 / np.sqrt(c.numel())
    assert (phase_coherence(images(1, 8, 8).expand(9, 8, 8)) - 1).abs().max() < 1e-12


@pytest.mark.parametrize(
    "call",
    [
        lambda: radial_power(torch.zeros(4)),
        lambda: radial_power(torch.zeros(0, 4, 4)),
        lambda: radial_power(torch.full((4, 4), float("nan"))),
        lambda: radial_power(torch.zeros(8, 8), bins=0),
        lambda: fit_power_law(radial_power(images(8, 8)), k_min=0.4),
        lambda: fit_power_law(radial_power(torch.zeros(16, 16))),
    ],
)
def test_bad_input(call):
    with pytest.raises(InputError):
        call()
