"The site builder on a tiny book, by smalldocs, and by Quarto as far as its captured HTML goes."

import base64
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from tools import formulas, rendered, site

ROOT = Path(__file__).resolve().parents[1]


def png():
    "The smallest picture: one grey pixel."

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    body = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0\x80"))
        + chunk(b"IEND", b"")
    )
    return base64.b64encode(body).decode()


def md(source):
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def code(source, *outputs):
    return {
        "cell_type": "code",
        "metadata": {},
        "execution_count": 1,
        "source": source,
        "outputs": list(outputs),
    }


def shown(mime, value):
    return {"output_type": "display_data", "metadata": {}, "data": {"text/plain": "x", mime: value}}


FIGURE = '#| label: fig-a\n#| fig-cap: "A curve of $x_0^2$ and `y`."\n#| fig-alt: "A rising curve."\nplot();'
QUARTO = """
project: {type: website, output-dir: _site}
website:
  title: Tiny
  navbar: {left: [{text: First, href: nbs/one.ipynb}]}
  sidebar:
    style: floating
    contents:
      - nbs/one.ipynb
      - section: Room
        contents: [nbs/room/two.ipynb]
format: {html: {theme: {light: cosmo, dark: darkly}, css: nbs/styles.css, toc: true}}
"""


class Book:
    "A repository with two pages."

    def __init__(self, root):
        self.root = root
        (root / "_quarto.yml").write_text(QUARTO)
        (root / "settings.ini").write_text(
            "[DEFAULT]\nlib_name = tiny\nlib_path = tiny\nnbs_path = .\ndoc_path = _site\n"
            "doc_host = https://example.org\ndoc_baseurl = /tiny\n"
        )
        (root / "nbs" / "room").mkdir(parents=True)
        (root / "nbs" / "styles.css").write_text("body { margin: 0 }\n")
        self.one = [
            md("# One\n> The first page."),
            code("#| default_exp one"),
            code("#| hide\nsecret = 1"),
            code("#| export\nfrom __future__ import annotations\nimport math"),
            md(
                "Energy:\n\n$$\n\\sum_k \\lvert X_k\\rvert^2 = E\n$$ {#eq-energy}\n\nSee @eq-energy and"
                " @fig-a, and [two](room/two.ipynb)."
            ),
            code(
                "#| export\ndef energy(\n    x, # a signal\n): return x",
                {"output_type": "stream", "name": "stdout", "text": "42\n"},
            ),
            code(FIGURE, shown("image/png", png())),
        ]
        self.two = [
            md("# Two\n> The second page."),
            md(
                "`energy()` is on [one](../one.ipynb#energy); absolute:"
                " [one](https://example.org/tiny/nbs/one.html)."
            ),
            code("1 + 1", shown("text/plain", "2")),
        ]

    def write(self):
        for name, cells in (("one", self.one), ("room/two", self.two)):
            kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
            cells = [{**c, "id": f"c{i}"} for i, c in enumerate(cells)]
            (self.root / "nbs" / f"{name}.ipynb").write_text(
                json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})
            )

    def build(self, **options):
        self.write()
        said = []
        out = site.build(self.root, renderer="smalldocs", say=said.append, **options)
        return {p.relative_to(out).as_posix(): p.read_text() for p in out.rglob("*.html")}, said

    def fails(self, message, **options):
        with pytest.raises(site.SiteError, match=message) as e:
            self.build(**options)
        return str(e.value)


@pytest.fixture
def book(tmp_path):
    return Book(tmp_path)


def test_a_page_has_numbers_captions_texts_and_formulas(book):
    html, said = book.build()
    one = html["nbs/one.html"]
    assert 'href="#fig-a">Figure&nbsp;1</a>' in one.replace("\xa0", "&nbsp;") and 'id="fig-a"' in one
    assert (
        'href="#eq-energy">Equation&nbsp;1</a>' in one.replace("\xa0", "&nbsp;") and 'id="eq-energy"' in one
    )
    assert '<span class="eqno">(1)</span>' in one
    assert 'alt="A rising curve."' in one
    caption = re.search(r"<figcaption>(.*?)</figcaption>", one, re.S)[1]
    assert caption.startswith("Figure 1: A curve of") and "<math" in caption and "<code>y</code>" in caption
    assert (
        "@fig" not in one
        and "@eq" not in one
        and "{#eq" not in one
        and "\\tag" not in re.sub(r"<annotation.*?</annotation>", "", one)
    )
    assert "<munder" in one and "\\[" not in one and "katex" not in one
    assert "secret" not in one and "default_exp" not in one
    assert re.search(r"<details[^>]*>\s*<summary>Imports", one)
    assert 'id="energy"' in one and "42" in one
    assert said[-1].startswith("site: done")


