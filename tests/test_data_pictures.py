"The one reader of pictures: every line of its table, on files made here; folders; and what is built on it."

import argparse
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.data.listing import picture_files, picture_name
from spectral_diffusion.data.photographs import photographs, read_photograph
from spectral_diffusion.data.pictures import read_picture

RAMP = np.repeat(np.arange(256)[None], 4, 0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def grey(path, **options) -> np.ndarray:
    return read_picture(path, 1, **options)[0].numpy()


def colour(path, **options) -> np.ndarray:
    return read_picture(path, **options).permute(1, 2, 0).numpy()


def texture(h: int, w: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (h, w, channels), dtype=np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def smooth(h: int, w: int) -> np.ndarray:
    y, x = np.mgrid[0:h, 0:w]
    return np.stack([255 * x / w, 255 * y / h, 0 * x + 80], -1).astype(np.uint8)


def png(width: int, height: int, bits: int, kind: int, rows: list, *extra: bytes) -> bytes:
    "A PNG from raw rows; kind 0 grey, 2 RGB, 4 grey and alpha, 6 RGB and alpha."

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    parts = [
        chunk(b"IHDR", head),
        *(chunk(e[:4], e[4:]) for e in extra),
        chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes(r) for r in rows))),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def tiff(
    pixels: bytes,
    width: int,
    height: int,
    bits: int,
    *,
    photometric: int = 1,
    form: int = 1,
    order: str = "<",
) -> bytes:
    "An uncompressed grey TIFF with one strip."
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(pixels)),
        (339, 3, form),
    ]

    def entry(tag, kind, value):
        return struct.pack(order + "HHI", tag, kind, 1) + (
            struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value)
        )

    at = 8 + len(pixels) + len(pixels) % 2
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, at)
    return (
        head
        + pixels
        + bytes(len(pixels) % 2)
        + struct.pack(order + "H", len(tags))
        + b"".join(entry(*t) for t in tags)
        + bytes(4)
    )


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("ending", ["png", "tif", "jpg", "webp"])
def test_every_orientation_is_read_upright(tmp_path, ending):
    up = smooth(40, 64)
    for number, turn in TURNS.items():
        tag = Image.Exif()
        tag[0x0112] = number
        Image.fromarray(np.ascontiguousarray(turn(up))).save(
            tmp_path / f"a.{ending}", exif=tag, **({"lossless": True} if ending == "webp" else {})
        )
        back = colour(tmp_path / f"a.{ending}")
        assert back.shape == up.shape and np.abs(back.astype(int) - up).max() <= (
            20 if ending == "jpg" else 0
        )


def test_orientation_told_by_xmp_alone(tmp_path):
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF'
        b' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description'
        b' xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    Image.fromarray(smooth(40, 64)).save(tmp_path / "a.jpg", xmp=xmp)
    assert read_picture(tmp_path / "a.jpg").shape == (3, 64, 40)


def test_a_mosaic_of_depths_and_orientations(tmp_path):
    "Sixteen bits and a turn at once."
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.fromarray((RAMP * 257).astype(np.uint16)).save(tmp_path / "a.png", exif=tag)
    assert (grey(tmp_path / "a.png") == np.rot90(RAMP, -1)).all()


