"""The exact transfer of samplers against the samplers themselves on real images, and against diffusion
written out in numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_diffusion.noise.arc import arc_times
from spectral_diffusion.noise.distances import kl, w2
from spectral_diffusion.noise.process import Process
from spectral_diffusion.noise.theory import GaussianField, posterior_variance, total_power, wiener_gain
from spectral_diffusion.sampling.engine import sample
from spectral_diffusion.sampling.samplers import SAMPLERS, Run, register_sampler, time_grid
from spectral_diffusion.sampling.transfer import observed_order, transfer
from spectral_diffusion.signals.bases import BASES
from spectral_diffusion.signals.fourier import rfft2

SIZES = [(4, 4), (3, 5), (5, 4)]
DETERMINISTIC = ["ddim", "dpm_solver++", "dpm_solver2", "heun"]


def random_field(size, basis, seed):
    z = torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    power = (rfft2(z) if basis == "fourier" else BASES[basis].forward(z)).abs().square() + 0.05
    return GaussianField(4 * power, size, basis=basis)


@given(
    name=st.sampled_from(DETERMINISTIC),
    size=st.sampled_from(SIZES),
    basis=st.sampled_from(["fourier", "dct"]),
    schedule=st.sampled_from(["cosine", "linear", "edm"]),
    n=st.integers(1, 9),
    seed=st.integers(0, 9999),
)
def test_transfer_is_the_covariance_of_the_samplers_own_map(name, size, basis, schedule, n, seed):
    """Unit images through `sample` give the map as a dense matrix; its output covariance is diagonal with the
    predicted variances."""
    field, process = random_field(size, basis, seed), Process(schedule)
    times = torch.cat(
        [
            torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            .mul(0.9)
            .add(0.05)
            .sort(descending=True)
            .values,
            torch.zeros(1, dtype=torch.float64),
        ]
    )
    h, w = size
    eye = torch.eye(h * w, dtype=torch.float64).reshape(h * w, 1, h, w)
    a, s = (g.item() for g in process.gains(times[0].item()))
    root = field.basis.inverse((a**2 * field.power + s**2).sqrt() * field.basis.forward(eye), size)
    out = sample(
        field.denoiser(process), process, (h * w, 1, h, w), name, n, times=times, start=root
    ).reshape(h * w, h * w)
    covariance = out.T @ out
    predicted = transfer(name, process, field, times)
    dense = field.basis.inverse(predicted * field.basis.forward(eye), size).reshape(h * w, h * w)
    assert (covariance - dense).abs().max() < 1e-7 * max(1.0, dense.abs().max().item())


@given(lam=st.floats(0.01, 100), n=st.integers(2, 12), seed=st.integers(0, 9999))
def test_one_coefficient_against_numpy(lam, n, seed):
    "DDIM, ancestral and 2M of one coefficient, written out with numbers."
    rng = np.random.default_rng(seed)
    t = np.sort(rng.uniform(0.05, 0.95, n + 1))[::-1].copy()
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)
    a, s = f, np.sqrt(1 - f**2)
    W, start = a * lam / (a**2 * lam + s**2), a[0] ** 2 * lam + s[0] ** 2
    field = GaussianField(torch.full((2, 2), lam, dtype=torch.float64), (2, 2), basis="dct")

    gain = np.prod([s[i + 1] / s[i] + (a[i + 1] - a[i] * s[i + 1] / s[i]) * W[i] for i in range(n)])
    variance = start
    for i in range(n):
        step = a[i] / a[i + 1]
        noise = s[i] ** 2 - step**2 * s[i + 1] ** 2
        keep = step * s[i + 1] ** 2 / s[i] ** 2 + a[i + 1] * noise / s[i] ** 2 * W[i]
        variance = keep**2 * variance + noise * s[i + 1] ** 2 / s[i] ** 2
    log_snr, x, last = np.log(a / s), 1.0, None
    for i in range(n):
        x0, h = W[i] * x, log_snr[i + 1] - log_snr[i]
        d = x0 if last is None else x0 + h / (2 * (log_snr[i] - log_snr[i - 1])) * (x0 - last)
        x, last = s[i + 1] / s[i] * x - a[i + 1] * np.expm1(-h) * d, x0

    expect = {"ddim": gain**2 * start, "ancestral": variance, "dpm_solver++": x**2 * start}
    for name, value in expect.items():
        assert transfer(name, Process("cosine"), field, t.tolist())[0, 0].item() == pytest.approx(
            value, rel=1e-7, abs=1e-12 * start
        )


@pytest.mark.parametrize("schedule", ["cosine", "linear", "flow"])
@pytest.mark.parametrize(
    "name, low, high",
    [("ddim", 0.9, 1.1), ("dpm_solver++", 1.8, 2.2), ("dpm_solver2", 1.8, 2.2), ("heun", 1.8, 2.2)],
)
def test_order(name, low, high, schedule):
    field, process = random_field((6, 5), "fourier", 7), Process(schedule)
    a, s = (g.item() for g in process.gains(0.1))
    exact, weights = a**2 * field.power + s**2, field.basis.weights(6, 5)
    errors = [
        w2(transfer(name, process, field, time_grid(n, start=0.9, end=0.1)), exact, weights) ** 0.5
        for n in (200, 400)
    ]
    assert low < observed_order([200, 400], errors)[0] < high


@given(
    size=st.sampled_from(SIZES),
    n=st.integers(2, 20),
    weight=st.sampled_from(["kl", "w2"]),
    schedule=st.sampled_from(["cosine", "linear", "flow"]),
    seed=st.integers(0, 999),
)
def test_arc_times_fall_and_do_not_lose_to_even_times(size, n, weight, schedule, seed):
    "The arc minimises the sum of squared angles; the distances follow it once steps are small."
    field, process = random_field(size, "dct", seed), Process(schedule)
    times = arc_times(field, process, n, weight)
    assert len(times) == n + 1 and times[0] == 1 and times[-1] == 0 and (times.diff() < 0).all()

    def squared_angles(times):
        a, s = (g.flatten() for g in process.gains(times))
        theta = torch.atan2(s[:, None, None], a[:, None, None] * field.power.sqrt())
        w = field.power if weight == "w2" else torch.ones_like(field.power)
        return (w * theta.diff(dim=0).square().sum(0)).sum().item()

    assert squared_angles(times) <= squared_angles(time_grid(n)) * (1 + 1e-6)
    assert kl(field.power, field.power) == 0


def by_rows(name, process, field, times, start, options=None):
    """The slow way: the state is a stack of rows, one for the start and one for each draw, and a fresh draw
    is a row of ones."""
    power = field.power.reshape((1,) * (4 - field.power.ndim) + field.power.shape)
    rows, used = 2 * len(times) + 1, [0]

    def noise():
        used[0] += 1
        z = power.new_zeros(rows, *power.shape[1:])
        z[used[0]] = 1
        return z

    def denoise(x, t):
        return wiener_gain(power, process.gains(t)) * x

    def left(t):
        return posterior_variance(power, process.gains(t))

    def mix(terms, basis=None):
        return sum(g * y for g, y in terms)

    first = process.gains(times[0].item())
    x = power.new_zeros(rows, *power.shape[1:])
    x[0] = first.s if start == "prior" else total_power(power, first).sqrt()
    for state, _ in SAMPLERS[name](
        Run(times, process.gains, denoise, noise, mix, field.size, left, field.basis), x, **(options or {})
    ):
        x = state
    return x.square().sum(0).reshape(field.power.shape)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("kind", ["white", "power_law", "blur"])
@pytest.mark.parametrize("start", ["marginal", "prior"])
def test_one_run_says_what_a_row_for_each_draw_says(name, kind, start):
    "Bit for bit for a sampler without noise, to rounding for one with noise."
    for size, n in (((8, 8), 1), ((7, 5), 9)):
        field = random_field(size, "haar", n)
        p = (
            Process("flow", "white", "haar", size=size, blur=1.0)
            if kind == "blur"
            else Process("linear", kind, "haar", size=size)
        )
        times = time_grid(n, start=0.97)
        fast, slow = transfer(name, p, field, times, start=start), by_rows(name, p, field, times, start)
        if name in (*DETERMINISTIC, "masf"):
            assert torch.equal(fast, slow)
        else:
            assert ((fast - slow) / slow).abs().max() < 1e-12


def test_options_and_modes_of_the_caller():
    field, p = random_field((6, 5), "dct", 3), Process("cosine")
    want = by_rows("ddim", p, field, time_grid(7), "marginal", {"eta": 0.5})
    with torch.inference_mode():
        made_here = random_field((6, 5), "dct", 3)
        seen = transfer("ddim", p, made_here, time_grid(7), options={"eta": 0.5})
    with torch.no_grad():
        also = transfer("ddim", p, field, time_grid(7), options={"eta": 0.5})
    assert ((seen - want) / want).abs().max() < 1e-12 and torch.equal(seen, also) and not also.requires_grad


@pytest.mark.parametrize("name", ["ddim", "ancestral"])
def test_it_can_be_differentiated_with_respect_to_the_power(name):
    p, power = (
        Process("cosine"),
        torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1,
    )
    power.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q: transfer(name, p, GaussianField(q, (3, 4), basis="dct"), time_grid(4)), (power,)
    )


@pytest.mark.parametrize("fault", ["detach", "no_grad", "clamp"])
def test_a_sampler_that_hides_its_draws_is_refused(fault):
    @register_sampler(f"hides {fault}")
    def hides(run, x):
        for t in run.times[:-1].tolist():
            with torch.set_grad_enabled(fault != "no_grad"):
                x = run.mix([(0.5, x), (0.5, run.denoise(x, t)), (0.3, run.noise())])
            x = x.detach() if fault == "detach" else x.clamp(-0.4, 0.4) if fault == "clamp" else x
            yield x, x

    try:
        with pytest.raises(ValueError, match="linear in its draws"):
            transfer(f"hides {fault}", Process("cosine"), random_field((4, 4), "dct", 1), time_grid(5))
    finally:
        del SAMPLERS._items[f"hides {fault}"]


def test_a_draw_that_is_not_used_counts_nothing():
    @register_sampler("draws in vain")
    def vain(run, x):
        for pair in SAMPLERS["ddim"](run, x):
            run.noise()
            yield pair

    try:
        field = random_field((4, 4), "dct", 1)
        assert torch.equal(
            transfer("draws in vain", Process("cosine"), field, time_grid(5)),
            transfer("ddim", Process("cosine"), field, time_grid(5)),
        )
    finally:
        del SAMPLERS._items["draws in vain"]
