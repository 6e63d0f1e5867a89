"The Frechet distance against numpy's own linear algebra, and against the closed form of Gaussian fields."

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.data.pixels import to_float
from spectral_diffusion.data.real import cifar10, find_cifar10
from spectral_diffusion.data.synthetic import power_law_spectrum
from spectral_diffusion.measure.features import (
    EXTRACTORS,
    cifar10_logits,
    frechet_distance,
    gaussian_distance,
    sample_bias,
)
from spectral_diffusion.noise.errors import frechet
from spectral_diffusion.noise.theory import GaussianField


@given(n=st.integers(20, 60), m=st.integers(20, 60), d=st.integers(1, 8), seed=st.integers(0, 999))
def test_against_scipy(n, m, d, seed):
    rng = np.random.default_rng(seed)
    x, y = (
        rng.normal(size=(n, d)) @ rng.normal(size=(d, d)),
        2 + rng.normal(size=(m, d)) @ rng.normal(size=(d, d)),
    )
    a, b = np.atleast_2d(np.cov(x.T)), np.atleast_2d(np.cov(y.T))
    expect = (
        ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * np.trace(sqrtm(a @ b)).real
    )
    assert gaussian_distance(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(
        expect, rel=1e-6, abs=1e-8
    )


def test_against_the_exact_distance_of_two_fields():
    "On 8 x 8 images the extractor `pixels` is the identity, and the distance of two fields is known."
    one, two = (GaussianField(power_law_spectrum(8, 8, exponent=e), (8, 8)) for e in (2.0, 1.0))
    x, y = (f.sample(6_000, torch.Generator().manual_seed(i)) for i, f in enumerate((one, two)))
    got, exact = frechet_distance(x, y, "pixels"), frechet(one, two)
    assert got.value > exact and abs(got.unbiased / exact - 1) < abs(got.value / exact - 1) + 0.01
    assert got.unbiased == pytest.approx(exact, rel=0.05)
    assert (got.n, got.dimension, got.extractor) == (6_000, 64, "pixels")


@pytest.mark.parametrize(
    "name, shape",
    [
        *(
            (name, shape)
            for name in EXTRACTORS
            if name != "cifar10"
            for shape in ((9, 1, 16, 16), (9, 3, 17, 24))
        ),
        ("cifar10", (9, 3, 32, 32)),
    ],
)
def test_features_are_functions_of_single_images(name, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = EXTRACTORS[name](x)
    assert features.shape[0] == 9 and torch.isfinite(features).all()
    assert (EXTRACTORS[name](x.flip(0)).flip(0) - features).abs().max() < 1e-10
    assert frechet_distance(x, x, name).value < 1e-8


def test_bad_input():
    x = torch.zeros(9, 1, 16, 16)
    with pytest.raises(InputError, match="at least 8 images"):
        frechet_distance(x[:3], x)
    with pytest.raises(InputError, match="finite float"):
        frechet_distance(x / 0, x)
    with pytest.raises(InputError, match="finite float"):
        frechet_distance((x * 255).byte(), x)


def test_shipped_features_are_what_the_record_says():
    import json
    from importlib.resources import files

    from spectral_diffusion.core.files import sha256

    folder = files("spectral_diffusion.measure")
    record = json.loads((folder / "cifar10_features.json").read_text())
    assert sha256(folder / "cifar10_features.safetensors") == record["sha256"]
    assert (folder / "cifar10_features.safetensors").stat().st_size == record["bytes"] <= 600_000
    assert (
        record["parameters"] <= 300_000
        and record["test_accuracy"] >= 0.75
        and record["test_images"] == 10_000
    )
    setup = (Path(__file__).parents[1] / "setup.py").read_text()
    assert '"spectral_diffusion.measure"' in setup and "*.safetensors" in setup and "*.json" in setup


def test_damaged_features_are_refused(tmp_path, monkeypatch):
    from importlib.resources import files

    from spectral_diffusion.measure import features

    for name in ("cifar10_features.safetensors", "cifar10_features.json"):
        (tmp_path / name).write_bytes((files("spectral_diffusion.measure") / name).read_bytes())
    data = bytearray((tmp_path / "cifar10_features.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "cifar10_features.safetensors").write_bytes(data)
    monkeypatch.setattr(features, "files", lambda package: tmp_path)
    features.cifar10_weights.cache_clear()
    try:
        with pytest.raises(InputError, match="damaged"):
            features.cifar10_weights()
    finally:
        features.cifar10_weights.cache_clear()


@pytest.mark.skipif(find_cifar10() is None, reason="no copy of CIFAR-10 on this machine")
def test_accuracy_is_measured_again():
    import json
    from importlib.resources import files

    record, test = (
        json.loads((files("spectral_diffusion.measure") / "cifar10_features.json").read_text()),
        cifar10("test", download=False),
    )
    right = (
        sum(
            (cifar10_logits(to_float(x)).argmax(1) == y).sum().item()
            for x, y in zip(test.x[:2_000].split(500), test.y[:2_000].split(500))
        )
        / 2_000
    )
    p = record["test_accuracy"]
    assert abs(right - p) < 4 * (p * (1 - p) / 2_000) ** 0.5


@settings(deadline=None, max_examples=6)
@given(d=st.integers(1, 12), n=st.integers(150, 400), m=st.integers(150, 400), seed=st.integers(0, 999))
def test_bias_of_gaussian_samples(d, n, m, seed):
    "The mean distance of many pairs of samples of one Gaussian is the closed form, to the next order in 1/n."
    g = torch.Generator().manual_seed(seed)
    scale = torch.randn(d, d, dtype=torch.float64, generator=g) + torch.eye(d)
    rounds = 60
    got = (
        sum(
            gaussian_distance(
                torch.randn(n, d, dtype=torch.float64, generator=g) @ scale.T,
                torch.randn(m, d, dtype=torch.float64, generator=g) @ scale.T,
            )
            for _ in range(rounds)
        )
        / rounds
    )
    assert got == pytest.approx(
        sample_bias(scale @ scale.T, n, m), rel=0.35 if d < 4 else 0.2
    )  # the spread of the mean of 60


def test_bias_is_that_of_independent_features_and_of_one():
    one = sample_bias(torch.tensor([[2.0]]), 11, 21)
    assert one == pytest.approx(2 * (1 / 11 + 1 / 21) + 1 * (1 / 10 + 1 / 20))
    with pytest.raises(InputError, match="at least 2"):
        sample_bias(torch.eye(2), 1, 5)


def test_features_of_cifar10_want_its_shape():
    for shape in ((9, 1, 32, 32), (9, 3, 16, 16), (9, 3, 32, 31)):
        with pytest.raises(InputError, match=r"\(3, 32, 32\)"):
            frechet_distance(torch.zeros(shape), torch.zeros(shape), "cifar10")