def test_the_line_that_finds_old_names_is_folded(book):
    hook = '#| export\n__getattr__ = names_elsewhere("tiny.one")  # names that went to other pages'
    book.one.insert(4, code(hook))
    one = book.build()[0]["nbs/one.html"]
    assert re.search(r"<details[^>]*>\s*<summary>Names on other pages", one)


def test_links_between_pages_are_relative_and_the_front_door_opens(book):
    html, _ = book.build()
    two = html["nbs/room/two.html"]
    assert (
        'href="../one.html#energy"' in two
        and re.search(r'absolute: <a href="[./]*(?:nbs/)?one.html">one', two)
        and "example.org" not in two
    )
    assert 'href="room/two.html"' in html["nbs/one.html"]
    assert "url=nbs/one.html" in html["index.html"]
    assert not re.search(r'href="[^"]*/"', "".join(html.values()))  # a folder opens only on a server


def test_a_link_to_a_page_that_has_moved_leads_to_its_new_place(book):
    "The executed copy of a benchmark is as old as its run, and so are its links."
    book.two.append(md("More on [one](../attic/one.ipynb)."))
    assert "attic/one" in book.fails("broken link|link")
    table = book.root / "spectral_diffusion" / "core" / "moved.py"
    table.parent.mkdir(parents=True)
    table.write_text("MOVED = {'attic.one': 'one'}\n")
    page = book.build()[0]["nbs/room/two.html"]
    assert "attic" not in page and 'href="../one.html"' in page


def test_a_long_title_cell_loses_nothing(book):
    book.two[0] = md("# Two\n> The promise of `code` and $x_0$\n> goes on.\n\nA paragraph in the title cell.")
    two = book.build()[0]["nbs/room/two.html"]
    assert "goes on." in two and "A paragraph in the title cell." in two and two.count("<h1") == 1


def test_nothing_is_loaded_from_outside(book):
    book.build()
    pages = [*(book.root / "_site").rglob("*.html")]
    assert len(pages) == 3 and site.check(book.root / "_site") == []
    loads = re.compile(
        r"<(?:script|img|iframe|link|source|video|audio|embed)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>"
    )
    for page in pages:  # an independent and cruder look than site.check
        assert not loads.findall(page.read_text())
    for css in (book.root / "_site").rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import", css.read_text())


@pytest.mark.parametrize(
    "planted",
    [
        '<script src="https://cdn.example.org/x.js"></script>',
        '<img alt="a" src="//example.org/x.png">',
        '<link rel="stylesheet" href="https://fonts.example.org/css">',
        '<div style="background: url(http://example.org/x.png)"></div>',
        '<style>@import "https://example.org/x.css";</style>',
        '<script type="module">import x from "https://example.org/x.js"</script>',
    ],
)
def test_a_request_to_the_outside_is_found(book, planted):
    book.two.append(code("show()", shown("text/html", planted)))
    assert "from outside" in book.fails(r"two.html: loads .*example.org")


def test_an_ordinary_link_to_a_paper_is_fine(book):
    book.two.append(md("[a paper](https://arxiv.org/abs/2006.11239)"))
    assert "https://arxiv.org" in book.build()[0]["nbs/room/two.html"]


@pytest.mark.parametrize(
    "planted, message",
    [
        ("[x](three.ipynb)", "broken link three"),
        ("[x](../one.ipynb#nowhere)", "#nowhere: no such place"),
        ("[x](missing.png)", "broken link missing.png"),
        ("See @fig-b.", "@fig-b has no such figure"),
        ("See @eq-b.", "@eq-b has no such"),
        ("$\\nonsense{x}$", r"does not understand \$.nonsense{x}"),
        ("| a | b |\n|---|---|\n| $x_{k|t}$ | c |", r"dollar sign outside of code.*x_\{k"),
    ],
)
def test_a_broken_link_or_reference_or_formula_is_found(book, planted, message):
    book.two.append(md(planted))
    book.fails(message)
    assert not (book.root / "_site").exists()  # a broken site never replaces a good one


def test_code_is_not_taken_for_references(book):
    book.two.append(md("Write `@fig-b`:\n\n```\n@eq-b $x$ [x](three.ipynb)\n```"))
    assert "@fig-b" in book.build()[0]["nbs/room/two.html"]


