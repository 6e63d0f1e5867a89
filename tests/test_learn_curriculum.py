"learn.curriculum against scipy.fft, PyWavelets and loops."

import math

import numpy as np
import pytest
import pywt
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.learn import curriculum
from spectral_diffusion.learn.curriculum import (
    InterScaleSimilarity,
    SpectralTruncation,
    bands,
    frequency_mask,
    truncate,
)

SIDE = st.integers(1, 40)


def images(h, w, dtype=torch.float64, n=2):
    return torch.randn(
        n, 3, h, w, generator=torch.Generator().manual_seed(h + 1000 * w), dtype=torch.float64
    ).to(dtype)


def gain(h, w, tau, mask):
    "The two masks, independently in numpy."
    rho = np.sqrt((np.arange(h)[:, None] / h) ** 2 + (np.arange(w) / w) ** 2)
    return (
        np.maximum(0, 1 - rho / tau)
        if mask == "cone"
        else np.interp(rho, [math.sqrt(2) * tau, math.sqrt(2) * tau * 1.25], [1, 0])
    )


def filtered(x, tau, mask):
    X = scipy.fft.dctn(x.double().numpy(), axes=(-2, -1), norm="ortho")
    return scipy.fft.idctn(X * gain(*x.shape[-2:], tau, mask), axes=(-2, -1), norm="ortho")


@pytest.fixture(params=["thin", "fast"])
def way(request, monkeypatch):
    monkeypatch.setattr(curriculum, "LARGE", 1)
    monkeypatch.setattr(curriculum, "MANY", math.inf if request.param == "thin" else 0)
    return request.param


@pytest.mark.parametrize("dtype, eps", [(torch.float64, 1e-12), (torch.float32, 5e-6)])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 1), (1, 6), (33, 64), (131, 128), (200, 37)])
@pytest.mark.parametrize("mask", ["cone", "flat"])
def test_agrees_with_scipy_both_ways(way, size, mask, dtype, eps):
    x = images(*size, dtype)
    for tau in (0.02, 0.0975, 0.525, 0.9905, 1.0, 1.6):
        got = truncate(x, tau, mask=mask)
        assert got.dtype == dtype and np.abs(got.double().numpy() - filtered(x, tau, mask)).max() < eps


@given(SIDE, SIDE, st.floats(1e-3, 3.0), st.sampled_from(["cone", "flat"]))
def test_agrees_with_scipy_on_any_size_and_tau(h, w, tau, mask):
    x = images(h, w, n=1)
    assert np.abs(frequency_mask(h, w, tau, mask).numpy() - gain(h, w, tau, mask)).max() < 1e-9
    assert np.abs(truncate(x, tau, mask=mask).numpy() - filtered(x, tau, mask)).max() < 1e-9


@pytest.mark.parametrize("size", [(256, 256), (512, 512), (255, 140)])
def test_large_pictures_choose_a_way_and_stay_exact(size):
    x = images(*size, torch.float32, n=1)
    for tau in (0.05, 0.3, 0.7):
        assert np.abs(truncate(x, tau).double().numpy() - filtered(x, tau, "cone")).max() < 2e-6
    assert (truncate(x, 1.0, mask="flat") - x).abs().max() < 5e-6
    assert not curriculum._fast(x, 10, 10) and curriculum._fast(x, *size)
    assert not curriculum._fast(x[..., :64, :64], 64, 64)


