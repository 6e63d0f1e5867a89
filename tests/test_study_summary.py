"The summary of a folder: whatever lies in it gives one page, in one file, that a phone can read."

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from test_browser import browser_path
from test_site_pages import CUT, OPTIONS

from spectral_diffusion.core.config import fingerprint, override
from spectral_diffusion.lab.cli import main
from spectral_diffusion.run.record import load_record
from spectral_diffusion.run.settings import RunConfig
from spectral_diffusion.study import sweep
from spectral_diffusion.study.summary import summary_sections, write_summary

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
SMALL = {
    "data.name": "power_law",
    "data.statistics": "64",
    "model": "{name: conv}",
    "train.steps": "6",
    "train.batch": "4",
    "evaluation.images": "16",
    "evaluation.points": "4",
    "evaluation.samples": "8",
    "evaluation.sample_steps": "2",
}


def train(root, **changes):
    "Train a small run by the command line; its record."
    words = [w for key, value in {**SMALL, **changes}.items() for w in ("--set", f"{key}={value}")]
    assert main(["train", "--results", str(root), "--run-id", "mine", "--device", "cpu", *words]) == 0
    return max(root.glob("mine/*/metrics.json"), key=lambda p: p.stat().st_mtime_ns).parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "Two seeds of one run and one of another, the last one with everything that can be asked for."
    root = tmp_path_factory.mktemp("results")
    asked = {
        "seed": "1",
        "evaluation.thresholds": "[0.9, 0.0001]",
        "evaluation.extractor": "pixels",
        "evaluation.profile": "1",
    }
    records = [train(root), train(root, **{"seed": "1"}), train(root, **asked, **{"train.lr": "0.01"})]
    return root, records


def test_a_run_says_what_follows_from_its_curve(runs):
    root, (first, _, asked) = runs
    record = load_record(first)
    history, said = record.history(), record.metrics
    assert said["loss_drop"] == history.loss.iloc[0] - history.loss.iloc[-1]
    assert said["images_per_second"] > 0 and isinstance(said["identifiable"], bool)
    assert (said["k"] is None) == (not said["identifiable"]) and "r2" in said and "half_life" in said
    assert not {"steps_to", "frechet", "fft_share"} & set(said)
    more = load_record(asked).metrics
    assert more["steps_to"]["0.0001"] is None and set(more["steps_to"]) == {"0.9", "0.0001"}
    assert more["extractor"] == "pixels" and more["frechet"] >= 0
    assert more["fft_share"] == 0 and more["profiled_steps"] == 1


def test_a_run_keeps_a_log_and_where_its_samples_come_from(runs):
    _, (first, *_) = runs
    assert (first / "logs" / "train.log").read_text().startswith("step 1 ")
    made = json.loads(next(first.glob("samples/*/metadata.json")).read_text())
    assert made["sampler"] == "ddim" and made["number"] == 8 and made["network_calls"] == 2


def test_train_refreshes_the_ledger(runs):
    root, records = runs
    ledger = pd.read_csv(root / "summary.csv", dtype=str)
    assert set(ledger.fingerprint) == {r.name for r in records}


def test_what_can_be_asked_for_leaves_old_runs_their_name():
    plain = RunConfig()
    same = {"evaluation.thresholds": [], "evaluation.extractor": "none", "evaluation.profile": 0}
    assert fingerprint(override(plain, same)) == fingerprint(plain)
    assert fingerprint(override(plain, {"evaluation.profile": 1})) != fingerprint(plain)


