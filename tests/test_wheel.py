"""An installed wheel works without a checkout: the command line, the top of the package, the benchmarks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("spectral_diffusion", "nbs/bench", "nbs/study")  # folders that a wheel is made of
FILES = ("setup.py", "settings.ini", "README.md", "MANIFEST.in", "LICENSE", "CITATION.cff")


def run(*words, cwd, **env):
    "What a command prints; it must end well."
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    "The library as a wheel, unpacked into a folder that has nothing else."
    pytest.importorskip("setuptools", reason="setuptools, which builds the wheel, is not installed")
    source, place = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    left_out = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for part in PARTS:  # a copy: building writes beside the sources
        shutil.copytree(ROOT / part, source / part, ignore=left_out)
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    pip = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    run(*pip, "--target", place, source, cwd=place, PIP_DISABLE_PIP_VERSION_CHECK="1")
    return place


def test_the_command_line_works_without_a_checkout(installed, tmp_path):
    env = {"PYTHONPATH": str(installed)}
    where = run("-c", "import spectral_diffusion; print(spectral_diffusion.__file__)", cwd=tmp_path, **env)
    assert Path(where.strip()).is_relative_to(installed)
    assert "usage: spectral-diffusion" in run(
        installed / "bin/spectral-diffusion", "--help", cwd=tmp_path, **env
    )
    assert "Process" in run(
        "-c", "from spectral_diffusion import Process; print(Process)", cwd=tmp_path, **env
    )


def test_the_benchmarks_come_along(installed, tmp_path):
    env = {"PYTHONPATH": str(installed)}
    said = run("-m", "spectral_diffusion.lab.cli", "bench", "list", cwd=tmp_path, **env).splitlines()
    assert [line.split()[0] for line in said] == sorted(p.stem for p in (ROOT / "nbs/bench").glob("*.ipynb"))


def test_the_wheel_holds_what_the_package_holds(installed):
    kinds = ("*.py", "*.json", "*.safetensors", "py.typed")
    for kind in kinds:
        here = {p.relative_to(ROOT / "spectral_diffusion") for p in (ROOT / "spectral_diffusion").rglob(kind)}
        there = {
            p.relative_to(installed / "spectral_diffusion")
            for p in (installed / "spectral_diffusion").rglob(kind)
        }
        assert here <= there, sorted(map(str, here - there))


@pytest.mark.long
def test_a_benchmark_runs_without_a_checkout(installed, tmp_path):
    env = {"PYTHONPATH": str(installed)}
    said = run("-m", "spectral_diffusion.lab.cli", "bench", "b16_published_tables", cwd=tmp_path, **env)
    assert "record" in said and list(tmp_path.rglob("metrics.json"))
    assert not list((installed / "spectral_diffusion" / "book").rglob("metrics.json"))
