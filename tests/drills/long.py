"""Section 5: long runs, large pictures, many records, old results."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path
from statistics import median

from drills import ROOT, Book, drill, fork, memory
from drills.sweeps import write_page
from drills.training import small

OLDER = ROOT / "tests" / "older"


def grown(series: list[list[float]]) -> float:
    "MiB between the second fifth of a series and its last fifth."
    values, n = [m for _, m in series], len(series)
    return median(values[-max(1, n // 5) :]) - median(values[n // 5 : max(n // 5 + 1, 2 * n // 5)])


@drill("Long and large")
def memory_training(book: Book, room: Path, short: bool) -> None:
    "The memory of a process that trains for twenty thousand steps, with checkpoints, is flat."
    import torch

    from spectral_diffusion.core.runtime import stream
    from spectral_diffusion.learn.loop import train
    from spectral_diffusion.models.zoo import build_model
    from spectral_diffusion.noise.denoiser import wrap
    from spectral_diffusion.noise.process import Process

    steps, series = 400 if short else 20_000, []
    denoiser = wrap(
        build_model({"name": "unet_tiny", "channels": 1, "base": 4, "depth": 1}), Process("cosine")
    )

    def batches(step):
        return torch.randn(2, 1, 8, 8, generator=stream(0, f"drill/{step}"))

    for state in train(
        denoiser, batches, steps=steps, batch=2, checkpoints=room / "last", checkpoint_every=500
    ):
        if state.step % (steps // 200) == 0:
            series.append([state.step, round(memory(), 2)])
        if state.step % 1_000 == 0:
            with state.averaged() as d:
                d(batches(0), torch.full((2,), 0.5))
    book.series["step, MiB"], book.notes["MiB grown"], book.notes["MiB allowed"] = (
        series,
        round(grown(series), 2),
        4,
    )
    book.count("steps of training", steps, int(grown(series) > 4))


@drill("Long and large")
def memory_sweep(book: Book, room: Path, short: bool) -> None:
    """The memory of the process that runs five hundred rows of a sweep, forty of them notebooks in kernels of
    their own, is flat."""
    from spectral_diffusion.study.rows import run_rows
    from spectral_diffusion.study.sweep import run_sweep

    series, kernels = [], []

    def one(parameters, out):
        (out / "metrics.json").write_text(json.dumps({"loss": 1 / parameters["x"], "curve": [0.5] * 200}))
        if parameters["x"] % 10 == 0:
            series.append([parameters["x"], round(memory(), 2)])

    n, notebooks = (40, 0) if short else (500, 40)
    ended = run_rows(room / "rows", [{"x": x} for x in range(1, n + 1)], one, {}, engine="sequential")
    page = write_page(room / "page")
    for x in range(1, notebooks + 1):
        run_sweep(page, [{"x": x}], "sequential", root=room / "notebooks", cwd=page.parent)
        kernels.append([x, round(memory(), 2)])
    book.count("rows of a sweep", len(ended.ran), int(grown(series) > 4 or len(ended.ran) != n))
    if kernels:
        book.count("rows that are notebooks", notebooks, int(grown(kernels) > 8))
    book.series.update({"row, MiB": series, "notebook, MiB": kernels})
    book.notes.update(
        {
            "MiB grown, rows": round(grown(series), 2),
            "MiB grown, notebooks": round(grown(kernels), 2) if kernels else None,
            "MiB allowed, rows": 4,
            "MiB allowed, notebooks": 8,
        }
    )


def peak(book: Book, room: Path, what: str, limit: int, call) -> None:
    "MiB that a call takes at most above what the process has, in a child; and that it gives a finite answer."

    def go() -> int:
        Path("/proc/self/clear_refs").write_text("5")
        before, start = memory(), time.process_time()
        good = call()
        (room / "peak.json").write_text(
            json.dumps([memory("VmHWM") - before, time.process_time() - start, bool(good)])
        )
        return 0

    child = fork(go, room / "said.txt")
    status = child.wait()
    size, seconds, good = json.loads((room / "peak.json").read_text()) if status == 0 else (0, 0, False)
    book.check(
        what, good and size <= limit, f"{size:.0f} MiB of {limit}, status {status}: {child.said()[-300:]}"
    )
    book.cases[what].update({"most MiB": round(size), "allowed MiB": limit, "CPU seconds": round(seconds, 2)})


@drill("Long and large")
def large_picture(book: Book, room: Path, short: bool) -> None:
    "A picture of 1024 x 1024 goes through transforms, adapters and codec within a stated memory."
    import torch

    from spectral_diffusion.codec.bitstream import compress, decompress
    from spectral_diffusion.codec.hierarchical import build_codec
    from spectral_diffusion.core.runtime import stream
    from spectral_diffusion.models import adapters
    from spectral_diffusion.signals.bases import BASES
    from spectral_diffusion.signals.fourier import irfft2, rfft2
    from spectral_diffusion.signals.spectra import radial_power
    from spectral_diffusion.signals.wavelets import dwt2, idwt2

    side = 128 if short else 1024
    x = torch.rand(1, 3, side, side, generator=stream(0, "drill/large")) * 2 - 1

    def near(y):
        return bool((y - x).abs().max() < 1e-4)

    for name in BASES:
        peak(
            book,
            room,
            f"basis {name}, there and back",
            300,
            lambda name=name: near(BASES[name].inverse(BASES[name].forward(x))),
        )
    peak(book, room, "rfft2, there and back", 200, lambda: near(irfft2(rfft2(x), (side, side))))
    peak(book, room, "dwt2 of three levels, there and back", 300, lambda: near(idwt2(dwt2(x, levels=3))))
    peak(book, room, "radial_power", 300, lambda: radial_power(x).power.isfinite().all())
    made = {
        "RadialAdapter": adapters.RadialAdapter,
        "BandpassAdapter": adapters.BandpassAdapter,
        "LearnableAdapter": lambda: adapters.LearnableAdapter(3),
        "AmplitudeResidual": lambda: adapters.AmplitudeResidual(3),
        "PhaseCorrection": lambda: adapters.PhaseCorrection(3),
    }
    for name, build in made.items():

        def go(build=build):
            with torch.no_grad():
                return build()(x).isfinite().all()

        peak(book, room, f"adapter {name}", 400, go)
    codec, pixels = build_codec().eval(), ((x[0] + 1) * 127.5).round().to(torch.uint8)

    def code():
        data = compress(codec, pixels, 20)
        return decompress(codec, data).shape == pixels.shape

    peak(book, room, "codec, coded and decoded", 1_500, code)
    book.notes["side"] = side


@drill("Long and large")
def ledger(book: Book, room: Path, short: bool) -> None:
    """Loading the ledger of ten thousand runs takes less than two seconds (judged in the full form only), and
    it is right."""
    from spectral_diffusion.core.config import dump_yaml
    from spectral_diffusion.core.environment import environment
    from spectral_diffusion.run.record import write_json
    from spectral_diffusion.study.ledger import INDEX, load_ledger, write_ledger

    n, root, limit = 200 if short else 10_000, room / "results", 2.0
    text, system = dump_yaml(small()), json.dumps(environment())
    for i in range(n):
        path = root / f"bench{i % 7}" / hashlib.sha256(str(i).encode()).hexdigest()[:12]
        path.mkdir(parents=True)
        (path / "config.yaml").write_text(text.replace("seed: 0", f"seed: {i}"))
        (path / "system.json").write_text(system)
        (path / "metrics.json").write_text(
            json.dumps(
                {
                    "loss": i / 7,
                    "seconds": 1.5,
                    "parameters": 10,
                    "by_time": [0.1] * 8,
                    "by_band": {"low": 1.0},
                }
            )
        )
    start = time.process_time()
    write_ledger(root)
    book.notes["CPU seconds of the first reading, without an index"] = round(time.process_time() - start, 1)
    seconds, wall = [], []
    for _ in range(3):
        start, begin = time.process_time(), time.monotonic()
        found = load_ledger(root)
        seconds.append(
            round(time.process_time() - start, 2)
        )  # processor time: the machine may be busy with something else
        wall.append(round(time.monotonic() - begin, 2))
        if not short:  # the short form runs with the tests, which know no machine
            book.check("loaded in time", seconds[-1] < limit, f"{seconds[-1]} s")
    book.check(
        "right: every run once, every number its own",
        sorted(found.seed) == list(range(n)) and bool((found.loss == found.seed / 7).all()),
    )
    write_json(path / "metrics.json", {"loss": -1.0})
    shutil.rmtree(next(p for p in root.glob("bench0/*")))
    changed = load_ledger(root)
    book.check(
        "a changed and a removed run show at once",
        len(changed) == n - 1 and bool((changed.loss == -1).sum() == 1),
    )
    book.notes.update(
        {
            "runs": n,
            "seconds allowed": limit,
            "CPU seconds, three times": seconds,
            "seconds by the clock": wall,
            "MiB of the index": round((root / INDEX).stat().st_size / 2**20, 1),
        }
    )


@drill("Long and large")
def older(book: Book, room: Path, short: bool) -> None:
    "Results of an older version of the package, stored with the tests, still load and mean the same."
    import torch

    from spectral_diffusion.codec.bitstream import decompress
    from spectral_diffusion.codec.files import read_image
    from spectral_diffusion.codec.hierarchical import load_codec
    from spectral_diffusion.core.runtime import stream
    from spectral_diffusion.run.pictures import load_samples
    from spectral_diffusion.run.record import load_record
    from spectral_diffusion.run.saved import load_denoiser
    from spectral_diffusion.study.ledger import load_ledger
    from spectral_diffusion.study.rows import sweep_table
    from spectral_diffusion.study.studies import read_study

    told = json.loads((OLDER / "told.json").read_text())
    book.notes["written by"] = told["versions"]
    record = load_record(OLDER / "results" / "runs" / told["run"])
    book.check(
        "a record", record.metrics["loss"] == told["loss"] and len(record.history()) == told["evaluations"]
    )
    with torch.no_grad():
        y = load_denoiser(record)(
            torch.randn(2, 3, 32, 32, generator=stream(0, "older")), torch.tensor([0.3, 0.7])
        )
    book.check(
        "a network and what it answers",
        (y[:, :, ::8, ::8].flatten() - torch.tensor(told["answer"])).abs().max().item() < 1e-5,
    )
    book.check("its samples", load_samples(next((record.path / "samples").iterdir())).shape == (2, 3, 32, 32))
    data = (OLDER / "coded.sdc").read_bytes()
    book.check(
        "a codec and a coded picture",
        torch.equal(decompress(load_codec(OLDER / "codec"), data), read_image(OLDER / "decoded.png")),
    )
    design, y, _ = read_study(OLDER / "results" / "study", "loss")
    book.check(
        "a sweep and its design",
        len(design) == told["rows"]
        and len(sweep_table(OLDER / "results" / "study")) == told["rows"]
        and y.tolist() == told["losses"],
    )
    book.check("a ledger", sorted(load_ledger(OLDER / "results").fingerprint) == told["ledger"])
    committed = [
        p.parent for p in (ROOT / "results").glob("*/*/metrics.json") if (p.parent / "config.yaml").is_file()
    ]
    for path in committed[:20] if short else committed:
        book.check("a record of this repository", isinstance(load_record(path).metrics, dict))
