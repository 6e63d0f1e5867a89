"The command line as a person meets it: exit codes, one line for bad input, nothing half-written."

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from spectral_diffusion.lab.cli import main

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "--set",
    "data.name=power_law",
    "--set",
    "data.statistics=200",
    "--set",
    "train.steps=3",
    "--set",
    "train.batch=4",
    "--set",
    "evaluation.images=16",
    "--set",
    "evaluation.samples=2",
    "--set",
    "evaluation.sample_steps=2",
    "--set",
    "model={name: unet_tiny, base: 8, depth: 1}",
]


def call(*words: str) -> subprocess.CompletedProcess:
    "The command line in this process: starting another one takes longer than what most of them do."
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(list(words))
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def program(*words: str) -> subprocess.CompletedProcess:
    "The command line as a program of its own."
    return subprocess.run(
        [sys.executable, "-m", "spectral_diffusion.lab.cli", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "One small run of the command line."
    root = tmp_path_factory.mktemp("results")
    done = call("train", *SMALL, "--results", str(root))
    assert done.returncode == 0, done.stderr
    return next(p.parent for p in root.glob("runs/*/metrics.json"))


def test_train_leaves_a_complete_record(trained):
    names = {p.name for p in trained.iterdir()}
    assert {"config.yaml", "system.json", "metrics.json", "history.csv", "samples", "checkpoints"} <= names
    assert not list(trained.parent.glob(".partial*"))


def test_sample_draws_the_same_images_again(trained, tmp_path):
    for run, name in ((call, "a"), (program, "b")):  # whatever has run before in the process
        words = ["sample", str(trained), "--num-samples", "2", "--num-steps", "2"]
        assert run(*words, "--out", str(tmp_path / name)).returncode == 0
    for name in ("grid.png", "sample_000.png", "sample_001.png", "metadata.json", "spectrum.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_samples_are_judged_without_their_sheet(trained, tmp_path):
    "`evaluate` reads what `sample` wrote: the sheet of all samples is not one of them."
    for seed in ("0", "1"):
        assert (
            call(
                "sample",
                str(trained),
                "--num-samples",
                "8",
                "--num-steps",
                "2",
                "--seed",
                seed,
                "--out",
                str(tmp_path / seed),
            ).returncode
            == 0
        )
    done = call(
        "evaluate",
        "--generated-dir",
        str(tmp_path / "0"),
        "--reference-dir",
        str(tmp_path / "1"),
        "--no-pairs",
        "--out",
        str(tmp_path / "found.json"),
    )
    assert done.returncode == 0, done.stderr
    import json

    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["generated"], found["reference"]) == (8, 8) and found["psd_distance"] > 0


def test_help_names_the_first_steps():
    text = program("--help").stdout
    assert "From nothing to judged samples" in text and "Exit codes" in text


def test_damaged_checkpoint_is_named(trained, tmp_path):
    import shutil

    broken = tmp_path / "run"
    shutil.copytree(trained, broken)
    file = next((broken / "checkpoints" / "final").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:100])
    answer = call("sample", str(broken), "--out", str(tmp_path / "out"))
    assert answer.returncode == 2 and file.name in answer.stderr and "Traceback" not in answer.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words, says",
    [
        (["bench", "b07_sampler"], "did you mean 'b07_samplers'?"),
        (["bench", "b07_samplers", "--preset", "cpuu"], "did you mean 'cpu'?"),
        (["bench", "b07_samplers", "--set", "run.train.step=3"], "did you mean 'run.train.steps'?"),
        (["train", "--set", "train.steps=-1"], "must be at least 1, got -1"),
        (["train", "--set", "model={name: unet_tiny, depht: 2}"], "did you mean 'depth'?"),
        (["train", "--set", "evaluation.sampler=dimm"], "did you mean 'ddim'?"),
        (["train", "--config", "nowhere.yaml"], "not found"),
        (["sample", "nowhere"], "no readable config.yaml"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, says, tmp_path):
    results = [] if words[0] == "sample" else ["--results", str(tmp_path)]
    answer = call(*words, *results)
    assert answer.returncode == 2, answer.stderr
    assert says in answer.stderr and "Traceback" not in answer.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_the_exit_code_is_that_of_the_process(tmp_path):
    answer = program("train", "--config", "nowhere.yaml", "--results", str(tmp_path))
    assert answer.returncode == 2 and "not found" in answer.stderr and "Traceback" not in answer.stderr


def test_unknown_yaml_key_is_refused(tmp_path):
    (tmp_path / "run.yaml").write_text("train:\n  stepz: 5\n")
    answer = call("train", "--config", str(tmp_path / "run.yaml"), "--results", str(tmp_path / "results"))
    assert (
        answer.returncode == 2
        and "did you mean 'steps'?" in answer.stderr
        and not (tmp_path / "results").exists()
    )
