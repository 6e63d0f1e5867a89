"""The book: its order in `_quarto.yml`, its pages in `nbs/`. One reader for laws, site, README and rhythm."""

from __future__ import annotations

import ast
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
LIB = "spectral_diffusion"
EXPORTS = {"export", "exports", "exporti"}


@dataclass(frozen=True)
class Cell:
    "One cell of a notebook, as the laws see it."

    kind: str
    source: str
    tags: tuple[str, ...]
    outputs: tuple
    count: int | None

    @cached_property
    def directives(self) -> dict[str, str]:
        "The `#|` lines at the head of the cell: name -> the rest of the line."
        found = {}
        for line in self.source.splitlines():
            if not line.strip():
                continue
            if not (m := re.match(r"\s*#\s*\|\s*([\w-]+)\s*:?\s*(.*)", line)):
                break
            found[m[1]] = m[2].strip()
        return found

    @property
    def exported(self) -> bool:
        return self.kind == "code" and bool(EXPORTS & self.directives.keys())

    @property
    def hidden(self) -> bool:
        "Whether a reader does not see it."
        return "hide" in self.directives or self.directives.get("include") == "false"

    @cached_property
    def defines(self) -> list[str]:
        "The public names of its top level, in order."
        names: list[str] = []
        for node in self.tree.body if self.tree else []:
            names += assigned(node)
        return [n for n in dict.fromkeys(names) if not n.startswith("_")]

    @property
    def imports_only(self) -> bool:
        kinds = ast.Import | ast.ImportFrom
        return self.tree is not None and all(isinstance(s, kinds) for s in self.tree.body)

    @cached_property
    def tree(self) -> ast.Module | None:
        "The code without notebook magics; None for text and for what is not Python."
        if self.kind != "code" or self.source.lstrip().startswith("%%"):
            return None
        # a line of plain Python may start with != or %, so magics are taken out only where there are some
        code = "\n".join("pass" if re.match(r"\s*[%!?]", s) else s for s in self.source.splitlines())
        for text in (self.source, code):
            with suppress(SyntaxError):
                return ast.parse(text)
        return None


@dataclass(frozen=True)
class Page:
    "A notebook below `nbs/`."

    name: str  # such as "signals/fourier"
    cells: tuple[Cell, ...]
    metadata: dict
    minor: int

    @cached_property
    def module(self) -> str | None:
        "The module it exports, such as `signals.fourier`; None for a page that is only read."
        return next((c.directives["default_exp"] for c in self.cells if "default_exp" in c.directives), None)

    @property
    def is_bench(self) -> bool:
        return self.name.startswith("bench/")


def text(source: str | list[str]) -> str:
    "A source or an output, which a notebook may hold as lines."
    return source if isinstance(source, str) else "".join(source)


def assigned(node: ast.stmt) -> list[str]:
    "The names that a statement defines."
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    else:
        return []
    flat: list[ast.expr] = []
    for target in targets:
        flat += target.elts if isinstance(target, ast.Tuple) else [target]
    return [t.id for t in flat if isinstance(t, ast.Name)]


def load(path: Path) -> dict:
    "A notebook as it is in the file."
    return json.loads(path.read_text(encoding="utf-8"))


def read_cell(raw: dict) -> Cell:
    "One cell of a notebook file."
    tags, outputs = tuple(raw.get("metadata", {}).get("tags", ())), tuple(raw.get("outputs", ()))
    return Cell(raw["cell_type"], text(raw["source"]), tags, outputs, raw.get("execution_count"))


def read_page(path: Path, nbs: Path) -> Page:
    nb = load(path)
    cells = tuple(read_cell(raw) for raw in nb["cells"])
    name = path.relative_to(nbs).with_suffix("").as_posix()
    return Page(name, cells, nb["metadata"], nb.get("nbformat_minor", 0))


def notebooks(root: Path) -> list[Path]:
    "Notebook files as nbdev finds them: nothing in a folder or file that starts with a dot or an underscore."
    nbs = root / "nbs"
    return sorted(p for p in nbs.rglob("*.ipynb") if not any(s[0] in "._" for s in p.relative_to(nbs).parts))


def pages(root: Path) -> list[Page]:
    return [read_page(p, root / "nbs") for p in notebooks(root)]


def listed(config: dict) -> list[str]:
    "The notebooks of the sidebar of a book, in reading order."
    names: list[str] = []

    def visit(item) -> None:
        if isinstance(item, list):
            for x in item:
                visit(x)
        elif isinstance(item, dict):
            for key in ("section", "file", "href", "contents"):
                visit(item.get(key))
        elif isinstance(item, str) and item.endswith(".ipynb"):
            names.append(item)

    visit(config.get("website", {}).get("sidebar"))
    return names


def description(root: Path) -> dict:
    "What `_quarto.yml` says; empty without one."
    path = root / "_quarto.yml"
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


def order(root: Path) -> list[str]:
    "Page names in the reading order of `_quarto.yml`."
    hits: list[Path] = []
    for name in listed(description(root)):
        if name.startswith("nbs/"):
            hits += sorted(root.glob(name)) if re.search(r"[*?[]", name) else [root / name]
    return [p.relative_to(root / "nbs").with_suffix("").as_posix() for p in hits]
