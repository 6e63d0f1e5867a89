"""The exact theory against dense linear algebra and scipy: nothing here uses a transform of ours but to build
the covariance."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from spectral_diffusion.noise.denoiser import wrap
from spectral_diffusion.noise.process import Process
from spectral_diffusion.noise.schedules import SCHEDULES
from spectral_diffusion.noise.targets import TARGETS, target_of
from spectral_diffusion.noise.theory import GaussianField, linear_loss
from spectral_diffusion.signals.bases import BASES, color
from spectral_diffusion.signals.fourier import rfft2

SIZES = [(4, 4), (3, 5), (5, 4), (2, 7)]


def random_field(size, basis, seed):
    "A field with random power; on the half spectrum that of a real image, so that it is symmetric."
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(*size, dtype=torch.float64, generator=g)
    power = (rfft2(z) if basis == "fourier" else BASES[basis].forward(z)).abs().square() + 0.01
    return GaussianField(5 * power, size, torch.randn(1, *size, dtype=torch.float64, generator=g), basis)


def covariance(field):
    "Dense covariance of the pixels: images of unit vectors, coloured and back."
    h, w = field.size
    eye = torch.eye(h * w, dtype=torch.float64).reshape(h * w, 1, h, w)
    return (
        field.basis.inverse(field.power * field.basis.forward(eye), field.size).reshape(h * w, h * w).numpy()
    )


@given(
    size=st.sampled_from(SIZES),
    basis=st.sampled_from(["fourier", "dct", "haar", "pixel"]),
    schedule=st.sampled_from(sorted(SCHEDULES)),
    t=st.floats(0.01, 0.99),
    seed=st.integers(0, 10_000),
)
def test_wiener_is_the_conditional_mean(size, basis, schedule, t, seed):
    field, process = random_field(size, basis, seed), Process(schedule)
    a, s = (g.item() for g in SCHEDULES[schedule](t))
    C, mu = covariance(field), field.mean.reshape(-1).numpy()
    x = np.random.default_rng(seed).normal(size=size[0] * size[1])
    expect = mu + a * C @ np.linalg.solve(a**2 * C + s**2 * np.eye(len(C)), x - a * mu)
    got = (
        field.denoiser(process)(
            torch.from_numpy(x).reshape(1, 1, *size), torch.tensor([t], dtype=torch.float64)
        )
        .reshape(-1)
        .numpy()
    )
    assert np.abs(got - expect).max() < 1e-8 * max(1, np.abs(expect).max())


@given(
    size=st.sampled_from(SIZES),
    basis=st.sampled_from(["fourier", "dct"]),
    t=st.floats(0.02, 0.98),
    seed=st.integers(0, 10_000),
)
def test_floor_is_the_trace_of_the_posterior(size, basis, t, seed):
    field, process = random_field(size, basis, seed), Process("cosine")
    a, s = (g.item() for g in SCHEDULES["cosine"](t))
    C = covariance(field)
    posterior = C - a**2 * C @ np.linalg.solve(a**2 * C + s**2 * np.eye(len(C)), C)
    for target, n in {"x0": 1, "eps": a / s, "v": a**2 / s + s, "flow": a / s + 1}.items():
        assert field.loss(process, [t], target) == pytest.approx(
            n**2 * np.trace(posterior) / len(C), rel=1e-9
        )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("schedule", ["cosine", "linear", "flow"])
def test_flow_solves_its_differential_equation(size, schedule):
    field = random_field(size, "dct", 3)
    C, mu = covariance(field), field.mean.reshape(-1).numpy()

    def gains(t):
        return (g.item() for g in SCHEDULES[schedule](t))

    def velocity(t, x, h=1e-5):
        a, s = gains(t)
        (a0, s0), (a1, s1) = gains(t - h), gains(t + h)
        da, dlog = (a1 - a0) / (2 * h), (np.log(s1) - np.log(s0)) / (2 * h)
        x0 = mu + a * C @ np.linalg.solve(a**2 * C + s**2 * np.eye(len(C)), x - a * mu)
        return dlog * x + (da - a * dlog) * x0

    start = np.random.default_rng(0).normal(size=len(mu))
    solved = solve_ivp(velocity, (0.8, 0.2), start, rtol=1e-9, atol=1e-10).y[:, -1]
    got = (
        field.flow(Process(schedule), torch.from_numpy(start).reshape(1, 1, *size), 0.8, 0.2)
        .reshape(-1)
        .numpy()
    )
    assert np.abs(got - solved).max() < 1e-6


@pytest.mark.parametrize(
    "name, betas",
    [
        ("linear", np.linspace(1e-4, 0.02, 1000, dtype=np.longdouble)),
        ("scaled_linear", np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.longdouble) ** 2),
    ],
)
def test_schedules_are_their_published_lists(name, betas):
    expect = np.cumprod(1 - betas)
    a, s = SCHEDULES[name](torch.arange(1, 1001, dtype=torch.float64) / 1000)
    assert np.abs(a.square().numpy() / expect - 1).max() < 1e-12
    assert np.abs(s.square().numpy() / (1 - expect) - 1).max() < 1e-11


@given(c=st.integers(1, 4), size=st.sampled_from(SIZES), t=st.floats(0.02, 0.98), seed=st.integers(0, 10_000))
def test_untrained_spectral_network_is_the_wiener_filter(c, size, t, seed):
    class Silent(torch.nn.Module):
        def forward(self, x, t):
            return torch.zeros_like(x)

    g = torch.Generator().manual_seed(seed)
    images = 2 * torch.rand(12, c, *size, generator=g) - 1
    process = Process("cosine")
    denoiser = wrap(Silent(), process, preconditioning="spectral", statistics=images)
    times = torch.full((12,), t)
    noisy = process.diffuse(images, times, process.noise(images, g))
    wiener = denoiser.field.denoiser(process)
    assert (denoiser(noisy, times) - wiener(noisy, times)).abs().max() < 1e-5
    assert (
        denoiser.predict(noisy, times, "eps") - wiener.predict(noisy, times, "eps")
    ).abs().max() < 1e-4 * max(1, 1 / SCHEDULES["cosine"](t).s.item())
    assert linear_loss(denoiser.field, process, images, [t]) == pytest.approx(
        denoiser.field.loss(process, [t]), rel=1e-6
    )


@given(target=st.sampled_from(sorted(TARGETS)), t=st.floats(0.05, 0.95), seed=st.integers(0, 10_000))
def test_training_on_any_target_recovers_the_same_image(target, t, seed):
    "A plain network that answers with the true target gives the true image."
    g = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, 3, 1, 5, 4, dtype=torch.float64, generator=g)
    process, times = Process("cosine"), torch.full((3,), t, dtype=torch.float64)
    truth = target_of(x0, eps, process.gains(times), target)

    class Oracle(torch.nn.Module):
        def forward(self, x, t):
            return truth

    assert (wrap(Oracle(), process, target)(process.diffuse(x0, times, eps), times) - x0).abs().max() < 1e-9


def test_colour_rotation_composes():
    q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    for name in ("dct", "fourier", "haar"):
        basis, x = (
            color(BASES[name], q),
            torch.randn(2, 3, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)),
        )
        assert (basis.inverse(basis.forward(x), (7, 6)) - x).abs().max() < 1e-12
