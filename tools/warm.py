"""nbdev and import-linter on a project in some folder, without importing them anew each time.

`call` asks one process that has them imported; it forks for each call, so that no call sees another. The laws
are tried on a hundred small projects, and starting Python would take longer than the work.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import traceback
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def regenerate() -> int:
    "Write the package and clean the notebooks of the project in this folder."
    from nbdev.clean import nbdev_clean
    from nbdev.doclinks import nbdev_export

    nbdev_export(path="nbs")
    nbdev_clean(fname="nbs")
    return 0


def levels() -> int:
    "Check the imports of the project in this folder; the exit code of lint-imports."
    from importlinter.cli import lint_imports

    return lint_imports(config_filename=".importlinter", no_cache=True)


VERBS = {"regenerate": regenerate, "levels": levels}


@lru_cache(maxsize=1)
def server() -> subprocess.Popen:
    "The process that has all imported; it ends with this one, whose end closes its input."
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}  # with it, nbdev exports nothing
    env |= {"NO_COLOR": "1", "COLUMNS": "200"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, __file__], cwd=ROOT, env=env, **pipes)


def call(verb: str, folder: Path) -> tuple[int, str]:
    "Exit code and output of a verb in a folder."
    asked = server()
    with tempfile.NamedTemporaryFile(suffix=".txt") as output:
        asked.stdin.write("\t".join([verb, str(folder), output.name]) + "\n")
        asked.stdin.flush()
        answer = asked.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that runs nbdev has ended, exit status {asked.wait()}")
        return int(answer), Path(output.name).read_text(encoding="utf-8")


def run(verb: str, folder: str, output: str) -> int:
    "A verb in this process, which was forked for it."
    shown = os.open(output, os.O_WRONLY)
    os.dup2(shown, 1)
    os.dup2(shown, 2)
    os.chdir(folder)
    sys.path.insert(0, folder)
    try:
        return VERBS[verb]()
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def main() -> None:
    "Answer until the input is closed: a line asks, a line gives the exit code."
    import importlinter.cli  # noqa: F401
    import nbdev.clean
    import nbdev.doclinks  # noqa: F401

    sys.path.remove(str(ROOT / "tools"))  # of this script: a call sees its own project
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os._exit(run(*line.rstrip("\n").split("\t")))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
