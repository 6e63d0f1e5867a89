"""Widgets without a browser: what is drawn, what a control changes, how training is stopped, and what the
pages keep of them."""

import base64
import json
import re
import shlex
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.core.runtime import stream
from spectral_diffusion.data.synthetic import power_law_spectrum
from spectral_diffusion.doe.arrays import orthogonal_array
from spectral_diffusion.lab.browsers import draw_runs, run_browser
from spectral_diffusion.lab.explorer import draw_study, taguchi_explorer
from spectral_diffusion.lab.masks import brush, keep, mask_painter
from spectral_diffusion.lab.monitor import Monitor
from spectral_diffusion.lab.panel import WIDGET
from spectral_diffusion.lab.scrubbers import draw_noise, draw_steps, noise_shapes, sampler_scrubber
from spectral_diffusion.learn.loop import train
from spectral_diffusion.models.zoo import build_model
from spectral_diffusion.noise.denoiser import wrap
from spectral_diffusion.noise.process import Process
from spectral_diffusion.noise.theory import GaussianField

ROOT = Path(__file__).resolve().parents[1]
FIELD = GaussianField(power_law_spectrum(16, 12, exponent=2.0), (16, 12))
IMAGE = FIELD.sample(1, stream(0, "test/widgets"))[0] / 4
COSINE = Process("cosine")
EVIL = "</td><script>alert(1)</script><img src=x onerror='alert(2)'>"


def png_size(picture):
    return struct.unpack(">II", picture.png[16:24])


def run_folder(root, bench, name, **config):
    folder = root / bench / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps({"bench": bench, **config}))  # JSON is YAML
    (folder / "system.json").write_text("{}")
    (folder / "metrics.json").write_text(json.dumps({"loss": 0.5, EVIL: EVIL}))
    return folder


@pytest.fixture
def runs(tmp_path):
    for seed in range(3):
        folder = run_folder(tmp_path, "b01_demo", f"abcdef{seed}", seed=seed, note=EVIL)
        (folder / "history.csv").write_text(f"step,loss\n0,1.0\n10,0.{5 - seed}\n")
    run_folder(tmp_path, "b02_other", "fedcba", seed=0)
    return tmp_path


def study():
    array = orthogonal_array("L9(3^4)")
    design = pd.DataFrame(array, columns=["a", "b", "c", "<b>d</b>"])
    noise = np.random.default_rng(0).normal(size=(9, 3))
    return design, np.exp(0.5 * array[:, :1] + 0.1 * noise)


def panels(runs):
    design, y = study()
    mask = mask_painter(IMAGE)
    mask.controls["width"].value = 60  # the angle of a full ring means nothing
    return {
        "mask": mask,
        "noise": noise_shapes(IMAGE, FIELD),
        "runs": run_browser(runs),
        "study": taguchi_explorer(design, y),
        "samplers": sampler_scrubber(FIELD.denoiser(COSINE), COSINE, FIELD, steps=4, images=2),
    }


