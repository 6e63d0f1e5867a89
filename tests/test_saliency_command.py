"`ssc tune` and `ssc evaluate` through the command line, on MNIST-1D and on a folder with classes."

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from spectral_diffusion.lab.cli import main

TINY = ["--pairs", "3", "--epochs", "2", "--set", "width=8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Dark and bright pictures, a folder for each."
    place, rng = tmp_path_factory.mktemp("ssc") / "pictures", np.random.default_rng(0)
    for name, low in (("bright", 128), ("dark", 0)):
        (place / name).mkdir(parents=True)
        for i in range(60):
            x = rng.integers(low, low + 128, (20, 20), dtype=np.uint8)
            Image.fromarray(x).save(place / name / f"{i}.png")
    return place


def test_a_search_and_a_comparison_on_a_folder(folder, tmp_path, capsys):
    words = ["--data", str(folder), "--results", str(tmp_path), *TINY]
    assert main(["ssc", "tune", "--run-id", "search", *words]) == 0
    (search,) = (tmp_path / "search").iterdir()
    best = json.loads((search / "metrics.json").read_text())
    start = ["--from", str(tmp_path / "search"), "--seed", "50", "--pairs", "3", "--epochs", "30"]
    assert main(["ssc", "evaluate", *start, "--results", str(tmp_path)]) == 0
    assert "95 % from" in capsys.readouterr().out
    (record,) = (tmp_path / "saliency").iterdir()
    runs = pd.read_csv(record / "runs.csv")
    assert runs.lr.iloc[0] == pytest.approx(best["with"]["lr"]) and runs.seed.min() == 50
    assert runs.test.between(0, 1).all() and len(runs) == 6
    for run in (search, record):
        with Image.open(run / "saliency.png") as picture:
            assert picture.width <= 800 and np.asarray(picture.convert("L")).std() > 1


def test_on_signals(tmp_path):
    pytest.importorskip("mnist1d")
    words = ["--results", str(tmp_path), *TINY, "--set", "samples=1000", "--set", "lr=0.01"]
    assert main(["ssc", "evaluate", *words]) == 0
    (record,) = (tmp_path / "saliency").iterdir()
    metrics = json.loads((record / "metrics.json").read_text())
    assert metrics["low"] <= metrics["difference"] <= metrics["high"] and metrics["without"] > 0.1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tune", "--from", "x"], "ssc evaluate"),
        (["evaluate", "--from", "/nowhere"], "nowhere"),
        (["evaluate", "--pairs", "1"], "at least 2"),
        (["evaluate", "--weight", "-1"], "positive"),
        (["tune", "--set", "weight_range=[1, 0.1]"], "the smaller first"),
        (["tune", "--data", "/nowhere"], "nowhere"),
        (["tune", "--set", "samples=150"], "multiple of 100"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, capsys, words, told):
    assert main(["ssc", *words, "--results", str(tmp_path / "results")]) == 2
    err = capsys.readouterr().err
    assert told in err and len(err.splitlines()) == 1 and not (tmp_path / "results").exists()
