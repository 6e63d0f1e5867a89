"""Section 1: a training run that is killed, starved of disk, fed with NaN and interrupted."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from drills import ROOT, Book, drill, fork

TRAIN = {"steps": 14, "batch": 4, "checkpoint": 4}


def small(**changes):
    "A run of seconds: a tiny network on Gaussian pictures."
    from spectral_diffusion.run.settings import DataConfig, EvalConfig, RunConfig, TrainConfig

    train = {**TRAIN, **changes.pop("train", {})}
    return RunConfig(
        data=DataConfig(name="power_law", statistics=64),
        model={"name": "unet_tiny", "base": 8, "depth": 1},
        train=TrainConfig(**train),
        evaluation=EvalConfig(images=8, points=12, samples=2, sample_steps=2),
        **changes,
    )


def warm() -> None:
    "Images in the cache before anything is forked."
    from spectral_diffusion.core.environment import commit
    from spectral_diffusion.data.sets import load_images

    load_images("power_law")
    commit()


def work(config, root: Path):
    "What a child does: the run, as a script would call it."

    def go() -> int:
        from spectral_diffusion.run.experiment import train_run

        train_run(config, root)
        return 0

    return go


def command(config, root: Path, file: Path):
    "What a child does: the run, as the command line calls it."
    from spectral_diffusion.core.config import dump_yaml
    from spectral_diffusion.lab.cli import main

    file.write_text(dump_yaml(config), encoding="utf-8")
    return lambda: main(["train", "--config", str(file), "--results", str(root), "--device", "cpu"])


def essence(config, root: Path) -> dict:
    "Everything of a record that must repeat: history, metrics, weights, samples, and the names of its files."
    from spectral_diffusion.core.files import sha256
    from spectral_diffusion.run.numbers import CLOCKED
    from spectral_diffusion.run.record import load_record, run_path

    record = load_record(run_path(config, root))
    files = sorted(p.relative_to(record.path).as_posix() for p in record.path.rglob("*"))
    content = {
        f: sha256(record.path / f)
        for f in files
        if f.endswith((".safetensors", ".png", "spectrum.csv", "config.yaml"))
    }
    return {
        "history": record.history().drop(columns="seconds").to_csv(),
        "metrics": {k: v for k, v in record.metrics.items() if k not in CLOCKED},
        "files": files,
        "content": content,
    }


def differs(a: dict, b: dict) -> str:
    "Which parts are not equal."
    return ", ".join(k for k in a if a[k] != b[k])


def reached(config, root: Path) -> int:
    "The step of the latest checkpoint; 0 where there is none."
    from spectral_diffusion.learn.state import latest
    from spectral_diffusion.run.record import run_path

    path = run_path(config, root)
    found = latest(path.with_name(f".partial-{path.name}") / "checkpoints" / "last")
    return config.train.steps if path.exists() else int(found.name.split("-")[1]) if found else 0


@drill("Training")
def kills(book: Book, room: Path, short: bool) -> None:
    """kill -9 at random moments of one run: history, weights and samples equal those of the undisturbed run,
    bit for bit."""
    warm()
    wanted, config, draw = (
        (3, small(train={"steps": 60}), random.Random(1))
        if short
        else (50, small(train={"steps": 800}), random.Random(1))
    )
    quiet = fork(work(config, room / "quiet"), room / "quiet.txt").wait()
    expected = essence(config, room / "quiet")
    book.check("the undisturbed run ends", quiet == 0)
    killed, runs, path = 0, 1, []
    while killed < wanted:
        root = room / f"run-{runs}"
        goal, deadline = (
            reached(config, root) + draw.randint(0, config.train.steps // (2 * wanted)),
            time.monotonic() + 900,
        )
        child = fork(work(config, root), room / "child.txt")
        while reached(config, root) < goal and not child.ended() and time.monotonic() < deadline:
            time.sleep(0.01)  # how far it gets is drawn in steps, whatever else the machine does
        time.sleep(draw.uniform(0, 0.3))
        if child.ended():
            book.check(
                "the resumed run equals the undisturbed one",
                child.status == 0 and not (bad := differs(expected, essence(config, root))),
                child.said()[-300:] if child.status else bad,
            )
            runs += 1
            continue
        child.kill()
        killed += 1
        path.append([killed, runs, reached(config, root)])
    child = fork(work(config, room / f"run-{runs}"), room / "child.txt")
    status = child.wait()
    bad = differs(expected, essence(config, room / f"run-{runs}")) if status == 0 else child.said()[-300:]
    book.check("the resumed run equals the undisturbed one", status == 0 and not bad, bad)
    book.count("kill -9 at a random moment, nothing lost but steps since the last checkpoint", killed)
    book.series["kill, run, step of the last checkpoint"] = path
    book.notes.update(
        {
            "steps": config.train.steps,
            "checkpoint every": config.train.checkpoint,
            "runs": runs,
            "largest number of kills in one run": max(
                sum(1 for _, r, _ in path if r == i) for i in range(1, runs + 1)
            ),
        }
    )


EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "open")


def at_event(number: int, root: Path, act):
    "Call `act` just before the n-th change of a file below a folder; the events are those of Python's audit."
    seen = [0]

    def hook(event, args):
        if (
            event not in EVENTS
            or not args
            or not isinstance(args[0], str | bytes | os.PathLike)
            or not os.fsdecode(args[0]).startswith(str(root))
        ):
            return
        if event == "open" and not (
            isinstance(args[1], str)
            and set(args[1]) & set("wax+")
            or isinstance(args[2], int)
            and args[2] & (os.O_WRONLY | os.O_RDWR)
        ):
            return
        seen[0] += 1
        if seen[0] == number:
            act()

    sys.addaudithook(hook)
    return seen


@drill("Training")
def kill_points(book: Book, room: Path, short: bool) -> None:
    """kill -9 just before every single change of a file that a run makes, one after the other: the resumed
    run is the same."""
    warm()
    config = small()

    def count() -> int:
        seen = at_event(-1, room / "quiet", None)
        work(config, room / "quiet")()
        (room / "events.txt").write_text(str(seen[0]))
        return 0

    book.check("the undisturbed run ends", fork(count, room / "quiet.txt").wait() == 0)
    expected, total = essence(config, room / "quiet"), int((room / "events.txt").read_text())
    numbers = range(1, total + 1)
    if short:
        numbers = random.Random(2).sample(numbers, 5)
    for n in numbers:
        root = room / f"at-{n}"

        def die(root=root, n=n) -> int:
            at_event(n, root, lambda: os.kill(os.getpid(), signal.SIGKILL))
            return work(config, root)()

        status = fork(die).wait()
        child = fork(work(config, root), room / "again.txt")
        again = child.wait()
        bad = differs(expected, essence(config, root)) if again == 0 else child.said()[-300:]
        book.check(
            "killed before a change of a file, resumed, equal",
            status == -signal.SIGKILL and not bad,
            f"change {n} of {total}, status {status}: {bad}",
        )
        shutil.rmtree(root, ignore_errors=True)
    book.notes["changes of files in one run"] = total


def small_disk(place: Path, kib: int) -> bool:
    "A file system of a given size in a folder; False where this is not permitted."
    place.mkdir(exist_ok=True)
    return (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place)], capture_output=True
        ).returncode
        == 0
    )


@drill("Training")
def disk_full(book: Book, room: Path, short: bool) -> None:
    """The disk fills while a checkpoint or a result is written: one clear line, exit code 1, the last
    checkpoint is whole, the run goes on when there is room."""
    warm()
    config = small()
    fork(work(config, room / "quiet")).wait()
    expected, disk = essence(config, room / "quiet"), room / "disk"
    whole = sum(p.stat().st_size for p in (room / "quiet").rglob("*") if p.is_file()) // 1024
    mounted = small_disk(disk, 64)
    if mounted:
        subprocess.run(["umount", str(disk)], check=True)
    book.notes.update(
        {"small file system": "tmpfs" if mounted else "not permitted here", "KiB of a record": whole}
    )

    def once(what: str, root: Path, limited, free) -> bool:
        child = fork(limited, room / "said.txt")
        status, text = child.wait(), child.said()
        if status == 0:
            free()
            return False
        lines = [x for x in text.splitlines() if "no room" in x]
        book.check(
            f"{what}: exit code 1 and one clear line",
            status == 1 and len(lines) == 1 and "Traceback" not in text,
            f"status {status}: {text[-300:]}",
        )
        before = reached(config, root)
        book.check(
            f"{what}: the last checkpoint is whole, nothing half-written under a final name",
            whole_checkpoint(config, root),
            f"step {before}",
        )
        free()
        child = fork(work(config, root), room / "again.txt")
        again = child.wait()
        bad = differs(expected, essence(config, root)) if again == 0 else child.said()[-300:]
        book.check(f"{what}: with room again the run ends as if nothing had been", not bad, bad)
        return True

    sizes = [int(whole * f) for f in ((0.6, 2.2) if short else [0.1 * i for i in range(1, 60)])]
    for kib in sizes if mounted else ():
        small_disk(disk, kib)
        try:
            go = command(config, disk / "results", room / "run.yaml")
            once(
                "small file system",
                disk / "results",
                go,
                lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True),
            )
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
    for i, size in enumerate(
        (20_000,) if short else [300, 500, 1_000, 1_500, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000]
    ):
        root = room / f"limit-{i}"
        go = command(config, root, room / "run.yaml")

        def limited(size=size, go=go) -> int:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            return go()

        once("limit on the size of a file", root, limited, lambda: None)


def whole_checkpoint(config, root: Path) -> bool:
    "Whether the latest checkpoint, where there is one, can be read, and no record is there."
    from spectral_diffusion.core.registry import InputError
    from spectral_diffusion.learn.checkpoint import load
    from spectral_diffusion.learn.state import latest
    from spectral_diffusion.run.record import run_path

    path = run_path(config, root)
    found = latest(path.with_name(f".partial-{path.name}") / "checkpoints" / "last")
    try:
        return not path.exists() and (found is None or load(found).meta["step"] > 0)
    except InputError:
        return False


@drill("Training")
def not_finite(book: Book, room: Path, short: bool) -> None:
    """A loss that is NaN, infinite or explodes: the run stops with step, batch and last checkpoint named, or
    skips and counts when asked to."""
    import torch

    from spectral_diffusion.run import training
    from spectral_diffusion.run.record import load_record, run_path

    warm()
    real, values = (
        training.batch,
        {"NaN": float("nan"), "infinity": float("inf"), "a number too large": 1e30},
    )

    def poisoned(value, steps):
        def give(images, seed, step, size, **options):
            return (
                torch.full((size, 3, 32, 32), value)
                if step in steps
                else real(images, seed, step, size, **options)
            )

        return give

    for name, value in values.items():
        for step in (6,) if short else range(1, TRAIN["steps"]):
            config, root = small(seed=step), room / f"stop-{name}-{step}"
            go = command(config, root, room / "run.yaml")

            def stop(go=go, step=step, value=value) -> int:
                training.batch = poisoned(value, {step})
                return go()

            child = fork(stop, room / "said.txt")
            status, text, last = child.wait(), child.said(), step // TRAIN["checkpoint"] * TRAIN["checkpoint"]
            named = (
                f"stopped at step {step + 1}" in text
                and f"batch {step} of seed {step}" in text
                and (f"step-{last:08d}" if last else "none was saved") in text
            )
            book.check(
                f"{name} in a batch: stops, names step, batch and checkpoint, exit code 1",
                status == 1 and named and "Traceback" not in text,
                f"{status}: {text[-300:]}",
            )
            book.check(
                f"{name} in a batch: the last checkpoint is whole",
                reached(config, root) == last and whole_checkpoint(config, root),
                f"reached {reached(config, root)} of {last}",
            )
    for lr in (1e9,) if short else (1e6, 1e9, 1e12, 1e20, 1e30):
        child = fork(
            command(small(train={"lr": lr}), room / f"lr-{lr}", room / "run.yaml"), room / "said.txt"
        )
        status, text = child.wait(), child.said()
        book.check(
            "a learning rate that makes the loss explode: stops, exit code 1",
            status == 1 and "training stopped at step" in text and "last good checkpoint" in text,
            f"{status}: {text[-300:]}",
        )
    for bad in ({3},) if short else ({3}, {1, 2, 9}, {5, 6, 7, 8}, {0, 13}):
        config, root = small(train={"on_nan": "skip"}), room / f"skip-{'-'.join(map(str, sorted(bad)))}"

        def skip(where, then=None, config=config, bad=bad):
            def go() -> int:
                training.batch = poisoned(float("nan"), bad)
                if then:
                    then()
                return work(config, where)()

            return go

        status = fork(skip(root), room / "said.txt").wait()
        counted = load_record(run_path(config, root)).metrics.get("skipped") if status == 0 else None
        book.check(
            "skips and counts when asked to",
            counted == len(bad),
            f"status {status}, counted {counted} of {len(bad)}",
        )
        late = room / f"{root.name}-killed"
        fork(
            skip(late, lambda late=late: at_event(30, late, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        ).wait()
        again = fork(skip(late), room / "said.txt").wait()
        bad_parts = (
            differs(essence(config, root), essence(config, late))
            if again == status == 0
            else f"status {status}, {again}"
        )
        book.check("skips, is killed, resumes with its count", not bad_parts, bad_parts)


@drill("Training")
def interrupts(book: Book, room: Path, short: bool) -> None:
    """Ctrl-C once at a random moment: the step is finished and saved, exit code 130, and the resumed run is
    the same."""
    from spectral_diffusion.learn.state import latest

    warm()
    config, draw = small(train={"steps": 120, "checkpoint": 1_000}), random.Random(3)
    start = time.monotonic()
    fork(work(config, room / "quiet")).wait()
    seconds, expected, inside = time.monotonic() - start, essence(config, room / "quiet"), 0
    for i in range(2 if short else 25):
        root = room / f"run-{i}"
        child = fork(command(config, root, room / "run.yaml"), room / "said.txt")
        time.sleep(draw.uniform(0.3, 0.9) * seconds)
        status, text = child.kill(signal.SIGINT), child.said()
        if status == 0:
            continue  # it was faster
        kept = reached(config, root)
        inside += kept > 0
        book.check(
            "exit code 130, no traceback",
            status == 130 and "Traceback" not in text,
            f"{status}: {text[-300:]}",
        )
        if "stopped after step" in text:
            book.check(
                "the step in which it came is saved",
                f"stopped after step {kept}," in text,
                f"{kept}: {text[-200:]}",
            )
        again = fork(work(config, root), room / "again.txt").wait()
        bad = differs(expected, essence(config, root)) if again == 0 else f"status {again}"
        book.check("the resumed run equals the undisturbed one", not bad, bad)
        assert latest(root) is None
    book.notes["came while steps were made"] = inside


LOCALES = {
    "plain ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "Turkish": {"LC_ALL": "tr_TR.UTF-8"},
    "German": {"LC_ALL": "de_DE.UTF-8"},
    "the first zone of the day": {"TZ": "Pacific/Kiritimati"},
    "the last one": {"TZ": "Etc/GMT+12"},
}
PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
from drills.training import small, warm, work
from spectral_diffusion.core.files import atomic_file
from spectral_diffusion.run.record import load_record, run_folder, run_path, save_record, write_json
from spectral_diffusion.run.numbers import CLOCKED
from dataclasses import dataclass
@dataclass(frozen=True, kw_only=True)
class Named:
    bench: str = "named"
    arm: str = "\\u03b5-gr\\u00f6\\u00dfer \\u0131"
with run_folder(Named(), sys.argv[2]) as folder: write_json(folder/"metrics.json", {"loss": 0.5})
assert load_record(run_path(Named(), sys.argv[2])).config["arm"] == Named().arm
work(small(), Path(sys.argv[2]))()
"""


