"The loop of every sampler: times, noise per sample, dtype, gradients, bad input."

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.core.runtime import split, stream
from spectral_diffusion.noise.process import Process
from spectral_diffusion.noise.theory import GaussianField
from spectral_diffusion.sampling.engine import sample, trajectory
from spectral_diffusion.sampling.samplers import SAMPLERS, check_times, time_grid
from spectral_diffusion.signals.fourier import radius

SIZE = (6, 7)
FIELD = GaussianField(1 / (radius(*SIZE) ** 2 + 0.1), SIZE)
PROCESS = Process("cosine")
BUILT_IN = ["ddim", "ancestral", "ddpm"]


def run(name, n, process=PROCESS, steps=4, seed=0, **options):
    return sample(
        FIELD.denoiser(process), process, (n, 2, *SIZE), name, steps, stream(seed, "test"), **options
    )


@given(steps=st.integers(1, 1200))
def test_the_grid_meets_both_ends_and_falls(steps):
    t = time_grid(steps)
    assert (
        len(t) == steps + 1
        and t[0] == 1
        and t[-1] == 0
        and bool((t.diff() < 0).all())
        and t.dtype == torch.float64
    )


@given(times=st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_only_falling_lists_pass(times):
    if all(b < a for a, b in zip(times, times[1:])):
        assert check_times(times).tolist() == times
    else:
        with pytest.raises(InputError, match="fall"):
            check_times(times)


@pytest.mark.parametrize(
    "times",
    [[1.0], [], [2.0, 0.0], [1.0, -0.1], [1.0, math.nan], [math.inf, 0.0], [[1.0, 0.0]], [0.0, 0.5, 1.0]],
)
def test_bad_times_raise(times):
    with pytest.raises(InputError):
        check_times(times)


def test_the_registry_fills_itself():
    assert set(BUILT_IN) <= set(SAMPLERS)
    assert "no such sampler" not in SAMPLERS and SAMPLERS.get("no such sampler") is None
    with pytest.raises(InputError, match="did you mean 'ddim'"):
        SAMPLERS["dimm"]


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize(
    "process",
    [PROCESS, Process("flow"), Process("cosine", "power_law", "fourier", size=SIZE)],
    ids=["white", "flow", "pink"],
)
def test_samples_do_not_depend_on_the_batch(name, process):
    three, seven = run(name, 3, process), run(name, 7, process)
    pieces = torch.cat(
        [
            sample(FIELD.denoiser(process), process, (1, 2, *SIZE), name, 4, [g])
            for g in split(stream(0, "test"), 3)
        ]
    )
    assert torch.allclose(three, seven[:3], atol=1e-5, rtol=0)
    assert torch.allclose(three, pieces, atol=1e-5, rtol=0)
    assert (three[0] - three[1]).abs().max() > 0.1


@pytest.mark.parametrize("name", BUILT_IN)
def test_dtype_follows_like_and_start(name):
    assert run(name, 2).dtype == torch.get_default_dtype()
    assert run(name, 2, like=torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    start = torch.randn(2, 2, *SIZE, dtype=torch.float64, generator=stream(1, "start"))
    assert run(name, 2, start=start).dtype == torch.float64
    assert torch.allclose(run(name, 2).double(), run(name, 2, like=start), atol=1e-4, rtol=0)


def test_start_is_not_changed_and_seeds_matter():
    start = torch.randn(2, 2, *SIZE, generator=stream(1, "start"))
    kept = start.clone()
    run("ddpm", 2, start=start)
    assert torch.equal(start, kept)
    assert not torch.equal(run("ddim", 2), run("ddim", 2, seed=1))
    assert torch.equal(run("ddpm", 2), run("ddpm", 2))


def test_global_random_state_is_untouched():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    run("ddpm", 2)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_last_state_is_the_last_estimate(name, steps):
    walk = list(trajectory(FIELD.denoiser(PROCESS), PROCESS, (1, 1, *SIZE), name, steps, stream(0, "last")))
    assert len(walk) == steps and walk[0].t == 1 and walk[-1].t_next == 0
    assert torch.equal(walk[-1].x, walk[-1].x0_hat)


def test_the_denoiser_sees_falling_times_and_unclamped_states():
    seen = []

    def watch(x, t):
        seen.append((t.clone(), x.abs().max().item()))
        return x * 0.1

    sample(watch, PROCESS, (8, 1, 16, 16), "ddpm", 10, stream(0, "watch"))
    times = [t[0].item() for t, _ in seen]
    assert all(t.shape == (8,) and bool((t == t[0]).all()) for t, _ in seen)
    assert all(b < a for a, b in zip(times, times[1:])) and times[0] == 1
    assert max(top for _, top in seen) > 2


def test_half_precision_states_keep_times_apart():
    seen = []

    def watch(x, t):
        seen.append(t[0].item())
        return x * 0

    sample(
        watch,
        PROCESS,
        (1, 1, 4, 4),
        "ddim",
        1000,
        stream(0, "half"),
        like=torch.zeros(1, dtype=torch.bfloat16),
    )
    assert len(set(seen)) == 1000


def test_gradients_only_on_request():
    gain = torch.tensor(0.5, requires_grad=True)
    shape = (1, 1, 4, 4)
    assert not sample(lambda x, t: gain * x, PROCESS, shape, "ddim", 3, stream(0, "g")).requires_grad
    with torch.no_grad():
        x = sample(lambda x, t: gain * x, PROCESS, shape, "ddim", 3, stream(0, "g"), grad=True)
        assert not torch.is_grad_enabled()
    assert torch.autograd.grad(x.sum(), gain)[0].isfinite()


def test_bad_input_raises_at_the_call():
    d, g, shape = FIELD.denoiser(PROCESS), stream(0, "bad"), (2, 1, *SIZE)
    for args, options in (
        ((shape, "nope", 5, g), {}),
        ((shape, "ddim", 0, g), {}),
        ((shape, "ddim", -3, g), {}),
        ((shape, "ddim", 2.5, g), {}),
        ((shape, "ddim", 5), {}),
        ((shape, "ddim", 5, [g]), {}),
        ((shape[1:], "ddim", 5, g), {}),
        (((0, 1, 4, 4), "ddim", 5, g), {}),
        ((shape, "ddim", 5, g), {"times": [0.0, 1.0]}),
        ((shape, "ddim", 5, g), {"start": torch.zeros(1, 1, *SIZE)}),
        ((shape, "ddim", 5, g), {"start": torch.zeros(shape, dtype=torch.int64)}),
    ):
        with pytest.raises(InputError):
            trajectory(d, PROCESS, *args, **options)
    with pytest.raises(InputError, match="keep the shape"):
        sample(lambda x, t: x[:, :, 1:], PROCESS, shape, "ddim", 5, g)
    with pytest.raises(InputError, match="made for images"):
        trajectory(d, Process("cosine", "power_law", "fourier", size=(4, 4)), shape, "ddim", 5, g)
    with pytest.raises(InputError, match="draws noise"):
        sample(d, PROCESS, shape, "ddpm", 5, start=torch.zeros(shape))
    assert sample(d, PROCESS, shape, "ddim", 5, start=torch.zeros(shape)).shape == shape
