"""Edit a page as text: mirror it, write it back, run it, export its module.

    python tools/page.py text [PAGE ...]     notebooks -> _text/*.py   (only where the notebook is newer)
    python tools/page.py untext [PAGE ...]   _text/*.py -> notebooks   (only where the text is newer)
    python tools/page.py run PAGE [...]      untext, export, execute in place, clean: a page ready to commit
    python tools/page.py format              ruff format on pages, tools and tests; `#|` lines stay
    python tools/page.py export              package and index anew, orphan modules removed, pages cleaned

PAGE is `signals/fourier`; without one, every page. Benchmark pages are exported and cleaned, never executed
here: their outputs belong to `results/`.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NBS, TEXT = ROOT / "nbs", ROOT / "_text"
KERNEL = {"display_name": "python3", "language": "python", "name": "python3"}


@contextmanager
def lock():
    "Two pages may be run at once, but the export index has one writer."
    TEXT.mkdir(exist_ok=True)
    with open(TEXT / ".lock", "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def pages(names: list[str]) -> list[str]:
    "Page names without ending; every known page when none is given."
    if names:
        return [
            n.removeprefix("nbs/").removeprefix("_text/").removesuffix(".ipynb").removesuffix(".py")
            for n in names
        ]
    found = {
        p.relative_to(NBS).with_suffix("").as_posix()
        for p in NBS.rglob("*.ipynb")
        if ".ipynb_checkpoints" not in p.parts
    }
    return sorted(found | {p.relative_to(TEXT).with_suffix("").as_posix() for p in TEXT.rglob("*.py")})


def newer(a: Path, b: Path) -> bool:
    return a.exists() and (not b.exists() or a.stat().st_mtime > b.stat().st_mtime)


def to_text(name: str) -> None:
    import jupytext

    nb, py = NBS / f"{name}.ipynb", TEXT / f"{name}.py"
    if newer(nb, py):
        py.parent.mkdir(parents=True, exist_ok=True)
        jupytext.write(jupytext.read(nb), py, fmt="py:percent")
        os.utime(py, (nb.stat().st_mtime,) * 2)


def to_notebook(name: str) -> None:
    "Write the text back; ids, tags and outputs of untouched cells stay."
    import jupytext
    import nbformat

    nb, py = NBS / f"{name}.ipynb", TEXT / f"{name}.py"
    if not newer(py, nb):
        return
    new = jupytext.read(py, fmt="py:percent")
    if nb.exists():
        from jupytext.combine import combine_inputs_with_outputs

        new = combine_inputs_with_outputs(
            new, nbformat.read(nb, as_version=4), fmt={"extension": ".py", "format_name": "percent"}
        )
    new.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    nb.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.validator.normalize(new)[1], nb)
    os.utime(nb, (py.stat().st_mtime,) * 2)


def without_views(nb: dict) -> dict:
    """The notebook with pictures in place of live views, whose kernel has ended; a view without a picture
    stays."""
    for cell in nb["cells"]:
        for out in cell.get("outputs", ()):
            if "image/png" in out.get("data", {}):
                out["data"].pop("application/vnd.jupyter.widget-view+json", None)
    nb.get("metadata", {}).pop("widgets", None)  # their state, a megabyte of pictures
    return nb


def execute(name: str) -> None:
    "Run the page in its own folder with a fresh kernel and keep the outputs."
    env = {"OMP_NUM_THREADS": "1", **os.environ}
    env.pop("MPLBACKEND", None)  # a backend without a screen would leave the page without its figures
    subprocess.run(
        [sys.executable, "-m", "jupyter", "execute", "--inplace", "--timeout=600", f"{name}.ipynb"],
        cwd=NBS,
        check=True,
        env=env,
    )
    nb = NBS / f"{name}.ipynb"
    nb.write_text(
        json.dumps(without_views(json.loads(nb.read_text(encoding="utf-8"))), indent=1, ensure_ascii=False)
        + "\n",
        encoding="utf-8",
    )


def clean(name: str) -> None:
    subprocess.run(
        [Path(sys.executable).with_name("nbdev_clean"), "--fname", NBS / f"{name}.ipynb"],
        cwd=ROOT,
        check=True,
    )


def export_all() -> None:
    """What a commit needs beyond single pages: no module of a notebook that is gone, `__init__.py`
    everywhere, the index."""
    sys.path.insert(0, str(ROOT))
    from tools.laws import modules, no_orphan_module, written_by

    with lock():
        orphans = " ".join(no_orphan_module(ROOT))
        for path in modules(ROOT):
            if written_by(path) and f"{path.relative_to(ROOT).as_posix()} is left" in orphans:
                print(f"removed {path.relative_to(ROOT).as_posix()}: no notebook exports it")
                path.unlink()
        for command in (["nbdev_export", "--path", "nbs"], ["nbdev_clean", "--fname", "nbs"]):
            subprocess.run([Path(sys.executable).with_name(command[0]), *command[1:]], cwd=ROOT, check=True)


def keep_directives(path: Path) -> None:
    """Write `# |` at the head of a cell as `#|` again: ruff's formatter knows no directives, nbdev and Quarto
    know no other form."""
    nb = json.loads(path.read_text(encoding="utf-8"))
    for cell in nb["cells"]:
        if cell["cell_type"] != "code":
            continue
        lines = "".join(cell["source"]).splitlines(keepends=True)
        head = next((i for i, line in enumerate(lines) if not re.match(r"#\s*\|", line)), len(lines))
        cell["source"] = [re.sub(r"^#\s*\|\s*", "#| ", line) for line in lines[:head]] + lines[head:]
    path.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def format_all() -> None:
    "One style everywhere."
    subprocess.run(
        [Path(sys.executable).with_name("ruff"), "format", "--quiet", "nbs", "tools", "tests"],
        cwd=ROOT,
        check=True,
    )
    for path in NBS.rglob("*.ipynb"):
        if ".ipynb_checkpoints" not in path.parts:
            keep_directives(path)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=["text", "untext", "run", "format", "export"])
    parser.add_argument("page", nargs="*")
    args = parser.parse_args(argv)
    if args.verb == "run" and not args.page:
        parser.error("run needs at least one PAGE, such as signals/fourier")
    if args.verb == "format":
        format_all()
        return 0
    if args.verb == "export" and args.page:
        parser.error("export takes no PAGE: it writes the whole package")
    os.chdir(ROOT)
    if args.verb == "export":
        export_all()
        return 0
    for name in pages(args.page):
        if args.verb == "text":
            to_text(name)
            continue
        nb, py = NBS / f"{name}.ipynb", TEXT / f"{name}.py"
        read_at = py.stat().st_mtime if py.exists() and not newer(nb, py) else None
        to_notebook(name)
        if args.verb == "run":
            with lock():
                from nbdev.config import add_init
                from nbdev.export import nb_export

                nb_export(NBS / f"{name}.ipynb", lib_path=ROOT / "spectral_diffusion")
                add_init(ROOT / "spectral_diffusion")
            if not name.startswith("bench/"):
                execute(name)
            clean(name)
            if read_at:  # a text edited while the page ran stays the newer side
                os.utime(nb, (read_at,) * 2)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
