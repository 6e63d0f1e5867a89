"Studies of training runs by the command line: a base, a file of factors, and a table of runs."

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from spectral_diffusion.core.config import load_yaml
from spectral_diffusion.doe.balance import strength
from spectral_diffusion.lab.cli import main
from spectral_diffusion.run.settings import RunConfig
from spectral_diffusion.study import studies as studies_module
from spectral_diffusion.study import sweep as sweep_module
from spectral_diffusion.study.factors import Factors, NoEffect

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
RUNS = ("baseline", "spectral", "sweep_base", "ten_minutes")  # examples that `train` reads
SMALLEST = {"data.statistics": 64, "train.steps": 2, "evaluation.images": 8}
SMALLEST |= {"evaluation.points": 2, "evaluation.samples": 4, "evaluation.sample_steps": 4}
SHORT = [word for key, value in SMALLEST.items() for word in ("--set", f"{key}={value}")]
CODEC = "codec={channels: [12, 6], widths: [8, 8], encoder: [0, 0], decoder: [1, 1], embedding: 4}"
# the array of the prototype, as it was printed there: fifteen columns A to O, levels 1 and 2
L16 = """\
A,B,C,D,E,F,G,H,I,J,K,L,M,N,O
1,1,1,1,1,1,1,1,1,1,1,1,1,1,1
1,1,1,2,1,1,2,1,2,2,1,2,2,2,2
1,1,2,1,1,2,1,2,1,2,2,1,2,2,2
1,1,2,2,1,2,2,2,2,1,2,2,1,1,1
1,2,1,1,2,1,1,2,2,1,2,2,1,2,2
1,2,1,2,2,1,2,2,1,2,2,1,2,1,1
1,2,2,1,2,2,1,1,2,2,1,2,2,1,1
1,2,2,2,2,2,2,1,1,1,1,1,1,2,2
2,1,1,1,2,2,2,1,1,1,2,2,2,1,2
2,1,1,2,2,2,1,1,2,2,2,1,1,2,1
2,1,2,1,2,1,2,2,1,2,1,2,1,2,1
2,1,2,2,2,1,1,2,2,1,1,1,2,1,2
2,2,1,1,1,2,2,2,2,1,1,1,2,2,1
2,2,1,2,1,2,1,2,1,2,1,2,1,1,2
2,2,2,1,1,1,2,1,2,2,2,1,1,1,2
2,2,2,2,1,1,1,1,1,1,2,2,2,2,1
"""
BASE = """\
data: {name: piecewise, statistics: 64}
model: {name: unet_tiny, base: 8, depth: 1}
train: {steps: 4, batch: 4}
evaluation: {images: 16, points: 2, samples: 2, sample_steps: 4}  # of two steps dpm_solver++ would be ddim
"""
FACTORS = """\
factors:
  noise: [white, equal_snr]
  target: [eps, v]
  evaluation.sampler: [ddim, dpm_solver++]
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "factors.yaml").write_text(FACTORS)
    (tmp_path / "L16.csv").write_text(L16)
    return tmp_path


def run_here(notebook, parameters, copy, **ways):
    "A page in this process, as papermill would run it in a kernel of its own."
    names = {}
    for cell in json.loads(Path(notebook).read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
        if "parameters" in cell["metadata"].get("tags", []):
            names.update(parameters)


@pytest.fixture
def quick(monkeypatch):
    "Kernels take seconds to start; what they run is run here."
    monkeypatch.setattr(sweep_module, "run_notebook", run_here)


def sweep(files, *words):
    return main(["sweep", "--base", str(files / "base.yaml"), *words])


def design(capsys):
    "The rows that --dry-run prints."
    return capsys.readouterr().out.splitlines()


def test_a_study_of_runs_from_the_first_word_to_the_figures(files, quick, capsys):
    "Every factor is probed, every row trains, and the metric is analysed."
    words = ["--array", "L4", "--factors", str(files / "factors.yaml"), "--root", str(files / "sweep")]
    ways = ["--engine", "sequential", "--report-metric", "loss", "--response", "mean"]
    assert sweep(files, *words, *ways) == 0
    said = capsys.readouterr().out
    assert "4 rows done" in said and "rank" in said
    study = files / "sweep" / "taguchi-loss"
    assert {p.stem for p in study.glob("*.png")} >= {"main_effects", "distributions", "contribution"}
    assert len(list(study.glob("interaction_*.png"))) == 3
    ranks = pd.read_csv(study / "ranks.csv")
    assert sorted(ranks["rank"]) == [1, 2, 3] and {"rank_low", "rank_high"} <= set(ranks)
    rows = [json.loads(p.read_text()) for p in (files / "sweep").glob("[0-9a-f]*/row.json")]
    changed = [row["parameters"]["overrides"] for row in rows]
    assert {c["noise"] for c in changed} == {"white", "equal_snr"}
    runs = list((files / "sweep" / "runs").glob("*/config.yaml"))
    assert len(runs) == 4, "each row keeps its run in the folder of the sweep"
    assert {load_yaml(RunConfig, run).train.steps for run in runs} == {4}, "the base has reached every run"


def test_place_of_an_adapter_and_its_annealing_are_factors(files, quick, capsys):
    "Keys of the network and of the training, each with an effect that the probe sees."
    adapted = "model: {name: adapted, edges: [0.05, 0.3], options: {base: 8, depth: 1}}"
    (files / "base.yaml").write_text(BASE.replace("model: {name: unet_tiny, base: 8, depth: 1}", adapted))
    (files / "factors.yaml").write_text("factors: {model.where: [both, blocks], train.anneal: [0, 0.5]}\n")
    words = ["--array", "L4", "--factors", str(files / "factors.yaml"), "--root", str(files / "sweep")]
    assert sweep(files, *words, "--engine", "sequential", "--report-metric", "loss") == 0
    runs = [load_yaml(RunConfig, run) for run in (files / "sweep" / "runs").glob("*/config.yaml")]
    assert len({(run.model["where"], run.train.anneal) for run in runs}) == 4


def test_a_factor_that_does_nothing_stops_the_sweep(files, quick, capsys):
    (files / "factors.yaml").write_text("factors: {target: [eps, v], train.checkpoint: [100, 200]}\n")
    words = [
        "--factors",
        str(files / "factors.yaml"),
        "--root",
        str(files / "sweep"),
        "--engine",
        "sequential",
    ]
    assert sweep(files, *words) == 2
    said = capsys.readouterr().err
    assert "train.checkpoint does nothing" in said and "target does" not in said
    assert not (files / "sweep").exists()


def test_the_printed_array_of_the_prototype(files, capsys):
    "Columns A to E are taken by the factors in their order; the others are left over."
    more = yaml.safe_load(FACTORS)["factors"] | {
        "schedule": ["cosine", "linear"],
        "train.decay": ["none", "cosine"],
    }
    (files / "factors.yaml").write_text(yaml.safe_dump({"factors": more}, sort_keys=False))
    words = ["--array", str(files / "L16.csv"), "--factors", str(files / "factors.yaml"), "--dry-run"]
    assert sweep(files, *words) == 0
    lines = design(capsys)
    assert "16 runs" in lines[-2]
    cells = [line.split()[1:] for line in lines[1:17]]
    printed = [line.split(",")[:5] for line in L16.splitlines()[1:]]
    levels = list(more.values())
    assert cells == [[str(levels[j][int(n) - 1]) for j, n in enumerate(row)] for row in printed]
    codes = pd.DataFrame(printed).astype(int) - 1
    assert strength(codes.to_numpy()) >= 2


def test_a_table_of_values_needs_no_factors(files, capsys):
    table = "noise,train.lr\nwhite,1e-3\nwhite,1e-2\nequal_snr,1e-3\nequal_snr,1e-2\n"
    (files / "runs.csv").write_text(table)
    assert sweep(files, "--array", str(files / "runs.csv"), "--dry-run") == 0
    assert "4 runs" in design(capsys)[-2]


@pytest.mark.parametrize(
    "table,factors,says",
    [
        ("noise,seed\nwhite,0\npink,0\nwhite,1\npink,1\n", None, "factor 'noise' at \"pink\""),
        ("noise,target\nwhite,eps\nwhite,x\n", FACTORS, "no column 'evaluation.sampler'"),
        ("A,B,C\n1,1,1\n1,1,1\n2,2,2\n2,2,2\n", FACTORS, "not an orthogonal array"),
        ("A,B,C\n1,1,1\n1,2,3\n2,1,2\n2,2,1\n", FACTORS, "column 'evaluation.sampler' holds 3"),
        ("A,B\n1,1\n1,2\n2,1\n2,2\n", FACTORS, "has 2 columns, fewer than the 3 factors"),
        (
            "noise,train.steps\nwhite,4\nwhite,0\nequal_snr,4\nequal_snr,0\n",
            None,
            "factor 'train.steps' at 0",
        ),
        ("nose,seed\nwhite,0\npink,0\nwhite,1\npink,1\n", None, "unknown key"),
    ],
)
def test_bad_tables_are_one_line_before_any_work(files, capsys, table, factors, says):
    (files / "runs.csv").write_text(table)
    words = ["--array", str(files / "runs.csv"), "--root", str(files / "sweep")]
    if factors:
        words += ["--factors", str(files / "factors.yaml")]
    assert sweep(files, *words) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1
    assert not (files / "sweep").exists()


@pytest.mark.parametrize(
    "words,says",
    [
        (["--array", "L4"], "sweep needs --factors FILE"),
        (["--factors", "F", "--base", "B"], "one base file"),
        (["--factors", "F", "--report-metric", "a/b"], "cannot be a part of a folder's name"),
        (["--factors", "F", "--report-metric", "loss", "--goal", "samller"], "did you mean 'smaller'?"),
        (["--factors", "F", "--set", "train.stepz=3"], "train.steps"),
    ],
)
def test_bad_words_are_one_line(files, capsys, words, says):
    names = {"F": str(files / "factors.yaml"), "B": str(files / "base.yaml")}
    assert sweep(files, "--root", str(files / "sweep"), *[names.get(w, w) for w in words]) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1
    assert not (files / "sweep").exists()


def test_the_page_is_in_a_wheel(tmp_path):
    "The build copies the notebook beside the module that looks for it."
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "lib")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = tmp_path / "lib" / "spectral_diffusion" / "study" / "one_run.ipynb"
    assert page.read_bytes() == (ROOT / "nbs" / "study" / "one_run.ipynb").read_bytes()


# --- examples and printed configurations


def test_a_printed_configuration_is_the_run_that_it_came_from(tmp_path, capsys):
    words = ["--set", "train.lr=0.002", "--variant", "spectral", "--set", "evaluation.thresholds=[0.5, 0.1]"]
    assert main(["train", *words, "--print-config"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "run.yaml").write_text(text)
    assert main(["train", "--config", str(tmp_path / "run.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == text
    config = load_yaml(RunConfig, tmp_path / "run.yaml")
    assert (config.train.lr, config.evaluation.thresholds) == (0.002, (0.5, 0.1))


@pytest.mark.parametrize("name", RUNS)
def test_examples_of_runs(name, tmp_path, capsys):
    words = ["train", "--config", str(EXAMPLES / f"{name}.yaml"), "--output-dir", str(tmp_path), *SHORT]
    assert main([*words, "--set", "train.batch=4", "--device", "cpu"]) == 0
    assert "after 2 steps" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*/*/metrics.json"))) == 1


def test_example_of_a_sweep(tmp_path, quick, capsys):
    words = ["--factors", str(EXAMPLES / "sweep_factors.yaml"), "--base", str(EXAMPLES / "sweep_base.yaml")]
    ways = ["--engine", "sequential", "--output-dir", str(tmp_path / "sweep"), "--response", "mean", *SHORT]
    assert main(["sweep", "--array", "L8", *words, *ways, "--report-metric", "loss_drop_per_second"]) == 0
    said = capsys.readouterr().out
    assert "16 rows done" in said and "8 runs with 2 values each" in said


def test_example_of_a_codec(tmp_path, capsys):
    pytest.importorskip("constriction")
    rng, album = np.random.default_rng(0), tmp_path / "album"
    album.mkdir()
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(album / f"{i}.png")
    words = ["train-codec", "--config", str(EXAMPLES / "codec.yaml"), "--results", str(tmp_path / "results")]
    small = ["--set", CODEC, "--steps", "2", "--set", "train.batch=1", "--device", "cpu"]
    assert main([*words, *small, "--data", str(album)]) == 0
    assert "codec codec/" in capsys.readouterr().out


def test_example_of_saliency_consistency(tmp_path, capsys):
    pytest.importorskip("mnist1d")
    start = ["--config", str(EXAMPLES / "saliency.yaml"), "--results", str(tmp_path)]
    small = ["--pairs", "2", "--epochs", "1", "--set", "width=8", "--set", "samples=1000"]
    assert main(["ssc", "tune", *start, *small]) == 0
    (search,) = (tmp_path / "saliency").iterdir()
    further = ["--from", str(search), "--seed", "100", "--run-id", "judged", "--pairs", "2"]
    assert main(["ssc", "evaluate", *start, *further]) == 0
    assert len(list((tmp_path / "judged").glob("*/saliency.png"))) == 1


def test_every_example_is_run_here():
    "A file that is new has a test as well."
    own = {f"{name}.yaml" for name in (*RUNS, "sweep_factors", "codec", "saliency")}
    assert {p.name for p in EXAMPLES.iterdir()} == own


@pytest.mark.parametrize(
    ("key", "levels", "moves"), [("train.checkpoint", [200, 100], False), ("train.lr", [0.001, 0.1], True)]
)
def test_a_benchmark_page_is_probed_up_to_its_configuration(tmp_path, monkeypatch, key, levels, moves):
    "A key of its run that does nothing stops the sweep; one that does something lets its rows begin."
    monkeypatch.setattr(sweep_module, "run_notebook", run_here)
    page = ROOT / "nbs" / "bench" / "b19_convergence.ipynb"
    begun = []
    monkeypatch.setattr(studies_module, "run_sweep", lambda *given, **more: begun.append(given))
    factors = Factors(factors={f"run.{key}": levels}, noise={"preset": ["smoke"]})
    ways = {"root": tmp_path / "study", "cwd": ROOT}
    if moves:
        studies_module.run_study(page, factors, "full", "sequential", **ways)
    else:
        with pytest.raises(NoEffect, match=f"run.{key} does nothing: it changes the configuration"):
            studies_module.run_study(page, factors, "full", "sequential", **ways)
    assert len(begun) == moves and (tmp_path / "study").exists() == moves


def test_every_benchmark_page_can_be_probed():
    "The line in which a page reads its configuration is the same on all of them."
    pages = sorted((ROOT / "nbs" / "bench").glob("*.ipynb"))
    assert len(pages) > 10
    assert [p.stem for p in pages if studies_module.probe_of(p) is not studies_module.run_settings_of] == []