@pytest.mark.parametrize(
    "change",
    [
        {"evaluation.extractor": "pixel"},
        {"evaluation.thresholds": "[-1.0]"},
        {"evaluation.profile": "-1"},
        {"evaluation.extractor": "pixels", "evaluation.samples": "4"},
    ],
    ids=str,
)
def test_what_cannot_be_asked_for_is_refused_before_the_first_step(tmp_path, capsys, change):
    words = [w for key, value in {**SMALL, **change}.items() for w in ("--set", f"{key}={value}")]
    assert main(["train", "--results", str(tmp_path), *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_runs_of_one_data_set_stand_side_by_side(runs, tmp_path):
    root, _ = runs
    page = write_summary(tmp_path / "page.html", root).read_text(encoding="utf-8")
    assert page.count("<img") == 3 and "power_law: your runs" in page
    assert "conv, lr 0.001" in page and "conv, lr 0.01" in page and "means over up to 2 seeds" in page


def test_an_unfinished_and_a_damaged_run_are_told(runs, tmp_path):
    root = tmp_path / "results"
    shutil.copytree(runs[0], root)
    done = next(root.glob("mine/*/metrics.json")).parent
    (done / "metrics.json").write_text("{")
    (root / "mine" / ".partial-abc").mkdir()
    (root / "mine" / ".partial-abc" / "rows.json").write_text('[{"step": 7, "loss": 0.5}]')
    (root / "mine" / ".partial-def").mkdir()
    (root / "mine" / ".partial-def" / "rows.json").write_text('[{"step":')
    left = {s.title: s.html for s in summary_sections(root)}["Not complete"]
    assert "mine/abc has not ended: loss 0.5 at step 7" in left and "mine/def has not ended" in left
    assert f"mine/{done.name} cannot be read" in left


def test_an_empty_folder_has_a_page(tmp_path, capsys):
    out = tmp_path / "page.html"
    (tmp_path / "results").mkdir()
    assert main(["summary", str(tmp_path / "results"), "--out", str(out)]) == 0
    assert "No run is here yet" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "words, told",
    [
        (["gone"], "no folder of results"),
        (["results", "--out", "page.txt"], ".html"),
        (["results", "--out", "gone/page.html"], "folder that exists"),
        (["results", "--baseline", "nobody"], "nobody"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    assert main(["summary", *words]) == 2
    err = capsys.readouterr().err
    assert told in err and len(err.splitlines()) == 1
    assert [p.name for p in tmp_path.rglob("*")] == ["results"]


def test_a_sweep_keeps_the_runs_of_a_benchmark_beside_its_rows(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        sweep, "run_notebook", lambda page, parameters, *args, **ways: seen.append(parameters)
    )
    ways = {"notebook": ROOT / "nbs" / "bench" / "b07_samplers.ipynb", "cwd": tmp_path, "limit": None}
    sweep.run_page({"preset": "smoke"}, tmp_path / "sweep" / "row", results=tmp_path / "sweep", **ways)
    sweep.run_page({"results": "mine"}, tmp_path / "sweep" / "row", results=tmp_path / "sweep", **ways)
    assert [p["results"] for p in seen] == ["sweep", "mine"]


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    "The page of the committed records."
    return write_summary(tmp_path_factory.mktemp("page") / "summary.html", RESULTS)


def test_the_committed_records_answer_every_question(committed):
    page = committed.read_text(encoding="utf-8")
    assert 8 <= page.count("<h3>") <= 12 and "does not hold" not in page
    assert "as it was run" in page and "like for like" in page
    assert "cifar10: b19_convergence" in page and "Transforms" in page and "The machine" in page


def test_the_page_is_one_file(committed):
    page = committed.read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(s.startswith("data:") or "://" not in s for s in sources) and "<script" not in page
    assert all('alt="' in tag for tag in re.findall(r"<img[^>]*>", page))
    assert str(ROOT) not in page


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut_and_nothing_is_asked_for(committed, width):
    if browser_path() is None or importlib.util.find_spec("playwright") is None:
        pytest.skip("no browser to look with")
    from playwright.sync_api import sync_playwright

    asked = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path(), args=OPTIONS)
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on("request", lambda r: asked.append(r.url))
        page.goto(committed.as_uri(), timeout=600_000)
        assert page.evaluate(CUT) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
    assert [u for u in asked if not u.startswith(("file:", "data:"))] == []
