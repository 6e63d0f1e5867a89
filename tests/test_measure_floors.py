"""Intervals and floors of the Frechet distance."""

from __future__ import annotations

import pytest
import torch

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.core.runtime import stream
from spectral_diffusion.measure.features import frechet_distance, unbiased_distance
from spectral_diffusion.measure.floors import bootstrap_interval, frechet_floor, frechet_interval


def pictures(name: str, n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.rand(n, 3, 16, 16, generator=stream(0, name)) * 2 - 1).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_middle_is_the_distance_and_its_name_is_kept(dtype):
    x, y = pictures("one", 40, dtype), 0.7 * pictures("two", 33, dtype)
    found, plain = frechet_interval(x, y, "wavelet", resamples=8), frechet_distance(x, y, "wavelet")
    assert (found.value, found.unbiased, *found[4:]) == tuple(plain)
    assert found.low < found.unbiased < found.high and found.extractor == "wavelet"


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_an_interval_holds_the_truth(shift):
    "Four features, 120 rows, fifty rounds; 95 % less four standard errors."
    held, rounds = 0, 50
    for i in range(rounds):
        x, y = (torch.randn(120, 4, dtype=torch.float64, generator=stream(i, name)) for name in "xy")
        middle = unbiased_distance(x, y + shift)[1]
        low, high = bootstrap_interval(x, y + shift, middle, resamples=40)
        held += low <= 4 * shift**2 <= high
    assert held / rounds > 0.95 - 4 * (0.95 * 0.05 / rounds) ** 0.5


def test_the_floor_takes_bytes_and_is_the_same_in_every_order_of_the_files():
    stored = torch.randint(256, (60, 3, 16, 16), dtype=torch.uint8, generator=stream(0, "bytes"))
    one = frechet_floor(stored[:40], stored[40:], "pixels", resamples=4)
    assert one.n == 20 and one.extractor == "pixels"
    whole = frechet_floor(stored[:40].flip(0), stored[40:], "pixels", images=40, resamples=4)
    assert whole == one


@pytest.mark.parametrize("options", [{"images": 7}, {"images": 2.5}, {"resamples": 1}, {"resamples": True}])
def test_bad_numbers(options):
    with pytest.raises(InputError):
        frechet_floor(pictures("one", 20), pictures("two", 20), **options)


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, float("nan")])
def test_bad_levels(level):
    with pytest.raises(InputError, match="between 0 and 1"):
        frechet_interval(pictures("one", 9), pictures("two", 9), level=level)
