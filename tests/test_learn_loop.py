"""The loop against a hand-written one with torch's plain optimiser, and the loss against the closed form of
Gaussian data."""

import numpy as np
import pytest
import torch

from spectral_diffusion.core.config import fingerprint, override, to_dict
from spectral_diffusion.core.registry import InputError
from spectral_diffusion.core.runtime import stream
from spectral_diffusion.learn.averages import ema_decay
from spectral_diffusion.learn.loop import train
from spectral_diffusion.learn.losses import TIME_WEIGHTS, denoising_loss
from spectral_diffusion.learn.state import latest
from spectral_diffusion.learn.step import draw_times
from spectral_diffusion.models.zoo import build_model
from spectral_diffusion.noise.denoiser import wrap
from spectral_diffusion.noise.process import Process
from spectral_diffusion.noise.theory import GaussianField
from spectral_diffusion.run.resolved import build_denoiser, resolve
from spectral_diffusion.run.settings import RunConfig, TrainConfig
from spectral_diffusion.run.training import training_steps

PROCESS = Process("cosine")


def images(step):
    return torch.randn(8, 1, 9, 12, generator=stream(3, f"images/{step}")).double()


def fresh(**options):
    return wrap(
        build_model({"name": "unet_tiny", "channels": 1, "base": 4, "depth": 2}).double(), PROCESS, **options
    )


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
def test_loop_against_a_hand_written_one(target):
    """Unfused Adam by its formulas, clipping and averaging by theirs; double precision, so fused rounding
    stays below the tolerance."""
    one, lr, clip, decay = fresh(target=target), 0.01, 0.3, 0.9
    *_, state = train(
        one, images, steps=7, lr=lr, batch=8, seed=5, target=target, ema=decay, clip=clip, warmup=3
    )
    two = fresh(target=target)
    params = list(two.parameters())
    m, v, mean = (
        [torch.zeros_like(p) for p in params],
        [torch.zeros_like(p) for p in params],
        [p.detach().clone() for p in params],
    )
    for i in range(7):
        x0 = images(i)
        t, eps = draw_times(8, stream(5, f"train/time/{i}")), PROCESS.noise(x0, stream(5, f"train/noise/{i}"))
        a, s = PROCESS.gains(t)
        y = two.network(a * x0 + s * eps, t)
        loss = (y - {"eps": eps, "x0": x0, "v": a * eps - s * x0}[target]).square().mean()
        grads = torch.autograd.grad(loss, params)
        norm = torch.cat([g.flatten() for g in grads]).norm()
        with torch.no_grad():
            for j, (p, g) in enumerate(zip(params, grads, strict=True)):
                g = g * min(1.0, clip / (norm.item() + 1e-6))
                m[j], v[j] = 0.9 * m[j] + 0.1 * g, 0.999 * v[j] + 0.001 * g * g
                p -= (
                    lr
                    * min(1.0, (i + 1) / 3)
                    * (m[j] / (1 - 0.9 ** (i + 1)))
                    / ((v[j] / (1 - 0.999 ** (i + 1))).sqrt() + 1e-8)
                )
                d = ema_decay(i, decay)
                mean[j] = d * mean[j] + (1 - d) * p
    assert abs(state.loss - loss.item()) < 1e-9 and abs(state.grad_norm - norm.item()) < 1e-7
    names = [k for k, _ in one.named_parameters()]
    for name, p, q, e in zip(names, one.parameters(), params, mean, strict=True):
        assert (p - q).abs().max() < 1e-7 and (state.ema[name] - e).abs().max() < 1e-7


def test_loss_of_the_exact_denoiser_is_the_floor():
    """Gaussian data of known spectrum: the Wiener denoiser's eps-loss is the closed form, within four
    standard errors."""
    power = 1 / (1 + 40 * torch.rand(9, 12, generator=stream(0, "power"), dtype=torch.float64))
    field = GaussianField(power, (9, 12), basis="dct")
    untrained = build_model(
        {"name": "conv", "channels": 1}
    ).double()  # zero output: the wrapped network is Wiener's filter
    denoiser, losses = wrap(untrained, PROCESS, preconditioning="spectral", statistics=field), []
    for i in range(40):
        x0 = field.sample(50, stream(0, f"field/{i}"))
        losses.append(
            denoising_loss(denoiser, x0, torch.full((50,), 0.4), PROCESS.noise(x0, stream(1, f"{i}"))).item()
        )
    losses = torch.tensor(losses)
    assert abs(losses.mean() - field.loss(PROCESS, [0.4])) < 4 * losses.std() / 40**0.5


@pytest.mark.parametrize("every", [1, 2, 5])
def test_interrupted_anywhere_resumes_bit_for_bit(tmp_path, every):
    *_, whole = train(fresh(), images, steps=7, batch=8, clip=0.1)
    for i, _ in enumerate(
        train(fresh(), images, steps=7, batch=8, clip=0.1, checkpoints=tmp_path / "c", checkpoint_every=every)
    ):
        if i == 5:
            break
    *_, rest = train(fresh(), images, steps=7, batch=8, clip=0.1, resume=latest(tmp_path / "c"))
    assert all(torch.equal(v, rest.ema[k]) for k, v in whole.ema.items())
    assert all(
        torch.equal(p, q)
        for p, q in zip(whole.denoiser.parameters(), rest.denoiser.parameters(), strict=True)
    )
    assert whole.loss == rest.loss and rest.images == 56 and rest.seconds > 0