@drill("Training")
def clock_and_locale(book: Book, room: Path, short: bool) -> None:
    """Another language, encoding or time zone of the machine, and clocks that jump: the numbers and the files
    are the same."""
    warm()
    config = small()
    fork(work(config, room / "quiet")).wait()
    expected = essence(config, room / "quiet")
    for name, changes in list(LOCALES.items())[: 1 if short else None]:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(ROOT), str(room / name.replace(" ", "-"))],
            env={**os.environ, "PYTHONPATH": str(ROOT), **changes},
            capture_output=True,
            text=True,
        )
        bad = (
            differs(expected, essence(config, room / name.replace(" ", "-")))
            if done.returncode == 0
            else done.stderr[-300:]
        )
        book.check("language, encoding and time zone", not bad, f"{name}: {bad}")
    for i in range(1 if short else 5):

        def jump(i=i) -> int:
            draw = random.Random(i)
            for name in ("time", "perf_counter", "monotonic", "process_time"):
                setattr(time, name, lambda: draw.uniform(-1e9, 1e9))
            return work(config, room / f"jump-{i}")()

        child = fork(jump, room / "said.txt")
        status = child.wait()
        bad = differs(expected, essence(config, room / f"jump-{i}")) if status == 0 else child.said()[-300:]
        book.check("clocks that jump back and forth", not bad, bad)
