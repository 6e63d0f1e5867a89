"""Pieces of photographs: the same everywhere, apart by photograph, usable wherever a data set is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.core.runtime import stream
from spectral_diffusion.data import patches as page
from spectral_diffusion.data.patches import corners, patch_files, patch_table, pieces
from spectral_diffusion.data.sets import DATASETS, floats, load_images
from spectral_diffusion.noise.theory import GaussianField
from spectral_diffusion.run.settings import DataConfig


def test_no_photograph_is_in_two_splits():
    for splits in patch_table().values():
        names = [name for files in splits.values() for name in files]
        sums = [checksum for files in splits.values() for checksum in files.values()]
        assert len(set(names)) == len(names) == len(set(sums)) >= 3
        assert all(len(checksum) == 64 for checksum in sums)


def test_a_piece_of_one_split_is_in_no_other():
    "By content: pieces with some texture, compared byte by byte."
    found = {}
    for name, part in (("photograph_patches", 1), ("photograph_patches_validation", 1)):
        sets = load_images(name)
        for split, x in (("train", sets.train), (name, sets[part])):
            lively = x[x.float().flatten(1).std(1) > 10]
            found[split] = {row.numpy().tobytes() for row in lively}
            assert len(found[split]) > 0.8 * len(lively)  # one place is drawn once
    one, two, three = found.values()
    assert not one & two and not one & three and not two & three


@pytest.mark.parametrize("sizes", [[(32, 32)], [(31, 400), (33, 34)], [(67, 45), (10, 10), (40, 99)]])
@pytest.mark.parametrize("seed", [0, 1])
def test_pieces_are_cut_where_they_say(sizes, seed):
    g = stream(seed, "test/patches")
    pictures = [torch.randint(256, (3, h, w), dtype=torch.uint8, generator=g) for h, w in sizes]
    total = sum(rows * columns for rows, columns in map(corners, pictures))
    there = {
        x[:, i : i + 32, j : j + 32].contiguous().numpy().tobytes()
        for x in pictures
        for i in range(0, x.shape[1] - 31, page.STEP)
        for j in range(0, x.shape[2] - 31, page.STEP)
    }
    found = pieces(pictures, total, stream(seed, "test/patches/draw"))
    assert {x.numpy().tobytes() for x in found} == there and len(there) == total
    with pytest.raises(InputError, match=f"have {total} pieces"):
        pieces(pictures, total + 1, g)


def test_the_statistics_of_a_field_and_a_configuration():
    train = load_images(DataConfig(name="photograph_patches").name).train
    field = GaussianField.fit(floats(train[:2_000]), "dct", pca=True)
    assert field.power.isfinite().all() and bool((field.power > 0).all())
    low, high = field.power[..., :4, :4].mean(), field.power[..., 16:, 16:].mean()
    assert low > 100 * high  # as photographs have it


def test_without_its_packages_a_set_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(page, "data_folders", lambda: [tmp_path])
    monkeypatch.setattr(page, "PLACES", {**page.PLACES, "photograph": lambda names: {}})
    if not any(Path("/usr/share", name).is_dir() for name in ("backgrounds", "wallpapers")):
        with pytest.raises(InputError, match="hint: unpack lomiri-wallpapers"):
            DATASETS["wallpaper_patches"]()
    with pytest.raises(InputError, match=r"\[photographs\]"):
        patch_files("photograph", "train")
