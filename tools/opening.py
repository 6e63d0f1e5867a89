"""What a reader wants first: the answer of a benchmark, its claims as a table, machinery folded away."""

from __future__ import annotations

import ast
import json
import math
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]
from tools.book import EXPORTS, read_cell, text  # noqa: E402

FOUND = {  # outcome of a rule -> plain words
    "Supported": "holds",
    "Refuted": "does not hold",
    "Undecided": "undecided",
    "Not informative": "says nothing",
}
CLAIM = re.compile(r"\bClaim\(")


# --------------------------------------------------------------------------------------------------- answers


def answers(record: Path, cells: list[dict]) -> str:
    "The answer of a benchmark in a sentence or two, from its record; empty where nothing is known."
    told = asked(record) or counted(record) or first_sentence(cells)
    return f"**Answer.** {told}" if told else ""


def asked(record: Path) -> str:
    "The answers to the questions of the page of results that this record is asked."
    from spectral_diffusion.run.record import load_record
    from spectral_diffusion.study import questions  # noqa: F401 (registers them)
    from spectral_diffusion.study.asking import QUESTIONS, answer_all

    if record.name not in ("cpu", "gpu"):
        return ""
    found = answer_all([load_record(record)], QUESTIONS)
    return "\n\n".join(f"*{question.text}* {answer.text}" for question, answer in found)


def judged(record: Path) -> dict[str, dict]:
    "The verdicts of a record, controls left out."
    path = record / "verdict.json"
    if not path.exists():
        return {}
    verdicts = json.loads(path.read_text(encoding="utf-8"))
    return {name: v for name, v in verdicts.items() if not name.startswith("control")}


def counted(record: Path) -> str:
    "How many claims hold."
    outcomes = [v["outcome"] for v in judged(record).values()]
    if not outcomes:
        return ""
    counts = [f"{outcomes.count(key)} {word}" for key, word in FOUND.items() if key in outcomes]
    of = "the claim" if len(outcomes) == 1 else f"{len(outcomes)} claims"
    return f"Of {of} that were written down before the run: " + ", ".join(counts) + "."


def first_sentence(cells: list[dict]) -> str:
    "The first paragraph that a cell has computed."
    for cell in cells:
        for out in cell.get("outputs", ()):
            words = text(out.get("data", {}).get("text/markdown", "")).strip()
            if words:
                return words.replace("\n- ", "\n\n").removeprefix("- ").split("\n\n")[0]
    return ""


# ---------------------------------------------------------------------------------------------------- claims


def in_per_cent(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:+.0%}"


def claims_table(record: Path) -> str:
    "The claims of a record with what was asked and what was found."
    rows = ["| claim | asked | found | 95 % interval | so it |", "|---|---|---|---|---|"]
    for verdict in judged(record).values():
        claim, ends = verdict["claim"], [in_per_cent(verdict.get(end)) for end in ("low", "high")]
        span = f"{ends[0]} to {ends[1]}" if all(ends) else ""
        words = claim["text"].replace("|", "\\|")
        asked_for, gain = f"{claim['margin']:.0%}", in_per_cent(verdict["gain"])
        rows.append(f"| {words} | {asked_for} | {gain} | {span} | {FOUND[verdict['outcome']]} |")
    return "\n".join(rows) if len(rows) > 2 else ""


def show_claims(cells: list[dict], record: Path) -> list[dict]:
    "The cells with the table of claims before the cell that writes them down."
    table = claims_table(record)
    place = next(
        (i for i, c in enumerate(cells) if c["cell_type"] == "code" and CLAIM.search(text(c["source"]))), None
    )
    if not table or place is None:
        return cells
    shown = f"::: {{.claims}}\n{table}\n:::"
    return [*cells[:place], {"cell_type": "markdown", "metadata": {}, "source": shown}, *cells[place:]]


# --------------------------------------------------------------------------------------------------- folding


def defined(tree: ast.Module) -> list[str]:
    "Functions and classes of a cell."
    return [n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))]


def assigned(tree: ast.Module) -> list[str]:
    "Names that a cell gives a value."
    targets = [t for n in tree.body if isinstance(n, ast.Assign) for t in n.targets]
    return [t.id for t in targets if isinstance(t, ast.Name)]


def summary_of(cell: dict, bench: bool) -> str:
    """What stands for a folded cell; empty where the cell is shown.

    Folded are parameters, imports, cells that only define helpers, and on a benchmark page all code."""
    tags, source = cell.get("metadata", {}).get("tags", ()), text(cell["source"])
    code = read_cell({"cell_type": "code", "source": source})
    if code.tree is None or not source.strip():
        return ""
    if {"parameters", "injected-parameters"} & set(tags):
        return "Parameters" + (" of this run" if "injected-parameters" in tags else "")
    if code.imports_only:
        return "Imports"
    helpers = defined(code.tree)
    plain = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef, ast.Import, ast.ImportFrom, ast.Assign)
    if helpers and not cell.get("outputs") and all(isinstance(n, plain) for n in code.tree.body):
        return f"Helper: {', '.join(helpers[:4])}" if not bench else f"Code: {', '.join(helpers[:4])}"
    if not bench:
        return ""
    if CLAIM.search(source):
        return "The claims as code"
    names = [*helpers, *assigned(code.tree)][:3]
    return f"Code: {', '.join(names)}" if names else "Code"


def fold(cells: list[dict], *, bench: bool) -> None:
    "Fold what a reader does not need at first; a cell that says itself how it is shown is left alone."
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        options = read_cell(cell).directives
        if options.keys() & ({"hide", "code-fold", "echo", "hide_input", "include"} | EXPORTS):
            continue
        if summary := summary_of(cell, bench):
            head = f"#| code-fold: true\n#| code-summary: {json.dumps(summary)}\n"
            cell["source"] = head + text(cell["source"])