def test_a_picture_without_a_text_is_found(book):
    book.two.append(code("plot();", shown("image/png", png())))
    book.fails("1 picture.s. without alternative text")


def test_pages_and_the_list_must_agree(book):
    book.write()
    (book.root / "nbs" / "stray.ipynb").write_text((book.root / "nbs" / "one.ipynb").read_text())
    book.fails("nbs/stray.ipynb exists and is not listed")
    (book.root / "nbs" / "stray.ipynb").unlink()
    (book.root / "_quarto.yml").write_text(
        QUARTO.replace("[nbs/room/two.ipynb]", "[nbs/room/two.ipynb, nbs/room/three.ipynb]")
    )
    book.fails("nbs/room/three.ipynb is listed in _quarto.yml and does not exist")
    book.two.append(md("[three](three.ipynb)"))
    html, said = book.build(allow_missing=True)
    assert "1 not written yet" in said[0] and "nbs/room/three.html" not in html


def test_a_benchmark_shows_its_best_executed_copy(book):
    (book.root / "_quarto.yml").write_text(
        QUARTO.replace("[nbs/room/two.ipynb]", "[nbs/room/two.ipynb, nbs/bench/b01.ipynb]")
    )
    (book.root / "nbs" / "bench").mkdir()
    book.write()
    source = json.loads((book.root / "nbs" / "one.ipynb").read_text())
    source["cells"] = [{**md("# B01\n> A question."), "id": "a"}, {**code("score"), "id": "b"}]
    (book.root / "nbs" / "bench" / "b01.ipynb").write_text(json.dumps(source))
    assert "Not run yet" in book.build()[0]["nbs/bench/b01.html"]
    for preset in ("smoke", "gpu", "cpu", None):
        run = book.root / "results" / "b01" / f"f{preset}"
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(f"preset: {preset}\n")
        if preset:  # the last folder is a training run
            source["cells"][1]["outputs"] = [shown("text/plain", f"score of {preset}")]
            (run / "notebook.ipynb").write_text(json.dumps(source))
    page = book.build()[0]["nbs/bench/b01.html"]
    assert "score of gpu" in page and "results/b01/fgpu" in page and "score of cpu" not in page


