"Regularizers, first weights and other switches of `train`, through the command line."

import json

import numpy as np
import pandas as pd
import pytest

from spectral_diffusion.core.config import fingerprint, override, to_dict
from spectral_diffusion.lab.cli import main
from spectral_diffusion.learn.checkpoint import load
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
    assert "initial" not in told and "statistics" not in told["evaluation"]
    assert not {"spectral_reg", "anneal", "frequency_edges"} & set(told["train"])
    off = {"initial.source": "none", "train.spectral_reg": False, "train.anneal": 0.0}
    same = override(RunConfig(), {**off, "train.frequency_weight": "none", "evaluation.statistics": 0})
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


def test_learned_bands_are_annealed_and_estimates_described(tmp_path, capsys):
    network = "model={name: adapted, where: all, edges: [0.05, 0.3], options: {base: 8, depth: 1}}"
    soft, _, _ = train(tmp_path / "a", network)
    hard, curve, path = train(tmp_path / "b", network, "train.anneal=0.5", "evaluation.statistics=8")
    assert soft["loss"] != hard["loss"]
    kept = load(path / "checkpoints" / "final").model
    widths = [v.item() for k, v in kept.items() if k.endswith("temperature")]
    assert len(widths) > 2 and all(abs(w - 0.005) < 1e-7 for w in widths)
    table = pd.read_csv(path / "statistics.csv")
    assert sorted(set(table.step)) == list(curve.step) and set(table.of) == {"clean", "noisy", "estimate"}
    assert np.isfinite(table[["energy", "magnitude", "phase_error"]]).all(axis=None)
    assert main(["sample", str(path), "--num-samples", "2", "--num-steps", "2"]) == 0


def test_a_band_of_the_loss_and_the_dual_network_with_an_embedding(tmp_path):
    weighted = [
        train(tmp_path / name, "train.frequency_weight=bandpass", f"train.frequency_edges={edges}")[0]["loss"]
        for name, edges in (("a", "[0.0, 0.1]"), ("b", "[0.1, 0.25]"))
    ]
    assert weighted[0] != weighted[1]
    counted = [
        train(tmp_path / name, f"model={{name: unet_spectral_published, base: 6{more}}}")[0]["parameters"]
        for name, more in (("c", ""), ("d", ", form: dual"), ("e", ", embedding: 3"))
    ]
    assert counted[0] < counted[2] < counted[1] < 2 * counted[0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["train.anneal=0.5"], "no learned band to anneal"),
        (["train.anneal=2"], "anneal must lie in [0, 1]"),
        (["train.frequency_edges=[0.1, 0.2]"], "bandpass only"),
        (["train.frequency_weight=bandpass", "train.frequency_edges=[0.2, 0.1]"], "0 <= low < high"),
        (["train.frequency_weight=bandpass", "train.frequency_edges=[0.101, 0.102]"], "no frequency"),
        (["evaluation.statistics=9"], "at most evaluation.images"),
        (["model={name: adapted, where: block}"], "did you mean 'blocks'?"),
        (["model={name: adapted, where: blocks, network: conv}"], "no blocks"),
        (["model={name: adapted, adapter: phase, edges: [0.1, 0.2]}"], "belongs to bandpass, learnable"),
        (["model={name: adapted, adapter: bandpass, edges: 0.2}"], "two numbers"),
        (["model={name: unet_spectral_published, form: duel}"], "did you mean 'dual'?"),
        (["model={name: unet_spectral, embedding: -1}"], "at least 1"),
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