@pytest.mark.parametrize("size", [(5, 6), (6, 5), (7, 7)])
@pytest.mark.parametrize("mask", ["cone", "flat"])
def test_gradcheck(way, size, mask):
    x = images(*size, n=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: truncate(z, 0.4, mask=mask), x)
    assert torch.autograd.gradgradcheck(lambda z: truncate(z, 0.4, mask=mask).pow(3), x)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_half_precision_is_single_rounded_once(way, dtype):
    x = images(20, 31, dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = truncate(x, 0.9)
    assert (
        got.dtype == dtype and got.isfinite().all() and torch.equal(got, truncate(x.float(), 0.9).to(dtype))
    )


def test_views_and_any_number_of_leading_axes():
    x = images(12, 10)
    for z in (x[0, 0], x[0], x, x[None], x.mT, x[..., ::2], x.flip(-1), x[:0]):
        got, want = truncate(z, 0.5), truncate(z.contiguous(), 0.5)
        assert got.shape == z.shape and torch.allclose(
            got, want, rtol=0, atol=1e-13
        )  # products of matrices may add in another order


@given(
    st.floats(0.01, 1.0),
    st.floats(0.01, 1.0),
    st.floats(0.5, 200.0),
    st.floats(-1e3, 1e3),
    st.sampled_from(["linear", "constant", "exponential", "stepwise"]),
    st.sampled_from(["epoch", "step"]),
)
def test_tau_stays_between_its_ends(a, b, epochs, epoch, schedule, update):
    a, b = min(a, b), max(a, b)
    c = SpectralTruncation(
        tau_init=a, tau_final=b, truncation_epochs=epochs, schedule=schedule, update=update
    )
    assert a * (1 - 1e-12) <= c.tau(epoch) <= b * (1 + 1e-12) and c.tau(min(epoch, 0)) == a
    assert c.tau(epoch) <= c.tau(epoch + 1) * (1 + 1e-12)
    x = torch.ones(3, 3)
    assert (c(x, epoch) is x) == (epoch >= epochs)
    if epoch >= epochs:
        assert c.tau(epoch) == b and c.log(epoch) == {"spectral/tau": b, "spectral/phase": 2}


def test_the_flat_mask_is_continuous_in_tau_and_ends_at_the_picture():
    x = images(16, 17)
    path = torch.stack([truncate(x, t, mask="flat") for t in torch.linspace(0.05, 1, 400).tolist()])
    assert (path.diff(dim=0).abs().amax() < 0.3) and (path[-1] - x).abs().max() < 1e-13


def pyramid(channels, h, w, dtype=torch.float64, seed=0):
    out = []
    for i, c in enumerate(channels):
        out.append(
            torch.randn(
                2, c, h, w, generator=torch.Generator().manual_seed(seed + i), dtype=torch.float64
            ).to(dtype)
        )
        h, w = (h + 1) // 2, (w + 1) // 2
    return out


@pytest.mark.parametrize("size", [(6, 8), (5, 8), (7, 3), (1, 4)])
def test_bands_are_pywavelets(size):
    z = pyramid([3], *size)[0]
    got, edge = bands(z), np.pad(z.numpy(), ((0, 0), (0, 0), (0, size[0] % 2), (0, size[1] % 2)), mode="edge")
    low, (across, down, diagonal) = pywt.dwt2(edge, "haar", axes=(-2, -1))
    want = np.concatenate([low, down, across, diagonal], 1)  # pywt: details along rows first
    assert np.abs(np.abs(got.numpy()) - np.abs(want)).max() < 1e-12


@pytest.mark.parametrize("bound, top", [("none", None), ("hinge", 1.0), ("relative", 2.0)])
@pytest.mark.parametrize("size", [(8, 8), (9, 6)])
def test_inter_scale_against_numpy(size, bound, top):
    channels = [2, 5, 3]
    features = pyramid(channels, *size)
    term = InterScaleSimilarity(channels, weight=(0.3, 0.7), sign="together", bound=bound).double()
    want = 0.0
    for weight, align, fine, coarse in zip(term.weights, term.align, features, features[1:]):
        p = np.einsum("oc,nchw->nohw", align.weight.detach().numpy()[:, :, 0, 0], bands(fine).numpy())
        c = coarse.numpy()
        mse, total = ((p - c) ** 2).mean((1, 2, 3)), (p**2 + c**2).mean((1, 2, 3))
        want += weight * {"none": mse, "hinge": np.minimum(mse, 1), "relative": mse / total}[bound].mean()
    assert abs(term(features).item() - want) < 1e-12
    apart = InterScaleSimilarity(channels, weight=(0.3, 0.7), bound=bound).double()
    assert apart(features) == -term(features)
    huge = apart([1e3 * features[0], -1e3 * features[1], 1e3 * features[2]])
    assert (huge < -1e4) if top is None else -top - 1e-9 <= huge <= 0


@pytest.mark.parametrize("bound", ["none", "hinge", "relative"])
def test_inter_scale_gradcheck(bound):
    features = [0.3 * f for f in pyramid([2, 3], 4, 5)]
    term = InterScaleSimilarity([2, 3], bound=bound).double()
    assert torch.autograd.gradcheck(
        lambda a, b, W: torch.func.functional_call(term, {"align.0.weight": W}, ([a, b],)),
        [v.detach().requires_grad_() for v in (*features, term.align[0].weight)],
    )


def test_wrong_input_is_refused():
    for call in (
        lambda: truncate(torch.zeros(4), 0.5),
        lambda: truncate(torch.zeros(4, 4), -1.0),
        lambda: truncate(torch.zeros(4, 4), math.nan),
        lambda: SpectralTruncation(tau_init=0.0),
        lambda: SpectralTruncation(truncation_epochs=math.nan),
        lambda: InterScaleSimilarity([2, 2])(pyramid([2, 2], 4, 4)[::-1]),
    ):
        with pytest.raises(InputError):
            call()
