"""Lists of steps: published figures for CIFAR-10, solvers against diffusers and slow loops, descent,
robustness, ranges."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.data.real import cifar10, find_cifar10
from spectral_diffusion.data.synthetic import power_law_spectrum
from spectral_diffusion.noise.arc import arc_times
from spectral_diffusion.noise.distances import kl, w2
from spectral_diffusion.noise.process import Process
from spectral_diffusion.noise.schedules import Level
from spectral_diffusion.noise.theory import GaussianField
from spectral_diffusion.sampling.levels import ratio_at, scale_of, time_at
from spectral_diffusion.sampling.list_errors import INITIAL, list_error
from spectral_diffusion.sampling.lists import AYS, FirstOrder, ask
from spectral_diffusion.sampling.ranges import end_error, noise_range, start_error
from spectral_diffusion.sampling.rows import SOLVERS, variances
from spectral_diffusion.sampling.spectrum import Spectrum, binned, cifar10_spectrum, coefficients
from spectral_diffusion.sampling.steps import LISTS, MOST_RATIO, Problem, descend, steps
from spectral_diffusion.sampling.transfer import transfer

EDM = Process("edm")
CIFAR = cifar10_spectrum()
POWER = (CIFAR.weight * CIFAR.power).sum().item()
BOTH = ("ddim", "ancestral", "ddpm", "analytic", "dpm_solver++", "dpm_solver2", "heun")


def relative(times, solver, **options):
    "Squared W2 over power for CIFAR-10's eigenvalues."
    return list_error(CIFAR, EDM, times, solver, **options).item() / POWER


def random_times(n, seed, start, end):
    inner = torch.rand(n - 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    times = torch.cat([torch.tensor([start, end]), start + (end - start) * (0.02 + 0.96 * inner)]).double()
    return times.sort(descending=True).values


# ---- figures for CIFAR-10, sigma 80 to 0.002, start from noise ----


@pytest.mark.parametrize(
    "solver, name, n, expected, digits",
    [
        ("ddim", "karras", 6, 0.0906, 0.002),
        ("ddim", "log_sigma", 6, 0.127, 0.005),
        ("ddim", "arc", 6, 0.0663, 0.003),
        ("dpm_solver++", "karras", 6, 0.033, 0.02),
        ("dpm_solver++", "log_sigma", 6, 4.3e-4, 0.03),
        ("dpm_solver++", "arc", 6, 0.079, 0.01),
        ("ddim", "karras", 10, 0.0388, 0.02),
        ("ddim", "karras", 20, 0.0113, 0.02),
    ],
)
def test_errors_of_usual_lists(solver, name, n, expected, digits):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FirstOrder)
        times = LISTS[name](n, process=EDM, field=CIFAR, solver=solver)
    assert relative(times, solver) == pytest.approx(expected, rel=digits)


@pytest.mark.parametrize(
    "solver, n, expected",
    [
        ("ddim", 5, 0.0894),
        ("ddim", 6, 0.0657),
        ("ddim", 8, 0.0401),
        ("ddim", 10, 0.0271),
        ("ddim", 20, 0.0079),
        ("dpm_solver++", 6, 5.8e-5),
        ("dpm_solver++", 8, 6.5e-6),
        ("dpm_solver++", 10, 6.2e-7),
    ],
)
def test_optima(solver, n, expected):
    "A shade below what was found elsewhere is welcome, more than five per cent above is not."
    found = steps(CIFAR, EDM, n, solver)
    assert found.total / found.power == pytest.approx(expected, rel=0.05)
    assert found.total < min(found.others.values())
    assert len(found.times) == n + 1 and (found.times.diff() < 0).all() and found.times.dtype == torch.float64
    assert found.error.sum().item() == pytest.approx(found.total, rel=1e-6)


@pytest.mark.skipif(find_cifar10() is None, reason="no copy of CIFAR-10")
def test_the_eigenvalues_are_those_of_the_pictures():
    "Their sum is the total variance of the pixels."
    x = cifar10("train").x.flatten(1).float().sub_(127.5).div_(127.5)
    x -= x.mean(0)
    assert pytest.approx(x.square_().sum(dtype=torch.float64).item() / (len(x) - 1), rel=1e-3) == POWER


# ---- against transfer, diffusers and slow loops ----


@given(
    solver=st.sampled_from(BOTH),
    schedule=st.sampled_from(["linear", "cosine", "edm", "flow"]),
    n=st.integers(1, 9),
    size=st.sampled_from([(4, 4), (3, 5), (5, 4)]),
    coloured=st.booleans(),
    clean=st.booleans(),
    initial=st.sampled_from(INITIAL),
    distance=st.sampled_from(["kl", "w2"]),
    seed=st.integers(0, 999),
)
def test_list_error_is_transfer(solver, schedule, n, size, coloured, clean, initial, distance, seed):
    power = 10 ** (
        4 * torch.rand(2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 2
    )
    field = GaussianField(power, size, basis="dct")
    process = Process(schedule, "power_law", "dct", size=size) if coloured else Process(schedule)
    times = random_times(n, seed, 0.95, 0.0 if clean else 0.03)
    v = transfer(solver, process, field, times, start=initial)
    a, s = process.gains(float(times[-1]))
    true = (a**2 * field.power + s**2).reshape(field.power.shape)
    expected = {"w2": w2, "kl": kl}[distance](v, true, torch.ones_like(true))
    got = list_error(field, process, times, solver, distance, initial=initial).item()
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-12 * max(1.0, v.sum().item()))


def eps_run(scheduler, count, lam):
    "One coefficient through the steps of a scheduler of diffusers, in float64, with the exact denoiser."
    x = torch.tensor([[[[1.0]]]], dtype=torch.float64)
    for i, t in enumerate(scheduler.timesteps[:count]):
        sigma = scheduler.sigmas[i].double()
        a = 1 / (1 + sigma**2).sqrt()
        s = sigma * a
        x0 = a * lam / (a**2 * lam + s**2) * x
        x = scheduler.step((x - a * x0) / s, t, x).prev_sample
    return x.item()


@pytest.mark.parametrize(
    "name, kind, options",
    [
        ("dpm_solver++", "DPMSolverMultistepScheduler", {"solver_order": 2, "algorithm_type": "dpmsolver++"}),
        (
            "dpm_solver++3m",
            "DPMSolverMultistepScheduler",
            {"solver_order": 3, "algorithm_type": "dpmsolver++"},
        ),
        ("deis", "DEISMultistepScheduler", {"solver_order": 2}),
        ("unipc", "UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh2", "predict_x0": True}),
    ],
)
@pytest.mark.parametrize("lam", [0.02, 1.0, 30.0])
def test_against_diffusers(name, kind, options, lam):
    "The same list of sigmas; twenty steps, because theirs lower the order at the end of shorter lists."
    schedulers = pytest.importorskip(
        "diffusers.schedulers", reason="diffusers is needed for this comparison: pip install diffusers"
    )
    scheduler = getattr(schedulers, kind)(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        use_karras_sigmas=True,
        **options,
    )
    scheduler.set_timesteps(20)
    count = 20 if scheduler.sigmas[-1] < scheduler.sigmas[-2] else 19  # DEIS ends with a step of length zero
    sigma = scheduler.sigmas[: count + 1].double()
    a = 1 / (1 + sigma.square()).sqrt()
    gain = eps_run(scheduler, count, lam)
    level = Level(a, a * sigma)
    ours = variances(
        name, level, torch.tensor([lam], dtype=torch.float64), initial=torch.ones(1).double()
    ).signal.item()
    assert abs(gain) == pytest.approx(ours**0.5, rel=2e-4)  # their tables are float32


def test_stochastic_2m_against_diffusers(monkeypatch):
    "Impulse by impulse: the start, and the noise of every step."
    schedulers = pytest.importorskip(
        "diffusers.schedulers", reason="diffusers is needed for this comparison: pip install diffusers"
    )
    from diffusers.schedulers import scheduling_dpmsolver_multistep as module

    lam, n, total = 0.7, 20, 0.0
    for impulse in range(-1, n):
        scheduler = schedulers.DPMSolverMultistepScheduler(
            num_train_timesteps=1000,
            beta_start=1e-4,
            beta_end=0.02,
            beta_schedule="linear",
            use_karras_sigmas=True,
            solver_order=2,
            algorithm_type="sde-dpmsolver++",
        )
        scheduler.set_timesteps(n)
        drawn = [float(i == impulse) for i in range(n + 1)][::-1]

        def draw(shape, drawn=drawn, **kwargs):
            return torch.full(shape, drawn.pop(), dtype=torch.float64)

        monkeypatch.setattr(module, "randn_tensor", draw)
        x = torch.full((1, 1, 1, 1), float(impulse == -1), dtype=torch.float64)
        for i, t in enumerate(scheduler.timesteps):
            sigma = scheduler.sigmas[i].double()
            a = 1 / (1 + sigma**2).sqrt()
            x0 = a * lam / (a**2 * lam + (sigma * a) ** 2) * x
            x = scheduler.step((x - a * x0) / (sigma * a), t, x).prev_sample
        total += x.item() ** 2
    sigma = scheduler.sigmas.double()
    a = 1 / (1 + sigma.square()).sqrt()
    ours = variances(
        "dpm_solver++2m_sde",
        Level(a, a * sigma),
        torch.tensor([lam], dtype=torch.float64),
        initial=torch.ones(1).double(),
    ).signal.item()
    assert ours == pytest.approx(total, rel=5e-4)


@given(lam=st.floats(0.01, 100), n=st.integers(2, 10), seed=st.integers(0, 9999))
def test_ipndm_and_3m_sde_by_hand(lam, n, seed):
    "Written out with numbers."
    rng = np.random.default_rng(seed)
    s = np.sort(np.exp(rng.uniform(-4, 4, n + 1)))[::-1].copy()
    W, adams = (
        lam / (lam + s**2),
        [[1], [1.5, -0.5], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]],
    )
    x, past = 1.0, []
    for i in range(n):
        past = [(x - W[i] * x) / s[i], *past][:4]
        x = x + (s[i + 1] - s[i]) * sum(c * d for c, d in zip(adams[min(i, 3)], past, strict=False))
    level = Level(torch.ones(n + 1).double(), torch.from_numpy(s))
    one = torch.ones(1).double()
    got = variances("ipndm", level, torch.tensor([lam], dtype=torch.float64), initial=one).signal.item()
    assert got == pytest.approx(x**2, rel=1e-8, abs=1e-12)

    clock, rows = -np.log(s), np.zeros((n + 1, n + 1))
    x, old = np.eye(n + 1)[0], []
    for i in range(n):
        m, h = W[i] * x, clock[i + 1] - clock[i]
        H = 2 * h
        new = s[i + 1] / s[i] * np.exp(-h) * x - np.expm1(-H) * m
        if len(old) >= 2:
            r0, r1 = (clock[i] - clock[i - 1]) / h, (clock[i - 1] - clock[i - 2]) / h
            d0, d1 = (m - old[0]) / r0, (old[0] - old[1]) / r1
            phi2 = np.expm1(-H) / H + 1
            phi3 = phi2 / H - 0.5
            new = new + phi2 * (d0 + (d0 - d1) * r0 / (r0 + r1)) - phi3 * (d0 - d1) / (r0 + r1)
        elif old:
            new = new - 0.5 * np.expm1(-H) * (m - old[0]) / ((clock[i] - clock[i - 1]) / h)
        x, old = new + s[i + 1] * np.sqrt(-np.expm1(-H)) * np.eye(n + 1)[i + 1], [m, *old][:2]
    got = variances(
        "dpm_solver++3m_sde", level, torch.tensor([lam], dtype=torch.float64), initial=one
    ).signal.item()
    assert rows.shape[0] == n + 1 and got == pytest.approx((x**2).sum(), rel=1e-7)


# ---- slopes, bins, descent ----


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_slopes(solver):
    spectrum = Spectrum(torch.tensor([0.01, 0.5, 20.0]).double(), torch.tensor([5.0, 2.0, 1.0]).double())
    inner = torch.tensor([0.7, 0.45, 0.2]).double().requires_grad_()
    ends = torch.tensor([0.95]).double(), torch.tensor([0.0]).double()

    def error(x):
        return list_error(
            spectrum, Process("cosine"), torch.cat([ends[0], x, ends[1]]), solver, "w2", robust=0.2
        ).log()

    assert torch.autograd.gradcheck(error, (inner,), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
def test_forty_nodes_are_enough(exponent):
    field = GaussianField(power_law_spectrum(48, 48, exponent=exponent), (48, 48))
    for distance in ("kl", "w2", "w2_visible"):
        fine = coefficients(field, EDM, distance)
        assert len(binned(fine).power) <= 40
        for solver in ("ddim", "dpm_solver++", "ancestral"):
            rough, exact = (
                list_error(
                    s, EDM, LISTS["karras"](8, process=EDM), solver, distance.removesuffix("_visible")
                ).item()
                for s in (binned(fine), fine)
            )
            assert rough == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_every_solver_gets_a_list(solver):
    found = steps(CIFAR, EDM, 5, solver)
    assert (
        math.isfinite(found.total) and found.total <= min(found.others.values()) * (1 + 1e-6) + 1e-8 * POWER
    )
    assert (found.times.diff() < 0).all() and found.times[0] == 1 and found.times[-1] == 0


@pytest.mark.parametrize(
    "schedule, start, end",
    [
        ("flow", None, None),
        ("cosine", None, None),
        ("linear", 0.98, 0.01),
        ("scaled_linear", None, None),
        ("flow", 0.99, 0.02),
    ],
)
@pytest.mark.parametrize("n", [1, 2, 15, 50])
def test_every_schedule_and_number_of_steps(schedule, start, end, n):
    "Infinite and zero ends; no step collapses from fifteen steps on."
    field = GaussianField(power_law_spectrum(8, 9, exponent=2.0), (8, 9))
    found = steps(field, Process(schedule), n, start=start, end=end, robust=0.05)
    assert len(found.times) == n + 1 and (found.times.diff() < 0).all()
    assert found.times[0] == (1.0 if start is None else start) and found.times[-1] == (
        0.0 if end is None else end
    )
    assert torch.isfinite(found.error).all() and found.total <= min(found.others.values()) * (1 + 1e-6)
    if schedule == "linear" and n > 1:
        taken = -found.sigmas.log().diff()
        assert taken.max() <= MOST_RATIO * taken.min() * (1 + 1e-6)


def test_shares_are_bounded_from_the_first_step_on():
    "A start whose steps differ by a factor of ten thousand comes back within the bound."
    wish = ask(4, CIFAR, EDM, "dpm_solver++", "w2", None, None)
    problem = Problem([CIFAR], wish.ends, scale_of(wish.ends), wish.solver, wish.distance, "prior", 0.0)
    inner = torch.tensor([79.99, 79.98, 0.01], dtype=torch.float64)
    for most in (1, 50):
        found, _ = descend(problem, inner, most=most)
        taken = (
            -torch.cat([torch.tensor([80.0]).double(), found, torch.tensor([0.002]).double()]).log().diff()
        )
        assert taken.min() > 0 and taken.max() <= MOST_RATIO * taken.min() * (1 + 1e-6)


def test_many_steps_do_not_end_in_nan():
    for n in (15, 24):
        found = steps(CIFAR, EDM, n)
        assert 0 < found.total / POWER < 1e-7


def test_robust_lists_are_best_where_they_are_made_for():
    made = {d: steps(CIFAR, EDM, 10, robust=d) for d in (0.0, 0.1)}
    assert made[0.0].exact < made[0.1].exact and made[0.1].exact < made[0.1].total
    assert list_error(CIFAR, EDM, made[0.0].times, robust=0.1) > 1.5 * made[0.1].total
    assert torch.equal(LISTS["robust"](10, process=EDM, field=CIFAR), made[0.1].times)
    assert torch.equal(LISTS["optimal"](10, process=EDM, field=CIFAR), made[0.0].times)


@pytest.mark.parametrize("solver", ["ddim", "dpm_solver++", "unipc", "dpm_solver2"])
def test_the_expected_error_is_the_mean_over_networks(solver):
    """Written without the library's rows: a solver's gain is linear in each call's gain, so it is probed call
    by call."""
    lam, delta, n, draws = 0.3, 0.15, 3, 4_000
    times = torch.tensor([0.9, 0.6, 0.35, 0.1]).double()
    field, process = GaussianField(torch.full((2, 2), lam), (2, 2), basis="dct"), Process("cosine")
    rng = np.random.default_rng(4)
    from spectral_diffusion.sampling.engine import sample

    class Wrong:
        def __init__(self, g):
            self.g, self.call = torch.from_numpy(g), 0

        def __call__(self, x, t):
            a, s = (v.flatten()[0] for v in process.gains(t[:1].double()))
            total = a**2 * lam + s**2
            gain = a * lam / total + delta * self.g[self.call][:, None, None, None] * s * lam**0.5 / total
            self.call += 1
            return gain * x

    start = process.gains(0.9).s.item() * torch.ones(draws, 1, 1, 1).double()
    if solver in ("ddim", "dpm_solver++", "dpm_solver2"):
        out = sample(
            Wrong(rng.standard_normal((2 * n, draws))),
            process,
            (draws, 1, 1, 1),
            solver,
            times=times,
            start=start,
        ).flatten()
    else:  # no sampler here: the corrector written out
        out = unipc_by_hand(Wrong(rng.standard_normal((n, draws))), process, times, start).flatten()
    a, s = (v.item() for v in process.gains(0.1))
    distance = (out.abs() - (a**2 * lam + s**2) ** 0.5).square()
    expected = list_error(field, process, times, solver, robust=delta).item() / 4
    assert abs(distance.mean().item() - expected) < 5 * distance.std().item() / draws**0.5


def unipc_by_hand(denoise, process, times, x):
    "UniPC of second order (bh2, data prediction), with its order lowered in the last step."
    a, s = (g.flatten() for g in process.gains(times))
    clock, n = (a / s).log(), len(times) - 1
    states, answers, guess, order_last = [x], [], x, 1
    for i in range(n):
        m = denoise(guess, times[i : i + 1].expand(len(x)))
        if i > 0:
            h = clock[i] - clock[i - 1]
            phi = torch.expm1(-h)
            plain = s[i] / s[i - 1] * states[-1] - a[i] * phi * answers[-1]
            if order_last == 1:
                guess = plain - a[i] * phi * 0.5 * (m - answers[-1])
            else:
                r = (clock[i - 2] - clock[i - 1]) / h
                b1, b2 = (-phi / h - 1) / phi, 2 * ((phi / h + 1) / h - 0.5) / phi
                rho = torch.linalg.solve(torch.tensor([[1.0, 1.0], [r, 1.0]]).double(), torch.stack([b1, b2]))
                guess = plain - a[i] * phi * (
                    rho[0] * (answers[-2] - answers[-1]) / r + rho[1] * (m - answers[-1])
                )
            states.append(guess)
        answers.append(m)
        order_last = min(2, i + 1, n - i)
        h = clock[i + 1] - clock[i]
        phi = torch.expm1(-h)
        guess = s[i + 1] / s[i] * states[-1] - a[i + 1] * phi * m
        if order_last == 2:
            guess = guess - a[i + 1] * phi * 0.5 * (answers[-2] - m) / ((clock[i - 1] - clock[i]) / h)
    return guess


# ---- lists, ranges, bad input ----


def test_arcs_warn_with_other_solvers_only():
    field = GaussianField(power_law_spectrum(8, 8, exponent=2.0), (8, 8))
    for name in ("arc", "arc_reweighted", "tangent"):
        with pytest.warns(FirstOrder, match="first order"):
            LISTS[name](5, process=EDM, field=field, solver="dpm_solver++")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            LISTS[name](5, process=EDM, field=field, solver="ancestral")
    process = Process("linear")
    assert (
        LISTS["arc"](6, process=process, field=field, solver="ddim") - arc_times(field, process, 6, "w2")
    ).abs().max() < 1e-3


def test_tables_of_ays_are_those_of_diffusers():
    utils = pytest.importorskip(
        "diffusers.schedulers.scheduling_utils",
        reason="diffusers is needed for this comparison: pip install diffusers",
    )
    theirs = {
        "ays": "StableDiffusionSigmas",
        "ays_sdxl": "StableDiffusionXLSigmas",
        "ays_svd": "StableDiffusionVideoSigmas",
    }
    for name, key in theirs.items():
        assert list(AYS[name]) == utils.AysSchedules[key][:-1]


def test_tables_of_ays_are_those_of_the_paper():
    "Table 3 of Sabour, Fidler and Kreis 2024, on its own range: eleven levels, log-linear between them."
    own = Process("scaled_linear")
    table = np.array([14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029])
    for n in (4, 10, 25):
        times = LISTS["ays"](n, process=own, end=time_at(own, torch.tensor([0.029]).double()).item())
        expected = np.exp(np.interp(np.linspace(0, 10, n + 1), range(11), np.log(table)))
        np.testing.assert_allclose(ratio_at(own, times).numpy(), expected, rtol=1e-4)
        howto = np.exp(np.interp(np.linspace(0, 10, n), range(11), np.log(table)))  # and then the clean image
        clean = ratio_at(own, LISTS["ays"](n, process=own)).numpy()
        np.testing.assert_allclose(clean[:-1], howto, rtol=1e-2)
        assert clean[-1] == 0


def test_karras_is_the_published_formula():
    sigma = ratio_at(EDM, LISTS["karras"](9, process=EDM))
    expected = (80 ** (1 / 7) + np.arange(10) / 9 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(sigma.numpy(), expected, rtol=1e-9)


def test_ranges():
    found = noise_range(CIFAR)
    assert start_error(CIFAR, found.sigma_max) == pytest.approx(1e-4) and end_error(
        CIFAR, found.sigma_min
    ) == pytest.approx(1e-4)
    assert found.sigma_max == pytest.approx(77.7, rel=0.01)
    assert noise_range(CIFAR, "kl").p_mean < -1.2 < found.p_mean


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: steps(CIFAR, EDM, 1.5), "integer"),
        (lambda: steps(CIFAR, EDM, 0), "at least 1"),
        (lambda: steps(CIFAR, EDM, 51), "up to 50"),
        (lambda: steps(CIFAR, EDM, 5, "euler_"), "linear solver"),
        (lambda: steps(CIFAR, EDM, 5, distance="w3"), "distance"),
        (lambda: steps(CIFAR, EDM, 5, distance="w2_visible"), "no frequencies"),
        (lambda: steps(CIFAR, EDM, 5, start=0.1, end=0.4), "0 <= end < start"),
        (lambda: steps(CIFAR, EDM, 5, robust=math.nan), "zero or more"),
        (lambda: steps(CIFAR, EDM, 5, initial="zero"), "initial"),
        (lambda: steps(Spectrum(torch.tensor([1.0, -1.0]), torch.ones(2)), EDM, 5), "positive"),
        (lambda: steps(Spectrum(torch.tensor([math.inf]), torch.ones(1)), EDM, 5), "finite"),
        (lambda: steps(GaussianField(torch.zeros(4, 4), (4, 4), basis="dct"), EDM, 5), "with power"),
        (lambda: steps(CIFAR, Process("still"), 5), "fall"),
        (lambda: list_error(CIFAR, EDM, [0.5, 0.7]), "fall"),
        (lambda: LISTS["optimal"](5, process=EDM), "made from a spectrum"),
    ],
)
def test_bad_input_is_one_clear_error(call, said):
    with pytest.raises(InputError, match=said):
        call()
