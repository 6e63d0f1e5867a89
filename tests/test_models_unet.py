"Networks against a second, independent reading of their definition, and the speed that the page promises."

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.models.blocks import ConvBlock, TimeEmbedding, time_features
from spectral_diffusion.models.cost import cost
from spectral_diffusion.models.unet import TinyUNet, up
from spectral_diffusion.models.zoo import MODELS, build_model


@given(n=st.integers(1, 12), m=st.integers(1, 12), double=st.booleans(), odd=st.booleans())
def test_up_is_transposed_convolution_then_nearest(n, m, double, odd):
    dtype = torch.float64 if double else torch.float32
    g = torch.Generator().manual_seed(n * 100 + m)
    conv = nn.ConvTranspose2d(3, 2, 2, stride=2).to(dtype)
    x = torch.randn(2, 3, n, m, generator=g, dtype=dtype)
    for size in ((n, m), (2 * n, 2 * m), (2 * n - odd, 2 * m - (not odd))):
        expected = F.interpolate(conv(x), size=size, mode="nearest")
        assert (up(conv, x, size) - expected).abs().max() < (1e-13 if double else 1e-5)


@given(h=st.integers(1, 20), w=st.integers(1, 20), depth=st.integers(1, 3), channels=st.integers(1, 3))
def test_unet_takes_any_size(h, w, depth, channels):
    net = TinyUNet(channels, base=4, depth=depth, zero_output=False).double()
    x = torch.randn(2, channels, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(h))
    y = net(x, torch.tensor([0.1, 0.9], dtype=torch.float64))
    assert y.shape == x.shape and y.dtype == x.dtype and y.is_contiguous() and y.isfinite().all()


def test_unet_gradient_by_finite_differences():
    net = TinyUNet(1, base=2, depth=2, time_dim=4, zero_output=False).double()
    x = torch.randn(
        1, 1, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    assert torch.autograd.gradcheck(lambda x: net(x, torch.tensor([0.3], dtype=torch.float64)), (x,))


def test_memory_layout_does_not_change_the_function():
    net = build_model({"name": "unet_tiny", "base": 8, "zero_output": False}).double()
    x, t = torch.randn(3, 3, 10, 9, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    y = net(x, t)
    assert (net(x.to(memory_format=torch.channels_last), t) - y).abs().max() < 1e-12
    assert (net.to(memory_format=torch.contiguous_format)(x, t) - y).abs().max() < 1e-12


def test_time_features_against_numpy():
    np = pytest.importorskip("numpy")
    t = torch.rand(9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    angle = 1000 * t.numpy()[:, None] * np.geomspace(1.0, 1e-4, 32)
    expected = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    assert np.abs(time_features(t, 64).numpy() - expected).max() < 1e-10


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_keeps_the_contract(name):
    state = torch.get_rng_state()
    net, other = (build_model({"name": name, "zero_output": zero}, seed=7) for zero in (True, False))
    assert torch.equal(torch.get_rng_state(), state)
    for h, w in ((16, 16), (20, 24) if name == "unet_spectral_deep_published" else (15, 18)):
        x, t = torch.randn(2, 3, h, w), torch.rand(2)
        assert net(x, t).abs().max() == 0 and net(x, t).shape == x.shape
        assert other(x, t).abs().max() > 0
        assert other.double()(x.double(), t.double()).dtype == torch.float64
        other.float()
    c = cost(net, 16)
    assert (
        c.parameters == sum(p.numel() for p in net.parameters())
        and c.training_multiply_adds > 2 * c.multiply_adds > 0
    )


def test_same_seed_under_another_default_device_and_state():
    torch.manual_seed(5)
    one = build_model("unet_tiny", seed=2).state_dict()
    torch.manual_seed(6)
    with torch.device("meta"):
        two = build_model("unet_tiny", seed=2).state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_parts_of_the_network_are_the_blocks_of_the_page():
    net = TinyUNet()
    assert isinstance(net.time, TimeEmbedding) and all(
        isinstance(b, ConvBlock) for b in (*net.encoder, net.middle, *net.decoder)
    )


@pytest.mark.parametrize(
    "config",
    [
        "unett",
        {"name": "conv", "base": 3},
        {"width": 4},
        {"name": "conv", "width": 0},
        {"name": "conv", "width": "8"},
        {"name": "unet_tiny", "time_dim": 7},
    ],
)
def test_bad_configurations_are_refused(config):
    with pytest.raises(InputError):
        build_model(config)
