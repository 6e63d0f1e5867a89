"""The residual U-Net and its domains against independent readings: PyWavelets, scipy, torch's own attention,
finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dctn
from torch import nn

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.models.cost import cost
from spectral_diffusion.models.domains import DOMAINS, InDomain, to_blocks
from spectral_diffusion.models.residual import ResidualBlock, SelfAttention, residual_unet
from spectral_diffusion.models.zoo import build_model


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Same(nn.Module):
    def forward(self, x, t):
        return x


@pytest.mark.parametrize("side", [1, 2, 4])
def test_coefficients_are_those_of_scipy(side):
    x = draw(2, 3, 8, 12)
    y = to_blocks(x, side)
    for i in range(8 // side):
        for j in range(12 // side):
            block = x[..., side * i : side * (i + 1), side * j : side * (j + 1)].numpy()
            expected = np.moveaxis(dctn(block, axes=(-2, -1), norm="ortho").reshape(2, 3, -1), 1, 2).reshape(
                2, -1
            )
            assert np.abs(y[:, :, i, j].numpy() - expected).max() < 1e-13


def test_haar_is_that_of_pywavelets():
    pywt = pytest.importorskip("pywt")
    x = draw(2, 3, 8, 12)
    coarse, (horizontal, vertical, diagonal) = pywt.dwt2(
        x.numpy(), "haar", mode="periodization", axes=(-2, -1)
    )
    parts = to_blocks(x, 2).chunk(4, dim=1)
    for ours, theirs in zip(parts, (coarse, vertical, horizontal, diagonal), strict=True):
        assert np.abs(ours.numpy() - theirs).max() < 1e-13


def test_patches_are_those_of_pixel_unshuffle():
    x = draw(2, 3, 8, 12)
    parts = nn.functional.pixel_unshuffle(x, 2).unflatten(1, (3, 4)).transpose(1, 2).flatten(1, 2)
    assert torch.equal(to_blocks(x, 2, cosine=False), parts)
    mix = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=x.dtype) / 2
    haar = torch.einsum("kp,bpchw->bkchw", mix, parts.unflatten(1, (4, 3))).flatten(1, 2)
    assert (to_blocks(x, 2) - haar).abs().max() < 1e-14


@given(
    h=st.integers(1, 20),
    w=st.integers(1, 20),
    domain=st.sampled_from(list(DOMAINS)),
    channels=st.integers(1, 3),
)
def test_identity_in_every_domain(h, w, domain, channels):
    x = draw(2, channels, h, w, seed=h)
    y = InDomain(Same(), channels, domain=domain)(x, torch.zeros(2))
    assert (y - x).abs().max() < 1e-14 and y.is_contiguous()


@given(
    h=st.integers(1, 20),
    w=st.integers(1, 20),
    depth=st.integers(1, 3),
    domain=st.sampled_from(list(DOMAINS)),
    views=st.integers(1, 2),
)
def test_any_size_and_number_of_views(h, w, depth, domain, views):
    net = residual_unet(2, domain=domain, base=4, depth=depth, views=views, zero_output=False).double()
    y = net(draw(2, 2 * views, h, w, seed=w), torch.tensor([0.1, 0.9], dtype=torch.float64))
    assert y.shape == (2, 2, h, w) and y.dtype == torch.float64 and y.is_contiguous() and y.isfinite().all()


def test_whole_blocks_keep_the_energy_and_borders_repeat():
    x = draw(1, 1, 5, 6)
    assert (
        to_blocks(x, 4)[..., 1, 1] - to_blocks(x[..., [4, 4, 4, 4], :][..., [4, 5, 5, 5]], 4)[..., 0, 0]
    ).abs().max() < 1e-14
    whole = draw(2, 3, 8, 12)
    for side in (2, 4):
        assert abs(to_blocks(whole, side).square().sum() / whole.square().sum() - 1) < 1e-13


def test_filters_are_not_part_of_a_checkpoint_and_follow_the_dtype():
    net = residual_unet(domain="dct4", base=4, depth=1, zero_output=False)
    assert all("filter" not in name for name in net.state_dict()) and not list(net.buffers())
    single, x = net(draw(1, 3, 8, 8).float(), torch.zeros(1)), draw(1, 3, 8, 8)
    double = net.double()(x, torch.zeros(1, dtype=torch.float64))
    assert 0 < (single - double).abs().max() < 1e-5  # rounding of single precision, not of the filters alone


def test_attention_is_that_of_torch():
    layer = SelfAttention(64).double()
    nn.init.normal_(layer.norm.weight, generator=torch.Generator().manual_seed(0))
    theirs = nn.MultiheadAttention(64, layer.heads, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(layer.ask.weight[:, :, 0, 0])
        theirs.in_proj_bias.copy_(layer.ask.bias)
        theirs.out_proj.weight.copy_(layer.answer.weight[:, :, 0, 0])
        theirs.out_proj.bias.copy_(layer.answer.bias)
    x = draw(2, 64, 5, 3)
    tokens = layer.norm(x).flatten(2).mT
    expected = x + theirs(tokens, tokens, tokens, need_weights=False)[0].mT.reshape(x.shape)
    assert (layer(x) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("domain", list(DOMAINS))
def test_gradient_by_finite_differences(domain):
    net = residual_unet(1, domain=domain, base=2, depth=2, attention=32, zero_output=False).double()
    x = draw(1, 1, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: net(x, torch.tensor([0.3], dtype=torch.float64)), (x,))


def test_gradient_of_a_block_by_finite_differences():
    block = ResidualBlock(4, 8, 3).double()
    assert torch.autograd.gradcheck(block, (draw(2, 4, 3, 4).requires_grad_(), draw(2, 3).requires_grad_()))


@pytest.mark.parametrize("name", ["unet", "unet_patch", "unet_haar", "unet_dct"])
def test_memory_layout_does_not_change_the_function(name):
    net = build_model({"name": name, "base": 8, "zero_output": False}).double()
    x, t = draw(3, 3, 10, 9), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    y = net(x, t)
    assert (net(x.to(memory_format=torch.channels_last), t) - y).abs().max() < 1e-12
    assert (net.to(memory_format=torch.contiguous_format)(x, t) - y).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["unet", "unet_patch", "unet_haar", "unet_dct"])
def test_half_precision_stays_near_single(name):
    net = build_model({"name": name, "base": 8, "zero_output": False})
    x, t = draw(2, 3, 16, 16).float(), torch.tensor([0.2, 0.8])
    exact = net(x, t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(x, t)
    assert y.isfinite().all() and (y.float() - exact).norm() < 0.05 * exact.norm()
    half = net.to(torch.bfloat16)(x.to(torch.bfloat16), t.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16 and half.isfinite().all()


def test_default_sizes_and_work():
    """Work by formula: 3x3 and 1x1 convolutions at 32x32. torch does not count the products of its fused
    attention."""

    def level(c, w, side):
        return side * side * (9 * c * w + 3 * 9 * w * w + (c * w if c != w else 0))

    def attention(w, side):
        return side * side * 4 * w * w

    def whole(channels, widths, sides, looks):
        total = 2 * 9 * channels * widths[0] * sides[0] ** 2
        for i, (w, side) in enumerate(zip(widths, sides, strict=True)):
            last = i == len(widths) - 1
            total += level(w, w, side) + looks[i] * attention(w, side) * (1 if last else 2)
            if not last:
                total += level(2 * w, w, side) + (9 * 2 * w * w + 2 * w * w) * sides[i + 1] ** 2
        return total

    expected = {
        "unet": whole(3, [16, 32, 64], [32, 16, 8], [0, 0, 1]),
        "unet_haar": whole(12, [48, 96], [16, 8], [0, 1]),
        "unet_dct": whole(48, [88, 176], [8, 4], [1, 1]),
    }
    for name, n in expected.items():
        net = build_model(name)
        linear = sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Linear))
        transforms = 2 * (3 * net.side**2) ** 2 * (32 // net.side) ** 2 if net.side > 1 else 0
        assert cost(net, 32).multiply_adds == n + linear + transforms


@pytest.mark.parametrize(
    "options",
    [
        {"base": 1},
        {"depth": 0},
        {"attention": -1},
        {"views": 0},
        {"channels": 0},
        {"base": 8.0},
        {"domain": "haar"},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(InputError):
        build_model({"name": "unet", **options})