GREYS = {
    "8.png": lambda p: Image.fromarray(RAMP.astype(np.uint8)).save(p),
    "16.png": lambda p: Image.fromarray((RAMP * 257).astype(np.uint16)).save(p),
    "16.tif": lambda p: Image.fromarray((RAMP * 257).astype(np.uint16)).save(p),
    "16.jp2": lambda p: Image.fromarray((RAMP * 257).astype(np.uint16)).save(p),
    "32.tif": lambda p: Image.fromarray((RAMP * 8421504).astype(np.int32)).save(p),
    "16in32.tif": lambda p: Image.fromarray((RAMP * 257).astype(np.int32)).save(p),
    "8in32.tif": lambda p: Image.fromarray(RAMP.astype(np.int32)).save(p),
    "f.tif": lambda p: Image.fromarray((RAMP / 255).astype(np.float32)).save(p),
    "f.pfm": lambda p: Image.fromarray((RAMP / 255).astype(np.float32)).save(p),
    "16.pgm": lambda p: p.write_bytes(b"P5 256 4 65535\n" + (RAMP * 257).astype(">u2").tobytes()),
    "12.pgm": lambda p: p.write_bytes(
        b"P5 256 4 4095\n" + np.round(RAMP / 255 * 4095).astype(">u2").tobytes()
    ),
    "big.tif": lambda p: p.write_bytes(tiff((RAMP * 257).astype(">u2").tobytes(), 256, 4, 16, order=">")),
    "signed.tif": lambda p: p.write_bytes(
        tiff(np.round(RAMP / 255 * 32767).astype("<i2").tobytes(), 256, 4, 16, form=2)
    ),
    "unsigned32.tif": lambda p: p.write_bytes(tiff((RAMP * 16843009).astype("<u4").tobytes(), 256, 4, 32)),
    "12.tif": lambda p: p.write_bytes(tiff(packed12(np.round(RAMP / 255 * 4095).astype(int)), 256, 4, 12)),
    "inverted8.tif": lambda p: p.write_bytes(
        tiff((255 - RAMP).astype("u1").tobytes(), 256, 4, 8, photometric=0)
    ),
    "inverted16.tif": lambda p: p.write_bytes(
        tiff((65535 - RAMP * 257).astype("<u2").tobytes(), 256, 4, 16, photometric=0)
    ),
}


def packed12(values: np.ndarray) -> bytes:
    "Two values of twelve bits in three bytes."
    a, b = values[:, ::2].ravel(), values[:, 1::2].ravel()
    return np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], -1).astype(np.uint8).tobytes()


@pytest.mark.parametrize("name", GREYS)
def test_grey_of_every_depth_is_scaled_and_never_clipped(tmp_path, name):
    GREYS[name](tmp_path / name)
    assert (grey(tmp_path / name) == RAMP).all()
    assert (read_picture(tmp_path / name).numpy() == RAMP).all() and (
        read_photograph(tmp_path / name, 10**6).numpy()[..., :1] >= 0
    ).all()


