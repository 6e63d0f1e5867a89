"Samplers against diffusers, step by step, on a network that is neither linear nor independent of time."

import numpy as np
import pytest
import torch

from spectral_diffusion.noise.process import Process
from spectral_diffusion.sampling.engine import trajectory

diffusers = pytest.importorskip(
    "diffusers.schedulers", reason="diffusers is needed for this comparison: pip install diffusers"
)

SHAPE, STEPS = (2, 3, 8, 8), 10
BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def eps_model(x, t):
    "Noise estimate; t counts the steps of the chain of 1000."
    return torch.tanh(0.7 * x + 0.1 * torch.roll(x, 1, -1)) * (0.3 + t / 1000)


def denoiser(process):
    def call(x, t):
        a, s = (g[0].item() for g in (process.gains(t[:1]).a.flatten(), process.gains(t[:1]).s.flatten()))
        return (x - s * eps_model(x, 1000 * t[0].item() - 1)) / a

    return call


def times_of(scheduler, last):
    "Index i of the list is the time (i + 1)/1000 of the schedule."
    t = [(i + 1) / 1000 for i in scheduler.timesteps.tolist()]
    return torch.tensor([*t, last], dtype=torch.float64)


def start():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))


def compare(scheduler, name, last, tolerance, **options):
    process = Process("linear")
    ours = list(
        trajectory(
            denoiser(process),
            process,
            SHAPE,
            name,
            times=times_of(scheduler, last),
            start=start().double(),
            **options,
        )
    )
    x, worst = start().double(), 0.0
    for step, i in zip(ours, scheduler.timesteps, strict=True):
        x = scheduler.step(eps_model(x, i.item()), i, x).prev_sample
        worst = max(worst, ((x - step.x).abs().max() / x.abs().max().clamp(min=1)).item())
    assert worst < tolerance


def test_ddim():
    scheduler = diffusers.DDIMScheduler(
        **BETAS, clip_sample=False, set_alpha_to_one=True, timestep_spacing="leading"
    )
    scheduler.set_timesteps(STEPS)
    compare(scheduler, "ddim", 0.0, 5e-6)  # their table is float32


def test_dpm_solver_2m():
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **BETAS,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(20)  # below 15 steps they end with a lower order
    compare(scheduler, "dpm_solver++", 0.0, 5e-5)


class Draws:
    "Noise that both sides share: the same list, one entry a step."

    def __init__(self):
        self.list = torch.randn(40, *SHAPE, generator=torch.Generator().manual_seed(9))
        self.i = -1

    def next(self, *args, **kwargs):
        self.i += 1
        return self.list[self.i].double()


def test_ddpm(monkeypatch):
    "Their DDPM at every step of the chain; the noise of both is one list."
    from diffusers.schedulers import scheduling_ddpm

    scheduler = diffusers.DDPMScheduler(
        **BETAS, clip_sample=False, variance_type="fixed_small", timestep_spacing="leading"
    )
    scheduler.set_timesteps(STEPS)
    theirs, ours = Draws(), Draws()
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", theirs.next)
    monkeypatch.setattr("spectral_diffusion.sampling.engine.randn", ours.next)
    compare(scheduler, "ddpm", 0.0, 5e-5, generator=torch.Generator().manual_seed(0))
    assert theirs.i == ours.i == STEPS - 2  # nobody draws in the last step


def test_euler_ancestral(monkeypatch):
    "Ancestral in sigma is `ancestral` on the times of its sigmas: their state is x/a."
    from diffusers.schedulers import scheduling_euler_ancestral_discrete as module

    scheduler = diffusers.EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="leading")
    scheduler.set_timesteps(STEPS)
    theirs, ours, process = Draws(), Draws(), Process("edm")
    monkeypatch.setattr(module, "randn_tensor", theirs.next)
    monkeypatch.setattr("spectral_diffusion.sampling.engine.randn", ours.next)
    sigma = scheduler.sigmas.double()
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    keep = sigma > 0
    t = torch.where(keep, (sigma.clamp(min=0.002) ** (1 / 7) - low) / (high - low), 0.0)
    # `edm` ends at 0.002 and theirs at zero: all steps but the last are compared
    times = t[:-1]

    def model(x, s):
        return x - s * torch.tanh(x / (1 + s * s) ** 0.5)  # x0

    def ours_denoiser(x, u):
        return model(x, process.gains(u[:1]).s.item())

    x0 = sigma[0] * start().double()
    walk = list(
        trajectory(
            ours_denoiser,
            process,
            SHAPE,
            "ancestral",
            times=times,
            start=x0,
            generator=torch.Generator().manual_seed(0),
        )
    )
    x = x0
    for step, i, s in zip(walk, scheduler.timesteps[:-1], sigma[:-2].tolist(), strict=True):
        scheduler.scale_model_input(x, i)
        x = scheduler.step((x - model(x, s)) / s, i, x).prev_sample.double()
        assert np.abs((x - step.x).numpy()).max() < 1e-4 * max(1, x.abs().max().item())
