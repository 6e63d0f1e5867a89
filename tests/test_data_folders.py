"""A folder of pictures from the command line: trained on, sampled, evaluated, gone on with; and what it costs
in memory."""

import io
import json
import os
import pickle
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spectral_diffusion.core.config import fingerprint
from spectral_diffusion.core.registry import InputError
from spectral_diffusion.data.contents import cache_of, content_of, files_of, split_of
from spectral_diffusion.data.folders import pictures
from spectral_diffusion.data.sets import DATASETS, load_images
from spectral_diffusion.lab.cli import main
from spectral_diffusion.run.resolved import fitted_statistics, resolve
from spectral_diffusion.run.settings import DataConfig, EvalConfig, RunConfig, TrainConfig

TINY = (
    "data.size=8",
    "data.statistics=100",
    "model={name: unet_tiny, base: 8, depth: 1}",
    "train.steps=4",
    "train.batch=4",
    "train.checkpoint=2",
    "evaluation.images=8",
    "evaluation.points=2",
    "evaluation.samples=9",
    "evaluation.sample_steps=2",
)


def settings(*pairs: str) -> list[str]:
    "Words for --set."
    return [word for pair in pairs for word in ("--set", pair)]


def call(*words: object) -> tuple[int, str, str]:
    "Exit code, stdout and stderr of the command line."
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    "No test sees the cache of the user, and none sees images of another."
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_images.cache_clear()
    fitted_statistics.cache_clear()


def picture(path: Path, seed: int, size: tuple[int, int] = (14, 18)) -> None:
    "A small picture of slow colours."
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def album(tmp_path):
    "Two hundred PNG files in two classes."
    for i in range(200):
        picture(tmp_path / "album" / ("cats", "dogs")[i % 2] / f"{i}.png", i)
    return tmp_path / "album"


def test_a_folder_is_trained_on_sampled_evaluated_and_gone_on_with(album, tmp_path, monkeypatch):
    "The whole way by the command line; a run that was cut off ends like one that was not."
    from spectral_diffusion.learn.state import TrainState

    words = ["train", "--data", album, *settings(*TINY, "preconditioning=spectral"), "--device", "cpu"]
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    save = TrainState.save

    def save_and_stop(state, path):
        save(state, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainState, "save", save_and_stop)
        assert call(*words, "--results", cut)[0] == 130
    assert not list(cut.glob("runs/*/metrics.json"))
    for results in (cut, whole):
        code, _, err = call(*words, "--results", results)
        assert code == 0, err
    one, two = (next(results.glob("runs/*/metrics.json")).parent for results in (cut, whole))
    losses = [json.loads((run / "metrics.json").read_text())["loss"] for run in (one, two)]
    assert one.name == two.name and losses[0] == losses[1]

    metrics = json.loads((one / "metrics.json").read_text())
    assert sum(metrics["pictures"].values()) == 200 and metrics["pictures"]["unreadable"] == 0
    kept = (one / "config.yaml").read_text()
    assert content_of(files_of(album)) in kept and "folder_album_" in kept
    code, out, err = call("sample", one, "--num-samples", 9, "--num-steps", 2, "--data", album)
    assert code == 0, err
    beside = json.loads((one / "samples" / "cli" / "metadata.json").read_text())["beside"]
    assert beside["pictures"] == len(pictures(album, 8).test.names) and beside["psd_distance"] > 0
    code, out, err = call("evaluate", "--generated-dir", one / "samples" / "cli", "--data", album)
    assert code == 0 and "frechet" in out and "psd_distance" in out, err


def test_evaluate_says_what_a_folder_holds(album, tmp_path):
    (album / "cut.png").write_bytes(b"\x89PNG")
    code, _, err = call("evaluate", "--data", album)
    assert code == 2 and "cut.png" in err and "--skip-unreadable" in err and err.count("\n") == 1
    code, _, err = call("evaluate", "--data", album, "--skip-unreadable", "--out", tmp_path / "facts.json")
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert code == 0, err
    assert (facts["pictures"], facts["unreadable"], facts["classes"]) == (200, 1, 2)
    assert facts["train"] + facts["validation"] + facts["test"] == 200


def test_one_more_picture_is_another_run_and_moves_no_other(album):
    before, own = pictures(album, 8), RunConfig(data=DataConfig(folder=str(album), size=8))
    picture(album / "cats" / "new.png", 999)
    after, other = pictures(album, 8), RunConfig(data=DataConfig(folder=str(album), size=8))
    assert fingerprint(own) != fingerprint(other)
    for old, new in zip(before[:3], after[:3], strict=True):
        assert set(old.names) == set(new.names) - {"cats/new.png"}


def test_a_process_that_is_handed_a_configuration_knows_its_pictures(album, monkeypatch):
    "Reading a pickle makes no configuration, so nothing has registered the folder there."
    config = RunConfig(
        data=DataConfig(folder=str(album), size=8),
        evaluation=EvalConfig(images=4),
        train=TrainConfig(batch=4),
    )
    handed = pickle.loads(pickle.dumps(config))
    monkeypatch.delitem(DATASETS._items, config.data.name)
    assert resolve(handed).size == (3, 8, 8)


