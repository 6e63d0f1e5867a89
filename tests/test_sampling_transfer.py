"The exact transfer of samplers against the samplers themselves on real images, and against diffusion written out in numpy."
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_diffusion.noise.process import Process
from spectral_diffusion.noise.theory import GaussianField, arc_times, kl, w2
from spectral_diffusion.sampling.engine import sample, time_grid
from spectral_diffusion.sampling.transfer import observed_order, transfer
from spectral_diffusion.signals.bases import BASES
from spectral_diffusion.signals.fourier import rfft2

SIZES = [(4, 4), (3, 5), (5, 4)]
DETERMINISTIC = ["ddim", "dpm_solver++", "dpm_solver2", "heun"]


def random_field(size, basis, seed):
    z = torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    power = (rfft2(z) if basis == "fourier" else BASES[basis].forward(z)).abs().square() + 0.05
    return GaussianField(4*power, size, basis=basis)


@settings(deadline=None, max_examples=30)
@given(name=st.sampled_from(DETERMINISTIC), size=st.sampled_from(SIZES), basis=st.sampled_from(["fourier", "dct"]),
       schedule=st.sampled_from(["cosine", "linear", "edm"]), n=st.integers(1, 9), seed=st.integers(0, 9999))
def test_transfer_is_the_covariance_of_the_samplers_own_map(name, size, basis, schedule, n, seed):
    "Unit images through `sample` give the map as a dense matrix; its output covariance is diagonal with the predicted variances."
    field, process = random_field(size, basis, seed), Process(schedule)
    times = torch.cat([torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).mul(0.9).add(0.05).sort(descending=True).values,
                       torch.zeros(1, dtype=torch.float64)])
    h, w = size
    eye = torch.eye(h*w, dtype=torch.float64).reshape(h*w, 1, h, w)
    a, s = (g.item() for g in process.gains(times[0].item()))
    root = field.basis.inverse((a**2*field.power + s**2).sqrt()*field.basis.forward(eye), size)
    out = sample(field.denoiser(process), process, (h*w, 1, h, w), name, n, times=times, start=root).reshape(h*w, h*w)
    covariance = out.T@out
    predicted = transfer(name, process, field, times)
    dense = field.basis.inverse(predicted*field.basis.forward(eye), size).reshape(h*w, h*w)
    assert (covariance - dense).abs().max() < 1e-7*max(1., dense.abs().max().item())


@settings(deadline=None, max_examples=30)
@given(lam=st.floats(0.01, 100), n=st.integers(2, 12), seed=st.integers(0, 9999))
def test_one_coefficient_against_numpy(lam, n, seed):
    "DDIM, ancestral and 2M of one coefficient, written out with numbers."
    rng = np.random.default_rng(seed)
    t = np.sort(rng.uniform(0.05, 0.95, n + 1))[::-1].copy()
    f = np.cos((t + 0.008)/1.008*np.pi/2)/np.cos(0.008/1.008*np.pi/2)
    a, s = f, np.sqrt(1 - f**2)
    W, start = a*lam/(a**2*lam + s**2), a[0]**2*lam + s[0]**2
    field = GaussianField(torch.full((2, 2), lam, dtype=torch.float64), (2, 2), basis="dct")

    gain = np.prod([s[i + 1]/s[i] + (a[i + 1] - a[i]*s[i + 1]/s[i])*W[i] for i in range(n)])
    variance = start
    for i in range(n):
        step = a[i]/a[i + 1]
        noise = s[i]**2 - step**2*s[i + 1]**2
        keep = step*s[i + 1]**2/s[i]**2 + a[i + 1]*noise/s[i]**2*W[i]
        variance = keep**2*variance + noise*s[i + 1]**2/s[i]**2
    log_snr, x, last = np.log(a/s), 1., None
    for i in range(n):
        x0, h = W[i]*x, log_snr[i + 1] - log_snr[i]
        d = x0 if last is None else x0 + h/(2*(log_snr[i] - log_snr[i - 1]))*(x0 - last)
        x, last = s[i + 1]/s[i]*x - a[i + 1]*np.expm1(-h)*d, x0

    expect = {"ddim": gain**2*start, "ancestral": variance, "dpm_solver++": x**2*start}
    for name, value in expect.items():
        assert transfer(name, Process("cosine"), field, t.tolist())[0, 0].item() == pytest.approx(value, rel=1e-7, abs=1e-12*start)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "flow"])
@pytest.mark.parametrize("name, low, high", [("ddim", 0.9, 1.1), ("dpm_solver++", 1.8, 2.2), ("dpm_solver2", 1.8, 2.2), ("heun", 1.8, 2.2)])
def test_order(name, low, high, schedule):
    field, process = random_field((6, 5), "fourier", 7), Process(schedule)
    a, s = (g.item() for g in process.gains(0.1))
    exact, weights = a**2*field.power + s**2, field.basis.weights(6, 5)
    errors = [w2(transfer(name, process, field, time_grid(n, start=0.9, end=0.1)), exact, weights)**0.5 for n in (200, 400)]
    assert low < observed_order([200, 400], errors)[0] < high


@settings(deadline=None, max_examples=15)
@given(size=st.sampled_from(SIZES), n=st.integers(2, 20), weight=st.sampled_from(["kl", "w2"]), schedule=st.sampled_from(["cosine", "linear", "flow"]), seed=st.integers(0, 999))
def test_arc_times_fall_and_do_not_lose_to_even_times(size, n, weight, schedule, seed):
    "The arc minimises the sum of squared angles; the distances follow it once steps are small."
    field, process = random_field(size, "dct", seed), Process(schedule)
    times = arc_times(field, process, n, weight)
    assert len(times) == n + 1 and times[0] == 1 and times[-1] == 0 and (times.diff() < 0).all()

    def squared_angles(times):
        a, s = (g.flatten() for g in process.gains(times))
        theta = torch.atan2(s[:, None, None], a[:, None, None]*field.power.sqrt())
        w = field.power if weight == "w2" else torch.ones_like(field.power)
        return (w*theta.diff(dim=0).square().sum(0)).sum().item()

    assert squared_angles(times) <= squared_angles(time_grid(n))*(1 + 1e-6)
    assert kl(field.power, field.power) == 0
