"""The errors of a network on held-out images, with the weight of a sampler, against direct integrals."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.core.runtime import stream
from spectral_diffusion.noise.process import Process
from spectral_diffusion.noise.schedules import SCHEDULES
from spectral_diffusion.run.held_out import LEVELS, SAMPLED, sampler_errors, sampler_weights


def times(n, seed=0):
    return ((torch.arange(n) + 0.5) / n)[torch.randperm(n, generator=stream(seed, "test/times"))]


def sigma_of(process, t):
    level = process.level(t)
    return level.s / level.a


MOVING = [name for name in SCHEDULES if name != "still"]


@given(n=st.integers(3, 400), schedule=st.sampled_from(MOVING))
def test_weights_have_mean_one_and_follow_their_times(n, schedule):
    process, t = Process(schedule), times(n, seed=n)
    weights = sampler_weights(t, process)
    assert weights.min() >= 0 and abs(weights.mean().item() - 1) < 1e-12
    order = t.argsort()
    assert torch.allclose(weights[order], sampler_weights(t[order], process), rtol=1e-12, atol=0)


@pytest.mark.parametrize("n", [500, 501])
@pytest.mark.parametrize("schedule", MOVING)
def test_a_part_has_the_weight_of_its_length_in_log_sigma(n, schedule):
    process, t = Process(schedule), times(n)
    share, sigma = sampler_weights(t, process) / n, sigma_of(process, t)
    before, after = (sigma_of(process, (t + d / n).double().clamp(0, 1)) for d in (-0.5, 0.5))
    low, high = max(SAMPLED[0], before.min().item()), min(SAMPLED[1], after.max().item())
    for start, end in zip(LEVELS[:-1], LEVELS[1:], strict=True):
        inside = (sigma > start) & (sigma <= end)
        cut = ((before < start) & (after > start)) | ((before < end) & (after > end))
        exact = math.log(min(end, high) / max(start, low)) / math.log(high / low)
        assert abs(share[inside].sum().item() - exact) <= share[cut].sum().item() + 1e-6


def test_a_process_of_one_level_is_refused():
    with pytest.raises(InputError, match="no level of this process"):
        sampler_weights(times(8), Process("still"))


def test_an_error_at_one_level_counts_by_the_length_of_its_part():
    process, t = Process("cosine"), times(400)
    sigma = sigma_of(process, t)
    for low, high in zip(LEVELS[:-1], LEVELS[1:], strict=True):
        inside = (sigma > low) & (sigma <= high)
        errors = torch.zeros(400, 3, 8, 8)
        errors[inside] = 1.0
        found = sampler_errors(errors, t, process)
        ends = max(low, SAMPLED[0]), min(high, SAMPLED[1])
        share = math.log(ends[1] / ends[0]) / math.log(SAMPLED[1] / SAMPLED[0])
        parts = [v for name, v in found.items() if name.startswith("σ")]
        assert abs(found["all"] - share) < 0.02 and sorted(parts) == [0.0, 0.0, 0.0, pytest.approx(1.0)]


def test_bands_add_up_to_the_whole():
    process, t = Process("cosine"), times(64)
    errors = torch.randn(64, 3, 8, 8, generator=stream(0, "test/errors"))
    white = sampler_errors(errors, t, process)
    flat = sampler_errors(errors.mean((2, 3), keepdim=True).expand_as(errors), t, process)
    assert flat["low"] > 0 and abs(flat["mid"]) < 1e-12 and abs(flat["high"]) < 1e-12
    assert min(white["low"], white["mid"], white["high"]) < white["all"] < max(white["low"], white["high"])