def test_preconditioned_denoiser_trains_and_resumes(tmp_path):
    data = torch.cat([images(i) for i in range(30, 60)])
    *_, whole = train(fresh(preconditioning="spectral", statistics=data), images, steps=6, batch=8)
    *_, half = train(fresh(preconditioning="spectral", statistics=data), images, steps=3, batch=8)
    half.save(tmp_path)
    *_, rest = train(
        fresh(preconditioning="spectral", statistics=data), images, steps=6, batch=8, resume=tmp_path
    )
    assert all(torch.equal(v, rest.ema[k]) for k, v in whole.ema.items())
    with pytest.raises(InputError, match="seed was 0, now 1"):
        next(train(fresh(), images, steps=6, batch=8, seed=1, resume=tmp_path))


@pytest.mark.parametrize("name", list(TIME_WEIGHTS))
def test_time_weights_are_nonnegative_and_finite_inside(name):
    level = PROCESS.gains(torch.linspace(1e-4, 1, 300))
    for target in ("eps", "x0", "v", "flow"):
        w = TIME_WEIGHTS[name](level, target)
        assert w.shape == (300,) and w.isfinite().all() and (w >= 0).all()


@pytest.mark.parametrize("end", [0.0, 0.02, 0.5])
def test_rate_with_warmup_and_decay_is_the_formula(end):
    rates = [
        state.lr
        for state in train(fresh(), images, steps=12, batch=8, lr=0.01, warmup=4, decay=9, decay_to=end)
    ]
    turns = np.cos(np.pi * np.minimum(np.arange(12) / 9, 1))
    expected = 0.01 * np.minimum((np.arange(12) + 1) / 4, 1) * (end + (1 - end) * (1 + turns) / 2)
    assert np.abs(np.array(rates) - expected).max() < 1e-16


def test_an_end_of_the_decay_is_part_of_the_run(tmp_path):
    options = {"batch": 8, "lr": 0.01, "warmup": 2, "decay": 7, "ema": 0.999}
    *_, whole = train(fresh(), images, steps=7, decay_to=0.1, **options)
    for state in train(fresh(), images, steps=4, decay_to=0.1, **options):
        if state.step == 4:
            state.save(tmp_path / "c")
    *_, rest = train(fresh(), images, steps=7, decay_to=0.1, resume=tmp_path / "c", **options)
    assert all(torch.equal(whole.ema[k], rest.ema[k]) for k in whole.ema) and whole.lr == rest.lr
    with pytest.raises(InputError, match="decay_to was 0.1, now None"):
        next(train(fresh(), images, steps=7, resume=tmp_path / "c", **options))
    *_, old = train(fresh(), images, steps=7, **options)
    assert "decay_to" not in old.arguments and not all(torch.equal(whole.ema[k], old.ema[k]) for k in old.ema)


@pytest.mark.parametrize("name", ["unet", "unet_haar", "unet_dct"])
def test_run_with_the_whole_recipe_resumes_bit_for_bit(tmp_path, name):
    """Flips, averages with a warm start, warm-up and a cosine that ends above zero, interrupted inside an
    epoch."""
    changes = {
        "data.name": "power_law",
        "data.statistics": 100,
        "model": {"name": name, "base": 8},
        "train.steps": 6,
        "train.batch": 8,
        "train.flip": True,
        "train.warmup": 2,
        "train.decay": "cosine",
        "train.decay_to": 0.02,
        "train.ema": 0.999,
    }
    config = override(RunConfig(), changes)

    def states(config, resume):
        setting = resolve(config)
        return training_steps(setting, build_denoiser(setting), resume)

    *_, whole = states(config, tmp_path / "nowhere")
    for state in states(config, tmp_path / "c"):
        if state.step == 3:
            state.save(tmp_path / "c")
            break
    *_, rest = states(config, tmp_path / "c")
    assert (rest.step, rest.loss, rest.lr) == (6, whole.loss, whole.lr)
    assert all(torch.equal(whole.ema[k], rest.ema[k]) for k in whole.ema)
    *_, unflipped = states(override(config, {"train.flip": False}), tmp_path / "nowhere")
    assert unflipped.loss != whole.loss


def test_recipe_keys_do_not_rename_old_runs():
    old = RunConfig()
    assert not {"decay_to", "flip"} & set(to_dict(old)["train"])
    assert fingerprint(override(old, {"train.decay_to": 0.0, "train.flip": False})) == fingerprint(old)
    assert fingerprint(override(old, {"train.flip": True})) != fingerprint(old)
    for bad in (-0.1, 1.0, float("nan")):
        with pytest.raises(InputError, match="decay_to must lie in"):
            TrainConfig(decay="cosine", decay_to=bad)
    with pytest.raises(InputError, match="there is none"):
        TrainConfig(decay_to=0.5)
