"""The built site in a real browser: no errors on the console, no request to the outside, nothing wider than a phone, and what axe-core finds.

`make test` builds the site before the tests. Skipped, with the reason, where there is no site or no browser.
"""
import functools
import http.server
import importlib.util
import threading
from pathlib import Path

import pytest
from test_browser import BROWSERS, browser_path

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT/"_site"
LOOKED_AT = ("nbs/index.html", "nbs/guide/api.html", "nbs/guide/configuration.html", "nbs/lab/experiment.html", "nbs/bench/b04_cifar10.html", "nbs/report/summary.html", "nbs/report/features.html")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words): pass


@pytest.fixture(scope="module")
def address():
    "The site, served on loopback."
    if not (SITE/"index.html").exists(): pytest.skip("no site was built: python tools/site.py build")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    "Headless Chromium."
    if (path := browser_path()) is None: pytest.skip(f"no browser: looked for {', '.join(BROWSERS)} on PATH")
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright, which steers the browser, is not installed")
    with playwright.sync_playwright() as p:
        one = p.chromium.launch(executable_path=path, args=OPTIONS)
        yield one
        one.close()


def watched(browser, address, **options):
    "A tab, and what goes wrong in it."
    tab, wrong = browser.new_page(**options), []
    tab.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
    tab.on("pageerror", lambda e: wrong.append(f"error: {e}"))
    tab.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else wrong.append(f"request: {r.url}"))
    return tab, wrong


def test_every_page_fits_a_phone_without_errors(browser, address):
    tab, wrong = watched(browser, address, viewport={"width": 390, "height": 844})
    bad = {}
    for path in sorted(p.relative_to(SITE).as_posix() for p in (SITE/"nbs").rglob("*.html")):
        tab.goto(f"{address}/{path}", wait_until="load")
        width = tab.evaluate("document.documentElement.scrollWidth")
        found = [*wrong, *([f"{width} pixels wide"] if width > 391 else [])]
        wrong.clear()
        if found: bad[path] = found
    assert not bad


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, address, scheme):
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None: pytest.skip("the package axe-playwright-python, which holds axe-core, is not installed")
    axe = (Path(spec.origin).parent/"axe.min.js").read_text(encoding="utf-8")
    tab, wrong = watched(browser, address, viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    bad = {}
    for path in LOOKED_AT:
        tab.goto(f"{address}/{path}", wait_until="load")
        tab.evaluate(axe)
        found = tab.evaluate("axe.run({runOnly: ['wcag2a', 'wcag2aa', 'best-practice']})")["violations"]
        serious = [f"{v['id']}: {v['nodes'][0]['target']}, {len(v['nodes'])} places" for v in found if v["impact"] in ("serious", "critical") or v["id"] == "heading-order"]
        if serious or wrong: bad[path] = serious + wrong
        wrong.clear()
    assert not bad


def test_search_and_theme_answer(browser, address):
    tab, wrong = watched(browser, address, viewport={"width": 1280, "height": 900})
    tab.goto(f"{address}/nbs/index.html", wait_until="load")
    before = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.locator(".quarto-color-scheme-toggle").first.click()
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != before
    tab.locator("#quarto-search button, #quarto-search a, .sd-search-toggle, #quarto-search").first.click()
    tab.keyboard.type("preconditioning", delay=5)
    tab.wait_for_function("[...document.querySelectorAll('a')].some(a => a.offsetParent && /denoiser/.test(a.href) && a.closest('[class*=search], [id*=search], dialog, [class*=aa-]'))", timeout=600_000)
    assert not wrong
