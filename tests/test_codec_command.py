"`train-codec`, and what `encode` and `decode` make of its runs: through the command line."

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

pytest.importorskip("constriction")
from spectral_diffusion.lab.cli import main  # noqa: E402

SMALL = "codec={channels: [12, 6], widths: [8, 8], encoder: [0, 0], decoder: [1, 1], embedding: 4}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A folder of forty smooth colour pictures of different sizes."
    place, rng = tmp_path_factory.mktemp("codec") / "pictures", np.random.default_rng(0)
    place.mkdir()
    for i in range(40):
        coarse = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((40 + i, 36), Image.Resampling.BICUBIC).save(place / f"{i}.png")
    return place


def words(folder, results, *more):
    "A tiny run on the folder."
    tiny = [
        "--set",
        SMALL,
        "--set",
        "data.size=32",
        "--set",
        "train.batch=2",
        "--set",
        "train.lr=0.05",
        "--set",
        "points=3",
    ]
    return ["train-codec", "--data", str(folder), "--results", str(results), "--device", "cpu", *tiny, *more]


def test_a_codec_is_trained_on_a_folder_and_codes_by_its_run_id(folder, tmp_path, capsys):
    regular = ["--spectral-reg", "--tau-init", "0.1", "--tau-final", "0.9", "--truncation-epochs", "0.3"]
    command = words(folder, tmp_path, "--run-id", "mine", "--steps", "12", *regular, "--inter-scale", "apart")
    assert main(command) == 0
    (record,) = (tmp_path / "mine").iterdir()
    config = yaml.safe_load((record / "config.yaml").read_text())
    assert config["train"]["spectral_reg"] is True and config["train"]["inter_scale"] == "apart"
    history = pd.read_csv(record / "history.csv")
    assert history.step.tolist() == [0, 4, 8, 12] and history["spectral/tau"].iloc[0] == 0.1
    assert history["spectral/phase"].tolist()[::3] == [1, 2] and history["spectral/tau"].iloc[-1] == 0.9
    assert json.loads((record / "metrics.json").read_text())["pictures"] > 20
    capsys.readouterr()
    assert main(command) == 0  # complete: it is read
    assert "record in" in capsys.readouterr().out
    picture, again = folder / "3.png", tmp_path / "again.png"
    for model in ("mine", f"mine/{record.name}", str(record)):
        coded = tmp_path / "picture.sdc"
        assert main(["encode", str(picture), str(coded), "--model", model, "--results", str(tmp_path)]) == 0
        assert main(["decode", str(coded), str(again), "--model", model, "--results", str(tmp_path)]) == 0
    assert Image.open(again).size == Image.open(picture).size


def test_switches_change_the_codec(folder, tmp_path):
    losses = []
    for more in ([], ["--spectral-reg"], ["--inter-scale", "apart"], ["--inter-scale", "together"]):
        assert main(words(folder, tmp_path, "--steps", "6", *more)) == 0
    for path in (tmp_path / "codecs").glob("*/metrics.json"):
        losses.append(json.loads(path.read_text())["loss"])
    assert len(losses) == 4 == len(set(losses))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--tau-init", "2"], "tau_init <= tau_final"),
        (["--inter-scale", "sideways"], "inter_scale"),
        (["--set", "train.crop=33"], "stride"),
        (["--set", "train.crop=64"], "does not fit into pictures of side 32"),
        (["--set", "train.truncation_epochs=-1"], "truncation_epochs"),
        (["--set", "train.tau_schedule=up"], "tau schedule"),
        (["--set", "train.nothing=1"], "nothing"),
        (["--set", "data.name=mnist"], "give one of them"),
        (["--data", "/nowhere/at/all"], "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(folder, tmp_path, capsys, more, told):
    assert main(words(folder, tmp_path / "results", *more)) == 2
    err = capsys.readouterr().err
    assert told in err and len(err.splitlines()) == 1 and not (tmp_path / "results").exists()
