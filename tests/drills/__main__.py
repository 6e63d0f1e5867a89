"""The runner: each drill in a process of its own, one after the other."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path = [str(ROOT), str(HERE.parent), *(p for p in sys.path if Path(p or ".").resolve() != HERE)]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
import drills  # noqa: E402

ORDER = (
    "kills",
    "kill_points",
    "disk_full",
    "not_finite",
    "interrupts",
    "clock_and_locale",
    "workers",
    "kernels",
    "dask_worker",
    "writers",
    "pickles",
    "texts",
    "names",
    "pictures",
    "headers",
    "pages",
    "server",
    "artefacts",
    "configurations",
    "contract",
    "stream_decoder",
    "readers",
    "memory_training",
    "memory_sweep",
    "large_picture",
    "ledger",
    "older",
)


def run_inside(name: str, short: bool, out: Path) -> int:
    "One drill, here; its record is written under a temporary name and renamed."
    import torch

    from spectral_diffusion.core.environment import environment, without_paths
    from spectral_diffusion.run.record import write_json

    torch.set_num_threads(1)
    load()
    one, book = drills.DRILLS[name], drills.Book(thin=7 if short else 1)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"drill-{name}-") as room:
        one.run(book, Path(room).resolve(), short)
    cases = [
        {k: without_paths(v) if isinstance(v, str) else v for k, v in case.items()}
        for case in book.cases.values()
    ]
    lost = sum(c["lost"] for c in cases)
    record = {
        "drill": name,
        "section": one.section,
        "what": one.what,
        "form": "short" if short else "full",
        "times": sum(c["times"] for c in cases),
        "lost": lost,
        "seconds": round(time.monotonic() - start, 1),
        "cases": cases,
        **({"notes": book.notes} if book.notes else {}),
        **({"series": book.series} if book.series else {}),
        "environment": environment(),
    }
    if out:
        write_json(out / f"{name}.json", record)
    print(f"  {name}: {record['times']} tries, {lost} lost, {record['seconds']} s", flush=True)
    return int(lost > 0)


def load() -> None:
    "Import the sections; each registers its drills."
    from drills import fuzz, hostile, long, sweeps, training  # noqa: F401


def there(out: Path, name: str, form: str) -> bool:
    "Whether a drill has a record in the wanted form."
    try:
        return json.loads((out / f"{name}.json").read_text(encoding="utf-8"))["form"] == form
    except (OSError, ValueError, KeyError):
        return False


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python tests/drills",
        description=drills.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--short", action="store_true", help="minutes for all of them")
    form.add_argument("--full", action="store_true", help="what the page of results shows (default)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "results" / "reliability", help="folder of the records"
    )
    parser.add_argument("--again", action="store_true", help="repeat drills that have a record")
    parser.add_argument("--list", action="store_true", help="the names and what they try")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    unknown = [n for n in args.names if n not in ORDER]
    if unknown:
        print(f"unknown drill {', '.join(unknown)}; known: {', '.join(ORDER)}", file=sys.stderr)
        return 2
    if args.list:
        load()
        for name in ORDER:
            print(f"{name:18} {drills.DRILLS[name].what}")
        return 0
    out, form = args.out.resolve(), "short" if args.short else "full"
    if args.inside:
        return run_inside(args.names[0], args.short, out)
    names = args.names or [n for n in ORDER if args.again or not there(out, n, form)]
    start, failed = time.monotonic(), []
    if args.short:  # one process for all: starting takes longer than most of them
        load()
        for name in names:
            failed += [name] * run_inside(name, True, out)
    else:
        for name in names:
            print(f"{name} ...", flush=True)
            status = subprocess.run(
                [
                    sys.executable,
                    str(ROOT / "tests" / "drills"),
                    name,
                    f"--{form}",
                    "--out",
                    str(out),
                    "--inside",
                ],
                cwd=ROOT,
            ).returncode
            failed += [name] * bool(status)
    print(
        f"{len(names)} drills, {len(failed)} with losses or"
        f" errors{': ' + ', '.join(failed) if failed else ''}; {time.monotonic() - start:.0f} s"
    )
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
