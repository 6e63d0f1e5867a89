"""Tables that networks and transforms share: fit for training whoever asked first, with values, bounded, and
not part of a model."""

import copy
import io
import pickle

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from spectral_diffusion.core.runtime import shared_table, stream
from spectral_diffusion.learn.curriculum import truncate
from spectral_diffusion.measure import features
from spectral_diffusion.models import mixers, published
from spectral_diffusion.models.mixers import KINDS
from spectral_diffusion.models.zoo import ADAPTERS, MODELS, build_model
from spectral_diffusion.noise.denoiser import wrap
from spectral_diffusion.noise.process import Process
from spectral_diffusion.noise.theory import GaussianField
from spectral_diffusion.signals import cosine, spectra, wavelets
from spectral_diffusion.signals.bases import BASES, color

CONFIGS = [{"name": name} for name in MODELS if name not in ("mixer", "adapted")]
CONFIGS += [{"name": "mixer", "kind": kind, "size": 8, "modes": 2} for kind in KINDS] + [
    {"name": "adapted", "adapter": a} for a in ADAPTERS
]
CONFIGS += [
    {
        "name": "unet_spectral_published",
        "amplitude": True,
        "phase": True,
        "time_gain": True,
        "coordinates": True,
    }
]
TABLES = {
    "modes": mixers._mode_pair,
    "hats": mixers._hats,
    "windows": mixers._windows,
    "grid": published._grid_hats,
    "dct": cosine._matrix,
    "rings": spectra._rings,
    "bank": wavelets._bank,
    "weights": features.cifar10_weights,
}


@pytest.fixture(autouse=True)
def empty():
    for table in TABLES.values():
        table.cache_clear()


def images():
    return torch.randn(2, 2, 8, 8, generator=stream(0, "tables"))


TIMES = torch.tensor([0.3, 0.6])


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_look_in_inference_mode_does_not_end_training(config):
    model, x = build_model({**config, "channels": 2}), images()
    with torch.inference_mode():
        model(x, TIMES)
    model(x, TIMES).square().sum().backward()
    assert any(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_built_without_values_and_filled(config):
    """Under the meta device, then with memory, then from a file: the same answers as the network that was
    saved."""
    model, x = build_model({**config, "channels": 2}).eval(), images()
    options = dict(config)
    with torch.device("meta"):
        empty = MODELS[options.pop("name")](channels=2, **options)
    assert all(v.is_meta for v in empty.state_dict().values())
    assert empty(x.to("meta"), TIMES.to("meta")).shape == x.shape
    filled = empty.to_empty(device="cpu").eval()
    filled.load_state_dict(model.state_dict())
    assert torch.equal(filled(x, TIMES), model(x, TIMES))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_made_under_fake_tensors_or_a_transform(config):
    model, x = build_model({**config, "channels": 2}).eval(), images()
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert model(torch.zeros(2, 2, 8, 8), torch.zeros(2)).shape == x.shape
    torch.func.grad(lambda z: model(z, TIMES).square().sum())(x)
    with torch.device("meta"):
        model(x, TIMES)
    y = model(x, TIMES)
    y.square().sum().backward()
    assert y.device.type == "cpu" and type(y) is torch.Tensor


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_not_stored_with_a_model(config):
    "What a model pickles is its parameters and buffers: it does not grow with the sizes that it has seen."
    model = build_model({**config, "channels": 2}).eval()
    before, keys = len(pickle.dumps(model)), list(model.state_dict())
    for size in (8, 9, 11) if config.get("kind") != "filter" else (8,):
        if "deep_published" not in config["name"]:
            model(torch.zeros(1, 2, size, size), TIMES[:1])
    assert len(pickle.dumps(model)) == before and list(model.state_dict()) == keys
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    assert copy.deepcopy(model)(images(), TIMES).shape == (2, 2, 8, 8)


def test_bounded():
    for n in range(9, 80):
        x = torch.zeros(1, 1, n, n)
        for name in ("modes", "bands", "window"):
            MODELS["mixer"](channels=1, kind=name, layers=1, width=2)(x, TIMES[:1])
        spectra.radial_power(x)
        cosine.dct2(x)
    for name, table in TABLES.items():
        info = table.cache_info()
        assert info.currsize <= info.maxsize <= 32, name


@pytest.mark.parametrize(
    "make",
    [
        lambda x: cosine.dct2(x),
        lambda x: wavelets.dwt2(x, "db2", 2).coarse,
        lambda x: truncate(x, 0.5),
        lambda x: features.cifar10_features(torch.nn.functional.interpolate(x.float(), 32)[:, [0, 1, 0]]),
        lambda x: BASES["haar"].forward(x),
    ],
    ids=["dct", "wavelet", "truncate", "cifar10", "haar"],
)
def test_transforms_after_inference_mode(make):
    x = images()
    with torch.inference_mode():
        made = make(x)
    y = x.clone().requires_grad_()
    out = make(y)
    out.abs().square().sum().backward()
    assert torch.equal(out.detach(), made) and y.grad.isfinite().all()


@pytest.mark.parametrize("preconditioning", ["none", "edm", "spectral", "views"])
def test_a_denoiser_made_in_inference_mode_trains(preconditioning):
    x = images().double()
    with torch.inference_mode():
        p = (
            Process("cosine")
            if preconditioning != "none"
            else Process("cosine", "power_law", "fourier", size=(8, 8))
        )
        network = {"name": "conv", "channels": 2, **({"views": 2} if preconditioning == "views" else {})}
        field = GaussianField.fit(images().double(), color(BASES["dct"], torch.eye(2, dtype=torch.float64)))
    d = wrap(
        build_model(network).double(), p, "eps", preconditioning, None if preconditioning == "none" else field
    )
    for leaf in (d.network.parameters(),):
        assert not any(v.is_inference() for v in leaf)
    noisy = x.clone().requires_grad_()
    d(noisy, TIMES).square().sum().backward()
    assert noisy.grad.isfinite().all()


def test_the_decorator():
    made = []

    @shared_table(maxsize=2)
    def table(n):
        made.append(n)
        return torch.arange(float(n))

    assert table(3) is table(3) and made == [3]
    with torch.inference_mode():
        assert not table(4).is_inference()
    torch.func.grad(lambda x: (x * table(5)).sum())(torch.ones(5))
    assert table(5) is table(5) and made == [3, 4, 5, 5]
    assert table.cache_info().currsize == 2