def test_importing_the_page_needs_neither_matplotlib_nor_ipywidgets():
    code = (
        "import sys; from spectral_diffusion.lab import browsers, masks, monitor, panel, scrubbers; print([m"
        " for m in ('matplotlib', 'ipywidgets', 'IPython', 'PIL') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def other(control):
    "A value that a control does not have now."
    options = getattr(control, "_options_values", None)
    if options is not None:
        if isinstance(control.value, tuple):
            return (options[-1],) if control.value != (options[-1],) else (options[0],)
        return next(v for v in options if v != control.value)
    if isinstance(control.value, tuple):
        return (control.min, control.max / 2)
    return control.min if control.value != control.min else control.max


def test_every_control_changes_the_picture_and_back(runs):
    for name, panel in panels(runs).items():
        assert panel.controls
        for key, control in panel.controls.items():
            before, old = bytes(panel.image.value), control.value
            control.value = other(control)
            assert (
                bytes(panel.image.value) == panel.picture.png and panel.image.tooltip == panel.picture.words
            )
            changed = bytes(panel.image.value) != before or (name, key.split()[0]) == (
                "study",
                "level",
            )  # a prediction is in the words alone
            assert changed, f"{name}: {key} changes nothing"
            control.value = old
            if name != "runs":
                assert bytes(panel.image.value) == before, f"{name}: {key} does not come back"


def test_a_predicted_level_changes_the_words(runs):
    panel = panels(runs)["study"]
    said = panel.picture.words
    panel.controls["level a"].value = 2
    assert panel.picture.words != said and "a = 2" in panel.picture.words


def test_every_control_has_a_label_and_is_one_that_keys_can_move(runs):
    import ipywidgets

    keys = (
        ipywidgets.FloatSlider,
        ipywidgets.IntSlider,
        ipywidgets.FloatRangeSlider,
        ipywidgets.Dropdown,
        ipywidgets.SelectMultiple,
    )
    for name, panel in panels(runs).items():
        for key, control in panel.controls.items():
            assert isinstance(control, keys) and control.description.strip(), f"{name}: {key}"
        for label, button in panel.buttons.items():
            assert button.description == label and button.tooltip


def test_pictures_of_a_panel_have_one_size(runs):
    panel = panels(runs)["noise"]
    sizes = set()
    for t in (0.0, 0.3, 1.0):
        panel.controls["t"].value = t
        sizes.add(png_size(panel.picture))
    assert len(sizes) == 1


def test_both_forms_are_in_the_display(runs):
    for panel in panels(runs).values():
        data, metadata = panel._repr_mimebundle_()
        assert base64.b64decode(data["image/png"]) == bytes(panel.image.value)
        assert (
            data[WIDGET]["model_id"] == panel.view.model_id
            and metadata["image/png"]["alt"] == panel.picture.words == data["text/plain"]
        )
        assert len(panel.picture.words) > 20


def test_jupyter_takes_the_forms_as_they_are():
    from IPython.core.formatters import DisplayFormatter

    formatter = DisplayFormatter()
    formatter.active_types = ["text/plain", "image/png", WIDGET]
    data, metadata = formatter.format(mask_painter(IMAGE))
    assert set(data) == {"text/plain", "image/png", WIDGET} and "alt" in metadata["image/png"]


def test_nothing_from_a_file_becomes_html(runs):
    panel = run_browser(runs)
    panel.controls["runs"].value = (0, 1, 2)
    for part in (panel.words.value, panel.picture.table):
        assert "<script" not in part and "<img" not in part
    assert "&lt;script&gt;" in panel.picture.table and "onerror=&#x27;" in panel.picture.table
    design, y = study()
    explorer = taguchi_explorer(design, y)
    assert (
        "<b>d" not in explorer.picture.table
        and "<b>d" not in explorer.words.value
        and "&lt;b&gt;d" in explorer.picture.table
    )


def test_choosing_a_benchmark_changes_the_list_of_runs(runs):
    panel = run_browser(runs)
    assert len(panel.controls["runs"].options) == 3
    panel.controls["bench"].value = "b02_other"
    assert len(panel.controls["runs"].options) == 1 and "no curve" in panel.picture.words
    panel.controls["bench"].value = "b01_demo"
    assert len(panel.controls["runs"].options) == 3 and "ends at 0.5" in panel.picture.words


def test_the_records_of_this_repository_can_be_browsed():
    panel = run_browser(ROOT / "results", "b18_results_table")
    assert len(panel.controls["runs"].options) > 3 and "ends at" in panel.picture.words


@pytest.mark.parametrize("h, w", [(8, 8), (9, 7), (8, 11)])
def test_what_brushes_paint_is_what_the_image_loses(h, w):
    x = torch.randn(3, h, w, generator=stream(1, "test/brush"), dtype=torch.float64)
    panel = mask_painter(x)
    panel.controls["ring"].value, panel.controls["width"].value, panel.controls["angle"].value = (
        (0.2, 0.4),
        60,
        40,
    )
    panel.buttons["Remove"].click()
    full = torch.fft.fft2(keep(x, panel.memory["mask"]))
    fy, fx = torch.fft.fftfreq(h, dtype=torch.float64)[:, None], torch.fft.fftfreq(w, dtype=torch.float64)
    angle = torch.rad2deg(torch.atan2(fy, fx)) - 40
    inside = (
        (torch.hypot(fy, fx) >= 0.2) & (torch.hypot(fy, fx) < 0.4) & (((angle + 90) % 180 - 90).abs() <= 30)
    )
    assert inside.any() and full[:, inside].abs().max() < 1e-10


def test_bad_values_are_refused_by_name():
    for call, said in (
        (lambda: brush(8, 8, 0.3, 0.2), "lower to a higher"),
        (lambda: brush(8, 8, width=0.0), "width of a wedge"),
        (lambda: keep(IMAGE, brush(8, 8)), "the mask of images"),
        (lambda: draw_noise(IMAGE, FIELD, "pnik", 0.5), "did you mean 'pink'"),
        (
            lambda: sampler_scrubber(FIELD.denoiser(COSINE), COSINE, FIELD, ("ddin", "ddim")),
            "did you mean 'ddim'",
        ),
        (lambda: draw_steps({}, 1, FIELD, COSINE), "step must lie"),
        (lambda: draw_study(*study(), view="x"), "unknown view"),
        (lambda: draw_runs([], []), "at least one run"),
    ):
        with pytest.raises(InputError, match=re.escape(said)):
            call()


def test_drawing_in_another_thread_leaves_pyplot_alone(runs):
    import matplotlib.pyplot as plt

    plt.close("all")
    mine, made = plt.figure(), []
    every = panels(runs)
    for name, key in (
        ("mask", "width"),
        ("noise", "t"),
        ("samplers", "step"),
        ("study", "view"),
        ("runs", "bench"),
    ):
        control = every[name].controls[key]

        def move(control=control):
            control.value = other(control)

        thread = threading.Thread(target=lambda m=move: made.append((m(), plt.get_fignums())))
        thread.start()
        thread.join()
    assert [numbers for _, numbers in made] == [[mine.number]] * 5
    plt.close(mine)


class State:
    def __init__(self, loss):
        self.loss = loss


def steps(gate, taken):
    "One state each time the gate opens."
    while True:
        assert gate.acquire(timeout=600)
        taken.append(len(taken))
        yield State(1.0)


def test_stop_ends_after_the_present_step_and_not_before():
    gate, taken = threading.Semaphore(0), []
    monitor = Monitor(steps(gate, taken), seconds=3_600)
    for _ in range(3):
        gate.release()
    until = time.monotonic() + 600
    while len(monitor.losses) < 3 and time.monotonic() < until:
        time.sleep(0.005)
    monitor.button.click()
    assert not monitor.ended.wait(0.1)  # a step is under way
    gate.release()
    assert monitor.wait(600) is monitor.state and taken == [0, 1, 2, 3] and len(monitor.losses) == 4
    assert monitor.button.disabled and monitor.ending == "Stopped." and "step 4" in monitor.words.value


def test_an_interrupt_of_the_kernel_stops_training_and_is_no_error(monkeypatch):
    monitor = Monitor((State(1.0) for _ in iter(lambda: time.sleep(0.002), 1)), seconds=3_600)
    real, first = monitor.ended.wait, iter([True])

    def interrupted(seconds=None):
        if next(first, False):
            raise KeyboardInterrupt
        return real(seconds)

    monkeypatch.setattr(monitor.ended, "wait", interrupted)
    monitor.wait()
    assert monitor.ending == "Stopped." and not monitor.error


def test_a_watched_run_is_the_run_that_nobody_watches():
    def fresh():
        return wrap(build_model({"name": "unet_tiny", "channels": 1, "base": 4, "depth": 2}), COSINE)

    def images(step):
        return torch.randn(4, 1, 8, 8, generator=stream(step, "test/monitor"))

    alone = [s.loss for s in train(fresh(), images, steps=6, batch=4)]
    monitor = Monitor(train(fresh(), images, steps=6, batch=4), seconds=3_600, every=0.001)
    state = monitor.wait(600)
    assert monitor.losses == alone and state.step == 6 and monitor.ending == "All steps are done."


def notebook(page):
    return json.loads((ROOT / "nbs" / f"{page}.ipynb").read_text())


@pytest.mark.parametrize(
    "page, pictures",
    [
        ("lab/panel", 1),
        ("lab/masks", 1),
        ("lab/scrubbers", 2),
        ("lab/browsers", 1),
        ("lab/explorer", 1),
        ("lab/monitor", 1),
        ("guide/first_hour", 6),
    ],
)
def test_the_pages_keep_pictures_and_no_dead_views(page, pictures):
    outputs = [o.get("data", {}) for c in notebook(page)["cells"] for o in c.get("outputs", ())]
    assert not any(WIDGET in data for data in outputs)
    assert sum("image/png" in data for data in outputs) >= pictures


def test_a_finished_page_loses_its_live_views_and_nothing_else():
    from tools.page import without_views

    shown = {
        "output_type": "execute_result",
        "data": {WIDGET: {"model_id": "x"}, "image/png": "abc", "text/plain": "words"},
        "metadata": {},
    }
    bare = {
        "output_type": "display_data",
        "data": {WIDGET: {"model_id": "x"}, "text/plain": "0%"},
        "metadata": {},
    }
    nb = {
        "cells": [{"cell_type": "code", "outputs": [shown, bare]}, {"cell_type": "markdown"}],
        "metadata": {"widgets": {"state": {}}, "kernelspec": {}},
    }
    first, second = without_views(nb)["cells"][0]["outputs"]
    assert nb["metadata"] == {"kernelspec": {}}
    assert first["data"] == {"image/png": "abc", "text/plain": "words"} and WIDGET in second["data"]


def test_the_commands_of_the_first_hour_are_commands():
    from spectral_diffusion.lab.cli import parser

    text = "".join(
        "".join(c["source"]) for c in notebook("guide/first_hour")["cells"] if c["cell_type"] == "markdown"
    )
    commands = re.findall(r"^spectral-diffusion (.*)$", text, re.M)
    assert len(commands) >= 5
    for line in commands:
        assert parser().parse_args(shlex.split(line, comments=True)).call


def test_the_first_hour_trains_what_its_file_says():
    from spectral_diffusion.core.config import load_yaml
    from spectral_diffusion.run.settings import RunConfig

    run = load_yaml(RunConfig, ROOT / "examples" / "ten_minutes.yaml")
    page = "".join("".join(c["source"]) for c in notebook("guide/first_hour")["cells"])
    assert f'"lr": {run.train.lr * 1000:.0f}e-3, "warmup": {run.train.warmup}' in page
    assert f'"decay": {run.train.steps:_}, "ema": {run.train.ema}' in page
    assert f'build_model({{"name": "{run.model["name"]}"}})' in page and "flip=True" in page
    assert run.preconditioning == "spectral" and run.train.decay == "cosine" and run.train.flip
    history = (ROOT / "results" / "demo" / "first_hour" / "history.csv").read_text().splitlines()
    assert history[-1].startswith(f"{run.train.steps},")


def test_make_lab_opens_the_first_hour():
    shown = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    page = re.search(r"default_url=/lab/tree/(\S+)", shown)[1]
    assert page == "nbs/guide/first_hour.ipynb" and (ROOT / page).is_file()
    assert "ip=127.0.0.1" in shown and "token" not in shown
