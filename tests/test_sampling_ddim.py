"The DDIM family against closed forms and against the symbols of the papers."

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.core.runtime import stream
from spectral_diffusion.noise.process import Process
from spectral_diffusion.noise.schedules import Level
from spectral_diffusion.noise.theory import GaussianField
from spectral_diffusion.sampling.ddim import ddim_gains, ddim_step, ddpm_gains
from spectral_diffusion.sampling.engine import sample
from spectral_diffusion.sampling.samplers import time_grid
from spectral_diffusion.signals.fourier import radius


def field(h, w):
    return GaussianField(0.05 / (radius(h, w) ** 2 + 0.01), (h, w))


falling = st.lists(st.floats(0, 0.999), min_size=1, max_size=6, unique=True).map(
    lambda ts: torch.tensor([1.0, *sorted(ts, reverse=True)], dtype=torch.float64)
)
separate = falling.filter(lambda t: bool((t.diff() < -1e-3).all()))


def pairs(process, times):
    a, s = process.gains(times)
    return Level(a[:-1], s[:-1]), Level(a[1:], s[1:])


@given(times=separate, schedule=st.sampled_from(["cosine", "linear", "flow", "edm"]))
def test_ddpm_is_the_ancestral_member(times, schedule):
    now, nxt = pairs(Process(schedule), times)
    for p, q in zip(ddpm_gains(now, nxt), ddim_gains(now, nxt, 1.0)):
        assert torch.allclose(p, q, rtol=1e-8, atol=1e-9)


@given(times=separate, schedule=st.sampled_from(["cosine", "linear", "edm"]), eta=st.floats(0, 1))
def test_every_member_keeps_the_marginal(times, schedule, eta):
    "x' = g_x (a x0 + s eps) + g_0 x0 + g_z z has gain a' and noise s' when x0 is known."
    now, nxt = pairs(Process(schedule), times)
    g = ddim_gains(now, nxt, eta)
    assert torch.allclose(g.x * now.a + g.x0, nxt.a, rtol=1e-12, atol=1e-12)
    assert torch.allclose((g.x * now.s).square() + g.z.square(), nxt.s.square(), rtol=1e-9, atol=1e-12)
    assert bool((g.x >= 0).all() & (g.z >= 0).all())


def test_table_and_step_agree_and_the_clean_end_is_the_estimate():
    x, x0, z = torch.randn(3, 40, dtype=torch.float64, generator=stream(0, "step"))
    process = Process("cosine")
    for eta in (0.0, 0.4, 1.0):
        now, nxt = process.gains(0.7), process.gains(0.3)
        g = ddim_gains(now, nxt, eta)
        assert torch.allclose(
            g.x * x + g.x0 * x0 + g.z * z, ddim_step(x, x0, now, nxt, z, eta), atol=1e-12, rtol=0
        )
        assert torch.equal(ddim_step(x, x0, now, process.gains(0.0), z, eta).squeeze(), x0)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (9, 8)])
@pytest.mark.parametrize("schedule", ["cosine", "flow", "linear"])
def test_the_code_has_the_response_of_the_formula(size, schedule):
    f, p = field(*size), Process(schedule)
    times = torch.tensor([1.0, 0.8, 0.55, 0.3, 0.05, 0.0], dtype=torch.float64)
    x = torch.randn(2, 1, *size, dtype=torch.float64, generator=stream(0, "response"))
    y = f.basis.forward(sample(f.denoiser(p), p, x.shape, times=times, start=x))
    a, s = (g[:, 0] for g in p.gains(times))
    gain = ((a[:-1] * a[1:] * f.power + s[:-1] * s[1:]) / (a[:-1] ** 2 * f.power + s[:-1] ** 2)).prod(0)
    assert (y - gain * f.basis.forward(x)).abs().max() < 1e-11


def test_ddim_follows_the_probability_flow_at_first_order():
    f, p = field(8, 9), Process("flow")
    x = torch.randn(4, 1, 8, 9, dtype=torch.float64, generator=stream(0, "order"))
    exact = f.flow(p, x, 1.0, 0.0)
    e = [
        (sample(f.denoiser(p), p, x.shape, steps=n, start=x) - exact).square().mean().sqrt().item()
        for n in (50, 100, 200)
    ]
    assert all(0.9 < math.log2(a / b) < 1.1 for a, b in zip(e, e[1:]))


@pytest.mark.parametrize("name", ["ddpm", "ancestral"])
def test_generated_variance_is_that_of_the_recurrence(name):
    f, p, n, times = field(8, 8), Process("cosine"), 3000, time_grid(6)
    z = (
        f.basis.forward(sample(f.denoiser(p), p, (n, 1, 8, 8), name, 6, stream(0, name)))
        .abs()
        .square()
        .double()
        .mean((0, 1))
    )
    g = ddpm_gains(*pairs(p, times))
    a, s = p.gains(times)
    v = torch.full_like(f.power, s[0].item() ** 2)
    for i in range(6):
        w = a[i, 0] * f.power / (a[i, 0] ** 2 * f.power + s[i, 0] ** 2)
        v = (g.x[i, 0] + g.x0[i, 0] * w) ** 2 * v + g.z[i, 0] ** 2
    assert (
        (z / v - 1).abs() < 5 * (2 / n) ** 0.5
    ).all()  # self-conjugate coefficients have one real value each, the others two


def test_bad_levels_raise():
    p = Process("cosine")
    low, high, end = p.gains(0.2), p.gains(0.8), p.gains(0.0)
    for gains in (ddim_gains, ddpm_gains):
        with pytest.raises(InputError, match="must not grow"):
            gains(low, high)
        with pytest.raises(InputError, match="starts with noise"):
            gains(end, end)
    for eta in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="eta"):
            ddim_gains(high, low, eta)
