"""How the pages read: one line a page.

Shown, never enforced (a page far from its neighbours has a reason or wants another draft).

    python tools/rhythm.py [PAGE ...]

cells     cells of the page
export    exported cells with code in them (import cells are not counted)
lines     lines of an exported cell, median/longest (the best pages known: 7 to 12, 30 at most)
total     exported lines in all (target: 150 at most)
shown     share of the exported definitions that one of the next three code cells uses
facts     assertions in the page per exported cell
hidden    cells that a reader does not see
mixed     import cells that hold something else too (the site builder executes import cells)
w/line    words of prose per line of code
figs kB   pictures stored, size of all stored outputs
"""

from __future__ import annotations

import ast
import json
import re
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools.book import ROOT, Cell, Page, order, pages  # noqa: E402

COLUMNS = [
    "page",
    "cells",
    "export",
    "lines",
    "total",
    "shown",
    "facts",
    "hidden",
    "mixed",
    "w/line",
    "figs",
    "kB",
]
FACT = re.compile(
    r"^\s*(?:assert\b|test_\w+\(|with expect_fail|expect_fail\(|\w*assert_\w+\()|\.assert_\w+\(", re.M
)


def code_lines(cell: Cell) -> int:
    "Lines of code: no blank line, no comment of its own, no directive."
    return sum(bool(s.strip()) and not s.strip().startswith("#") for s in cell.source.splitlines())


def is_import(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Import | ast.ImportFrom)


def definitions(cell: Cell) -> list[str]:
    return [
        s.name
        for s in (cell.tree.body if cell.tree else [])
        if isinstance(s, ast.FunctionDef | ast.ClassDef) and s.name[0] != "_"
    ]


def row(page: Page) -> list[str]:
    "The measured line of one page, as text."
    code = [c for c in page.cells if c.kind == "code" and c.source.strip()]
    exports = [c for c in code if c.exported and c.tree and not c.imports_only]
    sizes = [code_lines(c) for c in exports]
    shown = total = 0
    for i, cell in enumerate(code):
        for name in definitions(cell) if cell.exported else []:
            following = "\n".join(c.source for c in code[i + 1 : i + 4] if not c.exported)
            total += 1
            shown += bool(re.search(rf"\b{name}\b", following))
    facts = sum(len(FACT.findall(c.source)) for c in code if not c.exported)
    hidden = sum(c.hidden for c in code)
    mixed = sum(any(map(is_import, c.tree.body)) and not c.imports_only for c in code if c.tree)
    words = sum(len(c.source.split()) for c in page.cells if c.kind == "markdown")
    lines = sum(map(code_lines, code))
    outputs = [o for c in code for o in c.outputs]
    figures = sum(any(k.startswith("image/") for k in o.get("data", {})) for o in outputs)
    size = len(json.dumps(outputs)) / 1000 if outputs else 0
    return [
        page.name,
        str(len(page.cells)),
        str(len(exports)),
        f"{statistics.median(sizes):.0f}/{max(sizes)}" if sizes else "-",
        str(sum(sizes)),
        f"{100 * shown / total:.0f} %" if total else "-",
        f"{facts / len(exports):.1f}" if exports else "-",
        str(hidden),
        str(mixed),
        f"{words / lines:.1f}" if lines else "-",
        str(figures),
        f"{size:.0f}",
    ]


def table(rows: list[list[str]]) -> str:
    widths = [max(len(r[i]) for r in rows) for i in range(len(COLUMNS))]
    return "\n".join(
        "  ".join([r[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(r[1:], widths[1:], strict=True))])
        for r in rows
    )


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(__doc__)
        return 0
    place = {n: i for i, n in enumerate(order(ROOT))}
    wanted = [a.removeprefix("nbs/").removesuffix(".ipynb") for a in argv]
    chosen = sorted(
        (p for p in pages(ROOT) if not wanted or p.name in wanted),
        key=lambda p: (place.get(p.name, len(place)), p.name),
    )
    print(table([COLUMNS, *map(row, chosen)]))
    return 0 if chosen else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
