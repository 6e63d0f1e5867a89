"A preconditioning and a data set are entries of a registry: a new one works without an edit elsewhere."

import re
from pathlib import Path

import pytest
import torch

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.core.runtime import stream
from spectral_diffusion.data.sets import DATASETS, TrainTest, register_dataset
from spectral_diffusion.models.zoo import build_model
from spectral_diffusion.noise.denoiser import wrap
from spectral_diffusion.noise.preconditioning import (
    PRECONDITIONINGS,
    Spectral,
    check_target,
    register_preconditioning,
)
from spectral_diffusion.noise.process import Process
from spectral_diffusion.run.experiment import train_run
from spectral_diffusion.run.held_out import squared_errors
from spectral_diffusion.run.resolved import resolve
from spectral_diffusion.run.saved import load_denoiser
from spectral_diffusion.run.settings import DataConfig, EvalConfig, RunConfig, TrainConfig

PACKAGE = Path(__file__).resolve().parents[1] / "spectral_diffusion"


class Unscaled(Spectral):
    "The gains of `spectral`; the network sees the noisy picture as it is."

    white = "sees the noisy picture itself"

    def seen(self, x, y, c_in, level, basis):
        return x


@pytest.fixture
def registered():
    "A fifth preconditioning and a data set of small pictures."
    register_preconditioning("unscaled")(Unscaled)

    @register_dataset("small_test")
    def small():
        x = torch.rand(60, 2, 8, 9, generator=stream(0, "small_test")) - 0.5
        return TrainTest(x[:40], x[40:])

    yield RunConfig(
        data=DataConfig(name="small_test", statistics=40),
        model={"name": "conv", "width": 4, "zero_output": False},
        preconditioning="unscaled",
        train=TrainConfig(steps=2, batch=4),
        evaluation=EvalConfig(images=8, points=1, samples=2, sample_steps=2),
    )
    del PRECONDITIONINGS._items["unscaled"], DATASETS._items["small_test"]


def test_a_run_with_both_is_trained_saved_and_read(registered, tmp_path):
    record = train_run(registered, tmp_path)
    held_out = resolve(registered).held_out
    loss = squared_errors(load_denoiser(record), held_out).mean().item()
    assert loss == pytest.approx(record.metrics["loss"], rel=1e-6)


def test_it_is_carried_through_diffusers(registered, tmp_path):
    pytest.importorskip("diffusers")
    from spectral_diffusion.lab.interop import from_diffusers, to_diffusers

    record = train_run(registered, tmp_path)
    pipeline = to_diffusers(record)
    back, held_out = from_diffusers(pipeline.unet, pipeline.scheduler), resolve(registered).held_out
    first = load_denoiser(record)
    with torch.no_grad():
        assert torch.equal(back(held_out.x0, held_out.t), first(held_out.x0, held_out.t))
    assert back.preconditioning.name == "unscaled"


def test_it_refuses_for_itself(registered):
    images = DATASETS["small_test"]().train
    pink = Process("cosine", "power_law", "dct", size=(8, 9))
    network = build_model({"name": "conv", "channels": 2, "width": 4})
    with pytest.raises(InputError, match="'unscaled' sees the noisy picture itself and needs white noise"):
        wrap(network, pink, "eps", "unscaled", images)
    with pytest.raises(InputError, match="'unscaled' needs statistics"):
        wrap(network, Process("cosine"), "eps", "unscaled")
    check_target(Process("flow"), "eps", "unscaled")


def test_no_other_file_compares_the_name_of_a_preconditioning():
    names = "|".join(PRECONDITIONINGS)
    compared = re.compile(rf"preconditioning\s*(==|!=|in|not in)\s*[(\[]?[\"']({names})[\"']")
    found = [p for p in PACKAGE.rglob("*.py") if compared.search(p.read_text(encoding="utf-8"))]
    assert not found
    assert compared.search('if config.preconditioning == "edm":')
