"""Closed forms of start, noise, bound and samples against dense linear algebra, integration and other
packages, on random cases."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.noise.errors import (
    frechet,
    power_error,
    reverse_variance,
    start_variance,
    vlb_gap,
    w2_floor,
)
from spectral_diffusion.noise.fields import degrees_of_freedom
from spectral_diffusion.noise.process import Process
from spectral_diffusion.noise.targets import TARGETS
from spectral_diffusion.noise.theory import GaussianField, gains_for, total_power
from spectral_diffusion.sampling.samplers import time_grid
from spectral_diffusion.sampling.transfer import error_parts, transfer
from spectral_diffusion.signals.bases import BASES
from spectral_diffusion.signals.fourier import rfft2

SIZES = [(4, 4), (3, 5), (5, 4)]


def random_field(size, basis, seed, mean=False):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(*size, dtype=torch.float64, generator=g)
    power = (rfft2(z) if basis == "fourier" else BASES[basis].forward(z)).abs().square() + 0.05
    return GaussianField(
        3 * power, size, torch.randn(1, *size, dtype=torch.float64, generator=g) if mean else None, basis
    )


@given(
    size=st.sampled_from(SIZES),
    basis=st.sampled_from(["fourier", "dct"]),
    schedule=st.sampled_from(["cosine", "linear", "scaled_linear", "edm"]),
    t=st.floats(0.5, 1),
    seed=st.integers(0, 999),
)
def test_start_is_what_the_flow_makes_of_noise(size, basis, schedule, t, seed):
    field, process = random_field(size, basis, seed), Process(schedule)
    x = torch.randn(1, 1, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    y = field.flow(process, process.gains(t).s.item() * x, t, 0.0)
    gain = (field.basis.forward(y) / field.basis.forward(x)).abs().square()[0, 0]
    assert (gain / start_variance(field, process, t) - 1).abs().max() < 1e-9


@given(seed=st.integers(0, 999), eta=st.floats(0, 2), schedule=st.sampled_from(["cosine", "linear", "flow"]))
def test_reverse_variance_against_integration_in_time(seed, eta, schedule):
    "The moment equation of the reverse process in its own time, with differences of the gains."
    field, process = random_field((3, 4), "dct", seed), Process(schedule)
    t0, t1, lam = 0.8, 0.3, field.power.flatten().numpy()

    def gains(t):
        return (g.item() for g in process.gains(t))

    def slope(t, v, h=1e-6):
        (a, s), (a0, s0), (a1, s1) = gains(t), gains(t - h), gains(t + h)
        f = (np.log(a1) - np.log(a0)) / (2 * h)  # drift of the forward process
        g2 = a**2 * ((s1 / a1) ** 2 - (s0 / a0) ** 2) / (2 * h)  # its diffusion
        return 2 * f * v + (1 + eta**2) * g2 * v / (a**2 * lam + s**2) - eta**2 * g2

    start = np.random.default_rng(seed).uniform(0.2, 3, lam.shape)
    end = solve_ivp(slope, (t0, t1), start, rtol=1e-9, atol=1e-11).y[:, -1]
    got = (
        reverse_variance(
            field, process, t0, t1, start=torch.from_numpy(start).reshape(field.power.shape), eta=eta
        )
        .flatten()
        .numpy()
    )
    assert np.abs(got / end - 1).max() < 1e-5


def test_reverse_diffusion_is_the_limit_of_the_ancestral_sampler():
    field, process = random_field((4, 5), "fourier", 1), Process("cosine")
    gaps = []
    for n in (200, 400, 800):
        v = transfer("ancestral", process, field, time_grid(n, start=0.8, end=0.2), start="prior")
        exact = reverse_variance(
            field, process, 0.8, 0.2, start=process.gains(0.8).s.square().expand(1, *field.power.shape)[0]
        )
        gaps.append((v / exact - 1).abs().max().item())
    assert gaps[2] < 0.01 and 1.8 < gaps[0] / gaps[1] < 2.2 and 1.8 < gaps[1] / gaps[2] < 2.2


@given(lam=st.floats(0.01, 50), n=st.integers(1, 8), seed=st.integers(0, 999))
def test_bound_against_the_joint_gaussians(lam, n, seed):
    "Divergence of two chains of n + 1 states, from covariances built by propagating unit draws."
    rng = np.random.default_rng(seed)
    t = np.sort(rng.uniform(0.05, 0.98, n + 1))[::-1].copy()
    process = Process("cosine")
    a, s = (g.flatten().numpy() for g in process.gains(torch.from_numpy(t)))
    # forward, from clean to noise: rows are states, columns unit draws (x0 and one noise a step)
    forward = np.zeros((n + 1, n + 2))
    forward[n, 0], forward[n, 1] = a[n] * np.sqrt(lam), s[n]
    for j, i in enumerate(range(n - 1, -1, -1)):
        ratio = a[i] / a[i + 1]
        forward[i] = ratio * forward[i + 1]
        forward[i, 2 + j] = np.sqrt(s[i] ** 2 - ratio**2 * s[i + 1] ** 2)
    generated = np.zeros((n + 1, n + 1))
    generated[0, 0] = s[0]
    for i in range(1, n + 1):
        r2 = (a[i - 1] * s[i] / (a[i] * s[i - 1])) ** 2
        W = a[i - 1] * lam / (a[i - 1] ** 2 * lam + s[i - 1] ** 2)
        generated[i] = (a[i - 1] / a[i] * s[i] ** 2 / s[i - 1] ** 2 + a[i] * (1 - r2) * W) * generated[i - 1]
        generated[i, i] = s[i] * np.sqrt(1 - r2)
    P, Q = generated @ generated.T, forward @ forward.T
    expect = 0.5 * (
        np.trace(np.linalg.solve(P, Q)) - n - 1 + np.linalg.slogdet(P)[1] - np.linalg.slogdet(Q)[1]
    )
    field = GaussianField(torch.full((1, 1), lam, dtype=torch.float64), (1, 1), basis="dct")
    assert sum(vlb_gap(field, process, torch.from_numpy(t))) == pytest.approx(expect, rel=1e-6, abs=1e-9)


@given(size=st.sampled_from(SIZES), basis=st.sampled_from(["fourier", "dct"]), seed=st.integers(0, 999))
def test_frechet_is_the_distance_of_dense_gaussians(size, basis, seed):
    from scipy.linalg import sqrtm

    one, two = random_field(size, basis, seed, mean=True), random_field(size, basis, seed + 1, mean=True)
    h, w = size
    eye = torch.eye(h * w, dtype=torch.float64).reshape(h * w, 1, h, w)
    A, B = (
        f.basis.inverse(f.power * f.basis.forward(eye), size).reshape(h * w, h * w).numpy()
        for f in (one, two)
    )
    expect = (
        (one.mean - two.mean).square().sum().item()
        + np.trace(A)
        + np.trace(B)
        - 2 * np.trace(sqrtm(A @ B)).real
    )
    assert frechet(one, two) == pytest.approx(expect, rel=1e-7)


@pytest.mark.parametrize("size", [(6, 6), (5, 7), (6, 5)])
@pytest.mark.parametrize("basis", ["fourier", "dct"])
def test_power_error_is_the_scatter_of_measured_powers(size, basis):
    field, n, tries = random_field(size, basis, 4), 20, 400
    x = field.sample(n * tries, torch.Generator().manual_seed(0))
    power = field.basis.forward(x).abs().square().reshape(tries, n, *field.power.shape).mean(1)
    ratio = power.std(0) / field.power / power_error(field, n)
    assert (ratio - 1).abs().max() < 0.25 and abs(
        ratio.mean().item() - 1
    ) < 0.03  # a standard deviation of 400 values, with the kurtosis of chi-square
    weights = field.basis.weights(*size)
    seen = (weights * (power.sqrt() - field.power.sqrt()).square()).flatten(1).sum(1).mean().item()
    assert seen == pytest.approx(w2_floor(field, n), rel=0.08)
    assert (degrees_of_freedom(field) == 1).sum() == {
        "dct": size[0] * size[1],
        "fourier": 2 ** sum(v % 2 == 0 for v in size),
    }[basis]


@given(t=st.floats(0.05, 0.95), seed=st.integers(0, 999))
def test_edm_target_is_the_f_of_karras(t, seed):
    "Network target, scalings and weight of table 1, for the schedule in which a is one."
    field, process = random_field((4, 5), "dct", seed), Process("edm")
    sigma, data = process.gains(t).s.item(), 0.5
    m, n = (g.item() for g in TARGETS["edm"](process.gains(torch.tensor([t], dtype=torch.float64))))
    c_skip, c_out = data**2 / (sigma**2 + data**2), sigma * data / (sigma**2 + data**2) ** 0.5
    assert n == pytest.approx(1 / c_out, rel=1e-12) and m == pytest.approx(-c_skip / c_out, rel=1e-12)
    weight = (sigma**2 + data**2) / (sigma * data) ** 2
    lam = field.power
    assert (
        field.floor(process, t, "edm") / (weight * lam * sigma**2 / (lam + sigma**2)) - 1
    ).abs().max() < 1e-9


def test_parts_of_the_error_add_up():
    for seed, name in enumerate(("ddim", "ancestral", "dpm_solver++")):
        field, process = random_field((5, 4), "fourier", seed), Process("scaled_linear")
        parts = error_parts(name, process, field, time_grid(8))
        generated = transfer(name, process, field, time_grid(8), start="prior")
        assert (parts.start + parts.steps - parts.total).abs().max() < 1e-12
        assert (
            parts.total
            - (generated.sqrt() - total_power(field.power, gains_for(field, process, 0.0))[0].sqrt())
        ).abs().max() < 1e-12


def test_bad_input():
    field, process = random_field((4, 4), "dct", 0), Process("cosine")
    with pytest.raises(InputError, match="s > 0"):
        vlb_gap(field, process, [0.9, 0.0])
    with pytest.raises(InputError, match="eta"):
        reverse_variance(field, process, 0.9, 0.0, start=field.power, eta=-1.0)
    with pytest.raises(InputError, match="one basis and size"):
        frechet(field, random_field((4, 4), "fourier", 0))
    with pytest.raises(InputError, match="at least one image"):
        w2_floor(field, 0)
