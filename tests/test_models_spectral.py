"""Spectral models against native complex arithmetic, torch's own FFT and the published definitions; on random
sizes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.models.activations import complex_silu
from spectral_diffusion.models.complex import ComplexConv2d, ComplexConvTranspose2d, stack, unstack
from spectral_diffusion.models.cost import cost
from spectral_diffusion.models.mixers import KINDS, LowModes, Mixer, WindowConv
from spectral_diffusion.models.published import PublishedSpectralUNet, PublishedSpectralUNetDeep
from spectral_diffusion.models.spectral import SpectralUNet, resize
from spectral_diffusion.models.zoo import MODELS, build_model


def seeded(make, seed=0):
    "A module with its weights from a seed, in double precision."
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().double()


@given(
    c=st.integers(1, 4),
    o=st.integers(1, 4),
    h=st.integers(3, 9),
    w=st.integers(3, 9),
    stride=st.integers(1, 2),
    form=st.sampled_from(["block", "gauss", "textbook"]),
    seed=st.integers(0, 999),
)
def test_complex_convolution_is_native(c, o, h, w, stride, form, seed):
    layer = seeded(lambda: ComplexConv2d(c, o, stride=stride, form=form, init="default"), seed)
    z = torch.randn(2, c, h, w, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))
    weight = torch.complex(layer.re.weight, layer.im.weight)
    expect = F.conv2d(z, weight, None, stride, 1) + torch.complex(*layer.bias().chunk(2))[:, None, None]
    assert (unstack(layer(stack(z))) - expect).abs().max() < 1e-12


@given(
    c=st.integers(1, 4),
    o=st.integers(1, 4),
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    form=st.sampled_from(["block", "gauss", "textbook"]),
    seed=st.integers(0, 999),
)
def test_complex_transposed_convolution_is_native(c, o, h, w, form, seed):
    layer = seeded(lambda: ComplexConvTranspose2d(c, o, form=form, init="default"), seed)
    z = torch.randn(2, c, h, w, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))
    expect = (
        F.conv_transpose2d(z, torch.complex(layer.re.weight, layer.im.weight), None, 2)
        + torch.complex(*layer.bias().chunk(2))[:, None, None]
    )
    assert (unstack(layer(stack(z))) - expect).abs().max() < 1e-12


def test_complex_silu_has_the_right_gradient():
    x = torch.randn(
        2, 4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    assert torch.autograd.gradcheck(complex_silu, x)


def published_by_hand(net, x, t):
    "The published SpectralUNet with torch's complex numbers, angle and cosine, and two batch norms."

    def conv(layer, z):
        w = torch.complex(layer.re.weight, layer.im.weight)
        return F.conv2d(z, w, None, 1, 1) + torch.complex(*layer.bias().chunk(2))[:, None, None]

    def norm(bn, z):
        half = bn.weight.numel() // 2
        parts = [
            F.batch_norm(v, None, None, bn.weight[s], bn.bias[s], True)
            for v, s in ((z.real, slice(0, half)), (z.imag, slice(half, None)))
        ]
        return torch.complex(*parts)

    def silu(z):
        r, a = z.abs(), z.angle()
        return torch.complex(F.silu(r) * a.cos(), F.silu(r) * a.sin())

    def layer(part, z):
        z = norm(part.norm, conv(part.conv, z))
        return z if part.activation is None else silu(z)

    e = net.time(t)[:, :, None, None]
    z = torch.fft.fft2(x, norm="ortho")
    if net.amplitude is not None:
        z = torch.complex(z.real + net.amplitude.second(F.relu(net.amplitude.first(z.abs()))), z.imag)
    z = layer(net.stem, z) + e
    for block in net.blocks:
        z = z + layer(block.second, layer(block.first, z)) + e
    return torch.fft.ifft2(conv(net.head, z), norm="ortho").real


@pytest.mark.parametrize("amplitude", [False, True])
@pytest.mark.parametrize("form", ["block", "gauss"])
def test_published_network_is_its_definition(form, amplitude):
    net = seeded(lambda: PublishedSpectralUNet(base=5, form=form, amplitude=amplitude))
    g = torch.Generator().manual_seed(1)
    x, t = (
        torch.randn(3, 3, 7, 8, dtype=torch.float64, generator=g),
        torch.rand(3, dtype=torch.float64, generator=g),
    )
    assert (net(x, t) - published_by_hand(net, x, t)).abs().max() < 1e-10


def test_published_parameter_counts():
    def count(model):
        return sum(p.numel() for p in model.parameters())

    assert count(build_model({"name": "unet_spectral_published", "base": 32})) == 83_334
    assert count(build_model({"name": "unet_spectral_deep_published", "base": 32, "depth": 3})) == 2_042_054
    assert count(PublishedSpectralUNetDeep(base=16, depth=2)) == 123_046


@given(h=st.integers(5, 12), w=st.integers(5, 12), c=st.integers(1, 4), seed=st.integers(0, 999))
def test_low_modes_is_a_circular_convolution_of_real_images(h, w, c, seed):
    layer = seeded(lambda: LowModes(c, 3), seed)
    x = torch.randn(2, c, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    X, Y = torch.fft.fft2(x), torch.zeros(2, c, h, w, dtype=torch.complex128)
    weight = torch.complex(*layer.weight).reshape(5, 3, c, c).detach()
    for a, row in enumerate(range(-2, 3)):
        for q in range(3):
            Y[:, :, row, q] += torch.einsum("bi,io->bo", X[:, :, row, q], weight[a, q]) * (2 if q else 1)
    assert (torch.fft.ifft2(Y).real - layer(x)).abs().max() < 1e-10


@given(
    h=st.integers(3, 9),
    w=st.integers(3, 9),
    c=st.integers(1, 3),
    o=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_windows_are_a_hermitian_convolution_over_frequency(h, w, c, o, seed):
    "Against a loop over offsets of the full spectrum on a torus."
    layer = seeded(lambda: WindowConv(c, o), seed)
    x = torch.randn(2, c, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    X, W = torch.fft.fft2(x), layer.weight.detach()
    Y = torch.einsum("oi,bihw->bohw", W[..., 0].to(X.dtype), X)
    for n, (p, q) in enumerate(((0, 1), (1, -1), (1, 0), (1, 1))):
        value = torch.complex(W[..., 1 + n], W[..., 5 + n])
        Y = (
            Y
            + torch.einsum("oi,bihw->bohw", value, X.roll((-p, -q), (-2, -1)))
            + torch.einsum("oi,bihw->bohw", value.conj(), X.roll((p, q), (-2, -1)))
        )
    y = torch.fft.ifft2(Y)
    assert y.imag.abs().max() < 1e-10 and (y.real - layer(x)).abs().max() < 1e-10


@given(
    h=st.integers(3, 16),
    w=st.integers(3, 16),
    p=st.integers(3, 16),
    q=st.integers(3, 16),
    seed=st.integers(0, 999),
)
def test_resize_keeps_trigonometric_polynomials(h, w, p, q, seed):
    g = torch.Generator().manual_seed(seed)
    low_r, low_c = (min(h, p) - 1) // 2, (min(w, q) - 1) // 2
    a, b = (
        int(torch.randint(-low_r, low_r + 1, (), generator=g)),
        int(torch.randint(0, low_c + 1, (), generator=g)),
    )
    phase = 6.28 * torch.rand((), generator=g, dtype=torch.float64)

    def wave(h, w):
        return torch.cos(
            2
            * torch.pi
            * (
                a * torch.arange(h, dtype=torch.float64)[:, None] / h
                + b * torch.arange(w, dtype=torch.float64) / w
            )
            + phase
        )[None, None]

    assert (resize(wave(h, w), (p, q)) - wave(p, q)).abs().max() < 1e-10


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("size", [(16, 16), (24, 20)])
def test_every_model_runs_and_starts_at_zero(name, size):
    model = build_model({"name": name, "zero_output": True})
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    y = model(x, torch.tensor([0.1, 0.9]))
    assert y.shape == x.shape and y.dtype == x.dtype and y.abs().max() == 0
    y.sum().backward()
    assert cost(model, 16).parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "filter"])
def test_autocast_keeps_transforms_in_full_precision(kind):
    "Under bfloat16 autocast the answer differs from float32 by rounding of the products only."
    model = seeded(lambda: Mixer(2, kinds=(kind,) * 2, width=8, modes=2, bands=4, zero_output=False)).float()
    x, t = (
        torch.randn(2, 2, 12, 12, generator=torch.Generator().manual_seed(0)),
        torch.rand(2, generator=torch.Generator().manual_seed(1)),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x, t).float()
    assert torch.isfinite(y).all() and (y - model(x, t)).abs().max() < 0.1 * model(x, t).abs().max()


def test_bad_input():
    with pytest.raises(InputError, match="next valid size"):
        PublishedSpectralUNetDeep(base=2, depth=3)(torch.zeros(1, 3, 30, 32), torch.zeros(1))
    with pytest.raises(InputError, match="sides of at least"):
        SpectralUNet(1)(torch.zeros(1, 1, 6, 8), torch.zeros(1))
    with pytest.raises(InputError, match="frequency encoder"):
        build_model({"name": "hybrid", "encoder": 9})
    with pytest.raises(InputError, match="did you mean 'modes'"):
        build_model({"name": "mixer", "kind": "mode"})
    assert isinstance(build_model({"name": "hybrid", "encoder": 2}).layers, nn.ModuleList)


@pytest.mark.parametrize(
    "config",
    [
        "unet_tiny",
        "conv",
        "unet_spectral",
        "mixer",
        "hybrid",
        {"name": "adapted", "network": "conv"},
        "unet_spectral_published",
    ],
    ids=str,
)
def test_wrong_channels_are_one_clear_error(config):
    with pytest.raises(InputError, match="channels"):
        build_model(config)(torch.zeros(1, 4, 16, 16), torch.zeros(1))


@pytest.mark.parametrize(
    "config",
    [
        "unet_tiny",
        "conv",
        "unet_spectral",
        "unet_spectral_published",
        *(
            {"name": "mixer", "kind": k, "size": 16}
            for k in ("modes", "filter", "bands", "attention", "window", "gated")
        ),
    ],
    ids=str,
)
def test_autocast_stays_near_single_precision(config):
    net = build_model(
        {**(config if isinstance(config, dict) else {"name": config}), "zero_output": False}
    ).eval()
    x, t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2, 0.8])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(x, t)
    y.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    exact = net(x, t)
    assert (y.float() - exact).norm() < 0.05 * exact.norm()  # half precision keeps about eight bits