def test_ids_of_configurations_without_a_folder_have_not_changed():
    "Written down before folders were there."
    assert fingerprint(RunConfig()) == "344a7a750d64"
    assert fingerprint(RunConfig(data=DataConfig(name="power_law", statistics=200))) == "855db5321cf8"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["train.batch=500"], "fewer than a batch of 500"),
        (["evaluation.images=900"], "hint: --set evaluation.images="),
        (["data.size=5", "model={name: unet_spectral}"], "takes sides of at least 7"),
        (["data.size=0"], "at least 1"),
        (["data.channels=2"], "allowed 1 and 3"),
        (["data.crop=center"], "did you mean 'centre'"),
        (["data.held_out=train"], "held-out split"),
        (["data.name=texture"], "give one of them"),
    ],
)
def test_what_cannot_work_is_one_line_before_anything_is_written(album, tmp_path, changes, says):
    words = ["train", "--data", album, *settings(*TINY, *changes), "--results", tmp_path / "out"]
    code, _, err = call(*words)
    assert code == 2 and says in err and err.count("\n") == 1, err
    assert not (tmp_path / "out").exists()


def test_folders_that_are_none(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, says in (
        ("pipe", "is not a folder"),
        ("file", "is not a folder"),
        ("nowhere", "is not a folder"),
        ("empty", "has no pictures"),
    ):
        for verb in (["train", "--results", tmp_path / "out"], ["evaluate"]):
            code, _, err = call(*verb, "--data", tmp_path / name)
            assert code == 2 and says in err and err.count("\n") == 1, err
    assert not (tmp_path / "out").exists()


def test_pipes_links_to_nothing_and_closed_files_are_named(tmp_path):
    picture(tmp_path / "pics" / "good.png", 1)
    os.mkfifo(tmp_path / "pipe")
    os.symlink(tmp_path / "pipe", tmp_path / "pics" / "pipe.png")
    os.symlink(tmp_path / "gone", tmp_path / "pics" / "gone.png")
    with pytest.raises(InputError, match="2 pictures that cannot be read"):
        pictures(tmp_path / "pics", 8)
    assert sorted(pictures(tmp_path / "pics", 8, skip_unreadable=True).unreadable) == ["gone.png", "pipe.png"]


def test_a_picture_that_changes_is_converted_again(tmp_path):
    "Same name, same length, times set back: the content decides."
    path = tmp_path / "pics" / "a.bmp"
    picture(path, 1)
    first, times = pictures(tmp_path / "pics", 8), path.stat()
    changed = bytearray(path.read_bytes())
    changed[-30:] = bytes(255 - v for v in changed[-30:])
    path.write_bytes(changed)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = pictures(tmp_path / "pics", 8)
    split = split_of("a.bmp")
    assert (getattr(first, split).x != getattr(second, split).x).any() and first.content != second.content
    assert len(list(cache_of(tmp_path / "pics").glob("*/rows.u8"))) == 1


MEASURE = """
import resource, sys, tracemalloc
from spectral_diffusion.data.folders import pictures
pictures(sys.argv[1], 8)  # everything is imported and warm
tracemalloc.start()
found = pictures(sys.argv[2], 64)
assert found.train.x.float().mean() > 0
print(tracemalloc.get_traced_memory()[1])
"""


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    """From 300 to 3,000 pictures of 12 kB each, the most that is held at a time grows by less than a tenth of
    their bytes: names and fingerprints, which for 100,000 pictures are far below 1 GB."""
    made = tmp_path / "one.png"
    picture(made, 1, (9, 9))
    data, peaks = made.read_bytes(), {}
    picture(tmp_path / "warm" / "0.png", 1)
    for n in (300, 3_000):
        (tmp_path / str(n)).mkdir()
        for i in range(n):
            (tmp_path / str(n) / f"{i}.png").write_bytes(data)
        words = [sys.executable, "-c", MEASURE, tmp_path / "warm", tmp_path / str(n)]
        peaks[n] = int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    each = (peaks[3_000] - peaks[300]) / 2_700
    assert each < 3 * 64 * 64 / 5, peaks
    assert 100_000 * each < 2**29, peaks


def test_recordings_become_a_folder_to_train_on(tmp_path):
    from scipy.io import wavfile

    (tmp_path / "wav").mkdir()
    for i in range(4):
        sound = np.random.default_rng(i).normal(size=8_000 * 30) * 2_000
        wavfile.write(tmp_path / "wav" / f"{i}.wav", 8_000, sound.astype(np.int16))
    code, _, err = call("data", "--wav", tmp_path / "wav")
    assert code == 2 and "--wav needs --out" in err
    code, out, err = call("data", "--wav", tmp_path / "wav", "--out", tmp_path / "pictures")
    assert code == 0 and out.startswith("120 spectrograms"), err
    words = ["train", "--data", tmp_path / "pictures", *settings(*TINY, "data.channels=1"), "--device", "cpu"]
    code, _, err = call(*words, "--results", tmp_path / "out")
    assert code == 0, err
    run = next((tmp_path / "out").glob("runs/*/metrics.json")).parent
    assert call("sample", run, "--num-samples", 2, "--num-steps", 2)[0] == 0
    with Image.open(run / "samples" / "cli" / "sample_000.png") as image:
        assert (image.size, image.mode) == ((8, 8), "L")
