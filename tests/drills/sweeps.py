"""Section 2: sweeps whose workers, kernels and notebooks die or hang, and many writers on one folder."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from drills import Book, drill, fork

HEAD = "x = 1\nhow = ''\nout = ''"
BODY = """
import json, os, time
from pathlib import Path
if not Path("mended").exists():
    if how == "dies": os._exit(9)
    if how == "hangs": time.sleep(600)
    if how == "raises": raise ValueError("x is odd")
    if how == "writes nothing": raise SystemExit
Path(out, "metrics.json").write_text(json.dumps({"loss": 1/x}))
"""


def write_page(folder: Path) -> Path:
    "A notebook with parameters that fails as it is told."
    import nbformat

    folder.mkdir(exist_ok=True)
    cells = [
        nbformat.v4.new_code_cell(HEAD, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(BODY),
    ]
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=cells,
            metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}},
        ),
        folder / "page.ipynb",
    )
    return folder / "page.ipynb"


def harm(log: str, mended: str):
    "Work of a row that may kill its own process; nested, so that it travels to other processes by value."

    def run(parameters, out):
        import json
        import os
        import signal
        import time

        line = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(line, f"{parameters['x']} {os.getpid()}\n".encode())
        os.close(line)
        time.sleep(parameters.get("seconds", 0.02))
        if parameters.get("how") == "killed" and not os.path.exists(mended):
            os.kill(os.getpid(), signal.SIGKILL)
        with open(os.path.join(out, "metrics.json"), "w") as file:
            json.dump({"loss": 1 / parameters["x"]}, file)

    return run


def judge(book: Book, what: str, rows: list[dict], guilty: list[dict], first, second, ledger: Path) -> None:
    "The others are done, the guilty are named, and a second call with `retry_failed` runs the guilty alone."
    import pandas as pd

    book.check(
        f"{what}: the rest completes, the failed are named",
        [f.parameters for f in first.failed] == guilty and len(first.ran) == len(rows),
        f"failed {[f.parameters for f in first.failed]}, ran {len(first.ran)} of {len(rows)}",
    )
    wanted = sorted(n for n, r in zip(first.names, rows, strict=True) if r in guilty)
    book.check(
        f"{what}: a second call runs those only, and they succeed",
        not second.failed and sorted(second.ran) == wanted,
        f"ran {len(second.ran)}, failed {len(second.failed)}",
    )
    seen = pd.read_csv(ledger)
    book.check(
        f"{what}: the ledger says so",
        len(seen) == len(rows)
        and (seen.status == "done").all()
        and not list(ledger.parent.glob(".partial*")),
        f"{len(seen)} rows",
    )


@drill("Sweeps")
def workers(book: Book, room: Path, short: bool) -> None:
    """Worker processes that are killed, by their own row or from outside: the rest completes, the failed are
    named, a second call runs only those."""
    from spectral_diffusion.study.rows import run_rows

    draw = random.Random(4)
    for i in range(0 if short else 12):  # first: who has workers already cannot be forked
        root, log = room / f"outside-{i}", room / f"log-{i}"
        rows = [{"x": x, "seconds": 0.15} for x in range(1, 25)]

        def sweep(root=root, log=log, rows=rows) -> int:
            ended = run_rows(
                root, rows, harm(str(log), ""), {}, engine="loky", jobs=2, strict=False, retry_failed=True
            )
            (root / "said.json").write_text(json.dumps([len(ended.ran), [f.reason for f in ended.failed]]))
            return 0

        child, hits = fork(sweep, room / "said.txt"), 0
        for _ in range(3):
            deadline, seen = time.monotonic() + 600, len(log.read_text().splitlines()) if log.exists() else 0
            while (
                (not log.exists() or len(log.read_text().splitlines()) <= seen + 1)
                and time.monotonic() < deadline
                and not child.ended()
            ):
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.2))
            if child.ended() or not log.exists():
                break
            victim = int(log.read_text().split()[-1])
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
            hits += 1
        status = child.wait()
        ran, failed = (
            json.loads((root / "said.json").read_text()) if status == 0 else (0, [child.said()[-300:]])
        )
        kept = (
            status == 0
            and ran == len(rows)
            and len(failed) <= hits // 2
            and all("killed twice" in reason for reason in failed)
        )
        book.check(
            "killed from outside: every row is done but those hit twice, which are named",
            kept,
            f"{hits} kills, status {status}: ran {ran}, failed {failed}",
        )
        status = fork(sweep, room / "said.txt").wait()
        book.check(
            "killed from outside: a second call runs those only, and they succeed",
            status == 0 and json.loads((root / "said.json").read_text()) == [len(failed), []],
            f"status {status}",
        )
        for what, n in (("workers killed from outside", hits), ("rows hit twice", len(failed))):
            book.notes[what] = book.notes.get(what, 0) + n
    for i in range(1 if short else 12):
        root, mended = room / f"own-{i}", room / f"mended-{i}"
        rows = [
            {
                "x": x,
                **(
                    {"how": "killed"}
                    if x in (() if i == 0 and not short else draw.sample(range(1, 13), draw.randint(1, 3)))
                    else {}
                ),
            }
            for x in range(1, 13)
        ]
        guilty = [r for r in rows if "how" in r]
        options = {"engine": "loky", "jobs": 2, "strict": False}
        first = run_rows(root, rows, harm(str(room / "log"), str(mended)), {}, **options)
        mended.touch()
        judge(
            book,
            "killed by their own row",
            rows,
            guilty,
            first,
            run_rows(root, rows, harm(str(room / "log"), str(mended)), {}, retry_failed=True, **options),
            root / "sweep.csv",
        )


@drill("Sweeps")
def kernels(book: Book, room: Path, short: bool) -> None:
    "Notebooks that raise, end without a result, lose their kernel or hang beyond the time of a row."
    import logging

    from spectral_diffusion.study.sweep import run_sweep

    logging.disable(logging.ERROR)
    page = write_page(room / "page")
    hows = ("", "dies") if short else ("", "dies", "hangs", "raises", "writes nothing", "dies", "hangs", "")
    rows = [{"x": i + 1, **({"how": h} if h else {})} for i, h in enumerate(hows)]
    guilty, options = (
        [r for r in rows if "how" in r],
        {"root": room / "sweep", "cwd": page.parent, "limit": 30.0 if short else 60.0, "strict": False},
    )
    first = run_sweep(
        page, rows, "sequential" if short else "loky", **({} if short else {"jobs": 2}), **options
    )
    reasons = {f.parameters["how"]: f.reason for f in first.failed}
    says = {
        "dies": "its kernel died",
        "hangs": "was stopped at its limit",
        "raises": "x is odd",
        "writes nothing": "without metrics.json",
    }
    for how, reason in reasons.items():
        book.check("the reason is named", says[how] in reason, f"{how}: {reason}")
    (page.parent / "mended").touch()
    judge(
        book,
        "notebooks",
        rows,
        guilty,
        first,
        run_sweep(page, rows, "sequential", retry_failed=True, **options),
        room / "sweep" / "sweep.csv",
    )


@drill("Sweeps")
def dask_worker(book: Book, room: Path, short: bool) -> None:
    """A worker of a Dask cluster is lost in the middle of a sweep, and one is lost by its own row again and
    again."""
    try:
        import distributed
    except ImportError:
        book.notes["not tried"] = "the package distributed is not installed"
        return
    import logging

    logging.disable(logging.ERROR)
    from spectral_diffusion.study.rows import run_rows

    if short:
        book.notes["not tried"] = "in the short form"
        return
    with distributed.LocalCluster(
        processes=True, n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address
        for i in range(4):
            root, log = room / f"outside-{i}", room / f"log-{i}"
            rows = [{"x": x, "seconds": 0.2} for x in range(1, 17)]

            def killer(log=log) -> int:
                parent = os.getppid()
                while not log.exists() or len(log.read_text().splitlines()) < 4:
                    if os.getppid() != parent:
                        return 1  # the sweep has failed otherwise
                    time.sleep(0.02)
                os.kill(int(log.read_text().split()[-1]), signal.SIGKILL)
                return 0

            child = fork(killer)
            ended = run_rows(root, rows, harm(str(log), ""), {}, engine="dask", address=address, strict=False)
            book.check(
                "lost from outside: every row is done",
                child.wait() == 0 and len(ended.ran) == len(rows) and not ended.failed,
                f"ran {len(ended.ran)}, failed {len(ended.failed)}",
            )
        mended, root = room / "mended", room / "own"
        rows = [{"x": x, **({"how": "killed"} if x == 4 else {})} for x in range(1, 9)]
        first = run_rows(
            root, rows, harm(str(room / "log"), str(mended)), {}, engine="dask", address=address, strict=False
        )
        mended.touch()
        second = run_rows(
            root,
            rows,
            harm(str(room / "log"), str(mended)),
            {},
            engine="dask",
            address=address,
            strict=False,
            retry_failed=True,
        )
        judge(book, "lost by its own row", rows, [rows[3]], first, second, root / "sweep.csv")


@dataclass(frozen=True, kw_only=True)
class Tiny:
    bench: str = "bench0"
    seed: int = 0


def write_all(root: Path, number: int, until: float, killed: bool):
    "What a writer does until the time is over: runs, now and then twice at once with others, and the ledger."

    def go() -> int:
        from spectral_diffusion.core.registry import InputError
        from spectral_diffusion.run.record import run_folder, run_path, write_json
        from spectral_diffusion.study.ledger import load_ledger, write_ledger

        draw = random.Random(number + 1_000 * killed + os.getpid())
        made = busy = ledgers = 0
        while time.time() < until:
            config = Tiny(
                bench=f"bench{draw.randrange(3)}",
                seed=draw.randrange(10**6) if draw.random() < 0.7 else draw.randrange(200),
            )
            try:
                with run_folder(config, root) as work:
                    for i in range(draw.randrange(3)):
                        write_json(work / f"part{i}.json", [config.seed] * draw.randrange(200))
                    if draw.random() < 0.05:
                        time.sleep(draw.uniform(0, 0.1))
                    write_json(
                        work / "metrics.json",
                        {"loss": config.seed / 7, "bench": config.bench, "writer": number},
                    )
                made += 1
            except InputError as error:
                if "complete already" not in str(error) and "another process" not in str(error):
                    raise
                busy += 1
            assert not run_path(config, root).exists() or (run_path(config, root) / "metrics.json").is_file()
            if draw.random() < 0.02:
                write_ledger(root)
                ledgers += 1
            if draw.random() < 0.005:
                load_ledger(root)
            time.sleep(draw.uniform(0, 0.06))
        write_ledger(root)
        with open(root.parent / f"counts-{number}", "a") as file:
            file.write(json.dumps([made, busy, ledgers + 1]) + "\n")
        return 0

    return go


@drill("Sweeps")
def writers(book: Book, room: Path, short: bool) -> None:
    """Eight writers on one folder of results, two of them killed again and again: the ledger equals the
    folders."""
    import pandas as pd

    from spectral_diffusion.core.environment import commit
    from spectral_diffusion.run.record import load_record
    from spectral_diffusion.study.ledger import INDEX, load_ledger, run_folders, write_ledger

    commit()  # known before anything is forked
    root, seconds, draw = room / "results", 4 if short else 600, random.Random(5)
    root.mkdir()
    until = time.time() + seconds
    steady = [fork(write_all(root, n, until, False), room / f"said-{n}.txt") for n in range(6)]
    restless, killed = {n: fork(write_all(root, n, until, True), room / f"said-{n}.txt") for n in (6, 7)}, 0
    while time.time() < until - 0.5:
        time.sleep(draw.uniform(0.2, 0.8 if short else 4.0))
        n = draw.choice((6, 7))
        if not restless[n].ended():
            restless[n].kill()
            killed += 1
        else:
            book.check("a writer ends without an error", restless[n].status == 0, restless[n].said()[-300:])
        restless[n] = fork(write_all(root, n, until, True), room / f"said-{n}.txt")
    for child in [*steady, *restless.values()]:
        status = child.wait(1_800)
        book.check("a writer ends without an error", status == 0, f"status {status}: {child.said()[-400:]}")
    seen = pd.read_csv(root / "summary.csv")  # as the last writer left it
    there = {(p.parent.name, p.name): load_record(p).metrics for p in run_folders(root)}
    listed = {(r.bench, r.fingerprint): r.loss for r in seen.itertuples()}
    book.check(
        "the ledger equals the folders",
        set(listed) == set(there),
        f"{len(set(there) - set(listed))} missing, {len(set(listed) - set(there))} too many of {len(there)}",
    )
    book.check(
        "every number of it is that of the record",
        all(abs(listed[k] - there[k]["loss"]) < 1e-9 for k in there if k in listed),
        "",
    )
    with_index = load_ledger(root)
    (root / INDEX).unlink()
    book.check("with or without its index", with_index.equals(load_ledger(root)))
    book.check(
        "written again it is the same file",
        (root / "summary.csv").read_bytes() == write_ledger(root).read_bytes(),
    )
    counts = [json.loads(line) for p in room.glob("counts-*") for line in p.read_text().splitlines()]
    book.notes.update(
        {
            "seconds": seconds,
            "writers": 8,
            "killed": killed,
            "runs": len(there),
            "refused because complete or busy": sum(c[1] for c in counts),
            "ledgers written": sum(c[2] for c in counts),
        }
    )
