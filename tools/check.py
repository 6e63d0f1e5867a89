"""Everything that must be green before a commit, in one place. `make test` calls it and nothing else.

    python tools/check.py                            all stages, stopping at the first red one
    python tools/check.py --only ruff levels tests   some of them, in the order of all
    python tools/check.py --long                     the long forms too (`make test-all`, once a week)

No stage writes into nbs/ or spectral_diffusion/: what a fresh export gives is made in a copy and compared.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tools import laws  # noqa: E402

BIN = Path(sys.executable).parent
ENV = {
    "MPLBACKEND": "Agg",
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
}


PARALLEL = min(4, os.cpu_count() or 1)  # single-threaded processes at a time; more need much memory
LONG = False  # whether the long forms run: cells marked `#| slow`, tests marked `long`, more random cases


class Red(Exception):
    "A stage that failed, with what to say about it."


def command(*words: str | Path, env: dict | None = None) -> None:
    "Run a command in the root with its output shown; a failure is red."
    status = subprocess.run([str(w) for w in words], cwd=ROOT, env={**ENV, **(env or {})}).returncode
    if status:
        raise Red(f"exit status {status}: {' '.join(str(w).replace(f'{BIN}/', '') for w in words)}")


def git(*words: str) -> list[str] | None:
    "Lines of a git command; None where there is no repository."
    try:
        run = subprocess.run(["git", "--no-optional-locks", *words], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return run.stdout.splitlines() if run.returncode in (0, 1) else None


def lost_in_a_commit(files: list[str]) -> list[str]:
    "Files that a commit would leave behind: ignored ones, and one half of a notebook and its module."
    ignored = git("check-ignore", "--no-index", *files) or []
    found = [f"{n} is ignored by .gitignore, so no commit will hold it" for n in ignored]
    tracked = set(git("ls-files", "nbs", laws.LIB) or [])
    for page in laws.pages(ROOT):
        if page.module and tracked:
            nb, module = f"nbs/{page.name}.ipynb", f"{laws.LIB}/{page.module.replace('.', '/')}.py"
            if (nb in tracked) != (module in tracked):
                known, new = (nb, module) if nb in tracked else (module, nb)
                found.append(f"{known} is in git, {new} is not: `git add {new}`")
    return found


def clean() -> str:
    "the laws of the house hold (but the levels, which come next), and git holds pages and package"
    found = [violation for name, law in laws.LAWS.items() if name != "levels" for violation in law(ROOT)]
    files = [p.relative_to(ROOT).as_posix() for p in [*laws.notebooks(ROOT), *laws.modules(ROOT)]]
    found += lost_in_a_commit(files)
    state = git("status", "--porcelain", "--untracked-files=all", "--", "nbs", laws.LIB) or []
    if found:
        raise Red("\n".join(found))
    return f"{len(laws.notebooks(ROOT))} notebooks, {len(laws.modules(ROOT))} modules" + (
        f", {len(state)} not committed yet" if state else ""
    )


def ruff() -> str:
    "undefined names, unused imports, likely bugs, long lines: package, pages, tools and tests"
    command(BIN / "ruff", "check", "--quiet", "--output-format", "concise", laws.LIB, "nbs", "tools", "tests")
    return ""


def levels() -> str:
    "the rooms import downwards (import-linter)"
    if found := laws.levels(ROOT):
        raise Red("\n".join(found))
    return ""


BASELINE = ROOT / ".basedpyright" / "baseline.json"


def known_type_errors(baseline: Path) -> Counter:
    "Type errors that a baseline forgives, by room."
    files = json.loads(baseline.read_text(encoding="utf-8"))["files"]
    found = Counter()
    for name, errors in files.items():
        found[name.split("/")[2]] += len(errors)
    return found


def types() -> str:
    "types fit (basedpyright): no error but those of the baseline"
    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp) / "baseline.json"  # basedpyright takes out what is mended
        shutil.copyfile(BASELINE, copy)
        # said aloud: a CI would lock the copy, and be red where an error less is found
        mode = ("--baselinemode", "auto")
        command(BIN / "basedpyright", "--baselinefile", copy, *mode, "--level", "error")
        left, known = known_type_errors(copy), known_type_errors(BASELINE)
    mended = (
        ""
        if left == known
        else f"; {known.total() - left.total()} mended, `make types` takes them out of the baseline"
    )
    return (
        f"{left.total()} known errors: "
        + ", ".join(f"{room} {n}" for room, n in sorted(left.items()))
        + mended
    )


def notebooks() -> str:
    "every page but the benchmarks runs from top to bottom, facts included (nbdev_test)"
    before, slow = strays(), ["--flags", "slow"] if LONG else []
    command(BIN / "nbdev_test", "--path", "nbs", "--n_workers", str(PARALLEL), "--timing", *slow)
    if new := strays() - before:
        raise Red("a page left files behind: " + ", ".join(sorted(new)))
    return f"{sum(not p.is_bench for p in laws.pages(ROOT))} notebooks"


def strays() -> set[str]:
    "Files below nbs/ that are no source."
    files = [p for p in (ROOT / "nbs").rglob("*") if p.is_file() and p.suffix != ".ipynb"]
    caches = {".ipynb_checkpoints", "__pycache__"}
    return {p.relative_to(ROOT).as_posix() for p in files if not caches & set(p.parts)}


def smoke_run(name: str, results: str) -> tuple[int, str]:
    "Exit code and output of a benchmark, in a worker that has imported the command line for the one before."
    from spectral_diffusion.lab.cli import main as spectral_diffusion

    os.chdir(ROOT)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = spectral_diffusion(["bench", name, "--preset", "smoke", "--results", results])
    return status, said.getvalue()


def smoke() -> str:
    "every benchmark runs its smoke preset through papermill"
    names = [Path(p.name).name for p in laws.pages(ROOT) if p.is_bench]
    if not names:
        return "no benchmark yet"
    os.environ.update(ENV)
    pool = ProcessPoolExecutor(PARALLEL, mp_context=multiprocessing.get_context("spawn"))
    with tempfile.TemporaryDirectory() as tmp, pool:
        red = []
        for name, (status, said) in zip(names, pool.map(smoke_run, names, [tmp] * len(names)), strict=True):
            print(said, end="", flush=True)
            red += [name] * bool(status)
        silent = [n for n in names if not any(p.is_file() for p in (Path(tmp) / n).rglob("*"))]
    if red:
        raise Red("failed: " + ", ".join(red))
    if silent:
        raise Red("no result was written by " + ", ".join(silent))
    return f"{len(names)} benchmarks"


def site() -> str:
    "the site builds; its links, alternative texts and requests are checked"
    command(sys.executable, "tools/site.py", "build")
    if not (ROOT / "_site" / "index.html").exists():
        raise Red("_site/index.html was not written")
    command(sys.executable, "tools/site.py", "check")
    return f"{len(list((ROOT / '_site').rglob('*.html')))} html files"


STAGES = {stage.__name__: stage for stage in (clean, ruff, levels, types, notebooks, smoke, site)}


def summary(rows: list[tuple[str, str, float, str]]) -> str:
    total = sum(seconds for _, _, seconds, _ in rows)
    lines = [f"{name:<12}{state:<6}{seconds:7.1f} s   {note}".rstrip() for name, state, seconds, note in rows]
    return "\n".join(["", *lines, f"{'together':<12}{'':<6}{total:7.1f} s"])


def tests(rows: list[tuple[str, str, float, str]]) -> int:
    "pytest, last: its count closes the output, after the table of all stages."
    start = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "--numprocesses", str(PARALLEL), "--dist", "loadfile"]
    command += ["--no-loadscope-reorder"]  # tests/conftest.py says which files come first
    command += ["--long"] if LONG else []
    if {"clean", "levels"} <= {name for name, *_ in rows}:  # they have asked all laws already
        command += ["--deselect", "tests/test_laws.py::test_the_tree_keeps_the_law"]
    run = subprocess.Popen(command, cwd=ROOT, env=ENV, stdout=subprocess.PIPE, text=True)
    last = ""
    for line in run.stdout:
        if line.strip():
            if last:
                print(last, end="", flush=True)
            last = line
    status = run.wait()
    rows.append(("tests", "red" if status else "ok", time.perf_counter() - start, "pytest"))
    print(summary(rows))
    print(last, end="", flush=True)
    return status


def main(argv: list[str] | None = None) -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    known = [*STAGES, "tests"]
    parser.add_argument(
        "--only",
        action="extend",
        nargs="+",
        choices=known,
        metavar="STAGE",
        help="some of " + ", ".join(known),
    )
    parser.add_argument("--long", action="store_true", help="the long forms too")
    args = parser.parse_args(argv)
    global LONG
    LONG = args.long
    chosen = args.only or known
    rows: list[tuple[str, str, float, str]] = []
    for name, stage in STAGES.items():
        if name not in chosen:
            continue
        print(f"== {name}: {stage.__doc__}", flush=True)
        start = time.perf_counter()
        try:
            note, state = stage(), "ok"
        except Red as error:
            note, state = "", "red"
            print(error, flush=True)
        rows.append((name, state, time.perf_counter() - start, note))
        print(f"== {name}: {state}, {rows[-1][2]:.1f} s", flush=True)
        if state == "red":
            print(summary(rows))
            return 1
    if "tests" not in chosen:
        print(summary(rows))
        return 0
    print(f"== tests: {tests.__doc__}", flush=True)
    return 1 if tests(rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
