"""EfficientNet-lite0: against the logits of another implementation, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.measure import imagenet_lite as page
from spectral_diffusion.measure.features import EXTRACTORS, frechet_distance
from spectral_diffusion.measure.imagenet_lite import imagenet_lite, imagenet_logits


def known_pictures() -> Tensor:
    "Three pictures (3, 224, 224) that are formulas: a chirp, stripes of three colours, a checkerboard."
    n = torch.linspace(-1, 1, page.SIDE)
    y, x = n[:, None], n[None]
    chirp = torch.stack([torch.sin(20 * (x * x + y * y) + k) for k in (0, 1, 2)])
    stripes = torch.stack([torch.sin(k * x + 3 * y) for k in (9, 17, 31)])
    board = torch.sign(torch.sin(40 * x) * torch.sin(40 * y)).expand(3, -1, -1)
    return torch.stack([chirp, stripes, 0.8 * board])


def test_the_logits_of_another_implementation():
    "`imagenet_lite_logits.npy` was written by the package efficientnet-lite-pytorch 0.1.0."
    expect = torch.from_numpy(np.load(Path(__file__).with_name("imagenet_lite_logits.npy")))
    found = imagenet_logits(known_pictures())
    assert expect.shape == found.shape == (3, 1_000)
    assert (found - expect).abs().max() < 1e-3 * expect.std()
    assert found.argmax(1).tolist() == expect.argmax(1).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_follow_the_dtype_and_forget_the_batch(dtype, monkeypatch):
    x = torch.rand(5, 3, 33, 20, generator=torch.Generator().manual_seed(0), dtype=dtype) * 2 - 1
    whole = imagenet_lite(x)
    monkeypatch.setattr(page, "AT_ONCE", 2)
    assert whole.dtype == dtype and (imagenet_lite(x) - whole).abs().max() < 1e-4


def test_a_missing_package_is_named_before_any_work(monkeypatch):
    monkeypatch.setattr(page.importlib.util, "find_spec", lambda name: None)
    page.lite0.cache_clear()
    with pytest.raises(InputError, match=r"pip install -e '\.\[frechet\]'"):
        imagenet_lite(torch.zeros(2, 3, 32, 32))


def test_the_name_stands_in_the_distance():
    x = torch.rand(9, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = frechet_distance(x, x.flip(-1), "imagenet_lite")
    assert (found.extractor, found.dimension) == ("imagenet_lite", 320) and found.value > 0
    assert EXTRACTORS["random"] is EXTRACTORS["random_conv"]
