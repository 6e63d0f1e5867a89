"""What the committed records say follows from their own tables."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.measure.ratios import ratio_table, time_ratio
from spectral_diffusion.run.record import load_record, run_path
from spectral_diffusion.study.benches import best_record, find_bench
from spectral_diffusion.study.ledger import COLUMNS, load_ledger, run_folders
from spectral_diffusion.study.verdict_files import judge_again, load_verdicts

ROOT = Path(__file__).resolve().parents[1]
RECORDS = sorted(p.parent for p in (ROOT / "results").glob("b*/*/verdict.json"))
# records of an earlier version did not keep the rows of these; they go when the page is run again
LOST = {("b13_codec", "cpu", "jpeg")}


def names(records):
    return [f"{p.parent.name}-{p.name}" for p in records]


@pytest.mark.parametrize("record", RECORDS, ids=names(RECORDS))
def test_every_verdict_follows_from_runs_csv(record):
    "The interval of each verdict, computed from runs.csv alone, is the one that the record states."
    said, again = json.loads((record / "verdict.json").read_text()), judge_again(record)
    lost = {name for name in said if name not in again}
    assert lost <= {
        name for bench, preset, name in LOST if (bench, preset) == (record.parent.name, record.name)
    }
    assert again
    for name, (told, now) in again.items():
        for key in ("gain", "low", "high", "baseline", "contender"):
            assert math.isclose(told[key], getattr(now, key), rel_tol=1e-9, abs_tol=1e-9), (name, key)
        assert (told["pairs"], told["censored"]) == (now.pairs, now.censored), name
        assert told["outcome"] == now.outcome or told["reason"], name


@pytest.mark.parametrize("record", RECORDS, ids=names(RECORDS))
def test_a_changed_run_changes_its_verdict(record, tmp_path):
    "The test above can fail: a metric of the baseline doubled, the verdict does not follow any more."
    copy = tmp_path / "record"
    copy.mkdir()
    for name in ("verdict.json", "runs.csv"):
        shutil.copy(record / name, copy / name)
    first, (told, _) = next(iter(judge_again(copy).items()))
    claim, arm = told["claim"], told.get("group", {}).get("arm", "arm")
    runs = pd.read_csv(copy / "runs.csv")
    runs.loc[runs[arm] == claim["baseline"], claim["metric"]] *= 2
    runs.to_csv(copy / "runs.csv", index=False)
    assert abs(judge_again(copy)[first][1].gain - told["gain"]) > 1e-3


@pytest.mark.parametrize("record", RECORDS, ids=names(RECORDS))
def test_a_record_has_its_parts_and_no_folders_of_runs(record):
    parts = {p.name for p in record.iterdir()}
    assert {
        "config.yaml",
        "system.json",
        "verdict.json",
        "metrics.json",
        "runs.csv",
        "notebook.ipynb",
    } <= parts
    assert record.name == load_record(record).config["preset"]
    runs = pd.read_csv(record / "runs.csv")
    assert {"arm", "seed"} <= set(runs)
    if "fingerprint" in runs:
        assert runs.fingerprint.is_unique and not any((record.parent / f).exists() for f in runs.fingerprint)


# --- pages on speed: ratios, and the times that they were computed from

MEASURED = sorted(p.parent for p in (ROOT / "results").glob("b*/*/measured.json"))
TIMED = [record for record in MEASURED if not (record / "verdict.json").exists()]  # they judge nothing
RACES = {  # page -> columns of a race and of an arm, the arm with ratio 1, whether high is fast
    "b01_fft": ("size", "arm", "torch rfft2", False),
    "b06_truncation": ("side", "arm", "published", True),
    "b11_scaling": ("size", "network", "unet_tiny", True),
    "b14_cost": (None, "arm", "unet_tiny", True),
}


def ratios_again(record):
    "The ratios of a record from its times alone, and those that it states."
    race, arm, over, speed = RACES[record.parent.name]
    times, said = pd.read_csv(record / "times.csv"), pd.read_csv(record / "ratios.csv")
    if "width" in times:
        times = times[times.width == load_record(record).config["width"]]
    parts = [(None, times)] if race is None else list(times.groupby(race))
    keys, found = [c for c in (race, arm) if c], []
    for value, part in parts:
        table = ratio_table(part.assign(arm=part[arm]), over, speed=speed)
        found.append(table.rename(columns={"arm": arm}).assign(**({race: value} if race else {})))
    return pd.concat(found).set_index(keys), said.set_index(keys)


def test_every_page_on_speed_has_its_times():
    assert {record.parent.name for record in TIMED} == set(RACES)


@pytest.mark.parametrize("record", TIMED, ids=names(TIMED))
def test_every_ratio_follows_from_the_times(record):
    now, said = ratios_again(record)
    columns = ["median", "low", "high"]
    assert len(said) > 3 and said[columns].notna().all(axis=None)
    pd.testing.assert_frame_equal(now.loc[said.index, columns], said[columns], rtol=1e-9)


@pytest.mark.parametrize("record", TIMED, ids=names(TIMED))
def test_a_changed_time_changes_a_ratio(record, tmp_path):
    "The test above can fail: one arm's seconds doubled, its ratio does not follow any more."
    copy = tmp_path / record.parent.name / record.name
    shutil.copytree(record, copy)
    times, arm = pd.read_csv(copy / "times.csv"), RACES[record.parent.name][1]
    last = times[arm].iloc[-1]
    times.loc[times[arm] == last, "seconds"] *= 2
    times.to_csv(copy / "times.csv", index=False)
    now, said = ratios_again(copy)
    assert ((now.loc[said.index, "median"] / said["median"] - 1).abs() > 0.4).any()


@pytest.mark.parametrize("record", TIMED, ids=names(TIMED))
def test_a_record_of_times_has_the_machine_and_date_of_its_times(record):
    kept = json.loads((record / "measured.json").read_text())
    system = json.loads((record / "system.json").read_text())
    assert {k: v for k, v in system.items() if k != "page"} == kept["system"]
    assert kept["config"] == load_record(record).config and not (record / "verdict.json").exists()
    assert best_record(record.parent.name) is not None  # of the page as it is


def test_the_cost_of_a_basis_follows_from_the_times():
    record = best_record("b20_bases")
    assert record.path in MEASURED
    times = pd.read_csv(record.path / "times.csv")
    price, steps = record.metrics["price"], {"pixel": 9_200, "patch": 20_000, "haar": 20_000}
    for arm, ratio in price.items():
        assert ratio == pytest.approx(time_ratio(times, arm, "haar").median, rel=1e-9)
        assert record.metrics["cost"][arm] == pytest.approx(ratio * steps[arm] / steps["haar"], rel=1e-9)
    runs = pd.read_csv(record.path / "runs.csv").groupby("arm").steps.first()
    assert runs.to_dict() == steps


def test_effects_and_prediction_of_the_switches_follow_from_their_runs():
    "Main effects by hand, and the prediction by plain least squares with a constant for each outer column."
    record = best_record("b21_switches")
    runs = pd.read_csv(record.path / "runs.csv")
    on = {"noise": "noise rising", "adapter": "adapter bands", "weight": "weight radial"}
    signs = np.stack([np.where(runs[name] == level, 1.0, -1.0) for name, level in on.items()], 1)
    columns = (runs.seed.to_numpy()[:, None] == runs.seed.unique()).astype(float)
    y, x = np.log(runs.frechet.to_numpy()), np.concatenate([columns, signs], 1)
    beta = np.linalg.lstsq(x, y, rcond=None)[0]
    for i, name in enumerate(on):
        by_hand = y[signs[:, i] > 0].mean() - y[signs[:, i] < 0].mean()
        assert np.log(record.metrics["effects"][name]) == pytest.approx(by_hand, rel=1e-9)
        assert 2 * beta[-3 + i] == pytest.approx(by_hand, rel=1e-9)
    said = record.metrics["confirmation"]
    tested = signs[(runs.arm == said["row"]).to_numpy()][0]
    step = np.concatenate([np.zeros(columns.shape[1]), tested + 1])
    dof = len(y) - x.shape[1]
    error = ((y - x @ beta) ** 2).sum() / dof
    spread = step @ np.linalg.inv(x.T @ x) @ step + 2 / len(said["measured"])
    half = stats.t.ppf(0.975, dof) * np.sqrt(error * spread)
    assert said["predicted"] == pytest.approx(step @ beta, rel=1e-9)
    assert said["high"] - said["predicted"] == pytest.approx(half, rel=1e-9)
    inside = said["low"] <= np.mean(said["measured"]) <= said["high"]
    assert inside == record.metrics["confirmed"]
    fresh = pd.read_csv(record.path / "fresh.csv").pivot(index="seed", columns="arm", values="frechet")
    assert said["measured"] == pytest.approx(np.log(fresh[said["row"]] / fresh["row 1"]).tolist(), rel=1e-9)


def test_curves_end_where_the_runs_say():
    "The last point of a curve is the loss of its run: the two tables belong together."
    ends_of = {"b18_results_table": "last"}
    ends_of |= dict.fromkeys(("b19_convergence", "b20_bases", "b21_switches"), "loss")
    for bench, column in ends_of.items():
        record = best_record(bench)
        runs, history = pd.read_csv(record.path / "runs.csv"), record.history()
        ends = history.sort_values("step").groupby(["arm", "seed"]).loss.last()
        both = runs.set_index(["arm", "seed"])[column]
        assert len(ends) == len(both) and (ends.sort_index() == both.sort_index()).all()


def test_the_ledger_has_a_row_for_each_run():
    ledger = pd.read_csv(ROOT / "results" / "summary.csv")
    assert tuple(ledger.columns) == COLUMNS
    for record in RECORDS:
        runs = pd.read_csv(record / "runs.csv")
        count = len(runs) if "fingerprint" in runs else 1
        assert (ledger.bench == record.parent.name).sum() == count


# --- what earlier versions have left still loads


def earlier(root, bench="b07_samplers"):
    "A record as an earlier version wrote it: by fingerprint, no runs.csv, no groups of verdicts."
    old = root / bench / "024a27b970fc"
    shutil.copytree(ROOT / "results" / bench / "cpu", old)
    (old / "runs.csv").unlink()
    return old


def test_an_earlier_record_is_found_and_read(tmp_path):
    old = earlier(tmp_path)
    assert find_bench("b07_samplers", "cpu", tmp_path) == [old] and run_folders(tmp_path) == [old]
    assert set(load_verdicts(tmp_path).fingerprint) == {old.name}
    assert load_ledger(tmp_path).fingerprint.tolist() == [old.name]
    with pytest.raises(InputError, match="runs.csv"):
        judge_again(old)


def test_a_run_of_an_earlier_version_is_not_computed_again(tmp_path):
    from spectral_diffusion.run.settings import RunConfig

    config = RunConfig(bench="b07_samplers")
    new = run_path(config, tmp_path)
    assert new.parent.name == ".runs"
    old = tmp_path / "b07_samplers" / new.name
    old.mkdir(parents=True)
    assert run_path(config, tmp_path) == new  # without metrics it is no complete run
    (old / "metrics.json").write_text("{}")
    assert run_path(config, tmp_path) == old


def test_a_record_with_changed_settings_is_not_that_of_the_preset(tmp_path):
    shutil.copytree(ROOT / "results" / "b07_samplers" / "cpu", tmp_path / "b07_samplers" / "cpu-0123456789ab")
    assert find_bench("b07_samplers", "cpu", tmp_path) == []
    assert set(load_verdicts(tmp_path).preset) == {"cpu-0123456789ab"}


def test_git_holds_no_single_run():
    "The cache of runs is ignored, and no folder of a run is committed."
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no checkout")
    import subprocess

    listed = subprocess.run(
        ["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not [p for p in listed.stdout.splitlines() if os.path.basename(p) == "samples.png"]
    ignored = subprocess.run(
        ["git", "check-ignore", "-q", "results/.runs/0123456789ab/x"], cwd=ROOT, check=False
    )
    assert ignored.returncode == 0
