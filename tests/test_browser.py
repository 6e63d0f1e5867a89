"""The first hour in a real JupyterLab and a real browser: run cells, move a slider with the arrow keys, stop.

The long form, but for one test without a browser. Skipped, with the reason, where no browser is found.
SPECTRAL_DIFFUSION_BROWSER names one that is not on PATH;
SPECTRAL_DIFFUSION_SHOTS names a folder for screenshots.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PAGE = "first_hour.ipynb"


def browser_path():
    "The browser to use, or None."
    named = os.environ.get("SPECTRAL_DIFFUSION_BROWSER")
    return named or next((found for name in BROWSERS if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A JupyterLab on loopback, with folders of its own, on a copy of the page; its address and token."
    if browser_path() is None:
        pytest.skip(f"no browser: looked for {', '.join(BROWSERS)} on PATH")
    pytest.importorskip(
        "playwright.sync_api", reason="the package playwright, which steers the browser, is not installed"
    )
    home = tmp_path_factory.mktemp("lab")
    (home / "work").mkdir()
    page = json.loads((ROOT / "nbs" / "guide" / PAGE).read_text(encoding="utf-8"))
    end = next(i for i, cell in enumerate(page["cells"]) if "monitor.wait()" in "".join(cell["source"]))
    page["cells"] = page["cells"][
        :end
    ]  # the reader looks at the curve before that cell is run; only Stop ends training here
    for cell in page["cells"]:
        cell["source"] = "".join(cell["source"]).replace("steps=200,", "steps=100_000,")
    assert "steps=100_000," in page["cells"][-1]["source"]
    (home / "work" / PAGE).write_text(json.dumps(page), encoding="utf-8")
    settings = {
        "notebook-extension/tracker": '{"windowingMode": "none"}',
        "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
    }
    for name, text in settings.items():
        file = home / "config" / "lab" / "user-settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, address = secrets.token_hex(16), f"http://127.0.0.1:{port}"
    env = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONPATH": str(ROOT),
        "JUPYTER_TOKEN": token,
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={home / 'work'}",
    ]
    with open(home / "log.txt", "w+") as log:
        server = subprocess.Popen(command, cwd=home, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            until = time.monotonic() + 600
            while not answers(f"{address}/api/status?token={token}"):
                if server.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    pytest.fail(f"JupyterLab does not start:\n{log.read()[-3000:]}")
                time.sleep(0.2)
            yield address, token
        finally:
            server.send_signal(signal.SIGTERM)  # ends the kernels too
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


def answers(url):
    "Whether a server answers."
    try:
        return urllib.request.urlopen(url, timeout=60).status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def page(lab):
    "The notebook in the browser, with all its cells asked to run."
    from playwright.sync_api import sync_playwright

    address, token = lab
    flags = [
        "--disable-quic",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--disable-gpu",
    ]
    flags += ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path(), args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(600_000)
        page.goto(f"{address}/lab/tree/{PAGE}?token={token}&reset")
        page.get_by_text("| Idle").first.wait_for()
        for _ in range(200):  # a click that comes too early does nothing
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            try:
                page.locator(".jp-InputPrompt", has_text="[*]").first.wait_for(timeout=2_000)
                break
            except Exception:
                page.keyboard.press("Escape")
        yield page
        browser.close()


def shot(page, name):
    "A screenshot, where somebody asked for them."
    if folder := os.environ.get("SPECTRAL_DIFFUSION_SHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def panel(page, label):
    "The innermost box that holds a label."
    return page.locator(".jp-OutputArea-output .widget-vbox", has=page.get_by_text(label, exact=True)).last


def settled(image, before=None):
    "The pixels of a picture, once they differ from those before."
    until = time.monotonic() + 600
    while True:
        pixels = image.screenshot()
        if pixels != before:
            return pixels
        assert time.monotonic() < until, "the picture does not change"
        time.sleep(0.2)


def says(box, words):
    "Wait until the words under a picture hold these."
    until = time.monotonic() + 600
    while words not in (said := box.locator("[role=status]").inner_text()):
        assert time.monotonic() < until, f"waited for {words!r}, it says {said!r}"
        time.sleep(0.2)


@pytest.mark.long
def test_arrow_keys_move_a_slider_and_the_picture_follows(page):
    noise = panel(page, "preset")
    noise.wait_for()
    noise.scroll_into_view_if_needed()
    image = noise.locator("img").first
    first = settled(image)
    shot(page, "noise")
    handle = noise.locator(".noUi-handle").first
    handle.focus()
    was = handle.get_attribute("aria-valuenow")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    says(noise, "t = 0.50")
    settled(image, before=first)
    assert float(handle.get_attribute("aria-valuenow")) > float(was)


@pytest.mark.long
def test_a_list_is_chosen_by_keyboard(page):
    noise = panel(page, "preset")
    image, before = noise.locator("img").first, settled(noise.locator("img").first)
    noise.locator("select").first.focus()
    page.keyboard.press("p")  # pink
    says(noise, "pink at ")
    settled(image, before=before)
    shot(page, "pink")


@pytest.mark.long
def test_a_brush_paints_on_the_spectrum(page):
    painter = panel(page, "angle (degrees)")
    painter.scroll_into_view_if_needed()
    image = painter.locator("img").first
    before = settled(image)
    button = painter.get_by_role("button", name="Keep only this")
    button.focus()
    page.keyboard.press("Enter")
    settled(image, before=before)
    shot(page, "mask")


@pytest.mark.long
def test_stop_ends_training(page):
    stop = page.locator(".widget-vbox button", has_text="Stop").last
    stop.wait_for()
    monitor = page.locator(
        ".jp-OutputArea-output .widget-vbox", has=page.locator("button", has_text="Stop")
    ).last
    monitor.scroll_into_view_if_needed()
    words = monitor.locator("[role=status]")
    until = time.monotonic() + 600
    while "mean loss" not in words.inner_text() and time.monotonic() < until:
        time.sleep(0.2)
    shot(page, "training")
    stop.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(
        "() => [...document.querySelectorAll('[role=status]')].some(e => e.innerText.includes('Stopped.'))"
    )
    shot(page, "stopped")
    assert (
        stop.is_disabled()
        and not page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count()
    )


@pytest.mark.long
def test_controls_have_names(page):
    "What a screen reader finds: every list, button and picture of the widgets has a name."
    names = page.eval_on_selector_all(
        ".widget-vbox select, .widget-vbox button",
        "es => es.map(e => e.innerText.trim() || e.title || (e.labels && e.labels[0] &&"
        " e.labels[0].innerText) || e.getAttribute('aria-label') || '')",
    )
    assert len(names) > 5 and all(names), names
    pictures = page.locator(".widget-vbox img")
    assert pictures.count() >= 4 and all(len(p.get_attribute("title") or "") > 20 for p in pictures.all())
    assert not page.locator(".jupyter-widgets-error-widget").count()


def test_a_stranger_without_the_token_is_turned_away(lab):
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{lab[0]}/api/contents", timeout=600)
