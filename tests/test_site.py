"The site builder on a tiny book: cross-references, formulas, alternative texts, no request to the outside, broken links."
import base64
import importlib.util
import json
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

pytest.importorskip("smalldocs")
TOOLS = Path(__file__).resolve().parents[1]/"tools"


def load(name):
    spec = importlib.util.spec_from_file_location(f"site_tests_{name}", TOOLS/f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


site, tex = load("site"), load("tex")


def png():
    "The smallest picture: one grey pixel."
    def chunk(kind, data): return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    body = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"\0\x80")) + chunk(b"IEND", b""))
    return base64.b64encode(body).decode()


def md(source): return {"cell_type": "markdown", "metadata": {}, "source": source}


def code(source, *outputs):
    return {"cell_type": "code", "metadata": {}, "execution_count": 1, "source": source, "outputs": list(outputs)}


def shown(mime, value): return {"output_type": "display_data", "metadata": {}, "data": {"text/plain": "x", mime: value}}


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
        (root/"_quarto.yml").write_text(QUARTO)
        (root/"settings.ini").write_text("[DEFAULT]\nlib_name = tiny\nlib_path = tiny\nnbs_path = .\ndoc_path = _site\n"
                                         "doc_host = https://example.org\ndoc_baseurl = /tiny\n")
        (root/"nbs"/"room").mkdir(parents=True)
        (root/"nbs"/"styles.css").write_text("body { margin: 0 }\n")
        self.one = [
            md("# One\n> The first page."), code("#| default_exp one"), code("#| hide\nsecret = 1"),
            code("#| export\nfrom __future__ import annotations\nimport math"),
            md("Energy:\n\n$$\n\\sum_k \\lvert X_k\\rvert^2 = E\n$$ {#eq-energy}\n\nSee @eq-energy and @fig-a, and [two](room/two.ipynb)."),
            code("#| export\ndef energy(\n    x, # a signal\n): return x", {"output_type": "stream", "name": "stdout", "text": "42\n"}),
            code(FIGURE, shown("image/png", png())),
        ]
        self.two = [md("# Two\n> The second page."),
                    md("`energy()` is on [one](../one.ipynb#energy); absolute: [one](https://example.org/tiny/nbs/one.html)."),
                    code("1 + 1", shown("text/plain", "2"))]

    def write(self):
        for name, cells in (("one", self.one), ("room/two", self.two)):
            kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
            cells = [{**c, "id": f"c{i}"} for i, c in enumerate(cells)]
            (self.root/"nbs"/f"{name}.ipynb").write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))

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
def book(tmp_path): return Book(tmp_path)


def test_a_page_has_numbers_captions_texts_and_formulas(book):
    html, said = book.build()
    one = html["nbs/one.html"]
    assert 'href="#fig-a">Figure&nbsp;1</a>' in one.replace("\xa0", "&nbsp;") and 'id="fig-a"' in one
    assert 'href="#eq-energy">Equation&nbsp;1</a>' in one.replace("\xa0", "&nbsp;") and 'id="eq-energy"' in one
    assert '<span class="eqno">(1)</span>' in one
    assert 'alt="A rising curve."' in one
    caption = re.search(r"<figcaption>(.*?)</figcaption>", one, re.S)[1]
    assert caption.startswith("Figure 1: A curve of") and "<math" in caption and "<code>y</code>" in caption
    assert "@fig" not in one and "@eq" not in one and "{#eq" not in one and "\\tag" not in re.sub(r"<annotation.*?</annotation>", "", one)
    assert "<munder" in one and "\\[" not in one and "katex" not in one
    assert "secret" not in one and "default_exp" not in one
    assert re.search(r"<details[^>]*>\s*<summary>Imports", one)
    assert 'id="energy"' in one and "42" in one
    assert said[-1].startswith("site: done")


def test_links_between_pages_are_relative_and_the_front_door_opens(book):
    html, _ = book.build()
    two = html["nbs/room/two.html"]
    assert 'href="../one.html#energy"' in two and re.search(r'absolute: <a href="[./]*(?:nbs/)?one.html">one', two) and "example.org" not in two
    assert 'href="room/two.html"' in html["nbs/one.html"]
    assert 'url=nbs/one.html' in html["index.html"]
    assert not re.search(r'href="[^"]*/"', "".join(html.values()))  # a folder opens only on a server


def test_a_long_title_cell_loses_nothing(book):
    book.two[0] = md("# Two\n> The promise of `code` and $x_0$\n> goes on.\n\nA paragraph in the title cell.")
    two = book.build()[0]["nbs/room/two.html"]
    assert "goes on." in two and "A paragraph in the title cell." in two and two.count("<h1") == 1


