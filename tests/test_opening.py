"""What a page shows first: answers, claims as a table, folded machinery."""

import json

import pytest

from tools import opening, site


def code(source, *, outputs=(), tags=()):
    return {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": source, "outputs": list(outputs)}


def verdict(outcome, **more):
    claim = {"text": "a | b is better", "margin": 0.05}
    return {"claim": claim, "outcome": outcome, "gain": 0.1, "low": 0.02, "high": None, **more}


@pytest.fixture
def record(tmp_path):
    "A record with two claims and a control."
    verdicts = {
        "one": verdict("Supported", high=0.2),
        "two": verdict("Undecided"),
        "control": verdict("Refuted"),
    }
    (tmp_path / "verdict.json").write_text(json.dumps(verdicts))
    return tmp_path


def test_claims_are_rows_without_the_controls(record):
    head, _, one, two = opening.claims_table(record).splitlines()
    assert head.startswith("| claim |")
    assert one == "| a \\| b is better | 5% | +10% | +2% to +20% | holds |"
    assert two == "| a \\| b is better | 5% | +10% |  | undecided |"  # no interval where one end is missing


def test_the_table_stands_before_the_cell_that_writes_the_claims(record):
    cells = [code("x = 1"), code("claims = {'one': Claim(text='a')}"), code("y = 2")]
    shown = opening.show_claims(cells, record)
    assert [c["cell_type"] for c in shown] == ["code", "markdown", "code", "code"]
    assert opening.show_claims(cells[:1], record) == cells[:1]


def test_the_answer_counts_claims_and_else_quotes_the_first_sentence(record, tmp_path_factory):
    assert opening.answers(record, []).endswith("before the run: 1 holds, 1 undecided.")
    empty = tmp_path_factory.mktemp("empty")
    said = {"data": {"text/markdown": "- **All** agree.\n- More."}}
    assert opening.answers(empty, [code("1", outputs=[said])]) == "**Answer.** **All** agree."
    assert opening.answers(empty, [code("1")]) == ""


@pytest.mark.parametrize(
    ("cell", "bench", "summary"),
    [
        (code("preset = 'smoke'", tags=["parameters"]), True, "Parameters"),
        (code("preset = 'cpu'", tags=["injected-parameters"]), True, "Parameters of this run"),
        (code("import math\nfrom os import path"), False, "Imports"),
        (code("def f():\n    return 1"), False, "Helper: f"),
        (code("def f():\n    return 1\n\nf()"), False, ""),  # it shows something
        (code("def f():\n    return 1\n\nf()"), True, "Code: f"),
        (code("x = 1\nx", outputs=[{}]), False, ""),
        (code("x = 1\nx", outputs=[{}]), True, "Code: x"),
        (code("claims = {'a': Claim(text='b')}"), True, "The claims as code"),
    ],
)
def test_machinery_is_folded(cell, bench, summary):
    assert opening.summary_of(cell, bench) == summary


def test_a_cell_that_says_how_it_is_shown_is_left_alone():
    cells = [code(f"#| {word}\nimport math") for word in ("hide", "export", "echo: false", "code-fold: show")]
    cells.append(code("import math"))
    opening.fold(cells, bench=False)
    assert [c["source"].startswith("#| code-fold: true") for c in cells] == [False] * 4 + [True]


def test_links_of_an_html_output_lead_to_pages_of_the_site():
    out = {"output_type": "display_data"}
    html = '<a href="../bench/b.ipynb">x</a><a href="a.ipynb#c">y</a><a href="https://x.org/a.ipynb">z</a>'
    (shown,) = site.shown_outputs({"outputs": [{**out, "data": {"text/html": html}}]})
    want = '<a href="../bench/b.html">x</a><a href="a.html#c">y</a><a href="https://x.org/a.ipynb">z</a>'
    assert shown["data"]["text/html"] == want
