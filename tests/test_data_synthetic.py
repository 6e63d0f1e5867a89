"""Synthetic images against numpy: the spectrum of the power law, strict options, the batch as a whole."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.core.runtime import stream
from spectral_diffusion.data.synthetic import FAMILIES, make, power_law_spectrum


def full_radius(h, w):
    return np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)[None])


@given(h=st.integers(2, 24), w=st.integers(2, 24), exponent=st.floats(0, 4))
def test_power_law_spectrum_agrees_with_the_full_plane(h, w, exponent):
    k = full_radius(h, w)
    power = np.maximum(k, k[k > 0].min()) ** -exponent
    power *= h * w / power.sum()  # unit pixel variance: the orthonormal powers sum to h*w
    found = power_law_spectrum(h, w, exponent)
    assert found.dtype == torch.float64 and found.shape == (h, w // 2 + 1)
    np.testing.assert_allclose(found.numpy(), power[:, : w // 2 + 1], rtol=1e-12)


@pytest.mark.parametrize("h,w,exponent", [(8, 8, 2.0), (7, 9, 1.0), (6, 11, 3.0)])
def test_power_law_covariance_agrees_with_its_inverse_transform(h, w, exponent):
    "Wiener-Khinchin: the covariance of two pixels is the inverse transform of the power."
    n = 20_000
    x = make("power_law", n, (h, w), stream(0, "covariance"), exponent=exponent)[:, 0].double()
    k = full_radius(h, w)
    power = np.maximum(k, k[k > 0].min()) ** -exponent
    covariance = np.fft.ifft2(power / power.mean()).real
    found = torch.einsum("n,nhw->hw", x[:, 0, 0], x) / n
    # a product of two unit normals has variance at most 2; 6 standard errors
    assert np.abs(found.numpy() - covariance).max() < 6 * (2 / n) ** 0.5


def test_power_law_pixels_are_gaussian():
    from scipy.stats import kstest

    x = make("power_law", 4000, 9, stream(0, "normal"), exponent=2.5)[:, 0, 3, 4]
    assert kstest(x.numpy(), "norm").pvalue > 1e-4


@pytest.mark.parametrize("family", ["piecewise", "texture", "random_field", "noise", "power_law"])
@pytest.mark.parametrize("size", [1, 8, 15, (9, 16), (16, 7)])
def test_shapes_and_finite_values(family, size):
    x = make(family, 5, size, stream(0, "shape"), channels=3)
    assert x.shape == (5, 3, *(size if isinstance(size, tuple) else (size, size))) and x.isfinite().all()


@pytest.mark.parametrize("family", ["piecewise", "texture", "random_field"])
def test_channels_are_copies_within_range(family):
    x = make(family, 200, 17, stream(0, "range"), channels=3)
    assert torch.equal(x[:, 0], x[:, 1]) and torch.equal(x[:, 0], x[:, 2]) and x.abs().max() <= 1


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_images_of_a_batch_differ(family):
    "A parameter that is drawn once for the whole batch would repeat pictures."
    options = (
        {"pattern_types": ("mondrian",)} if family == "piecewise" else {}
    )  # two-valued pictures may coincide
    assert len(make(family, 300, 16, stream(0, "differ"), **options).flatten(1).unique(dim=0)) == 300


@pytest.mark.parametrize("family", list(FAMILIES))
def test_strict_options(family):
    with pytest.raises(InputError, match="unknown option"):
        make(family, 1, 8, stream(0, "x"), no_such_option=1)


def test_global_random_state_is_not_touched():
    before = torch.random.get_rng_state()
    for family in FAMILIES:
        make(family, 2, 8, stream(0, "x"))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("family,mean,sd", [("texture", 0.0, 0.345), ("random_field", 0.0, 0.295)])
def test_moments_are_those_of_the_older_experiments(family, mean, sd):
    x = make(family, 4000, 32, stream(0, "moments"))
    per_image = x.flatten(1).square().mean(1)
    error = per_image.std().item() / 4000**0.5 / (2 * sd)  # standard error of the sd, by the delta method
    assert abs(x.std().item() - sd) < 5 * error + 5e-4  # and half of the last digit that was published
    assert abs(x.mean().item() - mean) < 5 * x.mean((1, 2, 3)).std().item() / 4000**0.5
