"The verbs of the command line, and photographs by name."

import argparse
import hashlib

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("constriction")
from spectral_diffusion.codec.bitstream import compress, decompress
from spectral_diffusion.codec.files import read_image, run_decode, run_encode  # noqa: E402
from spectral_diffusion.codec.hierarchical import build_codec, save_codec

# noqa: E402
from spectral_diffusion.codec.layers import CodecConfig
from spectral_diffusion.core.registry import InputError  # noqa: E402
from spectral_diffusion.data.photographs import PHOTOGRAPHS, photographs, split_of  # noqa: E402


def test_verbs_write_what_the_library_gives(tmp_path, capsys):
    codec = build_codec(
        CodecConfig(channels=(6, 6), widths=(8, 8), encoder=(0, 0), decoder=(1, 1), embedding=4)
    ).eval()
    save_codec(tmp_path / "m", codec)
    pixels = np.random.default_rng(0).integers(0, 256, (37, 21, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (
        run_encode(
            argparse.Namespace(
                image=str(tmp_path / "a.png"),
                out=str(tmp_path / "a.sdc"),
                model=str(tmp_path / "m"),
                quality=60,
            )
        )
        == 0
    )
    assert (
        run_decode(
            argparse.Namespace(
                file=str(tmp_path / "a.sdc"), out=str(tmp_path / "b.png"), model=str(tmp_path / "m")
            )
        )
        == 0
    )
    data = (tmp_path / "a.sdc").read_bytes()
    assert data == compress(codec, read_image(tmp_path / "a.png"), 60)
    assert (
        np.asarray(Image.open(tmp_path / "b.png")) == decompress(codec, data).permute(1, 2, 0).numpy()
    ).all()
    assert f"{len(data)} bytes" in capsys.readouterr().out
    (tmp_path / "a.sdc").write_bytes(data[:-3])
    with pytest.raises(InputError, match="cut or damaged"):
        run_decode(argparse.Namespace(file=tmp_path / "a.sdc", out=tmp_path / "c.png", model=tmp_path / "m"))
    assert not (tmp_path / "c.png").exists()


def test_grey_pictures_get_three_colours_and_transparency_is_refused(tmp_path):
    Image.fromarray(np.full((3, 5), 9, dtype=np.uint8)).save(tmp_path / "g.png")
    assert (read_image(tmp_path / "g.png") == 9).all() and read_image(tmp_path / "g.png").shape == (3, 3, 5)
    Image.new("LA", (3, 3)).save(tmp_path / "t.png")
    with pytest.raises(InputError, match="transparency"):
        read_image(tmp_path / "t.png")


def test_own_photographs_are_split_by_the_hash_of_their_name(tmp_path):
    for i in range(20):
        Image.fromarray(np.full((8, 6, 3), i, dtype=np.uint8)).save(tmp_path / f"p{i}.png")
    for split in ("train", "test"):
        found = photographs(split, tmp_path)
        assert {p.name for p in found} == {f"p{i}" for i in range(20) if split_of(f"p{i}.png") == split}
        for p in found:
            assert (p.x == int(p.name[1:])).all()
    for i in range(200):
        assert split_of(f"p{i}.png") == (
            "test" if hashlib.sha256(f"p{i}.png".encode()).digest()[0] < 64 else "train"
        )


def test_packaged_photographs_keep_their_split(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECTRAL_DIFFUSION_DATA", str(tmp_path / "none"))
    for ends in PHOTOGRAPHS.values():
        for end in ends[:5]:
            path = tmp_path / "pack" / end
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((40, 60, 3), dtype=np.uint8)).save(path)
    (tmp_path / "pack" / "drawing.png").write_bytes(
        (tmp_path / "pack" / PHOTOGRAPHS["train"][0]).read_bytes()
    )
    names = {s: [p.name for p in photographs(s, tmp_path / "pack", side=64)] for s in PHOTOGRAPHS}
    assert (
        names["test"][:5] == ["Bridge", "Wine", "friends", "picosdeeuropa", "Garden"]
        and "Dragonfly" in names["train"]
    )
    assert not set(names["train"]) & set(names["test"]) and "drawing" not in names["train"] + names["test"]
