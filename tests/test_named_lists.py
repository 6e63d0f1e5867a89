"Lists of steps by name: in configurations, in transfers, in the widget of two samplers, and in a study."

import json
from dataclasses import replace

import pytest
import torch

from spectral_diffusion.core.config import fingerprint, from_dict, override, to_dict
from spectral_diffusion.core.registry import InputError
from spectral_diffusion.data.synthetic import power_law_spectrum
from spectral_diffusion.lab.scrubbers import sampler_scrubber
from spectral_diffusion.noise.process import Process
from spectral_diffusion.noise.theory import GaussianField
from spectral_diffusion.run.experiment import train_run
from spectral_diffusion.run.pictures import draw_samples, load_samples, to_bytes
from spectral_diffusion.run.resolved import field_of
from spectral_diffusion.run.saved import load_denoiser
from spectral_diffusion.run.settings import DataConfig, EvalConfig, RunConfig, TrainConfig
from spectral_diffusion.sampling.lists import LISTS
from spectral_diffusion.sampling.named_lists import list_names, times_from, transfer_from
from spectral_diffusion.sampling.transfer import transfer

TINY = RunConfig(
    data=DataConfig(name="power_law", statistics=200),
    evaluation=EvalConfig(images=8, points=1, samples=2, sample_steps=5),
    model={"name": "conv", "width": 4},
    preconditioning="spectral",  # an untrained network is the Wiener filter, whose pictures are not cut off
    train=TrainConfig(steps=2, batch=4),
)
FIELD = GaussianField(power_law_spectrum(9, 12, exponent=2.0), (9, 12))


def listed(source: str, **more) -> RunConfig:
    return override(TINY, {"evaluation.steps_from": source, **more})


def test_an_old_configuration_keeps_its_id():
    assert "steps_from" not in to_dict(TINY)["evaluation"]
    assert fingerprint(TINY) == fingerprint(listed("even"))
    ids = {fingerprint(listed(name)) for name in list_names()}
    assert len(ids) == len(list_names())
    assert from_dict(RunConfig, to_dict(listed("karras"))) == listed("karras")


@pytest.mark.parametrize("source", ["karras", "optimal", "arc_reweighted"])
def test_a_run_draws_its_samples_along_its_list(source, tmp_path):
    config = listed(source)
    record = train_run(config, tmp_path)
    denoiser = load_denoiser(record)
    times = times_from(source, 5, denoiser.process, "ddim", lambda: field_of(config))
    (folder,) = (record.path / "samples").iterdir()
    assert json.loads((folder / "metadata.json").read_text())["steps_from"] == source
    drawn, even = (draw_samples(denoiser, 2, steps=5, times=t) for t in (times, None))
    kept = to_bytes(load_samples(folder))
    assert (kept.int() - to_bytes(drawn).int()).abs().max() <= 1
    assert (kept.int() - to_bytes(even).int()).abs().max() > 1


def test_a_list_that_cannot_be_made_is_refused_before_any_work(tmp_path):
    with pytest.raises(InputError, match="did you mean 'karras'"):
        listed("karas")
    with pytest.raises(InputError, match="list of steps"):
        listed("given")
    with pytest.raises(InputError, match="made for a linear solver"):
        listed("optimal", **{"evaluation.sampler": "masf"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("schedule", ["cosine", "linear", "edm"])
@pytest.mark.parametrize("source", ["even", "karras", "log_sigma", "cosine", "arc", "optimal"])
def test_a_transfer_takes_a_list_by_its_name(schedule, source):
    process = Process(schedule)
    times = times_from(source, 4, process, "ddim", lambda: FIELD)
    for start in ("marginal", "prior"):
        by_name = transfer_from(source, 4, "ddim", process, FIELD, start=start)
        assert torch.equal(by_name, transfer("ddim", process, FIELD, times, start=start))


def test_the_widget_offers_every_list_and_walks_along_it():
    process = Process("cosine")
    panel = sampler_scrubber(FIELD.denoiser(process), process, FIELD, steps=4, images=2, steps_from="karras")
    assert list(panel.controls["source"].options) == list_names()
    for source in ("karras", "log_sigma", "optimal"):
        panel.controls["source"].value = source
        for name in ("ddim", "ancestral"):
            want = times_from(source, 4, process, name, lambda: FIELD)
            got = [step.t_next for step in panel.memory[name, source]]
            assert got == pytest.approx(want[1:].tolist(), abs=1e-12)
    with pytest.raises(InputError, match="list of steps"):
        sampler_scrubber(FIELD.denoiser(process), process, FIELD, steps=4, images=2, steps_from="karas")


def test_a_study_can_vary_the_list():
    rows = [
        listed(name, **{"evaluation.sampler": s}) for name in ("even", "karras") for s in ("ddim", "heun")
    ]
    assert len({fingerprint(row) for row in rows}) == 4
    assert replace(rows[0], seed=1).evaluation.steps_from == "even"


def test_a_list_that_is_registered_is_offered_everywhere():
    def halves(n, *, process, field=None, solver="ddim", distance="w2"):
        "Each step goes half of the way."
        return torch.tensor([*(0.5**i for i in range(n)), 0.0], dtype=torch.float64)

    LISTS.register("halves")(halves)
    try:
        assert listed("halves").evaluation.steps_from == "halves"
        assert times_from("halves", 3, Process("cosine")).tolist() == [1.0, 0.5, 0.25, 0.0]
        want = transfer("ddim", Process("cosine"), FIELD, [1.0, 0.5, 0.25, 0.0])
        assert torch.equal(transfer_from("halves", 3, "ddim", Process("cosine"), FIELD), want)
    finally:
        del LISTS._items["halves"]