def test_grey_of_few_bits_and_of_reversed_white(tmp_path):
    for bits, row in ((1, [0b01010101]), (2, [0b00011011]), (4, [0x0F, 0x3C])):
        (tmp_path / "a.png").write_bytes(png(8 // bits * len(row), 1, bits, 0, [row]))
        stored = [(byte >> shift) & (2**bits - 1) for byte in row for shift in range(8 - bits, -1, -bits)]
        assert grey(tmp_path / "a.png")[0].tolist() == [v * 255 // (2**bits - 1) for v in stored]
    for photometric, white in ((1, 1), (0, 0)):
        (tmp_path / "a.tif").write_bytes(tiff(bytes([0b10110001]), 8, 1, 1, photometric=photometric))
        assert grey(tmp_path / "a.tif")[0].tolist() == [255 * (int(b) == white) for b in "10110001"]


def test_dark_pictures_stay_dark(tmp_path):
    Image.fromarray((RAMP // 4).astype(np.uint16)).save(tmp_path / "a.png")
    assert grey(tmp_path / "a.png").max() == 0
    Image.fromarray(np.zeros((4, 4), np.int32)).save(tmp_path / "a.tif")
    assert grey(tmp_path / "a.tif").max() == 0


@pytest.mark.parametrize("values", [[-0.5, 1], [0, 255], [0, np.nan], [0, np.inf]])
def test_float_outside_of_its_range_is_refused(tmp_path, values):
    Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif has grey values .* allowed are 0 to 1"):
        read_picture(tmp_path / "a.tif")


def test_negative_integers_are_refused(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(np.array([-1, 9], "<i2").tobytes(), 2, 1, 16, form=2))
    with pytest.raises(InputError, match="from -1 to 9"):
        read_picture(tmp_path / "a.tif")


def test_colours_of_sixteen_bits(tmp_path):
    values = np.stack([RAMP * 257, RAMP[:, ::-1] * 257, RAMP * 128], -1)
    (tmp_path / "a.png").write_bytes(png(256, 4, 16, 2, values.astype(">u2").reshape(4, -1).view(np.uint8)))
    assert np.abs(colour(tmp_path / "a.png") - values / 257).max() <= 1
    opaque = np.concatenate([values, np.full((4, 256, 1), 65535)], -1)
    (tmp_path / "a.png").write_bytes(png(256, 4, 16, 6, opaque.astype(">u2").reshape(4, -1).view(np.uint8)))
    assert np.abs(colour(tmp_path / "a.png") - values / 257).max() <= 1


@pytest.mark.parametrize(
    "mode, ending",
    [
        ("CMYK", "jpg"),
        ("CMYK", "tif"),
        ("YCbCr", "tif"),
        ("P", "png"),
        ("P", "gif"),
        ("P", "tif"),
        ("P", "bmp"),
        ("RGB", "webp"),
        ("LAB", "tif"),
    ],
)
def test_kinds_of_colours(tmp_path, mode, ending):
    flat = Image.new("RGB", (16, 16), (200, 100, 50))
    if mode == "LAB":
        image = ImageCms.profileToProfile(
            flat, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    elif mode == "P":
        image = flat.convert("P", palette=Image.Palette.ADAPTIVE)
    else:
        image = flat.convert(mode)
    image.save(tmp_path / f"a.{ending}", **({"quality": 95} if ending in ("jpg", "webp") else {}))
    assert np.abs(colour(tmp_path / f"a.{ending}").astype(int) - (200, 100, 50)).max() <= 4


def test_profiles(tmp_path):
    pixels = texture(20, 30)
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=SRGB)
    assert (colour(tmp_path / "a.png") == pixels).all()
    Image.fromarray(pixels[..., 0]).save(
        tmp_path / "a.jpg", icc_profile=SRGB, quality=100
    )  # a profile for colours on a grey picture
    assert (read_picture(tmp_path / "a.jpg", 1).numpy() == np.asarray(Image.open(tmp_path / "a.jpg"))).all()
    from skimage import data  # whose rocket is in the colours of Adobe RGB

    folder = Path(data.__file__).parent
    with Image.open(
        folder / "chelsea.png"
    ) as file:  # a profile of sRGB by another maker, which moves some colours by one level
        assert "icc_profile" in file.info and (colour(folder / "chelsea.png") == np.asarray(file)).all()
    rocket = folder / "rocket.jpg"
    with Image.open(rocket) as file:
        wanted = ImageCms.profileToProfile(
            file, io.BytesIO(file.info["icc_profile"]), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        plain = np.asarray(file.convert("RGB"))
    assert (colour(rocket) == np.asarray(wanted)).all() and np.abs(
        colour(rocket).astype(int) - plain
    ).max() > 20


@pytest.mark.parametrize(
    "mode, profile, said",
    [("RGB", b"none", "damaged colour profile"), ("CMYK", SRGB, "profile for RGB, and colours of CMYK")],
)
def test_profiles_that_cannot_be_applied(tmp_path, mode, profile, said):
    Image.new(mode, (8, 8)).save(tmp_path / "a.tif", icc_profile=profile)
    with pytest.raises(
        InputError, match=rf"a\.tif has a .*{said}" if mode == "CMYK" else rf"a\.tif has a {said}"
    ):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_opaque_alpha_is_no_transparency(tmp_path, ending):
    pixels = texture(12, 9, 4)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
    assert (colour(tmp_path / f"a.{ending}") == pixels[..., :3]).all() and (
        read_picture(tmp_path / f"a.{ending}", 4)[3] == 255
    ).all()
    pixels[3, 4, 3] = 254
    Image.fromarray(pixels).save(
        tmp_path / f"a.{ending}", **({"lossless": True, "exact": True} if ending == "webp" else {})
    )
    with pytest.raises(InputError, match="transparency"):
        read_picture(tmp_path / f"a.{ending}")
    assert (colour(tmp_path / f"a.{ending}", background=0)[0] == pixels[0, :, :3]).all()


def test_transparency_that_hides(tmp_path):
    flat = Image.new("P", (4, 2), 1)
    flat.putpalette([10, 20, 30, 40, 50, 60])
    flat.putpixel((0, 0), 0)
    flat.save(tmp_path / "p.png", transparency=0)
    flat.save(tmp_path / "p.gif", transparency=0)
    flat.save(tmp_path / "b.png", transparency=bytes([7, 255]))
    (tmp_path / "l.png").write_bytes(png(4, 1, 8, 0, [[1, 2, 3, 4]], b"tRNS" + struct.pack(">H", 3)))
    (tmp_path / "l2.png").write_bytes(png(4, 1, 2, 0, [[0b00011011]], b"tRNS" + struct.pack(">H", 1)))
    (tmp_path / "l1.png").write_bytes(png(8, 1, 1, 0, [[0b00011011]], b"tRNS" + struct.pack(">H", 1)))
    (tmp_path / "l16.png").write_bytes(
        png(2, 1, 16, 0, [np.array([771, 65535], ">u2").tobytes()], b"tRNS" + struct.pack(">H", 771))
    )
    (tmp_path / "rgb.png").write_bytes(
        png(2, 1, 8, 2, [[1, 2, 3, 4, 5, 6]], b"tRNS" + struct.pack(">HHH", 4, 5, 6))
    )
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match=f"{path.name} has transparency"):
            read_picture(path)
    assert grey(tmp_path / "l.png", background=9)[0].tolist() == [1, 2, 9, 4]
    assert grey(tmp_path / "l2.png", background=9)[0].tolist() == [0, 9, 170, 255]
    assert grey(tmp_path / "l1.png", background=9)[0].tolist() == [0, 0, 0, 9, 9, 0, 9, 9]
    assert grey(tmp_path / "l16.png", background=9)[0].tolist() == [9, 255]
    assert colour(tmp_path / "rgb.png", background=(7, 8, 9))[0].tolist() == [[1, 2, 3], [7, 8, 9]]
    assert colour(tmp_path / "p.gif", background=255)[0, :2].tolist() == [[255] * 3, [40, 50, 60]]
    assert read_picture(tmp_path / "b.png", 4)[3, 0, :2].tolist() == [7, 255]
    (tmp_path / "rgb16.png").write_bytes(png(1, 1, 16, 2, [bytes(6)], b"tRNS" + bytes(6)))
    with pytest.raises(InputError, match="transparent colour of 16 bits"):
        read_picture(tmp_path / "rgb16.png", background=0)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_go_out_and_come_back(tmp_path, channels):
    from spectral_diffusion.run.pictures import load_samples, save_samples

    x = torch.rand(3, channels, 8, 5, generator=torch.Generator().manual_seed(channels)) * 2 - 1
    for images in (x, torch.ones_like(x)):
        save_samples(images, tmp_path)
        back = load_samples(tmp_path, size=8)
        assert back.shape == images.shape and (back - images).abs().max() <= 1 / 255 + 1e-6


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tif", "avif"])
def test_several_frames_are_refused_and_one_is_read(tmp_path, ending):
    frames = [Image.new("RGB", (16, 16), (100 * i, 50, 50)) for i in range(3)]
    try:
        frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {ending}")
    with pytest.raises(InputError, match=rf"a\.{ending} is a \w+ with several frames"):
        read_picture(tmp_path / f"a.{ending}")
    frames[0].save(tmp_path / f"a.{ending}")
    assert read_picture(tmp_path / f"a.{ending}").shape == (3, 16, 16)


def test_the_first_picture_of_a_camera(tmp_path):
    frames = [Image.new("RGB", (16, 16), (100 * i, 50, 50)) for i in range(2)]
    frames[0].save(tmp_path / "a.mpo", save_all=True, append_images=frames[1:])
    (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
    assert read_picture(tmp_path / "a.jpg")[0].max() < 5


def test_what_is_no_picture(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.symlink(tmp_path / "gone.png", tmp_path / "link.png")
    os.mkfifo(tmp_path / "pipe.png")
    for name, data in (
        ("empty", b""),
        ("text", b"hello"),
        ("program", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        ("none", png(0, 0, 8, 2, [])),
        ("ppm", b"P6 0 0 255\n"),
    ):
        (tmp_path / f"{name}.png").write_bytes(data)
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match=f"{path.name} is not a readable picture"):
            read_picture(path)
    for ending in ("png", "jpg", "webp", "bmp", "tif", "gif", "ppm"):
        Image.fromarray(texture(64, 64)).save(tmp_path / f"a.{ending}")
        whole = (tmp_path / f"a.{ending}").read_bytes()
        (tmp_path / f"a.{ending}").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match=rf"a\.{ending} is not a readable picture"):
            read_picture(tmp_path / f"a.{ending}")


@pytest.mark.filterwarnings("error")
def test_too_many_pixels_are_refused_before_they_are_unpacked(tmp_path):
    for side, said in ((12_000, "12000 x 12000 pixels, allowed"), (20_000, "bomb")):
        (tmp_path / "a.png").write_bytes(png(side, side, 8, 2, [bytes(9)]))
        with pytest.raises(InputError, match=said):
            read_picture(tmp_path / "a.png")
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="10 x 10 pixels, allowed are 99"):
        read_picture(tmp_path / "a.png", max_pixels=99)


def test_folders(tmp_path):
    for name in (
        "b.png",
        "cats/1.JPG",
        "dogs/1.jpg",
        "x.png/1.gif",
        "._b.png",
        ".hidden.png",
        ".thumbs/b.png",
        "__MACOSX/b.png",
        "@eaDir/b.jpg",
        "Thumbs.db",
        ".DS_Store",
        "c.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "metadata.json").write_text(json.dumps({"images": ["b.png"]}))
    os.symlink(tmp_path, tmp_path / "cats" / "up")
    (tmp_path / "e\u0301.png").touch()
    assert [picture_name(p, tmp_path) for p in picture_files(tmp_path)] == [
        "b.png",
        "cats/1.JPG",
        "dogs/1.jpg",
        "x.png/1.gif",
        "\u00e9.png",
    ]
    (tmp_path / "metadata.json").write_bytes(b"\xff{")
    assert len(picture_files(tmp_path)) == 5
    with pytest.raises(InputError, match="not a folder"):
        picture_files(tmp_path / "b.png")


def test_a_folder_that_is_a_link_is_entered(tmp_path):
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "near").mkdir()
    (tmp_path / "far" / "deep" / "a.png").touch()
    for name in ("one", "two"):
        os.symlink(tmp_path / "far" / "deep", tmp_path / "near" / name)
    assert [picture_name(p, tmp_path / "near") for p in picture_files(tmp_path / "near")] == [
        "one/a.png",
        "two/a.png",
    ]


def test_photographs_of_one_stem_are_all_there(tmp_path):
    for i, name in enumerate(
        [f"{d}/{n}.png" for d in "abc" for n in range(12)] + ["0.png", "0.bmp", "0.png.tif", "a.b.png"]
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / name)
    found = [p for split in ("train", "test") for p in photographs(split, tmp_path)]
    assert {int(p.x[0, 0, 0]) for p in found} == set(range(40)) and len({p.name for p in found}) == len(
        found
    ) == 40
    assert {"a/3", "0.png", "0.bmp", "a.b"} <= {p.name for p in found}


def test_two_forms_of_one_name_are_told(tmp_path):
    for name in ("e\u0301.png", "\u00e9.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system has one form of a name")
    with pytest.raises(InputError, match="two forms of Unicode"):
        photographs("train", tmp_path)


def folders(root: Path, n: int, side: int, equal: int = 0) -> tuple[Path, Path]:
    for d, seed in (("g", 0), ("r", 1)):
        (root / d).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(texture(side, side, 3, 0 if i < equal else 10 * i + seed)).save(
                root / d / f"{i}.png"
            )
    return root / "g", root / "r"


def test_evaluate_pairs_names_of_both_forms_and_folders(tmp_path):
    from spectral_diffusion.lab.evaluate import evaluate_folders

    for root, name in (("g", "e\u0301"), ("r", "\u00e9")):
        (tmp_path / root / "sub").mkdir(parents=True)
        for n in (name, "sub/1", "1"):
            Image.new("RGB", (12, 12)).save(tmp_path / root / f"{n}.png")
        (tmp_path / root / "._1.png").write_bytes(b"junk")
        (tmp_path / root / "metadata.json").write_text('{"images": ["none.png"]}')
    assert evaluate_folders(tmp_path / "g", tmp_path / "r")["pairs"] == 3
    with pytest.raises(InputError, match="lie in one another"):
        evaluate_folders(tmp_path / "g", tmp_path / "g" / "sub")


@pytest.mark.parametrize("side", [1, 2, 5, 12])
def test_evaluate_is_defined_from_one_pixel_on(tmp_path, side):
    from spectral_diffusion.lab.evaluate import evaluate_folders

    found = evaluate_folders(*folders(tmp_path, 9, side))
    numbers = [v for v in found.values() if isinstance(v, float)]
    assert np.isfinite(numbers).all() and len(numbers) >= 6 and (found["psd_distance"] is None) == (side == 1)
    json.dumps(found, allow_nan=False)


def test_evaluate_with_equal_pairs(tmp_path):
    from spectral_diffusion.lab.evaluate import evaluate_folders

    g, r = folders(tmp_path, 5, 12, equal=2)
    found = evaluate_folders(g, r)
    errors = [
        (
            (np.asarray(Image.open(g / f"{i}.png")).astype(float) - np.asarray(Image.open(r / f"{i}.png")))
            / 127.5
        )
        ** 2
        for i in range(5)
    ]
    errors = np.array([e.mean() for e in errors])
    assert found["equal pairs"] == 2 and (errors[:2] == 0).all()
    assert found["psnr"] == pytest.approx((-10 * np.log10(errors[2:] / 4)).mean(), rel=1e-5)
    assert found["psnr of the mean error"] == pytest.approx(-10 * np.log10(errors.mean() / 4), rel=1e-5)
    same = evaluate_folders(g, g)
    assert same["equal pairs"] == 5 and same["psnr"] is None and same["psnr of the mean error"] is None


def test_evaluate_does_not_depend_on_the_chunk(tmp_path, monkeypatch):
    from spectral_diffusion.lab import evaluate

    g, r = folders(tmp_path, 11, 16)
    (r / "10.png").unlink()
    Image.fromarray(texture(16, 16)).save(r / "extra.png")
    for pairs in (True, False):
        tables = []
        for pixels in (1, 3 * 256, 10**6):
            monkeypatch.setattr(evaluate, "CHUNK", pixels)
            tables.append(evaluate.evaluate_folders(g, r, strict=False, pairs=pairs))
        for table in tables[1:]:
            assert table == {
                k: v if not isinstance(v, float) else pytest.approx(v, rel=1e-4, abs=1e-6)
                for k, v in tables[0].items()
            }


MEMORY = """
import resource, sys, torch
torch.set_num_threads(1)
from spectral_diffusion.lab.evaluate import evaluate_folders
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
evaluate_folders(sys.argv[1] + "/few/g", sys.argv[1] + "/few/r")
before = peak()
evaluate_folders(sys.argv[1] + "/many/g", sys.argv[1] + "/many/r")
print(peak() - before)
"""


def test_the_memory_of_evaluate_does_not_grow_with_the_pairs(tmp_path):
    for name, n in (("few", 24), ("many", 96)):
        folders(tmp_path / name, n, 192)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    # MB; the pixels of the further pairs are 64 MB as floating point, what was made of them many times that
    assert float(done.stdout) < 60


@pytest.mark.parametrize(
    "size", [("0", "32"), ("-1", "32"), ("32", "0"), ("1000000", "1000000"), ("99999999999999999999", "1")]
)
def test_image_sizes_that_cannot_be(tmp_path, size, capsys):
    from spectral_diffusion.lab.cli import main

    g, r = folders(tmp_path, 1, 4)
    assert (
        main(["evaluate", "--generated-dir", str(g), "--reference-dir", str(r), "--image-size", *size]) == 2
    )
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_no_command_writes_over_what_it_reads(tmp_path, capsys):
    from spectral_diffusion.lab.cli import main

    g, r = folders(tmp_path, 2, 12)
    os.symlink(g / "0.png", tmp_path / "soft.png")
    os.link(g / "0.png", tmp_path / "hard.png")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "weights").write_bytes(b"w")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    picture = str(g / "0.png")
    for out in (
        picture,
        tmp_path / "soft.png",
        tmp_path / "hard.png",
        f"{g}/../g/0.png",
        os.path.relpath(picture),
        tmp_path / "m" / "weights",
    ):
        assert main(["encode", picture, str(out), "--model", str(tmp_path / "m")]) == 2
        assert "would be overwritten" in capsys.readouterr().err
        if str(out).endswith(".png"):
            assert main(["decode", picture, str(out), "--model", str(tmp_path / "m")]) == 2
            assert "would be overwritten" in capsys.readouterr().err
    for out in (picture, tmp_path / "soft.png", r / "1.png"):
        assert (
            main(["evaluate", "--generated-dir", str(g), "--reference-dir", str(r), "--out", str(out)]) == 2
        )
        assert "would be overwritten" in capsys.readouterr().err
    assert (
        main(["evaluate", "--generated-dir", str(g), "--reference-dir", str(r), "--out", str(tmp_path)]) == 2
    )
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_background_can_be_named_at_the_command_line(tmp_path, capsys):
    from spectral_diffusion.lab.cli import main

    for name in "gr":
        (tmp_path / name).mkdir()
        Image.new("RGBA", (12, 12), (50, 60, 70, 99)).save(tmp_path / name / "a.png")
    words = ["evaluate", "--generated-dir", str(tmp_path / "g"), "--reference-dir", str(tmp_path / "r")]
    assert main(words) == 2 and "a.png has transparency" in capsys.readouterr().err
    assert main([*words, "--background", "255"]) == 0 and main([*words, "--background", "1", "2", "3"]) == 0
    assert main([*words, "--background", "256"]) == 2 and main([*words, "--background", "1", "2"]) == 2


def test_pillow_is_imported_where_it_is_used():
    code = (
        "import sys, spectral_diffusion.data.pictures, spectral_diffusion.lab.evaluate; print('PIL' in"
        " sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
    )


def test_encode_reads_what_a_viewer_shows(tmp_path, monkeypatch):
    pytest.importorskip("constriction")
    from spectral_diffusion.codec import files

    seen = []
    monkeypatch.setattr(files, "load_codec", lambda path: None)
    monkeypatch.setattr(files, "compress", lambda codec, image, quality: seen.append(image) or b"x")
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(smooth(12, 20)))).save(tmp_path / "a.png", exif=tag)
    files.run_encode(
        argparse.Namespace(
            image=tmp_path / "a.png", out=tmp_path / "a.sdc", model=tmp_path, quality=50, background=None
        )
    )
    assert (seen[0].permute(1, 2, 0).numpy() == smooth(12, 20)).all()
