"""TeX and captions as HTML, by pandoc: what Quarto uses, so both renderings draw the same.

Pandoc is asked for many formulas at once, and for each of them once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache

import pypandoc
from bs4 import BeautifulSoup

OPTIONS = ["--mathml", "--wrap=none"]
CAPTION = "markdown-smart-citations"  # no typographer's quotes, and an @ is an @
TAG = re.compile(r"\\tag\{(.*?)\}")
Formula = tuple[str, bool]  # TeX, and whether it stands on a line of its own

known: dict[Formula, str] = {}


@cache
def version() -> list[int]:
    "The version of pandoc's own format."
    return json.loads(pypandoc.convert_text("", "json", format="markdown"))["pandoc-api-version"]


def block(formula: Formula) -> dict:
    "A paragraph with one formula, in pandoc's own format."
    tex, display = formula
    kind = {"t": "DisplayMath" if display else "InlineMath"}
    return {"t": "Para", "c": [{"t": "Math", "c": [kind, tex]}]}


def mathml(formulas: Iterable[Formula]) -> dict[Formula, str | None]:
    "The `<math>` element of each formula; None for what pandoc does not understand."
    wanted = list(dict.fromkeys(formulas))
    new = [f for f in wanted if f not in known]
    if new:
        document = {"pandoc-api-version": version(), "meta": {}, "blocks": [block(f) for f in new]}
        html = pypandoc.convert_text(json.dumps(document), "html", format="json", extra_args=OPTIONS)
        paragraphs = re.findall(r"<p>(.*?)</p>", html, re.S)
        known.update(zip(new, paragraphs, strict=True))
    return {f: known[f] if known[f].startswith("<math") else None for f in wanted}


def numbered(tex: str) -> tuple[str, str | None]:
    "A formula without its `\\tag`, and the number that this gave it."
    found = TAG.search(tex)
    return TAG.sub("", tex).strip(), found[1] if found else None


def captions(sources: list[str]) -> list[str]:
    "Captions in Markdown as HTML: formulas, code, emphasis, links."
    if not sources:
        return []
    divs = [f"::: {{#c{i}}}\n{source}\n:::\n" for i, source in enumerate(sources)]
    html = pypandoc.convert_text("\n".join(divs), "html", format=CAPTION, extra_args=OPTIONS)
    soup = BeautifulSoup(html, "html.parser")
    return [soup.find(id=f"c{i}").p.decode_contents() for i in range(len(sources))]
