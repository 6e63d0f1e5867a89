"""Every process, sampler and network answers in the dtype that it was given, in all four; and what is done in
double has the digits of double."""

import numpy as np
import pytest
import torch

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.core.runtime import stream
from spectral_diffusion.models.mixers import KINDS
from spectral_diffusion.models.zoo import ADAPTERS, MODELS, build_model
from spectral_diffusion.noise.denoiser import wrap
from spectral_diffusion.noise.preconditioning import PRECONDITIONINGS
from spectral_diffusion.noise.process import Process
from spectral_diffusion.noise.schedules import SCHEDULES
from spectral_diffusion.noise.shapes import SHAPES
from spectral_diffusion.noise.targets import TARGETS
from spectral_diffusion.noise.theory import GaussianField
from spectral_diffusion.sampling.engine import sample, trajectory
from spectral_diffusion.sampling.masf import band_weights
from spectral_diffusion.sampling.samplers import SAMPLERS, time_grid
from spectral_diffusion.signals.bases import BASES, color

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SPACES = {
    **BASES,
    "dct+color": color(
        BASES["dct"],
        torch.linalg.qr(torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[
            0
        ],
    ),
}
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
        "sample_norm": True,
        "circular": True,
    }
]


CONFIGS += [
    {"name": "unet_spectral", "embedding": 3},
    {"name": "mixer", "embedding": 3, "modes": 2},
    {"name": "unet_spectral_published", "embedding": 3, "form": "dual"},
    {"name": "unet_spectral_deep_published", "embedding": 3, "form": "dual"},
    {"name": "adapted", "where": "all", "network": "unet_spectral", "edges": [0.05, 0.3]},
]


def images(dtype, size=(8, 8), n=2, channels=2):
    return torch.randn(n, channels, *size, generator=stream(0, "dtypes")).to(dtype)


