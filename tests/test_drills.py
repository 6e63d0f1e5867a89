"""Drills in their short forms, and that a drill can lose.

A few run with every `make test`; what a drill has found stands in test_reliability, once more and small.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import drills
from drills import __main__ as runner

ROOT = Path(__file__).resolve().parents[1]
FEW = ("kills", "pickles", "texts", "names")  # killed, and fed with what does harm


def test_short_forms_lose_nothing(tmp_path, long):
    names = runner.ORDER if long else FEW
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "drills"), *names, "--short", "--out", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = {p.stem: json.loads(p.read_text()) for p in tmp_path.glob("*.json")}
    assert set(found) == set(names)
    for name, record in found.items():
        assert (
            record["form"] == "short"
            and record["lost"] == 0
            and record["what"].endswith(".")
            and record["environment"]["python"]
        ), name
        assert record["times"] == sum(c["times"] for c in record["cases"])
        assert record["times"] > 0 or "not tried" in record["notes"], name


def test_a_loss_is_counted_and_told(tmp_path, monkeypatch):
    def forgetful(book, room, short):
        "Something that is lost."
        book.check("kept", True)
        book.check("kept", False, "one of two")

    monkeypatch.setitem(drills.DRILLS, "kills", drills.Drill("kills", "Training", forgetful))
    monkeypatch.setattr(runner, "load", lambda: None)
    assert runner.main(["kills", "--short", "--out", str(tmp_path)]) == 1
    record = json.loads((tmp_path / "kills.json").read_text())
    assert (record["times"], record["lost"], record["cases"][0]["first loss"]) == (2, 1, "one of two")
    assert runner.there(tmp_path, "kills", "short") and not runner.there(tmp_path, "kills", "full")


def test_unknown_drill():
    assert runner.main(["kill"]) == 2
