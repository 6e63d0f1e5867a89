"""Files of the codec: exact in a fresh process, and ten thousand damaged ones that raise InputError and
nothing else."""

import hashlib
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import scipy.fft
import torch

pytest.importorskip("constriction")
# noqa: E402
from spectral_diffusion.codec.bitstream import HEADER, compress, decompress, exact, pad_to, read_header
from spectral_diffusion.codec.hierarchical import (
    Codec,
    build_codec,
    count_parameters,
    load_codec,
    save_codec,
    single_scale_twin,
)  # noqa: E402
from spectral_diffusion.codec.layers import BlockTransform, CodecConfig  # noqa: E402
from spectral_diffusion.codec.training import crops, fit, lagrangian  # noqa: E402
from spectral_diffusion.core.registry import InputError  # noqa: E402
from spectral_diffusion.core.runtime import stream  # noqa: E402
from spectral_diffusion.learn.checkpoint import save  # noqa: E402

TINY = CodecConfig(channels=(20, 8, 6), widths=(12, 10, 8), encoder=(1, 1, 1), decoder=(2, 1, 1), embedding=6)


def picture(h, w, seed=0):
    "A smooth picture with some noise."
    g = stream(seed, "test/codec")
    y, x = torch.arange(h)[:, None] / 17, torch.arange(w) / 23
    z = torch.stack([torch.sin(y + c) * torch.cos(x * (c + 1)) for c in range(3)]) + 0.1 * torch.randn(
        3, h, w, generator=g
    )
    return ((z.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@pytest.fixture(scope="module")
def codec():
    "A tiny codec after some steps."
    made = build_codec(TINY)
    for _ in fit(made, [picture(160, 200, s) for s in range(3)], steps=25, batch=4, size=32, lr=3e-3):
        pass
    return made.eval()


def reconstruction(codec, image, quality):
    "The forward pass of training, rounded to grey values, and its bits."
    with exact():
        out = codec(
            pad_to((image.float() / 127.5 - 1)[None], codec.config.stride), torch.tensor([quality / 100])
        )
    return ((out.x[0, :, : image.shape[1], : image.shape[2]].clamp(-1, 1) + 1) * 127.5).round().to(
        torch.uint8
    ), out.bits


def test_the_block_transform_is_that_of_scipy():
    x = torch.randn(1, 3, 16, 8, generator=stream(0, "test/block"), dtype=torch.float64)
    block = BlockTransform(3, 8, colors=True).double()
    z = block(x)[0, :, 1, 0]
    reference = scipy.fft.dctn(x[0, :, 8:, :8].numpy(), norm="ortho")
    assert np.abs(np.sort(z.abs().numpy()) - np.sort(np.abs(reference).ravel())).max() < 1e-6
    assert np.abs(z[0].item() - reference[0, 0, 0]) < 1e-6


def test_the_lagrangian_counts_bits_and_grey_values(codec):
    x = torch.stack([picture(64, 64), picture(64, 64, 5)]).float() / 127.5 - 1
    with torch.no_grad():
        out = codec(x, torch.tensor([0.2, 0.9]))
    weight = torch.tensor([0.01, 0.02])
    for i in range(2):
        mse = np.mean((127.5 * (out.x[i] - x[i]).numpy()) ** 2)
        assert (
            abs(
                lagrangian(out, x, weight)[i].item()
                / (out.bits[i].sum().item() / 4096 + weight[i].item() * mse)
                - 1
            )
            < 1e-4
        )


@pytest.mark.parametrize("h, w, quality", [(1, 1, 0), (7, 300, 33), (64, 64, 100), (95, 33, 50)])
def test_a_file_decodes_to_the_reconstruction(codec, h, w, quality):
    image = picture(h, w, h)
    expected, bits = reconstruction(codec, image, quality)
    data = compress(codec, image, quality)
    assert torch.equal(decompress(codec, data), expected)
    assert 8 * (len(data) - HEADER.size - 4) < 1.01 * bits.sum().item() + 64


def test_a_fresh_process_with_other_threads_decodes_the_same_bits(codec, tmp_path):
    files = {n: compress(codec, picture(90 + n, 130, n), 25 * n) for n in range(4)}
    save_codec(tmp_path / "model", codec)
    for n, data in files.items():
        (tmp_path / f"{n}").write_bytes(data)
    program = (
        "import sys, hashlib; from pathlib import Path; from spectral_diffusion.codec.hierarchical import"
        " decompress, load_codec\nr = Path(sys.argv[1]); c = load_codec(r/'model')\nfor n in range(4):"
        " print(hashlib.sha256(decompress(c, (r/str(n)).read_bytes()).numpy().tobytes()).hexdigest())"
    )
    out = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert out == [hashlib.sha256(decompress(codec, d).numpy().tobytes()).hexdigest() for d in files.values()]


def test_user_settings_do_not_change_a_file(codec):
    image = picture(70, 50)
    data, threads = compress(codec, image, 40), torch.get_num_threads()
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert compress(codec, image, 40) == data
            decompress(codec, data)
        assert torch.get_num_threads() == 2 and torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")


def mended(data):
    "The same file with length and outer checksum made right."
    head, payload = (
        data[: HEADER.size - 4] + struct.pack("<I", max(0, len(data) - HEADER.size - 4)),
        data[HEADER.size + 4 :],
    )
    return head + struct.pack("<I", zlib.crc32(payload, zlib.crc32(head))) + payload


def test_ten_thousand_damaged_files_give_input_errors(codec):
    files = [compress(codec, picture(40, 60, s), 20 * s) for s in range(4)]
    rng, through = np.random.default_rng(0), 0
    for trial in range(10_000):
        good = files[trial % 4]
        bad = bytearray(good)
        way = trial % 5
        if way == 0:
            bad = bad[: rng.integers(0, len(bad))]
        elif way == 1:
            bad += rng.bytes(rng.integers(1, 40))
        elif way == 2:
            bad = bytearray(rng.bytes(rng.integers(0, 300)))
        else:
            for _ in range(rng.integers(1, 4)):
                bad[rng.integers(0, len(bad))] ^= rng.integers(1, 256)
        bad = bytes(bad)
        if trial % 8 == 3 and len(bad) >= HEADER.size + 4:
            place = rng.integers(HEADER.size + 4, len(good))
            bad = mended(
                good[:place] + rng.bytes(rng.integers(1, 9)) + good[place:][rng.integers(0, 12) :]
                if way
                else bad
            )
            through += 1
        if bad == good:
            continue
        with pytest.raises(InputError):
            decompress(codec, bad, max_pixels=1 << 14)
    assert through > 1_000


def test_a_mended_file_of_another_size_is_refused_before_allocation(codec):
    data = compress(codec, picture(40, 60), 50)
    huge = mended(data[:10] + struct.pack("<HH", 65_535, 65_535) + data[14:])
    with pytest.raises(InputError, match="allowed are"):
        decompress(codec, huge)
    with pytest.raises(InputError, match="size 0 x 60"):
        read_header(mended(data[:10] + struct.pack("<HH", 0, 60) + data[14:]))
    with pytest.raises(InputError, match="damaged"):
        decompress(codec, mended(data[:10] + struct.pack("<HH", 200, 333) + data[14:]))


def test_another_model_is_refused(codec):
    data = compress(codec, picture(40, 60), 50)
    other = build_codec(TINY)
    other.load_state_dict(codec.state_dict())
    assert torch.equal(decompress(other, data), decompress(codec, data))
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(InputError, match="was written by model"):
        decompress(other, data)


def test_checkpoints_keep_the_codec(codec, tmp_path):
    save_codec(tmp_path / "model", codec)
    back = load_codec(tmp_path / "model")
    assert back.config == TINY and compress(back, picture(33, 44), 10) == compress(codec, picture(33, 44), 10)
    save(tmp_path / "other", model={"a": torch.zeros(1)})
    with pytest.raises(InputError, match="not of a codec"):
        load_codec(tmp_path / "other")


def test_training_repeats_and_lowers_the_loss():
    photos, runs = [picture(80, 90, s) for s in range(2)], []
    for _ in range(2):
        made = build_codec(TINY, seed=3)
        runs.append([s.loss for s in fit(made, photos, steps=12, seed=1, batch=2, size=32)])
    assert runs[0] == runs[1]
    assert not torch.equal(crops(photos, 0, 1, batch=2, size=32), crops(photos, 1, 1, batch=2, size=32))
    before = torch.random.get_rng_state()
    build_codec(TINY)
    assert torch.equal(before, torch.random.get_rng_state())


def test_hooks_see_crops_and_scales():
    seen = []

    def change(x, step):
        return x * 0

    def extra(coded, step):
        seen.append([tuple(z.shape) for z in coded.latents])
        return sum(z.square().mean() for z in coded.latents)

    made = build_codec(TINY)
    for state in fit(
        made, [picture(80, 90)], steps=2, batch=2, size=64, change=change, extra=extra, calibrate=False
    ):
        last = state
    assert seen[0] == [(2, 20, 8, 8), (2, 8, 4, 4), (2, 6, 2, 2)] and set(last.averaged) == set(
        made.state_dict()
    )


@pytest.mark.parametrize("config", [TINY, CodecConfig()])
def test_the_twin_has_one_scale_and_nearly_the_size(config):
    twin = single_scale_twin(config)
    assert len(twin.channels) == 1 and abs(count_parameters(twin) / count_parameters(config) - 1) < 0.15
    small = build_codec(single_scale_twin(TINY)).eval()
    image = picture(21, 35)
    assert decompress(small, compress(small, image, 70)).shape == image.shape


@pytest.mark.parametrize(
    "bad",
    [
        dict(channels=(1, 2)),
        dict(weights=(0.2, 0.1)),
        dict(patch=1),
        dict(embedding=0),
        dict(channels=(0, 1, 1)),
    ],
)
def test_bad_configurations_are_refused(bad):
    with pytest.raises(InputError):
        CodecConfig(**bad)


def test_bad_pictures_are_refused(codec):
    for image in (
        torch.zeros(3, 4, 4),
        torch.zeros(1, 4, 4, dtype=torch.uint8),
        torch.zeros(3, 0, 4, dtype=torch.uint8),
    ):
        with pytest.raises(InputError):
            compress(codec, image, 10)
    for quality in (-1, 101, 0.5):
        with pytest.raises(InputError):
            compress(codec, picture(8, 8), quality)
    assert isinstance(codec, Codec)
