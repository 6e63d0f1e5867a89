"""Drills: what this project survives, tried on purpose and counted.

    python tests/drills                         every drill in its full form (about an hour and a half)
    python tests/drills --short                 every drill in its short form (`make test-all` does this)
    python tests/drills kills writers --full    two of them
    python tests/drills --list                  their names

Each drill leaves one file, `OUT/<drill>.json`: what was tried, how often, how often something was lost.
A drill whose record is there in the wanted form is not run again, so an interrupted series goes on where it
was; name it, or give --again, to repeat it. Exit code 1 when something was lost.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Book:
    "Counts what was tried and what was lost."

    def __init__(self, thin: int = 1):
        self.thin, self.turn = thin, -1  # of tries that a drill offers to skip, every n-th is made
        self.cases: dict[str, dict] = {}
        self.series: dict[str, list] = {}
        self.notes: dict[str, object] = {}

    def skips(self) -> bool:
        "Whether this try is left out of the short form."
        self.turn += 1
        return self.turn % self.thin > 0

    def check(self, what: str, kept: bool, detail: str = "") -> bool:
        "One try of a case; `kept` says that nothing was lost."
        case = self.cases.setdefault(what, {"what": what, "times": 0, "lost": 0})
        case["times"] += 1
        if not kept:
            case["lost"] += 1
            case.setdefault("first loss", detail or "no detail")
            if case["lost"] <= 5:
                print(f"    LOST: {what}: {detail}", flush=True)
        return kept

    def count(self, what: str, times: int, lost: int = 0, **more: object) -> None:
        "Many tries of a case at once."
        case = self.cases.setdefault(what, {"what": what, "times": 0, "lost": 0})
        case["times"] += times
        case["lost"] += lost
        case.update(more)


@dataclass(frozen=True)
class Drill:
    "A function that tries something in a folder, in a short or a full form."

    name: str
    section: str
    run: Callable[[Book, Path, bool], None]

    @property
    def what(self) -> str:
        "The first paragraph of its docstring, in one line."
        return " ".join((self.run.__doc__ or "").split("\n\n")[0].split())


DRILLS: dict[str, Drill] = {}


def drill(section: str) -> Callable:
    "Register a drill under the name of its function."

    def add(run):
        DRILLS[run.__name__] = Drill(run.__name__, section, run)
        return run

    return add


@dataclass
class Child:
    "A process that was forked to be harmed."

    pid: int
    output: Path | None = None
    status: int | None = field(default=None)

    def ended(self) -> bool:
        "Whether it is over; does not wait."
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def wait(self, limit: float = 900.0) -> int:
        """Its exit code, negative for a signal; killed when it takes longer. Generous: the machine may be
        busy with something else."""
        deadline = time.monotonic() + limit
        while not self.ended():
            if time.monotonic() > deadline:
                self.kill()
                return -1000
            time.sleep(0.002)
        return self.status

    def kill(self, number: int = signal.SIGKILL) -> int:
        "Signal it and wait."
        if not self.ended():
            os.kill(self.pid, number)
        while not self.ended():
            time.sleep(0.001)
        return self.status

    def said(self) -> str:
        return self.output.read_text(errors="replace") if self.output and self.output.exists() else ""


def fork(function: Callable[[], int | None], output: Path | None = None) -> Child:
    "Run a function in a copy of this process; its prints go to a file."
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid, output)
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        where = os.open(output or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(where, 1)
        os.dup2(where, 2)
        code = int(function() or 0)
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def memory(what: str = "VmRSS") -> float:
    "MiB of this process: VmRSS now, VmHWM at most."
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(what + ":"))
    return int(line.split()[1]) / 1024


@contextmanager
def bounded(seconds: int, mebibytes: int):
    "Limits of a process that reads something hostile: processor time, and memory above what it has."
    size = int(memory("VmSize")) + mebibytes
    resource.setrlimit(resource.RLIMIT_AS, (size << 20, size << 20))
    resource.setrlimit(
        resource.RLIMIT_CPU, (int(time.process_time()) + seconds, int(time.process_time()) + seconds + 5)
    )
    yield
