"""Two processes on this machine give the run of one: the loop in double precision, and the command line with
both launchers."""

import json
import os
import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from spectral_diffusion.lab.cli import main
from spectral_diffusion.learn.checkpoint import load
from spectral_diffusion.learn.distributed import Workers
from spectral_diffusion.run.record import load_record

ROOT = Path(__file__).resolve().parents[1]
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
TRAIN = [
    "train",
    "--device",
    "cpu",
    "--set",
    "data.name=power_law",
    "--set",
    "train.steps=9",
    "--set",
    "train.batch=5",
    "--set",
    "model={name: unet_tiny, base: 4, depth: 2}",
    "--set",
    "evaluation.points=3",
    "--set",
    "evaluation.samples=4",
    "--set",
    "evaluation.sample_steps=2",
]

LOOP = """
import json, sys
from pathlib import Path
from spectral_diffusion.core.runtime import stream
from spectral_diffusion.learn.distributed import join
from spectral_diffusion.learn.loop import train
from spectral_diffusion.models.zoo import build_model
from spectral_diffusion.noise.denoiser import wrap
from spectral_diffusion.noise.process import Process
import torch

def images(step): return torch.randn(5, 1, 9, 12, generator=stream(3, f"images/{step}")).double()

def losses(workers, folder):
    "Five steps, a checkpoint, and four more by new objects; batches of five, so slices differ."
    found = []
    for steps in (5, 9):
        network = build_model({"name": "unet_tiny", "channels": 1, "base": 4, "depth": 2}).double()
        net = wrap(network, Process("cosine"))
        options = {"lr": 3e-3, "batch": 5, "clip": 0.3, "warmup": 2, "ema": 0.8, "time_weight": "min_snr"}
        options |= {"resume": folder if steps == 9 else None, "checkpoints": folder, "checkpoint_every": 5}
        for state in train(net, images, steps=steps, seed=4, workers=workers, **options):
            found.append([state.loss, state.grad_norm])
        # nobody resumes before rank 0 has saved; a new start has no such race
        workers.add([torch.zeros(1)], 1.)
    names = sorted(p.name for p in Path(folder).iterdir())
    return found, [v.double().sum().item() for v in state.ema.values()], names

if __name__ == "__main__":
    with join("cpu") as workers: answer = losses(workers, sys.argv[1])
    Path(sys.argv[1], f"rank{workers.rank}.json").write_text(json.dumps(answer))
"""

ABORTS = """
import os
from pathlib import Path

if os.environ["RANK"] == "1":
    begun = len(list(Path({folder!r}).glob("begun-*")))
    Path({folder!r}, f"begun-{{begun}}").touch()
    if begun < {times}:
        os.abort()
"""


def two_processes(words):
    """What a launcher of two processes returns, begun again once where one was aborted. That was seen once in
    many runs; no code of ours aborts, an exception ends with another code. Compare pytorch#188266."""
    words = [*TORCHRUN, *words]
    done = subprocess.run(words, env=ENV, capture_output=True, text=True, timeout=1_200)
    if "(SIGABRT)" in done.stderr:
        warnings.warn(f"a process was aborted, and both begin again:\n{done.stderr}", stacklevel=2)
        done = subprocess.run(words, env=ENV, capture_output=True, text=True, timeout=1_200)
    assert done.returncode == 0, done.stderr
    return done


def test_loop_of_two_is_that_of_one(tmp_path):
    """Losses, gradient norms and averaged weights in double precision, clipping and resuming included; both
    processes have the same; one of them saves."""
    (tmp_path / "loop.py").write_text(LOOP)
    (tmp_path / "two").mkdir()
    two_processes([str(tmp_path / "loop.py"), str(tmp_path / "two")])
    space = {"__name__": "loop"}
    exec(LOOP, space)
    (tmp_path / "one").mkdir()
    steps, ema, files = space["losses"](Workers(), str(tmp_path / "one"))
    ranks = [json.loads((tmp_path / "two" / f"rank{r}.json").read_text()) for r in (0, 1)]
    assert ranks[0][:2] == ranks[1][:2] and len(steps) == 9 and files == ["step-00000005"]
    assert ranks[0][0] != steps  # they did share the work: the bits differ
    np.testing.assert_allclose(
        ranks[0][0], steps, rtol=1e-9
    )  # one rounding in the order of a sum, carried through nine steps
    np.testing.assert_allclose(ranks[0][1], ema, rtol=1e-9, atol=1e-11)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    "The run of one process."
    return trained(tmp_path_factory.mktemp("alone"), lambda words: main(words))


def trained(root, call):
    assert call([*TRAIN, "--results", str(root)]) == 0
    paths = [p.parent for p in root.glob("*/*/config.yaml")]
    assert len(paths) == 1 and not list(root.glob("*/.partial*"))
    return load_record(paths[0])


@pytest.mark.parametrize("launcher", ["torchrun", pytest.param("accelerate", marks=pytest.mark.long)])
def test_command_line(alone, tmp_path, launcher):
    "One record, of the same name, with the same curve and network."
    if launcher == "accelerate":
        pytest.importorskip("accelerate")

    def call(words):
        return two_processes(["-m", "spectral_diffusion.lab.cli", *words, "--launcher", launcher]).returncode

    two = trained(tmp_path / "results", call)
    assert (
        two.path.name == alone.path.name
        and two.metrics["processes"] == 2
        and "processes" not in alone.metrics
    )
    one, other = alone.history(), two.history()
    assert list(one.step) == list(other.step)
    np.testing.assert_allclose(
        other[["train_loss", "loss"]], one[["train_loss", "loss"]], rtol=2e-5
    )  # single precision
    weights = [load(r.path / "checkpoints" / "final").model for r in (alone, two)]
    assert all(
        torch.allclose(weights[0][k], weights[1][k], rtol=1e-3, atol=2e-4) for k in weights[0]
    ) and any(not torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


@pytest.mark.parametrize("times", [1, 2])
def test_begun_again_after_an_abort_and_only_once(times, tmp_path):
    "One abort is begun again, with a warning that has all that was printed; two are a failure."
    (tmp_path / "script.py").write_text(ABORTS.format(folder=str(tmp_path), times=times))
    if times == 1:
        with pytest.warns(UserWarning, match="(?s)begin again.*SIGABRT"):
            two_processes([str(tmp_path / "script.py")])
        return
    with pytest.warns(UserWarning, match="begin again"), pytest.raises(AssertionError, match="SIGABRT"):
        two_processes([str(tmp_path / "script.py")])


def test_a_batch_that_is_too_small(tmp_path, monkeypatch, capsys):
    "One image for two processes: refused by each before anything is written."
    monkeypatch.setattr("spectral_diffusion.learn.distributed.join", lambda *a: nullcontext(Workers(0, 2)))
    assert (
        main(
            [
                "train",
                "--device",
                "cpu",
                "--set",
                "data.name=power_law",
                "--set",
                "train.batch=1",
                "--results",
                str(tmp_path / "results"),
            ]
        )
        == 2
    )
    assert (
        "a batch of 1 cannot be divided among 2 processes" in capsys.readouterr().err
        and not (tmp_path / "results").exists()
    )
