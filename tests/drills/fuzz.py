"""Section 4: random configurations, shapes and dtypes (hypothesis), and fuzzing that is guided by coverage.

No outside fuzzer is used: the loop below mutates files, watches which pairs of lines of the reader's modules
are executed one after the other (`sys.settrace`), and keeps a file that shows a new pair. It is much slower
than a compiled fuzzer and sees no line of C or Rust (range coder, safetensors' parser, libpng).
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from drills import Book, drill
from drills.hostile import codec_room, mend, sealed, tensors_of
from drills.training import small, warm

BUDGET = 600  # seconds of each of the two guided fuzzings in the full form


class Work(Exception):
    "A run was about to begin although its configuration is wrong."


@drill("Fuzzing")
def configurations(book: Book, room: Path, short: bool) -> None:
    """Thousands of wrong configurations at the command line: exit code 2 and one line before any work,
    nothing written."""
    from hypothesis import given, settings
    from hypothesis import strategies as st

    from spectral_diffusion.core.config import to_dict
    from spectral_diffusion.lab import cli
    from spectral_diffusion.run import experiment
    from spectral_diffusion.run.settings import RunConfig

    warm()
    base, where, outcomes = to_dict(small()) | {"noise": "white"}, room / "run.yaml", Counter()
    leaves = [(k,) for k in base if not isinstance(base[k], dict)] + [
        (k, n) for k in ("data", "train", "evaluation", "model") for n in base[k]
    ]
    kinds = {
        "seed": int,
        "statistics": int,
        "base": int,
        "depth": int,
        **{
            n: int
            for n in ("steps", "batch", "warmup", "checkpoint", "images", "points", "samples", "sample_steps")
        },
        **{n: float for n in ("lr", "ema", "clip")},
    }
    words = st.text(max_size=12).filter(
        lambda s: (
            s
            not in (
                "",
                "cosine",
                "linear",
                "eps",
                "x0",
                "v",
                "white",
                "none",
                "ddim",
                "ddpm",
                "conv",
                "cifar10",
            )
        )
    )

    def wrong(leaf: tuple) -> st.SearchStrategy:
        "Values that a key cannot have."
        kind = kinds.get(leaf[-1], str)
        numbers = (
            st.sampled_from([float("nan"), float("inf"), -float("inf"), 1.5, -0.5])
            if kind is int
            else st.sampled_from([float("nan"), -1.0, -1e-9, -(10**30)])
        )
        low = st.integers(-(2**70), -1) if kind is not str and leaf[-1] != "seed" else st.nothing()
        other = (
            st.none()
            | st.booleans()
            | st.lists(st.integers(), max_size=3)
            | st.dictionaries(words, st.integers(), min_size=1, max_size=2)
            | (words if kind is not str else st.integers() | st.floats())
        )
        return (
            other
            | (numbers if kind is not str else st.nothing())
            | low
            | (words.map(lambda s: "no " + s) if kind is str else st.nothing())
        )

    def edit(leaf, value):
        config = json.loads(json.dumps(base))
        node = config
        for part in leaf[:-1]:
            node = node[part]
        node[leaf[-1]] = value
        return config

    changed = st.sampled_from(leaves).flatmap(
        lambda leaf: wrong(leaf).map(lambda v: (f"a value of {'.'.join(leaf)}", edit(leaf, v)))
    )
    unknown = st.sampled_from([(), ("data",), ("train",), ("evaluation",), ("model",)]).flatmap(
        lambda place: words.map(lambda w: ("an unknown key", edit((*place, "x" + w), 1)))
    )
    shape = (st.lists(st.integers(), min_size=1, max_size=3) | st.integers() | words).map(
        lambda v: ("no mapping", v)
    )
    section = st.sampled_from(["data", "train", "evaluation", "model"]).flatmap(
        lambda k: (st.integers() | words | st.lists(st.integers(), min_size=1)).map(
            lambda v: (f"no section {k}", edit((k,), v))
        )
    )
    raw = st.binary(max_size=40).map(lambda b: ("bytes", b"\xff" + b)) | st.text(max_size=30).map(
        lambda t: ("text", "train: {" + t.replace("}", ""))
    )

    def begin(*args, **options):
        raise Work

    def attempt(kind, config):
        data = (
            config
            if isinstance(config, bytes)
            else (
                config.encode("utf-8", "surrogatepass")
                if isinstance(config, str) and kind == "text"
                else dump(config)
            )
        )
        where.write_bytes(data)
        out, err = StringIO(), StringIO()
        try:
            with redirect_stdout(out), redirect_stderr(err):
                code = cli.main(
                    ["train", "--config", str(where), "--results", str(room / "results"), "--device", "cpu"]
                )
            said = err.getvalue()
        except Work:
            code, said = "work began", ""
        except Exception as error:
            code, said = f"{type(error).__name__}", str(error)[:200]
        good = (
            code == 2
            and said.startswith("spectral-diffusion train: ")
            and "Traceback" not in said
            and not (room / "results").exists()
        )
        outcomes[kind.split(" of ")[0] if good else "lost"] += 1
        book.check("a wrong configuration", good, f"{kind}: {code}: {said[:160]} for {data[:400]!r}")

    def dump(config) -> bytes:
        import yaml

        return yaml.safe_dump(config, allow_unicode=True).encode("utf-8", "surrogatepass")

    real, experiment.run_folder = experiment.run_folder, begin
    try:
        every = settings(
            max_examples=200 if short else 5_000,
            deadline=None,
            derandomize=True,
            database=None,
            report_multiple_bugs=False,
        )

        @every
        @given(changed | changed | changed | unknown | section | shape | raw)
        def run(case):
            attempt(*case)

        run()
    finally:
        experiment.run_folder = real
    where.write_text("")
    assert isinstance(RunConfig(), RunConfig)
    book.notes.update({f"kind: {k}": n for k, n in outcomes.items()})


def contracts() -> dict[str, Callable]:
    """For each function of the contract a property of its answer; called with random pictures of any shape
    and a random generator."""
    import numpy as np
    import torch

    from spectral_diffusion.codec.rate_distortion import bd_rate
    from spectral_diffusion.core.runtime import stream
    from spectral_diffusion.data.stream import batch
    from spectral_diffusion.data.synthetic import FAMILIES, make
    from spectral_diffusion.doe.arrays import orthogonal_array
    from spectral_diffusion.doe.balance import strength
    from spectral_diffusion.doe.signal_to_noise import signal_to_noise
    from spectral_diffusion.doe.taguchi import analyze
    from spectral_diffusion.learn.regularizers import FocalFrequency
    from spectral_diffusion.measure.convergence import fit_exponential
    from spectral_diffusion.measure.features import frechet_distance
    from spectral_diffusion.models.zoo import build_model
    from spectral_diffusion.noise.arc import arc_times
    from spectral_diffusion.noise.denoiser import wrap
    from spectral_diffusion.noise.distances import kl, w2
    from spectral_diffusion.noise.process import Process
    from spectral_diffusion.noise.schedules import SCHEDULES
    from spectral_diffusion.noise.theory import GaussianField
    from spectral_diffusion.sampling.engine import sample
    from spectral_diffusion.sampling.samplers import SAMPLERS
    from spectral_diffusion.sampling.transfer import transfer
    from spectral_diffusion.signals.bases import BASES
    from spectral_diffusion.signals.cosine import dct2, idct2
    from spectral_diffusion.signals.fourier import bin_weights, irfft2, radius, rfft2
    from spectral_diffusion.signals.spectra import radial_power
    from spectral_diffusion.signals.wavelets import dwt2, idwt2, max_levels

    def close(a, b):
        scale = max(1.0, float(b.abs().max())) if b.numel() else 1.0
        return (
            a.shape == b.shape
            and a.dtype == b.dtype
            and (
                not b.numel()
                or float((a - b).abs().max()) < (1e-4 if b.dtype == torch.float32 else 1e-10) * scale
            )
        )

    def energy(z, weights, x):
        return abs(
            float((z.abs().square().double() * weights).sum()) - float(x.double().square().sum())
        ) <= 1e-4 * max(1.0, float(x.double().square().sum()))

    def four(x):
        return x.reshape(-1, 1, *x.shape[-2:])[:3]

    def field(x, draw):
        return GaussianField(
            (
                torch.rand(
                    x.shape[-2:], generator=stream(draw.randrange(10**6), "drill"), dtype=torch.float64
                )
                + 0.1
            ),
            tuple(x.shape[-2:]),
            basis="dct",
        )

    def levels(x, draw):
        n = draw.randint(0, max_levels(*x.shape[-2:]))
        return close(idwt2(dwt2(x, levels=n)), x)

    def basis(name):
        def go(x, draw):
            b, size = BASES[name], tuple(x.shape[-2:])
            z = b.forward(x)
            return (
                close(b.inverse(z, size), x)
                and tuple(z.shape[-2:]) == b.shape(*size)
                and energy(z, b.weights(*size), x)
            )

        return go

    def schedule(x, draw):
        t = torch.rand(5, generator=stream(draw.randrange(10**6), "t"), dtype=x.dtype)
        return all(
            g.a.isfinite().all() and g.s.isfinite().all() and (g.a >= 0).all() and (g.s >= 0).all()
            for g in (SCHEDULES[n](t) for n in SCHEDULES)
        )

    def process(x, draw):
        x, p = four(x), Process(draw.choice(list(SCHEDULES)))
        t = torch.rand(len(x), generator=stream(draw.randrange(10**6), "t"), dtype=x.dtype)
        y = p.diffuse(x, t, p.noise(x, stream(draw.randrange(10**6), "eps")))
        return y.shape == x.shape and y.dtype == x.dtype and bool(y.isfinite().all())

    def wrapped(x, draw):
        x = four(x)
        d = wrap(
            build_model({"name": "conv", "channels": 1}).to(x.dtype),
            Process("cosine"),
            draw.choice(["eps", "x0", "v"]),
        )
        with torch.no_grad():
            y = d(x, torch.full((len(x),), draw.uniform(0.05, 0.95), dtype=x.dtype))
        return y.shape == x.shape and bool(y.isfinite().all())

    def theory(x, draw):
        f, p = field(x, draw), Process("cosine")
        y, t = f.sample(2, stream(draw.randrange(10**6), "sample")), arc_times(f, p, draw.randint(1, 6))
        v = transfer("ddim", p, f, t)
        return (
            tuple(y.shape[-2:]) == tuple(x.shape[-2:])
            and bool(y.isfinite().all())
            and v.shape == f.power.shape
            and bool(v.isfinite().all())
            and bool((v >= 0).all())
            and w2(v, f.power) >= -1e-12
            and (not (v > 0).all() or kl(v, f.power) >= -1e-9)
        )

    def sampled(x, draw):
        f, p = field(x, draw), Process("cosine")
        name = draw.choice(list(SAMPLERS))
        y = sample(
            f.denoiser(p),
            p,
            (2, 1, *x.shape[-2:]),
            sampler=name,
            steps=draw.randint(1, 4),
            generator=stream(draw.randrange(10**6), "g"),
            like=x,
        )
        return y.shape == (2, 1, *x.shape[-2:]) and y.dtype == x.dtype and bool(y.isfinite().all())

    def made(x, draw):
        family, n = draw.choice(list(FAMILIES)), draw.randint(1, 3)
        y = make(family, n, tuple(x.shape[-2:]), stream(draw.randrange(10**6), "make"))
        return y.shape == (n, 1, *x.shape[-2:]) and bool(y.isfinite().all())

    def taguchi(x, draw):
        y = np.asarray([[draw.uniform(0.1, 9) for _ in range(3)] for _ in range(9)])
        s = analyze(orthogonal_array("L9(3^4)")[:, :3], y, draw.choice(["smaller", "larger"]))
        return np.isfinite(signal_to_noise(y, "smaller")).all() and len(s.effects) > 0

    def curve(x, draw):
        n = draw.randint(4, 40)
        fit = fit_exponential(
            np.arange(n), np.exp(-np.arange(n) * draw.uniform(0.01, 1)) + draw.uniform(0, 1)
        )
        return fit.k >= 0 and fit.asymptote >= 0

    def rates(x, draw):
        r = np.cumsum([draw.uniform(0.1, 1) for _ in range(5)])
        q = np.cumsum([draw.uniform(0.5, 3) for _ in range(5)]) + 25
        return all(abs(bd_rate(r, q, r, q, method=m)) < 1e-6 for m in ("pchip", "akima", "cubic"))

    def sets(x, draw):
        a, b = (
            torch.randn(9, 1, 8, 8, generator=stream(draw.randrange(10**6), "set"), dtype=x.dtype)
            for _ in range(2)
        )
        return frechet_distance(a, b, "pixels").value >= -1e-6

    def focal(x, draw):
        x = four(x)
        return float(FocalFrequency()(x, x + 0.1)) >= 0

    def rings(x, draw):
        p, whole = radial_power(x), float(x.double().square().sum((-2, -1)).mean())
        return (
            bool((p.power >= 0).all())
            and p.power.shape == p.k.shape == p.count.shape
            and float((p.power * p.count).sum())
            <= whole * (1 + (1e-5 if x.dtype == torch.float32 else 1e-9)) + 1e-30
        )  # the corners are beyond the last ring

    def batches(x, draw):
        x = four(x)
        return batch(x, 0, draw.randrange(100), draw.randint(1, 5)).shape[1:] == x.shape[1:]

    return {
        "rfft2, irfft2": lambda x, d: (
            close(irfft2(rfft2(x), tuple(x.shape[-2:])), x)
            and energy(rfft2(x), bin_weights(*x.shape[-2:]), x)
        ),
        "radius, bin_weights": lambda x, d: (
            radius(*x.shape[-2:]).shape == bin_weights(*x.shape[-2:]).shape == rfft2(x).shape[-2:]
        ),
        "dct2, idct2": lambda x, d: close(idct2(dct2(x)), x) and energy(dct2(x), 1.0, x),
        "dwt2, idwt2": levels,
        **{f"basis {n}": basis(n) for n in BASES},
        "radial_power": rings,
        "schedules": schedule,
        "process": process,
        "wrap": wrapped,
        "field, arc_times, transfer, w2, kl": theory,
        "sample": sampled,
        "make": made,
        "orthogonal arrays": lambda x, d: (
            strength(
                orthogonal_array(d.choice(["L4(2^3)", "L8(2^7)", "L9(3^4)", "L16(4^5)", "L18(2^1 3^7)"]))
            )
            >= 2
        ),
        "signal_to_noise, analyze": taguchi,
        "fit_exponential": curve,
        "bd_rate": rates,
        "frechet_distance": sets,
        "FocalFrequency": focal,
        "batch": batches,
    }


@drill("Fuzzing")
def contract(book: Book, room: Path, short: bool) -> None:
    """Every function of the contract with random shapes, dtypes and odd sizes, down to one pixel: the right
    answer, or `InputError`."""
    import torch
    from hypothesis import given, settings
    from hypothesis import strategies as st

    from spectral_diffusion.core.registry import InputError
    from spectral_diffusion.core.runtime import stream

    torch.set_num_threads(1)
    refusals, current = Counter(), [None]
    for name, holds in contracts().items():
        slow = name in (
            "make",
            "field, arc_times, transfer, w2, kl",
            "sample",
            "wrap",
            "signal_to_noise, analyze",
            "fit_exponential",
            "frechet_distance",
        )

        @settings(
            max_examples=(4 if slow else 8) if short else (100 if slow else 400),
            deadline=None,
            derandomize=True,
            database=None,
        )
        @given(
            st.lists(st.integers(1, 3), max_size=2),
            st.integers(1, 19),
            st.integers(1, 19),
            st.sampled_from([torch.float32, torch.float64]),
            st.integers(0, 10**6),
            st.sampled_from([1.0, 1e-6, 1e3, 0.0]),
            st.booleans(),
        )
        def run(lead, h, w, dtype, seed, scale, strided):
            name, holds = current[0]
            x = scale * torch.randn(
                *lead, h, 2 * w if strided else w, generator=stream(seed, "drill/contract"), dtype=dtype
            )
            x = x[..., ::2] if strided else x
            try:
                good, said = bool(holds(x, random.Random(seed))), "a wrong answer"
            except InputError as error:
                good, said = True, str(error)
                refusals[name] += 1
            except Exception as error:
                good, said = False, f"{type(error).__name__}: {error}"
            book.check(
                name, good, f"{said[:200]} for shape {tuple(x.shape)}, {dtype}, scale {scale}, seed {seed}"
            )

        current[0] = (name, holds)
        run()
        book.cases[name]["refused"] = refusals[name]
    wrong = {
        "whole numbers": lambda: torch.ones(4, 4, dtype=torch.int64),
        "no plane": lambda: torch.ones(4),
        "a number": lambda: torch.tensor(1.0),
        "empty": lambda: torch.ones(2, 0, 4),
        "complex": lambda: torch.ones(4, 4, dtype=torch.complex64),
        "boolean": lambda: torch.ones(4, 4, dtype=torch.bool),
    }
    kinds: Counter = Counter()
    for name, holds in contracts().items():
        if name.split(",")[0].split()[0] not in ("rfft2", "dct2", "dwt2", "basis", "radial_power"):
            continue
        for what, make_x in wrong.items():
            try:
                said = "a right answer" if holds(make_x(), random.Random(0)) else "a wrong answer"
            except Exception as error:
                said = type(error).__name__
            kinds[said] += 1
            book.check(
                "pictures that are none: an error or the right answer",
                said != "a wrong answer",
                f"{name}, {what}",
            )
    book.notes["pictures that are none"] = dict(kinds)


@contextmanager
def watched(seen: set, files: tuple[str, ...]):
    "Collect the pairs of lines that are executed one after the other in some modules."

    def local(frame, event, _):
        if event == "line":
            code = frame.f_code.co_name
            seen.add((code, lasts.get(code, 0), frame.f_lineno))
            lasts[code] = frame.f_lineno
        return local

    def start(frame, event, _):
        return local if frame.f_code.co_filename.endswith(files) else None

    lasts: dict[str, int] = {}
    sys.settrace(start)
    try:
        yield
    finally:
        sys.settrace(None)


def mutate(data: bytes, corpus: list[bytes], draw: random.Random, words: tuple[bytes, ...] = ()) -> bytes:
    "A neighbour of a file: a few small changes."
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        kind, at = draw.randrange(9), draw.randrange(len(data) + 1)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << draw.randrange(8)
        elif kind == 1 and data:
            data[at % len(data)] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))
        elif kind == 2:
            data[at:at] = bytes(draw.randrange(256) for _ in range(draw.randint(1, 8)))
        elif kind == 3:
            del data[at : at + draw.randint(1, 16)]
        elif kind == 4:
            other = draw.choice(corpus)
            cut = draw.randrange(len(other) + 1)
            data[at : at + draw.randint(0, 64)] = other[cut : cut + draw.randint(1, 64)]
        elif kind == 5:
            data = data[:at]
        elif kind == 6:
            data[at:at] = data[at : at + draw.randint(1, 32)] * draw.randint(1, 4)
        elif kind == 7 and len(data) >= 4:
            at, size = at % (len(data) - 3), draw.choice((1, 2, 4))
            data[at : at + size] = draw.choice((0, 1, 2**31, 2**32 - 1, 2**16 - 1, len(data))).to_bytes(
                8, draw.choice(("little", "big"))
            )[:size]
        elif kind == 8 and words:
            data[at:at] = draw.choice(words)
    return bytes(data[: 1 << 16])


def guided(
    book: Book,
    what: str,
    read: Callable[[bytes], str],
    corpus: list[bytes],
    files: tuple[str, ...],
    seconds: float,
    words: tuple[bytes, ...] = (),
    seed: int = 0,
) -> None:
    """Mutate, read, keep what shows something new, for some seconds; `read` gives a word for what happened,
    and raises when something is lost."""
    draw, seen, start, runs, slowest, outcomes, curve = (
        random.Random(seed),
        set(),
        time.monotonic(),
        0,
        0.0,
        Counter(),
        [],
    )
    first, corpus = len(corpus), list(corpus)
    for data in corpus:
        with watched(seen, files):
            read(data)
    began = len(seen)
    while time.monotonic() < start + seconds:
        data, before, begin = (
            mutate(draw.choice(corpus if draw.random() < 0.5 else corpus[-20:]), corpus, draw, words),
            len(seen),
            time.monotonic(),
        )
        try:
            with watched(seen, files):
                outcomes[read(data)] += 1
        except Exception as error:
            book.check(what, False, f"{type(error).__name__}: {str(error)[:200]} for {data[:300]!r}")
            outcomes[f"lost: {type(error).__name__}"] += 1
        runs, slowest = runs + 1, max(slowest, time.monotonic() - begin)
        if len(seen) > before:
            corpus.append(data)
        if not curve or time.monotonic() - start > curve[-1][0] + seconds / 100:
            curve.append([round(time.monotonic() - start, 1), len(seen)])
    lost = sum(n for k, n in outcomes.items() if k.startswith("lost"))
    book.count(what, runs - lost)
    book.cases[what].update(
        {
            "seconds": round(seconds),
            "files of the start": first,
            "files kept because new": len(corpus) - first,
            "pairs of lines at the start": began,
            "pairs of lines": len(seen),
            "slowest read, seconds": round(slowest, 2),
            "outcomes": dict(outcomes),
        }
    )
    book.series[f"{what}: seconds, pairs of lines"] = curve


@drill("Fuzzing")
def stream_decoder(book: Book, room: Path, short: bool) -> None:
    """The decoder of coded pictures under guided fuzzing, most files with their checksum made right again:
    `InputError`, or one picture of the size that the header says."""
    import torch

    from spectral_diffusion.codec.bitstream import compress, decompress, read_header
    from spectral_diffusion.core.registry import InputError

    codec, image, _ = codec_room(room)
    pictures = [image[:, :h, :w] for h, w in ((1, 1), (7, 9), (40, 33))]
    valid = {compress(codec, p, q): p for p in pictures for q in (0, 50, 100)}
    draw = random.Random(7)

    def read(data: bytes) -> str:
        forged = draw.random() < 0.8
        tried = mend(data) if forged else data
        try:
            x = decompress(codec, tried, max_pixels=4_096)
        except InputError as error:
            return re.sub(
                r"\b(?=[0-9a-f]*\d)[0-9a-f]+\b|[0-9a-f]{8}\b", "N", str(error).split(":")[0].split(",")[0]
            )[:48]
        head = read_header(tried)
        if tuple(x.shape) != (3, head.height, head.width) or not torch.equal(x, decompress(codec, tried)):
            raise AssertionError("a file has no picture, or two")
        if tried in valid:
            return "a file of the start"
        if not forged:
            raise AssertionError("damage was not noticed")
        # a size or quality that needs the same symbols: who forges checksums can crop
        return "another valid file"

    guided(
        book,
        "coded pictures",
        read,
        list(valid),
        ("codec/bitstream.py", "codec/hierarchical.py", "codec/entropy.py"),
        4 if short else BUDGET,
    )


WORDS = (
    b"!!python/object:os.system",
    b"&a ",
    b"*a",
    b"<<: ",
    b"[",
    b"{",
    b"}",
    b": ",
    b"\n",
    b"\n- ",
    b"1e999",
    b"NaN",
    b"-Infinity",
    b"null",
    b"\xff",
    b"\0",
    b'"',
    b"9" * 40,
    b"../",
    b"\\u0000",
    b"true",
    b"- " * 30,
    b"#",
    b"|",
    b">",
    b"%YAML 1.1",
    b"---",
    b"...",
    b"? ",
)


@drill("Fuzzing")
def readers(book: Book, room: Path, short: bool) -> None:
    """The readers of records, ledgers, sweeps, configurations and checkpoints under guided fuzzing: an answer
    or `InputError`."""
    import torch

    from spectral_diffusion.core.config import dump_yaml, fingerprint, from_dict, load_yaml, to_dict
    from spectral_diffusion.core.environment import environment
    from spectral_diffusion.core.registry import InputError
    from spectral_diffusion.learn.checkpoint import SIDECAR, TENSORS, load, save
    from spectral_diffusion.learn.restore import restore
    from spectral_diffusion.run.record import load_record
    from spectral_diffusion.run.settings import RunConfig
    from spectral_diffusion.study.factors import read_factors
    from spectral_diffusion.study.ledger import load_ledger
    from spectral_diffusion.study.rows import run_rows, sweep_table
    from spectral_diffusion.study.studies import read_study

    fast = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else room
    with tempfile.TemporaryDirectory(dir=fast) as place:
        place = Path(place)
        run = place / "results" / "bench" / "0123456789ab"
        run.mkdir(parents=True)
        texts = {
            "config.yaml": dump_yaml(small()),
            "system.json": json.dumps(environment()),
            "metrics.json": json.dumps({"loss": 0.5, "by_time": [0.1, 0.2], "by_band": {"low": 1.0}}),
            "history.csv": "step,seconds,train_loss,loss\n0,0.0,,1.0\n5,0.1,0.9,0.8\n",
        }
        for name, text in texts.items():
            (run / name).write_text(text)

        def one(parameters, out):
            (out / "metrics.json").write_text(json.dumps({"loss": parameters["a"], "parts": {"x": 1}}))

        def fail(parameters, out):
            raise ValueError("no")

        sweep = run_rows(place / "sweep", [{"a": 1}, {"a": 2}], one, {}, engine="sequential")
        run_rows(place / "sweep", [{"a": 3}], fail, {}, engine="sequential", strict=False)
        study = json.dumps(
            {
                "array": "full",
                "rows": sweep.names,
                "design": {"a": [1, 2]},
                "outer": 1,
                "factors": {"factors": {"a": [1, 2]}},
                "checked": None,
            }
        )
        (place / "sweep" / "study.json").write_text(study)
        (place / "factors.yaml").write_text(
            "factors: {lr: [1e-3, 3e-3], model.base: [16, 32]}\ndummy: [lr]\nnoise: {seed: [0,"
            " 1]}\nreplicates: 2\n"
        )
        (place / "run.yaml").write_text(dump_yaml(small()))
        net = torch.nn.Linear(2, 3)
        adam = torch.optim.AdamW(net.parameters(), lr=0.1)
        net(torch.ones(1, 2)).sum().backward()
        adam.step()
        made = save(
            place / "checkpoint", model=net, optimizer=adam, meta={"step": 1, "arguments": {"lr": 0.1}}
        )
        record, tensors = json.loads((made / SIDECAR).read_text()), (made / TENSORS).read_bytes()
        plain = json.dumps({k: v for k, v in record.items() if k not in ("seal", "sha256")}).encode()

        def everything_of_record():
            load_record(run).history()
            load_ledger(place / "results")

        def both_parts(data, name):
            sealed(
                place / "forged",
                json.loads(data) if name == "sidecar" else json.loads(plain),
                tensors if name == "sidecar" else data,
            )
            restore(
                load(place / "forged"),
                model=torch.nn.Linear(2, 3),
                optimizer=torch.optim.AdamW(torch.nn.Linear(2, 3).parameters()),
            )

        def forged(data, name):
            if name == "sidecar":
                try:
                    found = json.loads(data)
                except (ValueError, RecursionError):
                    found = None
                if not isinstance(found, dict):
                    (place / "forged").mkdir(exist_ok=True)
                    (place / "forged" / SIDECAR).write_bytes(data)
                    return load(place / "forged")
            return both_parts(data, name)

        row, bad = place / "sweep" / sweep.names[0], next((place / "sweep" / "failed").iterdir())

        def of_sweep():
            sweep_table(place / "sweep")
            read_study(place / "sweep", "loss")

        targets = {
            "a record": [(run / n, everything_of_record) for n in texts],
            "a sweep": [
                (p, of_sweep)
                for p in (
                    row / "metrics.json",
                    row / "row.json",
                    bad / "failure.json",
                    bad / "row.json",
                    place / "sweep" / "study.json",
                )
            ],
            "a configuration": [
                (place / "run.yaml", lambda: fingerprint(to_dict(load_yaml(RunConfig, place / "run.yaml")))),
                (place / "factors.yaml", lambda: read_factors(place / "factors.yaml")),
            ],
        }
        jobs = [
            (what, file, file.read_bytes(), call) for what, pairs in targets.items() for file, call in pairs
        ]
        jobs += [
            ("a checkpoint", None, plain, lambda data: forged(data, "sidecar")),
            ("a checkpoint", None, tensors, lambda data: forged(data, "tensors")),
        ]
        seconds = (6 if short else BUDGET) / len(jobs)
        ours = (
            "core/config.py",
            "core/files.py",
            "core/parse.py",
            "run/record.py",
            "study/ledger.py",
            "study/settings.py",
            "study/jobs.py",
            "study/rows.py",
            "study/notebooks.py",
            "study/sweep.py",
            "study/studies.py",
            "study/factors.py",
            "learn/checkpoint.py",
        )
        of_yaml = (
            "yaml/composer.py",
            "yaml/constructor.py",
            "yaml/resolver.py",
        )  # watched only where the damaged file is one: it makes every read ten times slower
        for i, (what, file, good, call) in enumerate(jobs):

            def read(data, file=file, call=call):
                try:
                    if file is None:
                        call(data)
                    else:
                        file.write_bytes(data)
                        call()
                except InputError:
                    return "refused"
                return "read"

            guided(
                book,
                f"{what}: {file.name if file else (SIDECAR, TENSORS)[i - len(jobs) + 2]}",
                read,
                [good],
                ours + of_yaml * (file is not None and file.suffix == ".yaml"),
                seconds,
                WORDS,
                seed=i,
            )
            if file:
                file.write_bytes(good)
        assert tensors_of and from_dict
