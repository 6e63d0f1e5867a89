"Pixel metrics against scikit-image and against slow loops."

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.measure.pixel import decibels, mae, mse, psnr, ssim, ssim_map


def pair(shape, seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(shape, generator=g, dtype=torch.float64) - 1
    y = (x + 0.3 * torch.randn(shape, generator=g, dtype=torch.float64)).clamp(-1, 1)
    return x.to(dtype), y.to(dtype)


def reference_ssim(x, y, data_range=2.0):
    return structural_similarity(
        x.permute(1, 2, 0).numpy(),
        y.permute(1, 2, 0).numpy(),
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=data_range,
    )


sizes = st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(11, 24), st.integers(11, 24))


@given(shape=sizes, seed=st.integers(0, 10**6))
def test_ssim_is_that_of_scikit_image(shape, seed):
    x, y = pair(shape, seed)
    ours = ssim(x, y, reduction="none")
    for i in range(shape[0]):
        assert abs(ours[i].item() - reference_ssim(x[i], y[i])) < 1e-6


def test_ssim_single_precision_is_that_of_scikit_image():
    x, y = pair((4, 3, 32, 31), 1, torch.float32)
    ours = ssim(x, y, reduction="none")
    assert ours.dtype == torch.float32
    for i in range(4):
        assert abs(ours[i].item() - reference_ssim(x[i].double(), y[i].double())) < 1e-5


def test_ssim_from_black_is_that_of_unit_range_images():
    x, y = pair((2, 3, 20, 17), 2)
    ours = ssim(x, y, black=-1.0, reduction="none")
    for i in range(2):
        assert abs(ours[i].item() - reference_ssim((x[i] + 1) / 2, (y[i] + 1) / 2, data_range=1.0)) < 1e-6
    assert (ours - ssim(x, y, reduction="none")).abs().max() > 1e-3


@given(
    shape=st.tuples(st.integers(1, 4), st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 10**6),
)
def test_errors_are_those_of_scikit_image(shape, seed):
    x, y = pair(shape, seed)
    e, p = mse(x, y, reduction="none"), psnr(x, y, reduction="none")
    for i in range(shape[0]):
        assert math.isclose(e[i].item(), mean_squared_error(x[i].numpy(), y[i].numpy()), rel_tol=1e-12)
        assert math.isclose(
            p[i].item(), peak_signal_noise_ratio(x[i].numpy(), y[i].numpy(), data_range=2), rel_tol=1e-12
        )
        assert math.isclose(
            mae(x[i : i + 1], y[i : i + 1]).item(),
            float(np.abs(x[i].numpy() - y[i].numpy()).mean()),
            rel_tol=1e-12,
        )


def test_one_value_per_image_does_not_depend_on_the_batch():
    x, y = pair((5, 3, 16, 13), 3)
    for metric in (mse, mae, psnr, ssim):
        whole = metric(x, y, reduction="none")
        alone = torch.stack([metric(x[i : i + 1], y[i : i + 1]) for i in range(5)])
        assert whole.shape == (5,)
        assert torch.allclose(whole, alone, atol=1e-12, rtol=0)
        assert math.isclose(metric(x, y).item(), whole.mean().item(), rel_tol=1e-12)


def test_ssim_map_has_one_value_per_window_inside_the_image():
    x, y = pair((2, 3, 16, 13), 4)
    assert ssim_map(x, y).shape == (2, 3, 6, 3)
    assert ssim_map(x, y, window=7).shape == (2, 3, 10, 7)


def test_equal_images():
    x, _ = pair((2, 1, 12, 12), 5)
    assert mse(x, x) == 0 and mae(x, x) == 0 and psnr(x, x) == math.inf and abs(ssim(x, x) - 1) < 1e-12
    assert decibels(torch.tensor(4.0)) == 0


@pytest.mark.parametrize("metric", [mse, mae, psnr, ssim])
def test_bad_pairs_raise(metric):
    x, y = pair((2, 3, 16, 16), 6)
    bad = y.clone()
    bad[0, 0, 0, 0] = math.nan
    for a, b in ((x, y[:, :1]), (x, y[:1]), (x[0], y[0]), (x, bad), (bad, x), (x[:0], y[:0]), (x, y / 0)):
        with pytest.raises(InputError):
            metric(a, b)
    with pytest.raises(InputError, match="floating"):
        metric(x.to(torch.uint8), y.to(torch.uint8))
    with pytest.raises(InputError, match="reduction"):
        metric(x, y, reduction="sum")


def test_bad_options_raise():
    x, y = pair((1, 1, 10, 16), 7)
    with pytest.raises(InputError, match="11 x 11"):
        ssim(x, y)
    with pytest.raises(InputError, match="odd"):
        ssim(x, y, window=4)
    for metric in (psnr, ssim):
        with pytest.raises(InputError, match="data_range"):
            metric(x, y, data_range=-1.0)