def test_nothing_is_loaded_from_outside(book):
    book.build()
    pages = [*(book.root/"_site").rglob("*.html")]
    assert len(pages) == 3 and site.check(book.root/"_site") == []
    loads = re.compile(r"<(?:script|img|iframe|link|source|video|audio|embed)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
    for page in pages:  # an independent and cruder look than site.check
        assert not loads.findall(page.read_text())
    for css in (book.root/"_site").rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import", css.read_text())


@pytest.mark.parametrize("planted", [
    '<script src="https://cdn.example.org/x.js"></script>', '<img alt="a" src="//example.org/x.png">',
    '<link rel="stylesheet" href="https://fonts.example.org/css">', '<div style="background: url(http://example.org/x.png)"></div>',
    '<style>@import "https://example.org/x.css";</style>', '<script type="module">import x from "https://example.org/x.js"</script>'])
def test_a_request_to_the_outside_is_found(book, planted):
    book.two.append(code("show()", shown("text/html", planted)))
    assert "from outside" in book.fails(r"two.html: loads .*example.org")


def test_an_ordinary_link_to_a_paper_is_fine(book):
    book.two.append(md("[a paper](https://arxiv.org/abs/2006.11239)"))
    assert "https://arxiv.org" in book.build()[0]["nbs/room/two.html"]


@pytest.mark.parametrize("planted, message", [
    ("[x](three.ipynb)", "broken link three"), ("[x](../one.ipynb#nowhere)", "#nowhere: no such place"), ("[x](missing.png)", "broken link missing.png"),
    ("See @fig-b.", "@fig-b has no such figure"), ("See @eq-b.", "@eq-b has no such"), ("$\\nonsense{x}$", "unknown command \\\\nonsense")])
def test_a_broken_link_or_reference_or_formula_is_found(book, planted, message):
    book.two.append(md(planted))
    book.fails(message)
    assert not (book.root/"_site").exists()  # a broken site never replaces a good one


def test_code_is_not_taken_for_references(book):
    book.two.append(md("Write `@fig-b`:\n\n```\n@eq-b $x$ [x](three.ipynb)\n```"))
    assert "@fig-b" in book.build()[0]["nbs/room/two.html"]


def test_a_picture_without_a_text_is_found(book):
    book.two.append(code("plot();", shown("image/png", png())))
    book.fails("1 picture.s. without alternative text")


def test_pages_and_the_list_must_agree(book):
    book.write()
    (book.root/"nbs"/"stray.ipynb").write_text((book.root/"nbs"/"one.ipynb").read_text())
    book.fails("nbs/stray.ipynb exists and is not listed")
    (book.root/"nbs"/"stray.ipynb").unlink()
    (book.root/"_quarto.yml").write_text(QUARTO.replace("[nbs/room/two.ipynb]", "[nbs/room/two.ipynb, nbs/room/three.ipynb]"))
    book.fails("nbs/room/three.ipynb is listed in _quarto.yml and does not exist")
    book.two.append(md("[three](three.ipynb)"))
    html, said = book.build(allow_missing=True)
    assert "1 not written yet" in said[0] and "nbs/room/three.html" not in html


def test_a_benchmark_shows_its_best_executed_copy(book):
    (book.root/"_quarto.yml").write_text(QUARTO.replace("[nbs/room/two.ipynb]", "[nbs/room/two.ipynb, nbs/bench/b01.ipynb]"))
    (book.root/"nbs"/"bench").mkdir()
    book.write()
    source = json.loads((book.root/"nbs"/"one.ipynb").read_text())
    source["cells"] = [{**md("# B01\n> A question."), "id": "a"}, {**code("score"), "id": "b"}]
    (book.root/"nbs"/"bench"/"b01.ipynb").write_text(json.dumps(source))
    assert "Not run yet" in book.build()[0]["nbs/bench/b01.html"]
    for preset in ("smoke", "gpu", "cpu", None):
        run = book.root/"results"/"b01"/f"f{preset}"
        run.mkdir(parents=True)
        (run/"config.yaml").write_text(f"preset: {preset}\n")
        if preset:  # the last folder is a training run
            source["cells"][1]["outputs"] = [shown("text/plain", f"score of {preset}")]
            (run/"notebook.ipynb").write_text(json.dumps(source))
    page = book.build()[0]["nbs/bench/b01.html"]
    assert "score of gpu" in page and "results/b01/fgpu" in page and "score of cpu" not in page


def test_a_folder_that_is_no_site_is_never_removed(book, tmp_path):
    (tmp_path/"mine").mkdir()
    (tmp_path/"mine"/"thesis.txt").write_text("x")
    book.write()
    book.fails("holds something else", out=tmp_path/"mine")
    assert (tmp_path/"mine"/"thesis.txt").exists()


def test_the_command_exits_with_1_and_lists_the_problems(book):
    book.two.append(md("[x](three.ipynb)"))
    book.write()
    command = [sys.executable, str(TOOLS/"site.py"), "build", "--root", str(book.root), "--renderer", "smalldocs"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "broken link three" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("formula", [
    r"\hat{x}_0 = \mathbb{E}[x_0 \mid x_t]", r"\begin{aligned} a &= b \\ c &= d \end{aligned}", r"a &= b \\ c &= d",
    r"f(x) = \begin{cases} 1 & k = 0 \\ 2 & \text{else, a < b} \end{cases}", r"\left\lVert \frac{a}{b} \right\rVert_2^2",
    r"\arg\min_{x \in \mathcal{X}} \sqrt[3]{x'} - \operatorname{KL}(p \,\|\, q)", r"\boldsymbol{\mu} \mathrm{d}t \tilde{\mathbf{x}}",
    r"\sum_{\substack{i < n \\ j}} \underbrace{a+b}_{c} \bigl( \tfrac12 \bigr) \binom{n}{k}", r"\begin{pmatrix} a & b \\ c & d \end{pmatrix}^{-1}"])
def test_formulas_are_well_formed(formula):
    from xml.etree import ElementTree
    root = ElementTree.fromstring(tex.mathml(formula, display=True)[0])
    names = {e.tag.split("}")[1] for e in root.iter()}
    assert "merror" not in names and root.find(".//{*}annotation").text == formula
    for kind, n in (("mfrac", 2), ("msub", 2), ("msup", 2), ("msubsup", 3), ("munder", 2), ("mover", 2), ("munderover", 3), ("mroot", 2)):
        assert all(len(e) == n for e in root.iter(f"{{*}}{kind}")), (kind, formula)


@pytest.mark.parametrize("formula", [r"\foo", r"{a", r"\frac{a}", r"a^", r"\left( a", r"\begin{tikz}\end{tikz}", "a}", r"x_a_b"])
def test_a_formula_that_is_not_understood_is_refused(formula):
    with pytest.raises(tex.TexError): tex.mathml(formula)


def test_tag_is_the_number_of_the_equation():
    formula, tag = tex.mathml(r"a = b \tag{7}", display=True)
    assert tag == "7" and "7" not in re.sub("<annotation.*", "", formula)


def test_a_minus_before_a_number_is_a_sign():
    assert 'form="prefix"' in tex.mathml("[-1, 1]")[0] and 'form="prefix"' not in tex.mathml("2-1")[0]


@pytest.mark.parametrize("words, bar", [("factors:   0%|          | 0/10 [00:00<?, ?it/s]", True), ("demo: 0run [00:00, ?run/s]", True), ("IntSlider(value=3)", False)])
def test_progress_bars_are_left_out_and_other_widgets_are_not(words, bar):
    out = {"output_type": "display_data", "metadata": {}, "data": {"text/plain": words, site.WIDGET: {"model_id": "0"}}}
    assert site.is_progress(out) == bar
    assert not site.is_progress({"output_type": "display_data", "data": {"text/plain": words}})


def test_headings_that_leave_a_level_out_are_found(book):
    book.two.append(md("## Second\n\n#### Fourth"))
    book.fails("a heading of level 4 follows one of level 2")


def test_a_second_first_heading_is_found(book):
    book.two.append(md("# Another title"))
    book.fails("2 first headings")


def test_the_data_of_a_benchmark_are_one_click_away(book):
    record = book.root/"results"/"b01_tiny"/"0123456789ab"
    record.mkdir(parents=True)
    (book.root/"nbs"/"bench").mkdir()
    notebook = {"cells": [{**md("# Bench\n> One question."), "id": "a"}], "metadata": {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}, "nbformat": 4, "nbformat_minor": 5}
    for path in (book.root/"nbs"/"bench"/"b01_tiny.ipynb", record/"notebook.ipynb"):
        path.write_text(json.dumps(notebook))
    (record/"config.yaml").write_text("preset: cpu\n")
    (record/"system.json").write_text('{"processor": "A processor", "gpu": null, "date": "2026-01-02", "page": "x"}')
    (record/"judged.csv").write_text("arm,loss\na,1\n")
    (book.root/"_quarto.yml").write_text(QUARTO.replace("contents: [nbs/room/two.ipynb]", "contents: [nbs/room/two.ipynb, nbs/bench/b01_tiny.ipynb]"))
    html, _ = book.build()
    page = html["nbs/bench/b01_tiny.html"]
    assert 'href="../../results/b01_tiny/0123456789ab/judged.csv"' in page and "A processor, 2026-01-02" in page
    assert (book.root/"_site"/"results"/"b01_tiny"/"0123456789ab"/"judged.csv").read_text() == "arm,loss\na,1\n"
