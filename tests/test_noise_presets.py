"""Every sampler on every preset, by exact transfer; and the forward process against blur and noise written
out."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dctn, idctn

from spectral_diffusion.data.synthetic import power_law_spectrum
from spectral_diffusion.learn.losses import truth
from spectral_diffusion.noise.denoiser import wrap
from spectral_diffusion.noise.presets import PRESETS, band_effect, preset
from spectral_diffusion.noise.targets import TARGETS, silent
from spectral_diffusion.noise.theory import GaussianField, gains_for, total_power
from spectral_diffusion.sampling.engine import sample
from spectral_diffusion.sampling.samplers import SAMPLERS, time_grid
from spectral_diffusion.sampling.transfer import transfer
from spectral_diffusion.signals.bases import BASES
from spectral_diffusion.signals.spectra import BANDS

NAMES = [name for name in SAMPLERS if name not in ("masf", "renoise", "shrink")]


FIRST_ORDER = ("ddim", "ancestral", "ddpm")
MOVING = ("heat", "blurring", "uniform_corruption_first")


def field_of(size, basis, exponent=2.0):
    k = BASES[basis].frequency(*size)
    return GaussianField(
        power_law_spectrum(*size, exponent=exponent) if basis == "fourier" else (k + 0.05).pow(-exponent),
        size,
        basis=basis,
    )


def band_sd(field, v):
    "Standard deviation in each band."
    k, w = field.basis.frequency(*field.size), field.basis.weights(*field.size)
    return torch.stack([(w * v)[(k >= low) & (k < high)].sum().sqrt() for low, high in BANDS.values()])


def worst_band(name, sampler, steps):
    "Largest relative error of a band's standard deviation, from the exact marginal on even times."
    field = field_of((8, 7), "fourier")
    process = preset(name, field)
    times = time_grid(steps, start=0.999 if (sampler, name) == ("heun", "flow") else 1.0)
    exact = total_power(field.power, gains_for(field, process, 0.0)).reshape(field.power.shape)
    return (
        (band_sd(field, transfer(sampler, process, field, times)) / band_sd(field, exact) - 1)
        .abs()
        .max()
        .item()
    )


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("sampler", NAMES)
def test_a_thousand_steps_give_the_data_back(name, sampler):
    """Every band within one per cent. Where one ring moves after another, the first-order samplers are still
    on their way there, at their rate."""
    if name == "band_masked" and sampler == "ddpm":
        pytest.skip("the chain of DDPM has noise in every coefficient, and says so")
    error = worst_band(name, sampler, 1000)
    if sampler in FIRST_ORDER and name in MOVING:
        assert error < 0.06 and 1.8 < worst_band(name, sampler, 500) / error < 2.2
    else:
        assert error < 0.01


@given(
    name=st.sampled_from(list(PRESETS)),
    sampler=st.sampled_from(["ddim", "ancestral", "analytic", "dpm_solver++", "dpm_solver2"]),
    size=st.sampled_from([(5, 6), (4, 7), (6, 6)]),
    basis=st.sampled_from(["fourier", "dct"]),
    seed=st.integers(0, 999),
)
def test_transfer_is_what_the_sampler_does_on_images(name, sampler, size, basis, seed):
    "Deterministic part: unit images through `sample`; with noise: the analytic sampler is exact."
    field = field_of(size, basis)
    process = preset(name, field)
    times = torch.cat(
        [
            torch.rand(4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            .mul(0.9)
            .add(0.05)
            .sort(descending=True)
            .values,
            torch.zeros(1, dtype=torch.float64),
        ]
    )
    predicted = transfer(sampler, process, field, times)
    if sampler == "analytic":
        exact = total_power(field.power, gains_for(field, process, 0.0)).reshape(field.power.shape)
        assert (predicted / exact - 1).abs().max() < 1e-9
    if sampler in ("ancestral", "analytic"):
        return
    h, w = size
    eye = torch.eye(h * w, dtype=torch.float64).reshape(h * w, 1, h, w)
    first = gains_for(field, process, times[0].item())
    root = field.basis.inverse(total_power(field.power, first).sqrt() * field.basis.forward(eye), size)
    out = sample(
        field.denoiser(process), process, (h * w, 1, h, w), sampler, times=times, start=root
    ).reshape(h * w, h * w)
    dense = field.basis.inverse(predicted * field.basis.forward(eye), size).reshape(h * w, h * w)
    assert (out.T @ out - dense).abs().max() < 1e-7 * max(1.0, dense.abs().max().item())


@given(size=st.sampled_from([(8, 8), (7, 9)]), t=st.floats(0.01, 0.99), seed=st.integers(0, 999))
def test_heat_is_a_blur_in_the_cosine_basis(size, t, seed):
    "The gain on every mode of the reflected heat equation, written with scipy."
    field = field_of(size, "dct")
    process = preset("heat", field)
    x = np.random.default_rng(seed).normal(size=size)
    h, w = size
    tau = (20 * np.sin(np.pi * t / 2) ** 2) ** 2 / 2
    rate = np.pi**2 * ((np.arange(h) / h)[:, None] ** 2 + (np.arange(w) / w)[None] ** 2)
    expect = idctn(((1 - 1e-3) * np.exp(-rate * tau) + 1e-3) * dctn(x, norm="ortho"), norm="ortho")
    x0 = torch.from_numpy(x)[None, None]
    got = process.diffuse(x0, torch.tensor([t], dtype=torch.float64), torch.zeros_like(x0))[0, 0].numpy()
    assert np.abs(got - expect).max() < 1e-10


@given(
    name=st.sampled_from(list(PRESETS)),
    target=st.sampled_from(sorted(TARGETS)),
    basis=st.sampled_from(["fourier", "dct"]),
    t=st.floats(0.05, 0.95),
    seed=st.integers(0, 999),
)
def test_a_true_answer_gives_the_image_back(name, target, basis, t, seed):
    "Losses and networks on every process: a network that answers with the truth of the loss."
    field = field_of((5, 6), basis)
    process = preset(name, field)
    g = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, 3, 1, 5, 6, dtype=torch.float64, generator=g)
    times = torch.full((3,), t, dtype=torch.float64)
    answer = truth(process, x0, eps, times, target)

    class Oracle(torch.nn.Module):
        def forward(self, x, t):
            return answer

    got = wrap(Oracle(), process, target)(process.diffuse(x0, times, eps), times)
    level = process.gains(times)
    seen = process.basis.forward(got - x0).abs()
    known = (
        level.a / level.s.clamp(min=1e-300) > 1e-6
    )  # where a signal of one part in a million is left, division gives it back
    assert (seen * (known | silent(level))).max() < 1e-6


def test_left_out_band_is_left_out():
    "A sampler that starts from masked noise makes nothing in the band, and the rest as the data have it."
    field = field_of((16, 16), "dct")
    process = preset("band_masked", field)
    quiet = silent(process.gains(torch.full((1,), 0.5)))[0, 0]
    assert quiet.any() and not quiet.all()
    v = transfer("analytic", process, field, time_grid(20), start="prior")
    assert v[quiet].max() < 1e-20 and (v[~quiet] / field.power[~quiet] - 1).abs().max() < 1e-6
    x = sample(
        field.denoiser(process),
        process,
        (4, 1, 16, 16),
        "ddim",
        20,
        torch.Generator().manual_seed(0),
        like=torch.zeros(1, dtype=torch.float64),
    )
    assert process.basis.forward(x).abs()[..., quiet].max() < 1e-10


@pytest.mark.parametrize("name", PRESETS)
def test_band_effect_is_ordered(name):
    "Later is worse: the error grows with time in every band."
    field = field_of((16, 15), "fourier")
    process = preset(name, field)
    errors = [[e.error for e in band_effect(field, process, t).values()] for t in (0.1, 0.4, 0.7, 0.95)]
    for before, after in zip(errors[:-1], errors[1:], strict=True):
        assert all(a >= b - 1e-12 and 0 <= a <= 1 + 1e-12 for a, b in zip(after, before, strict=True))


def test_a_coefficient_without_noise_has_none_to_tell():
    """Targets, floors and the loss of a silent coefficient: the noise is zero there, for the network and for
    the theory."""
    field = field_of((8, 8), "dct")
    process = preset("band_masked", field)
    level = process.gains(torch.full((1,), 0.4))
    quiet = silent(level)
    m, n = TARGETS["eps"](level)
    assert (m[quiet] == 0).all() and (n[quiet] == 0).all() and (m[~quiet] != 0).all()
    assert (field.floor(process, 0.4, "eps")[quiet[0, 0]] == 0).all()
    x0, eps = torch.randn(2, 5, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    answer = truth(process, x0, eps, torch.full((5,), 0.4), "eps")
    assert process.basis.forward(answer)[..., quiet[0, 0]].abs().max() < 1e-12
