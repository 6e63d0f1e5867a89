"Energy, magnitude and phase by scale against PyWavelets and numpy."

import math

import numpy as np
import pytest
import pywt
import torch

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.measure.diagnostics import complex_bins, energy_table, histogram_table


def images(n, c, h, w, seed=0):
    return torch.randn(n, c, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_energy_is_that_of_pywavelets(wavelet):
    x = images(3, 2, 16, 32).cumsum(-1)
    coarse, *details = pywt.wavedec2(x.numpy(), wavelet, mode="periodization", level=3, axes=(-2, -1))
    want = {
        "coarse": (coarse**2).sum() / 3,
        **{f"level {3 - i}": sum((b**2).sum() for b in d) / 3 for i, d in enumerate(details)},
    }
    table = energy_table([(0.5, x)], wavelet=wavelet).set_index("scale")
    assert table.energy.to_dict() == pytest.approx(want, rel=1e-9)
    assert table.share.sum() == pytest.approx(1)


@pytest.mark.parametrize("h, w", [(8, 8), (7, 9), (6, 9), (9, 6)])
def test_each_complex_coefficient_is_counted_once(h, w):
    k = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1).reshape(-1, 2)
    pairs = {tuple(sorted([tuple(a), tuple((-a) % [h, w])])) for a in k if (a != (-a) % [h, w]).any()}
    assert complex_bins(h, w).sum() == len(pairs)


def test_histograms_are_those_of_numpy():
    x, last = images(4, 1, 16, 16), images(4, 1, 16, 16, seed=1)
    octave = {"all": (0.0, math.inf)}
    table = histogram_table([(1.0, 3 * x)], reference=last, octaves=octave, bins=10)
    keep = complex_bins(16, 16).numpy()
    z, y = (np.fft.rfft2(a.numpy(), norm="ortho")[..., keep] for a in (x, last))
    phase = np.histogram(np.angle(z / y), np.linspace(-np.pi, np.pi, 11), density=True)[0]
    size = np.histogram(
        np.minimum(abs(z) / np.sqrt((abs(z) ** 2).mean()), 3), np.linspace(0, 3, 11), density=True
    )[0]
    for quantity, want in (("phase", phase), ("magnitude", size)):
        assert np.allclose(table[table.quantity == quantity].density, want, atol=1e-12)


def test_rows_are_tidy():
    states = [(t, images(2, 1, 32, 32, seed=i)) for i, t in enumerate((0.9, 0.5, 0.0))]
    energy, table = energy_table(states), histogram_table(states, bins=8)
    assert (
        list(energy.columns) == ["step", "t", "scale", "energy", "share", "mean_square"]
        and len(energy) == 3 * 4
    )
    assert (
        list(table.columns) == ["step", "t", "scale", "quantity", "low", "high", "density"]
        and len(table) == 3 * 4 * 2 * 8
    )
    assert (
        not energy.duplicated(["step", "scale"]).any()
        and not table.duplicated(["step", "scale", "quantity", "low"]).any()
    )
    assert energy.t.unique().tolist() == [0.9, 0.5, 0.0]


def test_bad_input():
    with pytest.raises(InputError, match="at least one state"):
        histogram_table([])
    with pytest.raises(InputError, match="one shape"):
        energy_table([(0.0, torch.zeros(3, 8, 8))])
