"Weights that come with the package: on a machine without data, from the command line, and in the wheel."

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

from spectral_diffusion.data.real import find_cifar10
from spectral_diffusion.lab.cli import main
from spectral_diffusion.run.pictures import draw_samples
from spectral_diffusion.run.pretrained import PRETRAINED, load_weights, pretrained, pretrained_file

ROOT = Path(__file__).resolve().parents[1]


def call(*words: str) -> tuple[int, str]:
    "Exit code and all that a verb says."
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = main(list(words))
    return code, said.getvalue()


@pytest.fixture
def nowhere(tmp_path, monkeypatch) -> Path:
    "An empty machine: no data in any of the places where they are looked for."
    for name in ("SPECTRAL_DIFFUSION_DATA", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    assert find_cifar10() is None
    return tmp_path


def test_a_new_machine_draws_a_sheet(nowhere):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = ["sample", "pretrained:cifar10", "--n", "5", "--steps", "3"]
    for tag, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        more = [*words, "--seed", seed, "--tag", tag]
        program = [sys.executable, "-m", "spectral_diffusion.lab.cli", *more]
        done = subprocess.run(program, capture_output=True, text=True, env=env, cwd=nowhere)
        assert done.returncode == 0, done.stderr
    sheets = {tag: (nowhere / "samples" / "cifar10" / tag / "grid.png").read_bytes() for tag in "abc"}
    assert sheets["a"] == sheets["b"] != sheets["c"]


@pytest.mark.parametrize("name", PRETRAINED)
def test_defaults_are_those_of_the_evaluation(nowhere, name):
    code, said = call("sample", f"pretrained:{name}", "--n", "1", "--tag", "one")
    assert code == 0, said
    made = json.loads((nowhere / "samples" / name / "one" / "metadata.json").read_text())
    assert (made["run"], made["sampler"], made["steps"], made["clip"]) == (
        f"pretrained:{name}",
        "dpm_solver++",
        20,
        1.0,
    )


@pytest.mark.parametrize("name", PRETRAINED)
def test_samples_are_pictures(nowhere, name):
    "In [-1, 1] but for what the last step overshoots, neither grey nor noise: neighbours are alike."
    x = draw_samples(pretrained(name), 8, sampler="dpm_solver++", steps=20)
    assert x.shape == (8, 3, 32, 32) and bool(x.isfinite().all()) and x.abs().max() < 1.5
    spread, step = x.std((1, 2, 3)), (x[..., 1:] - x[..., :-1]).std((1, 2, 3))
    assert spread.min() > 0.05 and (step / spread).max() < 0.8  # white noise has the square root of two


@pytest.mark.parametrize(
    "word, says",
    [
        ("pretrained:cifar1", "did you mean 'cifar10'"),
        ("pretrained:", "cifar10-plain"),
        ("nothing.safetensors", "is missing"),
        ("broken.safetensors", "damaged"),
    ],
)
def test_bad_words_are_one_line(nowhere, word, says):
    whole = bytearray(pretrained_file("cifar10").read_bytes())
    whole[len(whole) // 2] ^= 1
    (nowhere / "broken.safetensors").write_bytes(whole)
    code, said = call("sample", word)
    assert code == 2 and says in said and said.count("\n") == 1
    assert not (nowhere / "samples").exists()


def test_the_package_holds_the_weights(tmp_path):
    "What setup.py puts into a wheel."
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    done = subprocess.run(
        [*command, "build_py", "--build-lib", str(tmp_path / "lib")], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    for name in PRETRAINED:
        file = pretrained_file(name)
        packed = tmp_path / "lib" / "spectral_diffusion" / "run" / "weights" / file.name
        assert packed.read_bytes() == file.read_bytes()


def test_a_file_of_somebody_else_is_a_source(nowhere):
    copy = nowhere / "mine.safetensors"
    copy.write_bytes(pretrained_file("cifar10").read_bytes())
    found, known = load_weights(copy), pretrained("cifar10")
    for a, b in zip(found.parameters(), known.parameters(), strict=True):
        assert torch.equal(a, b)
    code, said = call("sample", str(copy), "--n", "1", "--steps", "2")
    assert code == 0 and (nowhere / "samples" / "mine" / "cli" / "grid.png").is_file(), said
