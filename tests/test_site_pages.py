"""The built site in a real browser: no errors, no request to the outside, nothing cut on a phone, axe-core.

`make test` builds the site before the tests. The short form looks at a few pages, the long one at each.
Skipped, with the reason, where there is no site or no browser.
"""

import functools
import http.server
import importlib.util
import threading
from pathlib import Path

import pytest
from test_browser import BROWSERS, browser_path

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_site"
LOOKED_AT = [
    f"nbs/{name}.html"
    for name in (
        "index",
        "guide/api",
        "guide/configuration",
        "core/plot",
        "bench/b19_convergence",
        "report/summary",
        "report/features",
    )
]
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PATIENCE = 600_000  # milliseconds: the machine may be busy with something else
CUT = """() => {
  const scrolls = e => /auto|scroll|hidden/.test(getComputedStyle(e).overflowX);
  const cut = e => {
    const box = e.getBoundingClientRect();
    if (!box.width || !box.height || box.right <= innerWidth + 1) return false;
    for (let p = e.parentElement; p && p !== document.body; p = p.parentElement) if (scrolls(p)) return false;
    return true;
  };
  return [...document.querySelectorAll('main *, header *')].filter(cut).map(e => e.outerHTML.slice(0, 100));
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def address():
    "The site, served on loopback."
    if not (SITE / "index.html").exists():
        pytest.skip("no site was built: python tools/site.py build")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    "Headless Chromium."
    if (path := browser_path()) is None:
        pytest.skip(f"no browser: looked for {', '.join(BROWSERS)} on PATH")
    missing = "the package playwright, which steers the browser, is not installed"
    playwright = pytest.importorskip("playwright.sync_api", reason=missing)
    with playwright.sync_playwright() as p:
        one = p.chromium.launch(executable_path=path, args=OPTIONS)
        yield one
        one.close()


def watched(browser, address, **options):
    "A tab, and what goes wrong in it."
    tab, wrong = browser.new_page(**options), []
    tab.set_default_timeout(PATIENCE)
    own = address, "data:", "blob:"
    tab.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
    tab.on("pageerror", lambda e: wrong.append(f"error: {e}"))
    tab.on("request", lambda r: None if r.url.startswith(own) else wrong.append(f"request: {r.url}"))
    return tab, wrong


def test_every_page_fits_a_phone_without_errors(browser, address, long):
    "Nothing sticks out at the right, unless its box scrolls: a page that clips it would hide that it is cut."
    tab, wrong = watched(browser, address, viewport={"width": 390, "height": 844})
    bad = {}
    every = sorted(p.relative_to(SITE).as_posix() for p in (SITE / "nbs").rglob("*.html"))
    for path in every if long else LOOKED_AT:
        tab.goto(f"{address}/{path}", wait_until="load")
        width, cut = tab.evaluate("document.documentElement.scrollWidth"), tab.evaluate(CUT)
        found = [*wrong, *cut[:3], *([f"{width} pixels wide"] if width > 391 else [])]
        wrong.clear()
        if found:
            bad[path] = found
    assert not bad


CODE_CUT = """() => {
  document.querySelectorAll('details').forEach(d => d.open = true);
  const wide = e => e.scrollWidth > e.clientWidth + 1;
  const blocks = [...document.querySelectorAll('main pre')].filter(e => e.offsetParent);
  const cut = blocks.filter(e => wide(e) || [...e.querySelectorAll('code')].some(wide));
  return [blocks.length, cut.map(e => e.innerText.slice(0, 80))];
}"""


@pytest.mark.parametrize("width", [1280, 390])
def test_no_line_of_code_is_cut(browser, address, long, width):
    "Long lines wrap, also in blocks that are folded: a block that scrolls sideways counts as cut."
    tab, _ = watched(browser, address, viewport={"width": width, "height": 844})
    every = sorted(p.relative_to(SITE).as_posix() for p in (SITE / "nbs").rglob("*.html"))
    seen, bad = 0, {}
    for path in every if long else LOOKED_AT:
        tab.goto(f"{address}/{path}", wait_until="load")
        blocks, cut = tab.evaluate(CODE_CUT)
        seen += blocks
        if cut:
            bad[path] = cut[:3]
    assert seen > len(LOOKED_AT) and not bad
    tab.add_style_tag(content="main pre, main pre * { white-space: pre !important; overflow-x: auto }")
    tab.evaluate("document.querySelector('main pre code').append('word '.repeat(99))")
    assert tab.evaluate(CODE_CUT)[1]  # the same look sees a line that does not wrap


def test_what_is_cut_is_seen(browser, address):
    "The same look finds words that cannot wrap, on a page that clips what is too wide."
    tab, _ = watched(browser, address, viewport={"width": 390, "height": 844})
    tab.goto(f"{address}/nbs/index.html", wait_until="load")
    tab.evaluate("""() => {
      document.documentElement.style.overflowX = 'clip';
      const wide = '<i id="wide" style="white-space: nowrap">' + 'word '.repeat(99) + '</i>';
      document.querySelector('main').insertAdjacentHTML('beforeend', wide);
    }""")
    assert any('id="wide"' in html for html in tab.evaluate(CUT))


def test_the_sidebar_shows_the_current_page(browser, address):
    tab, _ = watched(browser, address, viewport={"width": 1280, "height": 900})
    for path in ("nbs/core/registry.html", "nbs/report/summary.html"):
        tab.goto(f"{address}/{path}", wait_until="load")
        tab.wait_for_function("""() => {
          const here = document.querySelector('#quarto-sidebar [aria-current=page]').getBoundingClientRect();
          return here.top > 0 && here.bottom < innerHeight;
        }""")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, address, scheme, long):
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None:
        pytest.skip("the package axe-playwright-python, which holds axe-core, is not installed")
    axe = (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")
    tab, wrong = watched(browser, address, viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    bad = {}
    for path in LOOKED_AT if long else LOOKED_AT[::3]:
        tab.goto(f"{address}/{path}", wait_until="load")
        tab.evaluate(axe)
        found = tab.evaluate("axe.run({runOnly: ['wcag2a', 'wcag2aa', 'best-practice']})")["violations"]
        found = [v for v in found if v["impact"] in ("serious", "critical") or v["id"] == "heading-order"]
        serious = [f"{v['id']}: {v['nodes'][0]['target']}, {len(v['nodes'])} places" for v in found]
        if serious or wrong:
            bad[path] = serious + wrong
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
    tab.wait_for_function("""() => [...document.querySelectorAll('a')].some(a => a.offsetParent
      && /noise.preconditioning/.test(a.href)
      && a.closest('[class*=search], [id*=search], dialog, [class*=aa-]'))""")
    assert not wrong
