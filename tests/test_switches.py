"Regularizers, first weights and other switches of `train`, through the command line."

import json

import numpy as np
import pandas as pd
import pytest

from spectral_diffusion.core.config import fingerprint, override, to_dict
from spectral_diffusion.lab.cli import main
from spectral_diffusion.run.settings import RunConfig

TINY = {
    "data.name": "random_field",
    "data.statistics": 64,
    "model": "{name: unet_tiny, base: 8}",
    "train.steps": 4,
    "train.batch": 4,
    "evaluation.images": 8,
    "evaluation.points": 2,
    "evaluation.samples": 2,
    "evaluation.sample_steps": 2,
}


def words(results, *more):
    "A tiny run."
    given = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    changes = [word for change in more for word in ("--set", change)]
    return ["train", "--device", "cpu", "--results", str(results), *given, *changes]


def train(results, *more):
    "Metrics, history and configuration of a tiny run."
    assert main(words(results, *more)) == 0
    (path,) = (results / "runs").glob("[0-9a-f]*")
    return json.loads((path / "metrics.json").read_text()), pd.read_csv(path / "history.csv"), path


def test_runs_without_the_switches_keep_their_name():
    told = to_dict(RunConfig())
    assert "initial" not in told and "spectral_reg" not in told["train"]
    same = override(RunConfig(), {"initial.source": "none", "train.spectral_reg": False})
    assert fingerprint(same) == fingerprint(RunConfig())


def test_truncated_images_are_another_run_that_says_how_far_the_mask_is_open(tmp_path):
    plain, curve, _ = train(tmp_path / "a")
    regular, opened, _ = train(tmp_path / "b", "train.spectral_reg=true", "train.tau_init=0.1")
    assert plain["loss"] != regular["loss"] and "spectral/tau" not in curve
    assert opened["spectral/tau"].iloc[0] == 0.1 and opened["spectral/tau"].is_monotonic_increasing
    assert (opened["spectral/phase"] == 1).all()
    over, _, _ = train(tmp_path / "c", "train.spectral_reg=true", "train.truncation_epochs=0")
    assert over["loss"] == plain["loss"]


def test_first_weights_from_a_distribution_and_a_file(tmp_path):
    np.save(tmp_path / "numbers.npy", np.random.default_rng(0).normal(size=300))
    losses = {train(tmp_path / "plain")[0]["loss"]}
    for name, change in (
        ("distribution", ("initial.source=distribution", "initial.name=laplace")),
        ("file", ("initial.source=file", f"initial.name={tmp_path / 'numbers.npy'}")),
    ):
        metrics, _, path = train(tmp_path / name, *change)
        assert metrics["initial"]["kind"] == name
        losses.add(metrics["loss"])
    assert len(losses) == 3
    (tmp_path / "numbers.npy").unlink()  # a record is sampled without the file
    assert main(["sample", str(path), "--num-samples", "2", "--num-steps", "2"]) == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["train.tau_init=2"], "tau_init <= tau_final"),
        (["train.truncation_epochs=-1"], "truncation_epochs"),
        (["initial.source=dice"], "dice"),
        (["initial.name=laplace"], "initial.source"),
        (["initial.source=distribution", "initial.name=cauchy"], "cauchy"),
        (["initial.source=file", "initial.name=/nowhere.npy"], "is not there"),
        (["initial.nothing=1"], "initial.nothing"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, capsys, changes, told):
    assert main(words(tmp_path / "results", *changes)) == 2
    err = capsys.readouterr().err
    assert told in err and len(err.splitlines()) == 1 and not (tmp_path / "results").exists()
