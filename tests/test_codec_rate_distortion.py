"BD-rate against published values and a slow loop; MS-SSIM against scipy; anchors against Pillow."

import io

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spectral_diffusion.codec import rate_distortion as rd
from spectral_diffusion.core.registry import InputError
from spectral_diffusion.noise.information import rate_distortion
from spectral_diffusion.noise.theory import GaussianField

BASE = (
    [0.0916, 0.1308, 0.1984, 0.2963, 0.4236, 0.603],
    [31.2149, 32.5118, 33.9748, 35.5043, 37.0008, 38.4556],
)
LARGE = (
    [0.0744, 0.1164, 0.179, 0.2722, 0.3954, 0.5714],
    [30.8092, 32.2879, 33.7716, 35.3509, 36.8762, 38.4535],
)


@pytest.mark.parametrize("method, known", [("cubic", -4.808), ("pchip", -4.732), ("akima", -4.730)])
def test_published_curves(method, known):
    assert abs(rd.bd_rate(*BASE, *LARGE, method) - known) < 5.1e-4


def slow_pchip(q, r, at):
    "Fritsch and Carlson's cubics, point by point."
    h, d = np.diff(q), np.diff(r) / np.diff(q)
    m = np.zeros(len(q))
    for i in range(1, len(q) - 1):
        if d[i - 1] * d[i] > 0:
            m[i] = 3 * (h[i - 1] + h[i]) / ((2 * h[i] + h[i - 1]) / d[i - 1] + (h[i] + 2 * h[i - 1]) / d[i])
    for e, (a, b) in ((0, (0, 1)), (-1, (-1, -2))):
        v = ((2 * h[a] + h[b]) * d[a] - h[a] * d[b]) / (h[a] + h[b])
        m[e] = 0.0 if v * d[a] <= 0 else (3 * d[a] if d[a] * d[b] <= 0 and abs(v) > 3 * abs(d[a]) else v)
    i = np.clip(np.searchsorted(q, at, side="right") - 1, 0, len(h) - 1)
    t = (at - q[i]) / h[i]
    return (
        (1 + 2 * t) * (1 - t) ** 2 * r[i]
        + t * (1 - t) ** 2 * h[i] * m[i]
        + t * t * (3 - 2 * t) * r[i + 1]
        + t * t * (t - 1) * h[i] * m[i + 1]
    )


def rising(n):
    return st.lists(st.floats(0.05, 3), min_size=n, max_size=n).map(np.cumsum)


@given(rising(5), rising(5), rising(6), rising(6))
def test_pchip_is_a_slow_loop_with_a_fine_sum(ra, qa, rb, qb):
    low, high = max(qa[0], qb[0]), min(qa[-1], qb[-1])
    if high - low < 0.05:
        return
    at = np.linspace(low, high, 20_001)
    gap = slow_pchip(qb, np.log(rb), at) - slow_pchip(qa, np.log(ra), at)
    expected = 100 * np.expm1(np.trapezoid(gap, at) / (high - low))
    assert abs(rd.bd_rate(ra, qa, rb, qb) - expected) < 1e-3 * (1 + abs(expected))


def test_cubic_is_a_polynomial_fit():
    fits = [np.polyfit(q, np.log(r), 3) for r, q in (BASE, LARGE)]
    at = np.linspace(BASE[1][0], LARGE[1][-1], 50_001)
    expected = 100 * np.expm1(np.mean(np.polyval(fits[1], at) - np.polyval(fits[0], at)))
    assert abs(rd.bd_rate(*BASE, *LARGE, "cubic") - expected) < 1e-3


def slow_ms_ssim(x, y):
    "One channel in [0, 255], with scipy's filters."
    window = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(z):
        return scipy.ndimage.convolve1d(scipy.ndimage.convolve1d(z, window, 0), window, 1)[5:-5, 5:-5]

    c1, c2, value = (0.01 * 255) ** 2, (0.03 * 255) ** 2, 1.0
    for j, power in enumerate(rd.EXPONENTS):
        if j:
            x, y = (z.reshape(z.shape[0] // 2, 2, z.shape[1] // 2, 2).mean((1, 3)) for z in (x, y))
        mx, my = blur(x), blur(y)
        part = (2 * (blur(x * y) - mx * my) + c2) / (blur(x * x) - mx**2 + blur(y * y) - my**2 + c2)
        if j == 4:
            part = part * (2 * mx * my + c1) / (mx**2 + my**2 + c1)
        value *= part.mean() ** power
    return value


def test_ms_ssim_is_a_slow_loop():
    rng = np.random.default_rng(0)
    x = scipy.ndimage.gaussian_filter(rng.uniform(0, 255, (2, 3, 192, 208)), (0, 0, 2, 2)) * 4 % 255
    y = np.clip(x + 12 * rng.standard_normal(x.shape), 0, 255)
    ours = rd.ms_ssim(torch.tensor(x), torch.tensor(y), data_range=255.0, black=0.0, reduction="none")
    for i in range(2):
        assert abs(ours[i].item() - np.mean([slow_ms_ssim(x[i, c], y[i, c]) for c in range(3)])) < 1e-9
    shifted = rd.ms_ssim(torch.tensor(x) / 127.5 - 1, torch.tensor(y) / 127.5 - 1, reduction="none")
    assert (shifted - ours).abs().max() < 1e-9


def test_anchors_are_pillow_with_the_stated_options():
    g = np.random.default_rng(0)
    image = torch.tensor(
        scipy.ndimage.gaussian_filter(g.uniform(0, 255, (3, 65, 70)), (0, 2, 2)) * 3 % 255, dtype=torch.uint8
    )
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(
        file, "JPEG", quality=30, subsampling=2, optimize=True
    )
    data, back = rd.classical("jpeg", image, 30)
    assert data == file.getvalue() and back.shape == image.shape
    point = rd.measure_file(image, data, back, 30)
    mse = np.mean((image.double() - back.double()).numpy() ** 2)
    assert (
        abs(point.psnr - 10 * np.log10(255**2 / mse)) < 1e-6
        and point.bpp == 8 * len(data) / 65 / 70
        and np.isnan(point.ms_ssim)
    )
    for name in rd.ANCHORS:
        if rd.missing(name) is None:
            assert rd.classical(name, image, rd.ANCHORS[name].settings[3])[1].shape == image.shape


def test_an_anchor_that_pillow_lacks_says_so(monkeypatch):
    from PIL import features

    monkeypatch.setattr(features, "check", lambda name: False)
    assert "built without avif" in rd.missing("avif")
    with pytest.raises(InputError, match="left out"):
        rd.classical("avif", torch.zeros(3, 8, 8, dtype=torch.uint8), 50)


@given(st.floats(1e-3, 5.0), st.integers(0, 100))
def test_the_bound_inverts_water_filling(level, seed):
    power = torch.rand(7, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 4
    field = GaussianField(power, (7, 6), basis="dct")
    point = rate_distortion(field, level)
    assert abs(rd.bound_bits(field, point.distortion) - point.bits) < 1e-6 * (1 + point.bits)