def process_of(shape, basis, size, schedule="cosine"):
    "A process with that shape; equal SNR follows a power."
    options = (
        {"power": torch.rand(*basis.shape(*size), dtype=torch.float64, generator=stream(0, "power")) + 0.1}
        if shape == "equal_snr"
        else None
    )
    return Process(schedule, shape, basis, size=size, options=options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("basis", sorted(SPACES))
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_process(shape, basis, dtype):
    for size in ((8, 8), (7, 9)):
        if shape != "white" and basis == "pixel":
            continue
        x, basis_ = images(dtype, size), SPACES[basis]
        p = process_of(shape, basis_, size)
        t = torch.tensor([0.05, 1.0])
        xt = p.diffuse(x, t, p.noise(x, stream(0, "noise")))
        assert xt.dtype == dtype and bool(xt.isfinite().all())
        blurred = Process("flow", "white", "dct", size=size, blur=2.0).diffuse(x, t, x)
        assert blurred.dtype == dtype
        wide = p.diffuse(x.double(), t, p.noise(x, stream(0, "noise")).double())
        assert (xt.double() - wide).abs().max() < 8 * torch.finfo(dtype).eps * max(
            1.0, wide.abs().max().item()
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("preconditioning", PRECONDITIONINGS)
def test_denoisers(preconditioning, target, dtype):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(4 if preconditioning == "views" else 2, 2, 1)

        def forward(self, x, t):
            return self.layer(x)

    p, x = Process("cosine"), images(dtype)
    d = wrap(
        Net().to(dtype),
        p,
        target,
        preconditioning,
        images(torch.float32, n=9) if preconditioning != "none" else None,
    )
    assert (
        d(x, torch.tensor([0.5, 1.0])).dtype == dtype
        and d.predict(x, torch.tensor([0.3, 1.0]), "v").dtype == dtype
    )
    assert bool(d(x, torch.tensor([0.5, 1.0])).isfinite().all())
    exact = GaussianField(torch.rand(8, 5, dtype=torch.float64).fill_(0.3), (8, 8), mean=torch.ones(2, 8, 8))
    assert exact.denoiser(p)(x, torch.tensor([0.5, 1.0])).dtype == exact.flow(p, x, 0.9, 0.1).dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("basis", ["pixel", "fourier", "dct", "haar"])
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_samplers(sampler, basis, dtype):
    """With white and coloured noise, an exact denoiser and a network; the states are finite and near those in
    double."""
    size = (7, 9)
    p = Process("cosine") if basis == "pixel" else process_of("power_law", SPACES[basis], size)
    power = torch.full(p.basis.shape(*size), 0.25, dtype=torch.float64)
    field = GaussianField(power, size, basis=p.basis)

    def run(dtype):
        return list(
            trajectory(
                field.denoiser(p),
                p,
                (2, 1, *size),
                sampler,
                5,
                stream(0, "states"),
                time_grid(5, start=0.98),
                like=torch.zeros(1, dtype=dtype),
            )
        )

    steps, exact = run(dtype), run(torch.float64)
    for step, wanted in zip(steps, exact, strict=True):
        assert step.x.dtype == step.x0_hat.dtype == dtype and bool(step.x.isfinite().all())
        assert (step.x.double() - wanted.x).abs().max() < 300 * torch.finfo(dtype).eps
    network = wrap(build_model({"name": "conv", "channels": 1}).to(dtype), p, "x0")
    options = {"start": images(dtype, size, channels=1)}
    if sampler != "analytic":
        assert sample(network, p, (2, 1, *size), sampler, 3, stream(0, "x"), **options).dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_networks(config, dtype):
    "Forward and backward, times in the same dtype and in single."
    model, x = build_model({**config, "channels": 2}).to(dtype), images(dtype, (8, 8))
    for t in (torch.tensor([0.2, 0.9]), torch.tensor([0.2, 0.9]).to(dtype)):
        if t.dtype.itemsize > dtype.itemsize and dtype.itemsize > 4:
            continue
        y = model(x, t)
        assert y.dtype == dtype and y.shape == x.shape and bool(y.isfinite().all())
    y.float().square().sum().backward()
    assert all(p.grad is None or p.grad.dtype == dtype for p in model.parameters())


@pytest.mark.parametrize(
    "sampler", ["ddim", "dpm_solver++", "heun", "dpm_solver2", "ddpm", "ancestral", "masf"]
)
@pytest.mark.parametrize("schedule", sorted(set(SCHEDULES) - {"flow", "still"}))
@pytest.mark.parametrize("target", ["eps", "v", "flow", "x0"])
def test_float16_stays_finite(target, schedule, sampler):
    "A poor network at the noisy end, where the estimate is divided by the smallest signal."

    class Net(torch.nn.Module):
        def forward(self, x, t):
            return 0.1 * x

    d = wrap(Net(), Process(schedule), target)
    x = sample(
        d,
        d.process,
        (2, 1, 8, 8),
        sampler,
        10,
        start=images(torch.float16, channels=1),
        generator=stream(0, "a"),
    )
    assert x.dtype == torch.float16 and bool(x.isfinite().all())


def test_what_is_not_finite_is_refused():
    class Net(torch.nn.Module):
        def forward(self, x, t):
            return x / 0

    d = wrap(Net(), Process("cosine"), "eps")
    for dtype in DTYPES[:2]:
        with pytest.raises(InputError, match="not finite in"):
            sample(
                d,
                d.process,
                (1, 1, 4, 4),
                steps=3,
                generator=stream(0, "a"),
                like=torch.zeros(1, dtype=dtype),
            )


def test_no_number_of_single_precision_in_double():
    """Weights and masks with a decimal fraction, and the power of coloured noise, to the last digits of
    double."""
    weights = band_weights((8, 8), 0.1, 0.3)
    assert set(weights.flatten().tolist()) == {0.1, 0.3}
    p = Process(
        "cosine",
        "band_masked",
        "dct",
        size=(8, 8),
        options={"low": 0.1, "high": 0.3, "inside": 0.1, "outside": 0.7},
    )
    inside = (p.frequency >= 0.1) & (p.frequency < 0.3)
    assert (p.factor[inside].max() / p.factor[~inside].max()).item() == pytest.approx(1 / 7, rel=1e-15)


@pytest.mark.parametrize("shape", sorted(set(SHAPES) - {"white"}))
def test_factors_against_long_double(shape):
    "Each noise shape, written out in numpy's longest precision."
    if np.finfo(np.longdouble).eps > 1e-18:
        pytest.skip("no longer precision than double here")
    size, basis = (7, 6), BASES["dct"]
    L = np.longdouble
    u, v = np.arange(7, dtype=L) / 14, np.arange(6, dtype=L) / 12
    k = np.hypot(u[:, None], v[None])
    power = torch.rand(7, 6, dtype=torch.float64, generator=stream(0, "power")) + 0.1
    least = k[k > 0].min()
    factor = {
        "power_law": lambda: np.maximum(k, least) ** -L(0.5),
        "equal_snr": lambda: np.sqrt(power.numpy().astype(L)),
        "offset": lambda: np.where(k == 0, np.sqrt(1 + L("0.1") ** 2 * 42), L(1)),
        "band_masked": lambda: np.where((k >= 0.125) & (k < 0.25), L(0), L(1)),
        "uniform_corruption": lambda: np.sqrt((k / least) ** 2 + 1),
    }[shape]()
    if shape != "offset":
        factor = factor / np.sqrt((factor**2).mean())
    options = {"power": power} if shape == "equal_snr" else None
    got = Process("cosine", shape, basis, size=size, options=options).factor
    assert np.abs(got.numpy().astype(L) - factor).max() < 1e-14


@pytest.mark.parametrize("sampler", ["ddim", "ancestral", "dpm_solver++", "masf"])
def test_one_run_in_double_against_long_double(sampler):
    """One coefficient under a sampler, in numpy's longest precision: a constant of single precision would
    show at the eighth digit."""
    from spectral_diffusion.sampling.transfer import transfer

    L, lam, n = np.longdouble, np.longdouble(0.7), 12
    field = GaussianField(torch.full((4, 4), 0.7, dtype=torch.float64), (4, 4), basis="haar")
    times = time_grid(n, start=0.95, end=0.05)
    t = times.numpy().astype(L)
    a, s = 1 - t, t  # rectified flow
    W = a * lam / (a * a * lam + s * s)
    x, last, v = np.sqrt(a[0] ** 2 * lam + s[0] ** 2), None, a[0] ** 2 * lam + s[0] ** 2
    for i in range(n):
        r2 = (a[i] * s[i + 1] / (a[i + 1] * s[i])) ** 2
        keep = s[i + 1] / s[i]
        x0 = W[i] * x
        if sampler == "masf" and last is not None:
            x0 = L(0.9) * x0 + L(0.1) * last
        estimate = x0
        if sampler == "dpm_solver++" and last is not None:
            h = [np.log(a[j + 1] / s[j + 1]) - np.log(a[j] / s[j]) for j in (i - 1, i)]
            estimate = x0 + h[1] / (2 * h[0]) * (x0 - last)
        x, last = keep * x + (a[i + 1] - a[i] * keep) * estimate, x0
        g = keep * np.sqrt(r2)
        v = (g + (a[i + 1] - a[i] * g) * W[i]) ** 2 * v + s[i + 1] ** 2 * (1 - r2)
    wanted = v if sampler == "ancestral" else x * x
    got = transfer(sampler, Process("flow"), field, times)
    assert got.flatten().tolist() == pytest.approx([float(wanted)] * 16, rel=1e-12)