def test_a_folder_that_is_no_site_is_never_removed(book, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    book.write()
    book.fails("holds something else", out=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_the_command_exits_with_1_and_lists_the_problems(book):
    book.two.append(md("[x](three.ipynb)"))
    book.write()
    command = [
        sys.executable,
        str(ROOT / "tools" / "site.py"),
        "build",
        "--root",
        str(book.root),
        "--renderer",
        "smalldocs",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "broken link three" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "formula",
    [
        r"\hat{x}_0 = \mathbb{E}[x_0 \mid x_t]",
        r"\begin{aligned} a &= b \\ c &= d \end{aligned}",
        r"f(x) = \begin{cases} 1 & k = 0 \\ 2 & \text{else, a < b} \end{cases}",
        r"\left\lVert \frac{a}{b} \right\rVert_2^2",
        r"\arg\min_{x \in \mathcal{X}} \sqrt[3]{x'} - \operatorname{KL}(p \,\|\, q)",
        r"\boldsymbol{\mu} \mathrm{d}t \tilde{\mathbf{x}}",
        r"\sum_{\substack{i < n \\ j}} \underbrace{a+b}_{c} \bigl( \tfrac12 \bigr) \binom{n}{k}",
        r"\begin{pmatrix} a & b \\ c & d \end{pmatrix}^{-1}",
    ],
)
@pytest.mark.parametrize("display", [False, True])
def test_formulas_are_well_formed(formula, display):
    from xml.etree import ElementTree

    root = ElementTree.fromstring(formulas.mathml([(formula, display)])[formula, display])
    assert root.find(".//{*}annotation").text == formula and (root.get("display") == "block") == display
    for kind, n in (
        ("mfrac", 2),
        ("msub", 2),
        ("msup", 2),
        ("msubsup", 3),
        ("munder", 2),
        ("mover", 2),
        ("munderover", 3),
        ("mroot", 2),
    ):
        assert all(len(e) == n for e in root.iter(f"{{*}}{kind}")), (kind, formula)


@pytest.mark.parametrize(
    "formula", [r"\foo", r"{a", r"\frac{a}", r"\begin{tikz}\end{tikz}", "a}", r"a &= b \\ c &= d"]
)
def test_a_formula_that_is_not_understood_is_none(formula):
    good = (r"\frac{a}{b}", False)
    found = formulas.mathml([(formula, True), good])  # and its neighbour does not suffer
    assert found[formula, True] is None and found[good].startswith("<math")


def test_pandoc_is_asked_for_many_formulas_at_once_and_for_each_once(monkeypatch):
    calls, convert = [], formulas.pypandoc.convert_text
    formulas.version()
    monkeypatch.setattr(formulas, "known", {})
    monkeypatch.setattr(
        formulas.pypandoc,
        "convert_text",
        lambda *words, **options: calls.append(1) or convert(*words, **options),
    )
    wanted = [(f"x_{{{i}}} < y", i % 2 == 0) for i in range(300)]
    first = formulas.mathml(wanted)
    assert len(calls) == 1 and formulas.mathml([*wanted, *wanted]) == first and len(calls) == 1
    assert all(f"<mn>{i}</mn>" in first[f] or f">{i}<" in first[f] for i, f in enumerate(wanted))


def test_the_tag_of_an_equation_is_its_number_and_not_drawn():
    assert formulas.numbered(r"\sum_k a = E \tag{7}") == (r"\sum_k a = E", "7")
    assert formulas.numbered("a = b") == ("a = b", None)


def test_captions():
    first, second = formulas.captions(
        ["Figure 1: *See* [Figure&nbsp;2](#fig-b): $a < b$, `c`.", 'Don\'t use "x" @here.']
    )
    assert (
        first.startswith('Figure 1: <em>See</em> <a href="#fig-b">Figure\xa02</a>: <math')
        and "<code>c</code>" in first
    )
    assert second == 'Don\'t use "x" @here.' and formulas.captions([]) == []


@pytest.mark.parametrize(
    "words, bar",
    [
        ("factors:   0%|          | 0/10 [00:00<?, ?it/s]", True),
        ("demo: 0run [00:00, ?run/s]", True),
        ("IntSlider(value=3)", False),
    ],
)
def test_progress_bars_are_left_out_and_other_widgets_are_not(words, bar):
    out = {
        "output_type": "display_data",
        "metadata": {},
        "data": {"text/plain": words, site.WIDGET: {"model_id": "0"}},
    }
    assert site.is_progress(out) == bar
    assert not site.is_progress({"output_type": "display_data", "data": {"text/plain": words}})


def test_headings_that_leave_a_level_out_are_found(book):
    book.two.append(md("## Second\n\n#### Fourth"))
    book.fails("a heading of level 4 follows one of level 2")


def test_a_second_first_heading_is_found(book):
    book.two.append(md("# Another title"))
    book.fails("2 first headings")


def test_the_data_of_a_benchmark_are_one_click_away(book):
    record = book.root / "results" / "b01_tiny" / "0123456789ab"
    record.mkdir(parents=True)
    (book.root / "nbs" / "bench").mkdir()
    notebook = {
        "cells": [{**md("# Bench\n> One question."), "id": "a"}],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    for path in (book.root / "nbs" / "bench" / "b01_tiny.ipynb", record / "notebook.ipynb"):
        path.write_text(json.dumps(notebook))
    (record / "config.yaml").write_text("preset: cpu\n")
    (record / "system.json").write_text(
        '{"processor": "A processor", "gpu": null, "date": "2026-01-02", "page": "x"}'
    )
    (record / "judged.csv").write_text("arm,loss\na,1\n")
    (book.root / "_quarto.yml").write_text(
        QUARTO.replace(
            "contents: [nbs/room/two.ipynb]", "contents: [nbs/room/two.ipynb, nbs/bench/b01_tiny.ipynb]"
        )
    )
    html, _ = book.build()
    page = html["nbs/bench/b01_tiny.html"]
    assert (
        'href="../../results/b01_tiny/0123456789ab/judged.csv"' in page and "A processor, 2026-01-02" in page
    )
    assert (
        book.root / "_site" / "results" / "b01_tiny" / "0123456789ab" / "judged.csv"
    ).read_text() == "arm,loss\na,1\n"


def test_an_id_that_is_used_twice_is_found(book):
    book.two.append(code("show()", shown("text/html", '<p id="again">a</p><p id="again">b</p>')))
    book.fails("the id again is used 2 times")


def test_a_heading_with_the_name_of_an_export_gets_another_id(book):
    book.one += [md("## Energy\n\ntext"), md("### The `energy`\n\n```\n## Energy\n```")]
    one = book.build()[0]["nbs/one.html"]
    assert (
        one.count('id="energy"') == 1
        and 'id="about-energy"' in one
        and 'href="#about-energy"' in one
        and 'id="the-energy"' in one
    )


def test_a_description_has_no_backticks_and_names_can_wrap(book):
    book.one[0] = md("# One\n> What `energy` is.")
    book.one[5]["source"] += "\n\ndef power(x): return x"
    one = book.build()[0]["nbs/one.html"]
    assert '<meta content="What energy is." name="description"/>' in one and "<code>energy</code>" in one
    assert re.search(r'id="energy">energy</a> <a href="#power"', one)


def test_only_the_page_that_is_shown_is_current_in_the_bar(book):
    html, _ = book.build()
    bar = {
        name: re.search(r'<a [^>]*class="nav-link[^>]*>', html[name])[0]
        for name in ("nbs/one.html", "nbs/room/two.html")
    }
    assert (
        'aria-current="page"' in bar["nbs/one.html"]
        and "current" not in bar["nbs/room/two.html"]
        and "active" not in bar["nbs/room/two.html"]
    )
    assert "side.scrollTop" in html["nbs/room/two.html"]


def test_an_executed_copy_shows_the_final_name_of_its_folder(tmp_path):
    source = tmp_path / "results" / "b01" / "0123456789ab" / "notebook.ipynb"
    given = {
        **code('preset = "cpu"\nout = "results/b01/.partial-page-x_1"'),
        "metadata": {"tags": ["injected-parameters"]},
    }
    page = site.Page(
        "nbs/bench/b01.ipynb", source, nb={"cells": [given, code("kept = 'results/b01/.partial-x'")]}
    )
    site.name_record(page, tmp_path)
    assert page.nb["cells"][0]["source"] == 'preset = "cpu"\nout = "results/b01/0123456789ab"'
    assert page.nb["cells"][1]["source"] == "kept = 'results/b01/.partial-x'"


def test_sources_are_written_as_lines(book):
    book.build()
    for path in (book.root / "_proc" / "nbs").rglob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            assert isinstance(cell["source"], list) and all(s.endswith("\n") for s in cell["source"][:-1])
            assert not any("\n" in s[:-1] for s in cell["source"])


def test_a_cell_with_a_caption_stores_one_picture():
    "A second one would be counted as another figure by smalldocs and as a part of this one by Quarto."
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            pictures = sum("image/png" in out.get("data", {}) for out in cell.get("outputs", ()))
            captioned = "#| fig-cap:" in "".join(cell["source"])
            assert pictures < 2 or not captioned, f"{path.name}: {cell['id']} has {pictures} pictures"


# --- Quarto: what can be known without it

CAPTURED = (ROOT / "tests" / "quarto" / "page.html").read_text(
    encoding="utf-8"
)  # the parts of a page of Quarto 1.7 that are mended
FAKE = """#!{python}
import json, shutil, sys
from pathlib import Path
proc, page = Path(sys.argv[2]), Path({page!r})
for path in [*proc.rglob("*.ipynb")]:
    out = (proc/"_site"/path.relative_to(proc)).with_suffix(".html")
    out.parent.mkdir(parents=True, exist_ok=True)
    deeper = {{'"../': '"../../', 'href="./': 'href="../', '="styles.css"': '="../styles.css"'}}
    deeper['/../nbs/one.html'] = '/one.html'
    text = page.read_text()
    for old, new in deeper.items() if path.parent.name == "room" else ():
        text = text.replace(old, new)
    out.write_text(text)
script = "<script>location = 'nbs/room/two.html'</script>"
(proc/"_site"/"index.html").write_text(f"<html><body>{{script}}</body></html>")
for name in ("quarto-html/light.css", "quarto-html/dark.css", "quarto-nav/quarto-nav.js"):
    (proc/"_site"/"site_libs"/name).parent.mkdir(parents=True, exist_ok=True)
    (proc/"_site"/"site_libs"/name).touch()
shutil.copy(proc/"nbs"/"styles.css", proc/"_site"/"nbs"/"styles.css")
print({says!r}, file=sys.stderr)
sys.exit({status})
"""


@pytest.fixture
def quarto(tmp_path, monkeypatch):
    "Puts a stand-in for quarto on the PATH, which writes captured pages."

    def install(says="", status=0):
        program = tmp_path / "bin" / "quarto"
        program.parent.mkdir(exist_ok=True)
        program.write_text(
            FAKE.format(
                python=sys.executable,
                page=str(ROOT / "tests" / "quarto" / "page.html"),
                says=says,
                status=status,
            )
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    return install


def test_quarto_on_the_path_changes_nothing(book, quarto):
    quarto(status=1)
    book.write()
    said = []
    site.build(book.root, say=said.append)
    assert any("by smalldocs" in line for line in said)


def test_a_page_of_quarto_is_mended(book, quarto):
    quarto(says="[1/2] nbs/one.ipynb")
    book.write()
    out = site.build(book.root, renderer="quarto", say=lambda line: None)
    one, door = (out / "nbs" / "one.html").read_text(), (out / "index.html").read_text()
    assert all(word in CAPTURED for word in ("require.min.js", "jquery.min.js", "define('jquery'"))
    assert not any(
        word in one for word in ("require.min.js", "jquery.min.js", "define('jquery'", "https://cdn")
    )
    assert "quarto-nav.js" in one and rendered.check(out) == []
    assert "url=nbs/one.html" in door and 'lang="en"' in door and "two.html" not in door
    assert '<meta content="The first page, of energy and more." name="description"/>' in one
    assert one.count("<math") == CAPTURED.count("<math") and "<figcaption" in one and "<td data-quarto" in one
    for nav in re.findall("<nav[^>]*>", one):
        assert "aria-label=" in nav
    start, other = re.findall(
        r'<a [^>]*class="nav-link[^>]*>', (out / "nbs" / "room" / "two.html").read_text()
    )
    assert (
        "active" not in start
        and "aria-current" not in start
        and "active" in other
        and 'aria-current="page"' in other
    )


def test_complaints_of_quarto_are_problems(book, quarto):
    quarto(says="\x1b[33mWARNING: something is unresolved\x1b[39m")
    book.write()
    with pytest.raises(site.SiteError, match="quarto says: WARNING: something is unresolved"):
        site.build(book.root, renderer="quarto", say=lambda line: None)


def test_a_failing_quarto_is_told(book, quarto):
    quarto(says="ERROR: no such format", status=1)
    book.write()
    with pytest.raises(site.SiteError, match="(?s)quarto failed.*no such format"):
        site.build(book.root, renderer="quarto", say=lambda line: None)


def test_quarto_that_is_not_there_is_told(book, monkeypatch):
    monkeypatch.setattr(site.shutil, "which", lambda name: None)
    book.write()
    with pytest.raises(site.SiteError, match="not on the PATH"):
        site.build(book.root, renderer="quarto", say=lambda line: None)


def test_quarto_gets_formulas_and_references_as_they_are(book, quarto):
    quarto()
    book.write()
    site.build(book.root, renderer="quarto", say=lambda line: None)
    sources = "".join(
        "".join(c["source"])
        for c in json.loads((book.root / "_proc" / "nbs" / "one.ipynb").read_text())["cells"]
    )
    assert "{#eq-energy}" in sources and "@fig-a" in sources and "\\tag" not in sources


@pytest.mark.parametrize("target", ["site", "report"])
def test_make_asks_for_quarto_only_when_told(target):
    def shown(*words):
        return subprocess.run(["make", "-n", target, *words], cwd=ROOT, capture_output=True, text=True).stdout

    assert "--renderer" not in shown() and "site.py build --renderer quarto" in shown("QUARTO=1")


def test_the_workflow_that_publishes_pins_quarto():
    import yaml

    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "site.yml").read_text())["jobs"]["build"][
        "steps"
    ]
    (setup,) = [s for s in steps if "quarto-actions/setup" in s.get("uses", "")]
    assert re.fullmatch(r"\d+\.\d+\.\d+", str(setup["with"]["version"]))
    assert any(s.get("run") == "make report QUARTO=1" for s in steps)


def test_dark_mode_is_styled_for_both_renderers():
    "smalldocs marks dark mode on <html>, Quarto on <body>: no rule may look at one of them alone."
    css = (ROOT / "nbs" / "styles.css").read_text()
    rules = re.findall(r"^([^{}]+)\{", re.sub(r"/\*.*?\*/", "", css, flags=re.S), re.M)
    named = [r for r in rules if "quarto-dark" in r]
    assert len(named) > 5 and all(
        ":not(.quarto-dark) body:not(.quarto-dark)" in r or re.search(r"(?<!html)\.quarto-dark", r)
        for r in named
    )
    assert "scroll-padding-top" in css and re.search(r'math\[display="block"\] \{[^}]*overflow-x: auto', css)
