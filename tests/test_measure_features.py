"The Frechet distance against numpy's own linear algebra, and against the closed form of Gaussian fields."
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.data.synthetic import power_law_spectrum
from spectral_diffusion.measure.features import EXTRACTORS, frechet_distance, gaussian_distance
from spectral_diffusion.noise.errors import frechet
from spectral_diffusion.noise.theory import GaussianField


@settings(deadline=None, max_examples=25)
@given(n=st.integers(20, 60), m=st.integers(20, 60), d=st.integers(1, 8), seed=st.integers(0, 999))
def test_against_scipy(n, m, d, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d))@rng.normal(size=(d, d)), 2 + rng.normal(size=(m, d))@rng.normal(size=(d, d))
    a, b = np.atleast_2d(np.cov(x.T)), np.atleast_2d(np.cov(y.T))
    expect = ((x.mean(0) - y.mean(0))**2).sum() + np.trace(a) + np.trace(b) - 2*np.trace(sqrtm(a@b)).real
    assert gaussian_distance(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expect, rel=1e-6, abs=1e-8)


def test_against_the_exact_distance_of_two_fields():
    "On 8 x 8 images the extractor `pixels` is the identity, and the distance of two fields is known."
    one, two = (GaussianField(power_law_spectrum(8, 8, exponent=e), (8, 8)) for e in (2., 1.))
    x, y = (f.sample(6_000, torch.Generator().manual_seed(i)) for i, f in enumerate((one, two)))
    got, exact = frechet_distance(x, y, "pixels"), frechet(one, two)
    assert got.value > exact and abs(got.unbiased/exact - 1) < abs(got.value/exact - 1) + 0.01
    assert got.unbiased == pytest.approx(exact, rel=0.05)
    assert (got.n, got.dimension, got.extractor) == (6_000, 64, "pixels")


@pytest.mark.parametrize("name", list(EXTRACTORS))
@pytest.mark.parametrize("shape", [(9, 1, 16, 16), (9, 3, 17, 24)])
def test_features_are_functions_of_single_images(name, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = EXTRACTORS[name](x)
    assert features.shape[0] == 9 and torch.isfinite(features).all()
    assert (EXTRACTORS[name](x.flip(0)).flip(0) - features).abs().max() < 1e-10
    assert frechet_distance(x, x, name).value < 1e-8


def test_bad_input():
    x = torch.zeros(9, 1, 16, 16)
    with pytest.raises(InputError, match="at least 8 images"): frechet_distance(x[:3], x)
    with pytest.raises(InputError, match="finite float"): frechet_distance(x/0, x)
    with pytest.raises(InputError, match="finite float"): frechet_distance((x*255).byte(), x)
