"""Processes, fields and denoisers go to a spawned worker, and into a deep copy; whole numbers come from
Python, numpy or a tensor."""

import copy
import multiprocessing
import pickle

import numpy as np
import pytest
import torch

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.core.runtime import stream
from spectral_diffusion.data.synthetic import make
from spectral_diffusion.doe.constructions import from_hadamard, hadamard
from spectral_diffusion.doe.fields import bush, rao_hamming
from spectral_diffusion.lab.configured_process import table_schedule
from spectral_diffusion.models.cost import cost
from spectral_diffusion.models.zoo import MODELS, build_model
from spectral_diffusion.noise.denoiser import wrap
from spectral_diffusion.noise.oracles import MemoryDenoiser
from spectral_diffusion.noise.preconditioning import PRECONDITIONINGS
from spectral_diffusion.noise.presets import PRESETS, preset
from spectral_diffusion.noise.process import Process
from spectral_diffusion.noise.schedules import SCHEDULES
from spectral_diffusion.noise.theory import GaussianField, gains_for
from spectral_diffusion.sampling.engine import sample
from spectral_diffusion.sampling.samplers import time_grid
from spectral_diffusion.signals.bases import BASES, color

TIMES = torch.tensor([0.2, 0.9])
SPACES = {**BASES, "haar+color": color(BASES["haar"], torch.eye(2, dtype=torch.float64).flip(0))}


def images(seed=0):
    return torch.randn(2, 2, 8, 8, generator=stream(seed, "pickling"), dtype=torch.float64)


def fields():
    return {
        name: GaussianField.fit(torch.cat([images(i) for i in range(3)]), basis)
        for name, basis in SPACES.items()
    }


def callables():
    "What goes to a worker, each with the answer that it must give there."
    found = {}
    for name in SCHEDULES:
        found[f"process {name}"] = Process(name)
    found["process of a table"] = Process(table_schedule([0.9, 0.5, 0.1]))
    for name in ("fourier", "dct", "haar"):
        found[f"blur {name}"] = Process("flow", "power_law", name, size=(8, 8), blur=2.0)
    field = fields()
    for name in PRESETS:
        found[f"preset {name}"] = preset(name, field["dct"])
    for name, f in field.items():
        found[f"wiener {name}"] = f.denoiser(Process("cosine"))
    for name in PRECONDITIONINGS:
        network = build_model(
            {"name": "conv", "channels": 2, "zero_output": False, **({"views": 2} if name == "views" else {})}
        ).double()
        found[f"network {name}"] = wrap(
            network, Process("cosine"), "v", name, None if name == "none" else field["haar+color"]
        )
    found["memory"] = MemoryDenoiser(images(3), Process("cosine"))
    return found


def answer(thing):
    return (
        thing.diffuse(images(), TIMES, images(1))
        if isinstance(thing, Process)
        else thing(images(), TIMES).detach()
    )


def work(sent, back):
    "The worker: opens what it gets, and says what each gives."
    torch.set_num_threads(1)
    back.put({name: answer(pickle.loads(data)).numpy() for name, data in sent.items()})


def test_in_a_spawned_process():
    context, things = multiprocessing.get_context("spawn"), callables()
    back = context.Queue()
    worker = context.Process(
        target=work, args=({name: pickle.dumps(thing) for name, thing in things.items()}, back)
    )
    worker.start()
    found = back.get(timeout=600)
    worker.join()
    assert worker.exitcode == 0 and set(found) == set(things)
    for name, thing in things.items():
        assert np.array_equal(found[name], answer(thing).numpy()), name


def test_copies_are_apart():
    for name, thing in callables().items():
        twin = copy.deepcopy(thing)
        assert torch.equal(answer(twin), answer(thing)), name
    for name, field in fields().items():
        twin = copy.deepcopy(field)
        assert twin.basis.name == field.basis.name and torch.equal(
            twin.sample(2, stream(0, "a"), channels=2), field.sample(2, stream(0, "a"), channels=2)
        ), name
        twin.power.zero_()
        assert field.power.sum() > 0


@pytest.mark.parametrize("name", sorted(MODELS))
def test_networks(name):
    model = build_model({"name": name, "channels": 2, **({"size": 8} if name == "mixer" else {})}).eval()
    x = images().float()
    want = model(x, TIMES)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(twin(x, TIMES), want)


WHOLE = {"numpy": np.int64, "small": np.uint8, "tensor": torch.tensor, "0-d": np.array}


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_numbers(kind):
    n, p = WHOLE[kind], Process("cosine")

    def samples(shape, steps):
        return sample(lambda x, t: 0.5 * x, p, shape, steps=steps, generator=stream(0, "a"))

    want = samples((1, 1, 4, 6), 4)
    assert torch.equal(samples((n(1), n(1), n(4), n(6)), n(4)), want) and torch.equal(
        samples(want.shape, 4), want
    )
    assert torch.equal(samples(np.array([1, 1, 4, 6]), 4), want) and torch.equal(
        samples(torch.tensor([1, 1, 4, 6]), 4), want
    )
    assert torch.equal(time_grid(n(7)), time_grid(7))
    shaped, field = (
        Process("cosine", "power_law", "dct", size=[n(4), n(6)]),
        GaussianField(torch.ones(4, 6), np.array([4, 6]), basis="dct"),
    )
    assert shaped.size == field.size == (4, 6) and gains_for(field, shaped, 0.5).a.shape == (1, 1, 1)
    assert torch.equal(
        sample(field.denoiser(shaped), shaped, (1, 1, 4, 6), steps=2, generator=stream(0, "a")),
        sample(
            field.denoiser(shaped), shaped, (n(1), n(1), n(4), n(6)), steps=n(2), generator=stream(0, "a")
        ),
    )
    assert cost(build_model("conv"), n(8)) == cost(build_model("conv"), 8)
    assert torch.equal(make("texture", 2, n(8), stream(0, "a")), make("texture", 2, (8, 8), stream(0, "a")))


def test_whole_numbers_of_designs():
    n = np.int64
    assert np.array_equal(hadamard(n(12)), hadamard(12)) and np.array_equal(
        from_hadamard(n(8)), from_hadamard(8)
    )
    assert np.array_equal(rao_hamming(n(3), n(2)), rao_hamming(3, 2)) and np.array_equal(
        bush(n(3), n(2)), bush(3, 2)
    )
    with pytest.raises(InputError, match="at most 4096"):
        rao_hamming(n(2), n(64))  # 2^64 is zero in 64 bits


@pytest.mark.parametrize(
    "wrong",
    [True, np.bool_(True), torch.tensor(True), 2.0, np.float64(2), torch.tensor(2.0), "2", None, 0, -1, [2]],
)
def test_what_is_no_whole_number(wrong):
    p = Process("cosine")
    for call in (
        lambda: time_grid(wrong),
        lambda: sample(lambda x, t: x, p, (1, 1, 4, wrong), generator=stream(0, "a")),
        lambda: sample(lambda x, t: x, p, (1, 1, 4, 4), steps=wrong, generator=stream(0, "a")),
        lambda: Process("cosine", size=(4, wrong)),
        lambda: GaussianField(torch.ones(4, 4), (4, wrong), basis="dct"),
        lambda: cost(build_model("conv"), wrong),
        lambda: make("texture", 2, wrong, stream(0, "a")),
    ):
        with pytest.raises(InputError, match="integer of at least 1|at least 1, got|a size is"):
            call()
