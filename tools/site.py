"""The site: every page of `_quarto.yml`, as HTML that asks nothing from outside.

    python tools/site.py build [--out _site] [--allow-missing] [--renderer smalldocs|quarto]
    python tools/site.py check [--out _site]        links, outside requests and alt texts of a built site

Pages come with their stored outputs. A benchmark page has none: its executed copy is taken from
`results/<bench>/<preset>/notebook.ipynb` (preset gpu before cpu before smoke, then the newest). Nothing
is executed here. smalldocs renders, or Quarto where it is asked for: from the same files, in which what both
need is done already. smalldocs has no cross-references and no MathML: this file and tools/rendered.py
add them.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from urllib.parse import unquote

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]
from tools.book import EXPORTS, LIB, description, listed, load, notebooks, read_cell, text  # noqa: E402
from tools.laws import moved  # noqa: E402
from tools.opening import answers, fold, show_claims  # noqa: E402
from tools.rendered import check, finish, front_door  # noqa: E402

RENDERERS = ("smalldocs", "quarto")  # the first is the default: having Quarto changes nothing
PRESETS = ("gpu", "cpu", "smoke")  # the better known result first
LONG = 24  # exported cells with more lines can be folded away
WIDGET = "application/vnd.jupyter.widget-view+json"


class SiteError(Exception):
    "The site cannot be built; one line for each problem."

    def __init__(self, title: str, problems: list[str]):
        super().__init__("\n".join([f"site: {title}", *(f"  {p}" for p in problems)]))


# ------------------------------------------------------------------------------------------------- the pages


@dataclass
class Page:
    "One page of the book: where it is, what stands for it, and what it exports."

    path: str  # nbs/core/registry.ipynb
    source: Path  # the notebook that is shown
    note: str = ""  # a sentence under the title
    answer: str = ""  # what a benchmark has found
    nb: dict = field(default_factory=dict)
    gives: list[str] = field(default_factory=list)
    needs: dict[str, list[str]] = field(default_factory=dict)  # page path -> names taken from it

    @property
    def html(self) -> str:
        return self.path.removesuffix(".ipynb") + ".html"


def without(item, gone: set[str]):
    "The same description without the pages in `gone`, and without sections that they leave empty."
    if isinstance(item, list):
        return [y for x in item if (y := without(x, gone)) is not None]
    if isinstance(item, dict):
        if item.get("href") in gone or item.get("file") in gone:
            return None
        new = {k: without(v, gone) for k, v in item.items()}
        if item.get("contents") and not new["contents"]:
            return None
        return {k: v for k, v in new.items() if v is not None}
    return None if isinstance(item, str) and item in gone else item


def load_if_there(path: Path) -> dict:
    "A JSON file, or nothing."
    return load(path) if path.exists() else {}


def ran_on(record: Path) -> str:
    "Where and when a record was computed, as its system.json has it."
    system = load_if_there(record / "system.json")
    said = [system.get("gpu") or system.get("processor"), str(system.get("date") or "")[:10]]
    return "".join(f"{s}, " for s in said if s)


def data_links(record: Path, root: Path) -> str:
    "The tables behind the figures of a benchmark, one click away."
    files = sorted(p for p in record.iterdir() if p.suffix in (".csv", ".json", ".yaml"))
    links = ", ".join(f"[{p.name}](../../{p.relative_to(root).as_posix()})" for p in files)
    return f"Data: {links}." if links else ""


def executed_copy(root: Path, bench: str) -> tuple[Path, str] | None:
    """The published executed notebook of a benchmark and a sentence about it.

    A folder without a notebook is a training run.
    A copy of the page as it stands now comes before copies of earlier versions of the page."""
    from spectral_diffusion.study.benches import source_mark

    source = root / "nbs" / "bench" / f"{bench}.ipynb"
    mark, found = source_mark(source) if source.exists() else "", []
    for nb in sorted((root / "results" / bench).glob("*/notebook.ipynb")):
        config = nb.with_name("config.yaml")
        settings = yaml.safe_load(config.read_text(encoding="utf-8")) if config.exists() else None
        preset = (settings or {}).get("preset", "")
        if preset and nb.parent.name.startswith(f"{preset}-"):
            continue  # a run with changed settings
        rank = PRESETS.index(preset) if preset in PRESETS else len(PRESETS)
        page = load_if_there(nb.with_name("system.json")).get("page")
        found.append((page != mark, rank, -nb.stat().st_mtime, nb, preset))
    if not found:
        return None
    *_, nb, preset = min(found)
    record = nb.parent.relative_to(root).as_posix()
    copy = (
        f"Executed copy, preset `{preset or 'unknown'}`, {ran_on(nb.parent)}from `{record}`. "
        f"{data_links(nb.parent, root)}"
    )
    return nb, copy


def gather(root: Path, config: dict, *, allow_missing: bool) -> tuple[list[Page], set[str]]:
    "The pages to show, and the listed ones that do not exist yet."
    names = list(dict.fromkeys(listed(config)))
    there = {p.relative_to(root).as_posix() for p in notebooks(root)}
    missing, extra = set(names) - there, there - set(names)
    absent = [] if allow_missing else [n for n in names if n in missing]
    problems = [f"{n} is listed in _quarto.yml and does not exist" for n in absent]
    problems += [f"{n} exists and is not listed in _quarto.yml" for n in sorted(extra)]
    if problems:
        raise SiteError("the pages and _quarto.yml differ", problems)
    pages = []
    for name in names:
        if name in missing:
            continue
        page = Page(name, root / name)
        if name.startswith("nbs/bench/"):
            none = page.source, "Not run yet: this is the source, without results."
            page.source, page.note = executed_copy(root, Path(name).stem) or none
        pages.append(page)
    return pages, missing


# ------------------------------------------------------------------------------------- reading the notebooks


def new_pages(root: Path) -> dict[str, str]:
    "Pages that are gone -> the first page that has their names now; a benchmark is as old as its run."
    found = {}
    for old, new in moved(root).items():
        page = f"{old.replace('.', '/')}.ipynb"
        if not (root / "nbs" / page).exists():
            found[page] = f"{new[0].replace('.', '/')}.ipynb"
    return found


def follow_moves(cell: dict, gone: dict[str, str]) -> None:
    "Let the links of a text lead to where the pages are now."
    for old, new in gone.items():
        cell["source"] = text(cell["source"]).replace(f"/{old}", f"/{new}")


def read(page: Page, root: Path) -> None:
    "Load a page and note what it exports and what it takes from other pages."
    page.nb, gone = load(page.source), new_pages(root)
    for cell in page.nb["cells"]:
        if cell["cell_type"] == "markdown":
            follow_moves(cell, gone)
    for cell in map(read_cell, page.nb["cells"]):
        if cell.exported:
            page.gives += [n for n in cell.defines if n not in page.gives]
        for node in ast.walk(cell.tree) if cell.tree else []:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{LIB}."):
                module_path = node.module.split(".", 1)[1].replace(".", "/") + ".ipynb"
                source = f"nbs/{gone.get(module_path, module_path)}"
                if source != page.path:
                    page.needs.setdefault(source, []).extend(a.name for a in node.names)


# ----------------------------------------------------------------------------------------- processing a page


def rel(target: str, page: str) -> str:
    return posixpath.relpath(target, posixpath.dirname(page) or ".")


def outside_code(markdown: str, change) -> str:
    "Apply `change` to the text of a markdown cell, not to its code blocks."
    parts = re.split(r"(^ *(?:```|~~~).*?^ *(?:```|~~~)[ \t]*$)", markdown, flags=re.S | re.M)
    return "".join(p if i % 2 else change(p) for i, p in enumerate(parts))


def outside_spans(markdown: str, change) -> str:
    "The same, and not to inline code either."
    parts = re.split(r"(`+[^`]*`+)", markdown)
    return "".join(p if i % 2 else change(p) for i, p in enumerate(parts))


def link_names(page: Page, book: dict[str, Page]) -> None:
    "The first mention of an exported name on a page links to the cell that defines it."
    owners = {n: [p for p in book.values() if n in p.gives] for p in book.values() for n in p.gives}
    taken = {n: source for source, names in page.needs.items() for n in names}
    seen: set[str] = set()

    def one(m: re.Match) -> str:
        name = m[1].split(".")[-1]
        room = "/".join(m[1].split(".")[:-1])
        owner = book.get(taken.get(name, ""))
        if owner is None and len(owners.get(name, [])) == 1:
            (only,) = owners[name]
            # a plain word such as `split` may mean an argument: link it only when the page imports it
            distinct = re.search(r"[A-Z_0-9]", name) or m[2]
            owner = only if (room and room in only.path) or (distinct and not room) else None
        if owner is None or owner is page or name not in owner.gives or name in seen:
            return m[0]
        seen.add(name)
        return f"[{m[0]}]({rel(owner.path, page.path)}#{name})"

    def change(part: str) -> str:
        return re.sub(r"(?<![\[`\w])`([A-Za-z_][\w.]*)(\(\))?`(?![`\]])", one, part)

    for cell in page.nb["cells"]:
        if cell["cell_type"] == "markdown":
            source = text(cell["source"])
            linked = source if "](" in source else outside_code(source, change)
            both = zip(source.splitlines(True), linked.splitlines(True), strict=True)
            cell["source"] = "".join(old if old.startswith(("#", ">")) else new for old, new in both)


def strip(page: Page, book: dict[str, Page], doc_prefix: str) -> None:
    "Under the title: which copy this is, what the page needs and gives; links of nbdev become relative."
    lines = [page.note] if page.note else []
    needed = [n for n in page.needs if n in book and n != "nbs/core/moved.ipynb"]  # old addresses are no idea
    needs = [f"[{Path(n).stem}]({rel(n, page.path)})" for n in needed]
    if needs and page.gives:  # what a page without a module imports is nobody's concern
        lines.append("Needs " + ", ".join(needs) + ".")
    if page.gives:
        lines.append("Gives " + ", ".join(f"[`{n}`](#{n})" for n in page.gives) + ".")
    if lines:
        first = next((i for i, c in enumerate(page.nb["cells"]) if c["cell_type"] == "markdown"), -1)
        page.nb["cells"].insert(first + 1, markdown_cell("::: {.strip}\n" + "\n\n".join(lines) + "\n:::"))
        if page.answer:
            page.nb["cells"].insert(first + 1, markdown_cell(f"::: {{.answer}}\n{page.answer}\n:::"))
    for cell in page.nb["cells"]:
        if doc_prefix and cell["cell_type"] == "markdown":
            up = posixpath.relpath(".", posixpath.dirname(page.path))
            cell["source"] = text(cell["source"]).replace(f"]({doc_prefix}/", f"]({up}/")


def markdown_cell(source: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def split_title(page: Page) -> None:
    "nbdev keeps heading and first line of promise of a title cell: join the promise, the rest gets its cell."
    cells = page.nb["cells"]
    i = next((i for i, c in enumerate(cells) if c["cell_type"] == "markdown"), None)
    if i is None or not text(cells[i]["source"]).startswith("# "):
        return
    title, *lines = text(cells[i]["source"]).strip().split("\n")
    promise = []
    while lines and (lines[0].startswith(">") or not lines[0].strip()):
        line = lines.pop(0)
        if line.startswith(">"):
            promise.append(line[1:].strip())
        elif promise:
            break
    head = [title, *([f"> {' '.join(promise)}"] if promise else [])]
    while lines and re.match(r"- [\w-]+: ", lines[0]):
        head.append(lines.pop(0))
    cells[i] = markdown_cell("\n".join(head))
    if "".join(lines).strip():
        cells.insert(i + 1, markdown_cell("\n".join(lines).strip()))


def processors():
    "nbdev's processors less those that execute or hide the library: the exported cell is the documentation."
    from nbdev.process import Processor
    from nbdev.processors import FilterDefaults

    class drop_hidden(Processor):
        "What is left of `default_exp` is not shown (nbdev itself takes care of `hide`)."

        def cell(self, cell):
            if cell.cell_type == "code" and "default_exp" in cell.directives_ and not cell.source.strip():
                del cell["source"]

    class show_exported(Processor):
        "Imports and old names fold; other exported cells get a frame and anchors; long ones can be folded."

        def cell(self, cell):
            if cell.cell_type != "code" or not cell.directives_.keys() & EXPORTS:
                return
            code = read_cell({"cell_type": "code", "source": cell.source})
            names = code.defines
            if not names and code.imports_only:
                cell.source = f'#| code-fold: true\n#| code-summary: "Imports"\n{cell.source}'
            elif cell.source.lstrip().startswith("__getattr__ = names_elsewhere("):
                cell.source = f'#| code-fold: true\n#| code-summary: "Names on other pages"\n{cell.source}'
            elif names:
                lines = cell.source.count("\n") + 1
                if lines > LONG:
                    summary = f'"{", ".join(names)} ({lines} lines)"'
                    cell.source = f"#| code-fold: show\n#| code-summary: {summary}\n{cell.source}"
                cell.metadata["exported_names"] = names

    class Pages(FilterDefaults):
        def procs(self):
            mine = {"drop_hidden": drop_hidden, "show_exported": show_exported}
            out = {
                "add_show_docs",
                "exec_show_docs",
                "clean_show_doc",
                "rm_export",
                "mv_exports",
                "add_fold",
                "add_links",
                "insert_warning",
            }
            return [p for p in self.base_procs() if p.__name__ not in out] + list(mine.values())

    return Pages()


def is_progress(out: dict) -> bool:
    "Whether an output is a progress bar, which says nothing once it has ended."
    data = out.get("data", {})
    return WIDGET in data and bool(re.search(r"\[\d\d:\d\d[<,]", text(data.get("text/plain", ""))))


def process(page: Page, filter_) -> dict:
    "The notebook as the renderer gets it: directives carried out, exported cells framed, widgets as text."
    from execnb.nbio import dict2nb

    nb = dict2nb(page.nb)
    nb.path_ = page.path
    filter_(nb)
    cells = []
    for cell in nb.cells:
        metadata = dict(cell.get("metadata", {}))
        names = metadata.pop("exported_names", [])
        metadata.pop("language", None)
        new = {"cell_type": cell.cell_type, "metadata": metadata, "source": text(cell.source)}
        if cell.cell_type == "raw":
            new["source"] = front_matter(new["source"])
        elif cell.cell_type == "markdown":
            new["source"] = outside_code(new["source"], lambda part: distinct_headings(part, page.gives))
        else:
            new |= {"execution_count": None, "outputs": shown_outputs(cell)}
        cells += framed(new, names) if names else [new]
    metadata = {k: v for k, v in page.nb.get("metadata", {}).items() if k in ("kernelspec", "language_info")}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def front_matter(source: str) -> str:
    "The head of a page, as nbdev writes it, less what a renderer does not know."
    front = yaml.safe_load(source.strip().strip("-"))
    front.pop("output-file", None)
    return f"---\n{yaml.safe_dump(front, allow_unicode=True, sort_keys=False, width=10_000)}---"


def shown_outputs(cell) -> list[dict]:
    "The outputs without progress bars; a widget is a sentence."
    outputs = json.loads(json.dumps(cell.get("outputs", []), default=dict))
    outputs = [out for out in outputs if not is_progress(out)]
    for out in outputs:
        if out.get("data", {}).pop(WIDGET, None) is not None and set(out["data"]) <= {"text/plain"}:
            out["data"]["text/plain"] = "(a widget: open this page in JupyterLab)"
        if html := text(out.get("data", {}).get("text/html", "")):  # renderers leave these links
            out["data"]["text/html"] = re.sub(r'(href="[^":]+)\.ipynb(?=["#])', r"\1.html", html)
    return outputs


def framed(cell: dict, names: list[str]) -> list[dict]:
    "An exported cell in its frame, with an anchor for each name above it."
    anchors = " ".join(f'<a id="{escape(n)}" href="#{escape(n)}">{escape(n)}</a>' for n in names)
    opening = f'::::: {{.exported}}\n\n```{{=html}}\n<div class="names">{anchors}</div>\n```'
    return [markdown_cell(opening), cell, markdown_cell(":::::")]


def distinct_headings(markdown: str, taken: list[str]) -> str:
    "A heading that would get the id of an exported name gets another one: links to the name mean the code."

    def one(m: re.Match) -> str:
        identifier = re.sub(r"\s+", "-", re.sub(r"[^\w\s.-]", "", m[2]).strip().lower())
        return f"{m[1]}{m[2]} {{#about-{identifier}}}" if identifier in taken else m[0]

    return re.sub(r"^(#{2,6} +)([^{\n]+?)[ \t]*$", one, markdown, flags=re.M)


def name_record(page: Page, root: Path) -> None:
    "An executed copy was made in a folder that has its final name now: the copy shows the final one."
    record = page.source.parent.relative_to(root).as_posix()
    for cell in page.nb["cells"] if record.startswith("results/") else []:
        if "injected-parameters" in cell.get("metadata", {}).get("tags", ()):
            cell["source"] = re.sub(r"results/[\w./-]*\.partial[\w.-]*", record, text(cell["source"]))


def open_with_answer(page: Page, root: Path) -> None:
    "A benchmark that has a record begins with its answer, and shows its claims as a table."
    if page.source.is_relative_to(root / "results"):
        page.answer = answers(page.source.parent, page.nb["cells"])
        page.nb["cells"] = show_claims(page.nb["cells"], page.source.parent)


def write_notebook(nb: dict, path: Path) -> None:
    "Write a notebook, its sources as lists of lines: Quarto loses the line breaks of one string."
    cells = [{**cell, "source": text(cell["source"]).splitlines(True)} for cell in nb["cells"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**nb, "cells": cells}, ensure_ascii=False), encoding="utf-8")


# ------------------------------------------------------------- cross-references, where the renderer has none

KINDS = {"fig": "Figure", "tbl": "Table", "eq": "Equation"}
REF = re.compile(r"(?<![\w@\\])\[?@((?:fig|tbl|eq)-[\w-]*\w)\]?")


def numbered_caption(source: str, kind: str, number: str) -> str:
    "The source of a cell whose caption begins with its number; the same where it has no caption."

    def one(m: re.Match) -> str:
        caption = yaml.safe_load(m[2]) if m[2][0] in "\"'" else m[2]
        return m[1] + json.dumps(number + caption, ensure_ascii=False)  # in quotes: it holds a colon now

    return re.sub(rf"^(#\|\s*{kind}-cap:\s*)(\S.*)$", one, source, count=1, flags=re.M)


def cross_references(nb: dict, where: str) -> list[str]:
    "Number figures, tables and equations and turn `@fig-x` into links; returns what could not be resolved."
    numbers: dict[str, str] = {}
    count: Counter = Counter()
    problems: list[str] = []

    def number(label: str) -> int:
        kind = label.split("-")[0]
        count[kind] += 1
        if label in numbers:
            problems.append(f"{where}: the label {label} is used twice")
        numbers[label] = f"{KINDS[kind]}&nbsp;{count[kind]}"
        return count[kind]

    def equation(m: re.Match) -> str:
        return f"\n\n::: {{#{m[2]}}}\n$$\n{m[1].strip()} \\tag{{{number(m[2])}}}\n$$\n:::\n\n"

    def picture(m: re.Match) -> str:
        return f"![{KINDS['fig']} {number(m[3])}: {m[1]}]({m[2]}){{#{m[3]}{m[4]}}}"

    for cell in nb["cells"]:
        source = text(cell["source"])
        if cell["cell_type"] == "code":
            label = re.search(r"^#\|\s*label:\s*[\"']?((?:fig|tbl)-[\w-]+)", source, re.M)
            if label:
                kind, n = label[1].split("-")[0], number(label[1])
                cell["source"] = numbered_caption(source, kind, f"{KINDS[kind]} {n}: ")
                if cell["source"] == source:
                    problems.append(f"{where}: {label[1]} has no {kind}-cap")
        elif cell["cell_type"] == "markdown":

            def both(part: str) -> str:
                part = re.sub(r"\$\$(.+?)\$\$\s*\{#(eq-[\w-]+)\}", equation, part, flags=re.S)
                return re.sub(r"!\[([^\]]*)\]\(([^)]*)\)\{#(fig-[\w-]+)([^}]*)\}", picture, part)

            cell["source"] = outside_code(source, both)

    def reference(m: re.Match) -> str:
        if m[1] not in numbers:
            problems.append(
                f"{where}: @{m[1]} has no such figure, table or equation on the page "
                "(link to other pages by an ordinary link)"
            )
            return m[0]
        return f"[{numbers[m[1]]}](#{m[1]})"

    def refer(part: str) -> str:
        return outside_spans(part, lambda words: REF.sub(reference, words))

    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = outside_code(text(cell["source"]), refer)
        elif cell["cell_type"] == "code":
            caption = r"^#\|\s*(?:fig|tbl)-cap:.*$"
            source = text(cell["source"])
            cell["source"] = re.sub(caption, lambda m: REF.sub(reference, m[0]), source, flags=re.M)
    return problems


# ------------------------------------------------------------------------------------------------- the build


def linked_files(nb: dict, page: str, root: Path) -> set[str]:
    "Files of the repository, other than pages, that the text of a page links to."
    found = set()
    for cell in nb["cells"]:
        if cell["cell_type"] != "markdown":
            continue
        for target in re.findall(r"\]\(\s*<?([^)\s>]+)|\b(?:src|href)=[\"']([^\"']+)", text(cell["source"])):
            path = unquote("".join(target).split("#")[0])
            if not path or ":" in path or path.endswith(".ipynb"):
                continue
            name = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
            if not name.startswith((".", "/", "_")) and (root / name).is_file():
                found.add(name)
    return found


def render(proc: Path, renderer: str) -> list[str]:
    "Run the renderer on the processed pages; returns what it complains about."
    if renderer == "quarto":
        return render_by_quarto(proc)
    from smalldocs.site import build as smalldocs_build

    known = ("html-math-method", "broken link")  # done by tools/rendered.py
    return [w for w in smalldocs_build(proc, quiet=True).warnings if not any(k in w for k in known)]


def render_by_quarto(proc: Path) -> list[str]:
    "The same by Quarto, whose complaints stand in lines that begin with WARN or ERROR."
    if shutil.which("quarto") is None:
        hint = "it is not on the PATH; get it from quarto.org, or leave --renderer out"
        raise SiteError("the renderer quarto was asked for", [hint])
    done = subprocess.run(["quarto", "render", str(proc)], capture_output=True, text=True)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", done.stderr).splitlines()
    if done.returncode:
        raise SiteError("quarto failed", lines[-20:])
    return [line.strip() for line in lines if re.match(r"\s*\[?(?:WARN|ERROR)", line)]


def replace_folder(new: Path, old: Path) -> None:
    "Put a finished site in place of the old one; a folder that is no site is never removed."
    if old.exists():
        if any(old.iterdir()) and not (old / "site_libs").is_dir():
            hint = f"{old} has no site_libs; choose another --out or empty it"
            raise SiteError("the output folder holds something else", [hint])
        shutil.rmtree(old)
    old.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(str(new), str(old))


def build(
    root: Path = ROOT,
    out: Path | None = None,
    *,
    allow_missing: bool = False,
    renderer: str = RENDERERS[0],
    say=print,
) -> Path:
    "Build the site of a repository; raises `SiteError` with one line for each problem."
    start, root = time.perf_counter(), root.resolve()

    def tell(what: str) -> None:
        say(f"site: {what}  ({time.perf_counter() - start:.1f} s)")

    config = description(root)
    out = (out or root / config["project"].get("output-dir", "_site")).resolve()
    pages, missing = gather(root, config, allow_missing=allow_missing)
    for page in pages:
        read(page, root)
    tell(f"read       {len(pages)} pages" + (f", {len(missing)} not written yet" if missing else ""))
    for name in bare(pages):
        say(f"site: note       {name} has no stored outputs; run tools/page.py run {name}")

    proc = root / "_proc"
    problems, files = write_sources(pages, root, proc, renderer)
    write_project(without(config, missing), root, proc)
    tell("processed  into _proc/")
    problems += [f"{renderer} says: {line}" for line in render(proc, renderer)]
    site = proc / "_site"
    tell(f"rendered   by {renderer}")
    for name in files:
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, site / name)
    problems += finish(site)
    if pages:
        front_door(site, pages[0].html, config.get("website", {}).get("title", "Start"))
    problems += check(site, missing)
    if problems:
        place = os.path.relpath(site, root)
        raise SiteError(f"{len(problems)} problem(s); the pages as far as they got are in {place}", problems)
    replace_folder(site, out)
    say("site: checked    links, outside requests, alternative texts: all good")
    shown = os.path.relpath(out)
    shown = out if shown.startswith("..") else shown
    say(f"site: done       {len(pages)} pages in {time.perf_counter() - start:.1f} s: {shown}/index.html")
    return out


def bare(pages: list[Page]) -> list[str]:
    "Pages with code that store no output: nobody has run them."
    found = []
    for page in pages:
        code = [c for c in page.nb["cells"] if c["cell_type"] == "code" and text(c["source"]).strip()]
        if code and not any(c.get("execution_count") or c.get("outputs") for c in page.nb["cells"]):
            found.append(page.path.removeprefix("nbs/").removesuffix(".ipynb"))
    return [name for name in found if not name.startswith("bench/")]


def write_sources(pages: list[Page], root: Path, proc: Path, renderer: str) -> tuple[list[str], set[str]]:
    "What the renderer reads, in a fresh folder; returns problems, and files that the pages link to."
    if proc.exists():
        shutil.rmtree(proc)
    book, problems, files = {p.path: p for p in pages}, [], set()
    filter_, prefix, here = processors(), nbdev_prefix(root), os.getcwd()
    os.chdir(root)  # nbdev looks for settings.ini from the working folder upwards
    try:
        for page in pages:
            name_record(page, root)
            open_with_answer(page, root)
            fold(page.nb["cells"], bench=page.path.startswith("nbs/bench/"))
            link_names(page, book)
            split_title(page)
            strip(page, book, prefix)
            nb = process(page, filter_)
            if renderer != "quarto":
                problems += cross_references(nb, page.path)
            files |= linked_files(nb, page.path, root)
            write_notebook(nb, proc / page.path)
    finally:
        os.chdir(here)
    return problems, files


def write_project(config: dict, root: Path, proc: Path) -> None:
    "`_quarto.yml` and the style sheets it names, for the renderer."
    config["project"]["output-dir"] = "_site"
    said = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    (proc / "_quarto.yml").write_text(said, encoding="utf-8")
    css = config.get("format", {}).get("html", {}).get("css", [])
    for name in [css] if isinstance(css, str) else css:
        (proc / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, proc / name)


def nbdev_prefix(root: Path) -> str:
    "What nbdev puts before its links to documentation."
    from configparser import ConfigParser

    config = ConfigParser(delimiters=["="])
    config.read(root / "settings.ini", encoding="utf-8")
    d = config["DEFAULT"]
    return f"{d.get('doc_host', '').rstrip('/')}{d.get('doc_baseurl', '').rstrip('/')}"


def main(argv: list[str] | None = None) -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("verb", choices=["build", "check"])
    parser.add_argument("--out", type=Path, help="folder of the site (default: output-dir of _quarto.yml)")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository (default: this one)")
    parser.add_argument(
        "--allow-missing", action="store_true", help="leave out listed pages that do not exist"
    )
    parser.add_argument("--renderer", choices=RENDERERS, default=RENDERERS[0], help="default: %(default)s")
    args = parser.parse_args(argv)
    try:
        if args.verb == "build":
            build(args.root, args.out, allow_missing=args.allow_missing, renderer=args.renderer)
        else:
            site = args.out or args.root / "_site"
            if not (site / "index.html").exists():
                hint = f"{site}/index.html does not exist; run `python tools/site.py build` first"
                raise SiteError("there is no site here", [hint])
            problems = check(site)
            if problems:
                raise SiteError(f"{len(problems)} problem(s)", problems)
            print(f"site: {len(list(site.rglob('*.html')))} html files, all good")
    except SiteError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
