"What people did with the prototypes, each as a command here; other files test what needs more than one."

import json

import pandas as pd
import pytest
from test_study_run_settings import run_here

from spectral_diffusion.lab.cli import main
from spectral_diffusion.study import sweep as sweep_module

SMALL = {
    "data.statistics": 64,
    "model": "{name: unet_tiny, base: 8, depth: 1}",
    "train.steps": 4,
    "train.batch": 4,
    "evaluation.images": 8,
    "evaluation.points": 4,
    "evaluation.samples": 2,
    "evaluation.sample_steps": 4,
}
FACTORS = """\
factors:
  initial: [{}, {source: distribution, name: laplace}]
  train.spectral_reg: [false, true]
  train.frequency_weight: [uniform, radial]
"""


def words(**changes):
    "Options that make a run small."
    given = {**SMALL, **{key.replace("__", "."): value for key, value in changes.items()}}
    return [word for key, value in given.items() for word in ("--set", f"{key}={value}")]


def train(root, *more, **changes):
    "Train a small run; its folder."
    assert main(["train", "--device", "cpu", "--output-dir", str(root), *more, *words(**changes)]) == 0
    (path,) = root.glob("*/*/metrics.json")
    return path.parent


def test_metrics_of_a_run(tmp_path):
    "Loss drop, speed, rate and half-life with a word on whether they are known, steps to a threshold."
    asked = {"evaluation__thresholds": "[0.99, 0.0001]", "evaluation__profile": 1}
    run = train(tmp_path, data__name="noise", **asked)
    said, curve = json.loads((run / "metrics.json").read_text()), pd.read_csv(run / "history.csv")
    assert said["loss_drop"] == pytest.approx(curve.loss.iloc[0] - curve.loss.iloc[-1])
    assert said["loss_drop_per_second"] == pytest.approx(said["loss_drop"] / curve.seconds.iloc[-1], rel=1e-6)
    assert {"k", "r2", "half_life", "identifiable", "images_per_second", "fft_share"} <= set(said)
    assert said["steps_to"]["0.0001"] is None


@pytest.mark.parametrize("family", ["noise", "spectrogram", "texture"])
def test_every_run_is_a_row_of_one_table(family, tmp_path):
    train(tmp_path, "--run-id", "mine", data__name=family)
    (row,) = pd.read_csv(tmp_path / "summary.csv").to_dict("records")
    assert (row["bench"], row["data"], row["steps"]) == ("mine", family, 4) and row["model"].startswith(
        "unet"
    )


def test_switches_of_the_library_are_factors(tmp_path, monkeypatch, capsys):
    "First weights, truncated pictures and spectral weights of the loss; the sweep has a table of its runs."
    monkeypatch.setattr(sweep_module, "run_notebook", run_here)  # kernels take seconds to start
    (tmp_path / "factors.yaml").write_text(FACTORS)
    ways = ["--engine", "sequential", "--output-dir", str(tmp_path / "study"), "--response", "mean"]
    given = ["--factors", str(tmp_path / "factors.yaml"), *words(data__name="random_field")]
    assert main(["sweep", "--array", "L4", *given, *ways, "--report-metric", "loss_drop_per_second"]) == 0
    assert "4 rows done" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "study" / "summary.csv")) == 4


def test_samples_are_judged_where_they_lie(tmp_path, capsys):
    run = train(tmp_path, "--run-id", "mine", data__name="piecewise")
    for tag in ("one", "two"):
        sampled = ["sample", "--run-dir", str(tmp_path / "mine"), "--num-samples", "4", "--num-steps", "2"]
        assert main([*sampled, "--seed", str(len(tag)), "--tag", tag]) == 0
    one, two = run / "samples" / "one", run / "samples" / "two"
    folders = ["--generated-dir", str(one), "--reference-dir", str(two)]
    before = json.loads((one / "metadata.json").read_text())
    assert main(["evaluate", *folders, "--update-metadata", "--output", str(tmp_path / "told.json")]) == 0
    after = json.loads((one / "metadata.json").read_text())
    assert after.pop("evaluation") == json.loads((tmp_path / "told.json").read_text()) and after == before
    (two / "metadata.json").unlink()
    capsys.readouterr()
    folders = ["--generated-dir", str(two), "--reference-dir", str(one)]
    assert main(["evaluate", *folders, "--update-metadata"]) == 2
    assert "metadata.json" in capsys.readouterr().err


@pytest.mark.parametrize("given", [[], ["RUN", "--run-dir", "RUN"]])
def test_sample_takes_one_run(tmp_path, given, capsys):
    assert main(["sample", *given]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_network_of_a_name_that_means_another_is_said(capsys):
    "`unet_spectral` was the published network there, and is the repaired one here."
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "of which unet_spectral is the repaired one" in " ".join(capsys.readouterr().out.split())
