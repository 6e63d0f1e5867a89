"""Bad input at every door: one line and an exit code, nothing lost.

Notebooks, configurations, factor files, designs, folders, users without a home, clean-ups that fail.
"""

import json
import math
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from spectral_diffusion.core.config import dump_yaml
from spectral_diffusion.core.parse import StrictDumper, parse_yaml
from spectral_diffusion.core.registry import InputError
from spectral_diffusion.doe.arrays import declared, level_names, orthogonal_array, read_array
from spectral_diffusion.doe.assign import assign
from spectral_diffusion.doe.confirm import optimum, predict
from spectral_diffusion.doe.ranking import ranking
from spectral_diffusion.doe.taguchi import analyze
from spectral_diffusion.doe.terms import term_factors, term_name
from spectral_diffusion.lab.cli import main, parser
from spectral_diffusion.study.engines import each
from spectral_diffusion.study.factors import Factors, rows_of
from spectral_diffusion.study.jobs import Job, run_row
from spectral_diffusion.study.studies import read_study, run_study
from spectral_diffusion.study.sweep import sweep_root

ROOT = Path(__file__).resolve().parents[1]
HEAD = "out = '.'\nlr = 0.1\nwidth = 1\nmode = None\n"
BODY = (
    "import json, pathlib\npathlib.Path(out, 'metrics.json').write_text(json.dumps({'loss': lr*width +"
    " len(str(mode))}))"
)
KERNEL = {"name": "python3", "display_name": "python3", "language": "python"}


def page(metadata=None, *, head=HEAD, body=BODY, **parts) -> dict:
    "A notebook as other programs write it."
    cells = [
        {
            "cell_type": "code",
            "metadata": {"tags": ["parameters"]},
            "source": head,
            "outputs": [],
            "execution_count": None,
        },
        {"cell_type": "code", "metadata": {}, "source": body, "outputs": [], "execution_count": None},
    ]
    return {"cells": cells, "metadata": metadata or {}, "nbformat": 4, "nbformat_minor": 4, **parts}


def call(capsys, *words) -> tuple[int, str, str]:
    "Exit code, output and errors of a command; an exception would end the test."
    capsys.readouterr()
    try:
        code = main([str(w) for w in words])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    return code, said.out, said.err.strip()


def sweep(capsys, place) -> tuple[int, str, str]:
    "A sweep of the notebook n.ipynb over the factors in f.yaml, with its results in s."
    factors, root = ("--factors", place / "f.yaml"), ("--root", place / "s")
    return call(capsys, "sweep", place / "n.ipynb", *factors, *root, "--engine", "sequential")


@pytest.fixture
def place(tmp_path):
    (tmp_path / "f.yaml").write_text("factors:\n  lr: [0.1, 0.2]\n  width: [1, 2]\n")
    return tmp_path


# ------------------------------------------------------------------------------------------------------------
# notebooks

GOOD = json.dumps(page())
BROKEN = {
    "empty": b"",
    "blanks": b" \n",
    "a merge": b"<<<<<<< HEAD\n" + GOOD.encode(),
    "the end of a merge": GOOD.encode() + b"\n>>>>>>> branch",
    "a list": b"[]",
    "a text": b'"x"',
    "null": b"null",
    "format 3": b'{"worksheets": [], "metadata": {}, "nbformat": 3, "nbformat_minor": 0}',
    "format 5": json.dumps(page(nbformat=5)).encode(),
    "format as text": json.dumps(page(nbformat="4")).encode(),
    "no format": b'{"cells": []}',
    "cells as a mapping": json.dumps(page(cells={})).encode(),
    "a cell that is none": json.dumps(page(cells=[1])).encode(),
    "a strange cell": json.dumps(page(cells=[{"cell_type": "sql", "source": ""}])).encode(),
    "a source of numbers": json.dumps(page(cells=[{"cell_type": "code", "source": [1]}])).encode(),
    "latin-1": GOOD.replace("lr = 0.1", "lr = 0.1 # é").encode() + b"\xe9",
    "utf-16": GOOD.encode("utf-16"),
    "half of it": GOOD[:100].encode(),
    "deep": b"[" * 10_000,
    "zeros": b"\0" * 10,
    "R": json.dumps(page({"kernelspec": {"name": "ir", "language": "R"}})).encode(),
    "julia by its info": json.dumps(page({"language_info": {"name": "julia"}})).encode(),
    "a kernel that is no mapping": json.dumps(page({"kernelspec": 3})).encode(),
    "metadata as a list": json.dumps(page(metadata=[]) | {"metadata": []}).encode(),
    "no tags": json.dumps(page(cells=[{"cell_type": "code", "source": "out = 1", "metadata": {}}])).encode(),
    "tags as text": (
        json.dumps(
            page(cells=[{"cell_type": "code", "source": "", "metadata": {"tags": "parameters"}}])
        ).encode()
    ),
    "two cells of parameters": json.dumps(page(cells=page()["cells"][:1] * 2)).encode(),
    "not Python": json.dumps(page(head="lr = = 3")).encode(),
    "zeros in Python": json.dumps(page(head="lr = 3\0")).encode(),
    "no out": json.dumps(page(head="lr = 0.1\nwidth = 1")).encode(),
    "no parameters": json.dumps(page(head="pass")).encode(),
    "an output of nothing": (
        json.dumps(
            page(
                cells=[*page()["cells"], {"cell_type": "code", "source": "", "metadata": {}, "outputs": [{}]}]
            )
        ).encode()
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_notebook_is_one_line(place, capsys, name):
    (place / "n.ipynb").write_bytes(BROKEN[name])
    code, out, err = sweep(capsys, place)
    lines = [line for line in err.splitlines() if "factors are not checked" not in line]
    assert (
        code == 2
        and len(lines) == 1
        and lines[0].startswith("spectral-diffusion sweep: ")
        and "n.ipynb" in lines[0]
    )
    assert not (place / "s").exists()


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        {"kernelspec": {"name": "my-env", "display_name": "mine", "language": "python"}},
        {"kernelspec": {}, "language_info": {}},
        {"language_info": {"name": "ipython"}},
    ],
)
def test_any_python_page_runs_in_the_kernel_of_the_environment(place, capsys, metadata):
    whole = page(metadata, body=BODY + f"\nimport sys\nassert sys.prefix == {sys.prefix!r}")
    del whole["cells"][1]["outputs"], whole["nbformat_minor"]
    (place / "n.ipynb").write_bytes(b"\xef\xbb\xbf" + json.dumps(whole).encode())
    (place / "f.yaml").write_text("factors: {lr: [0.1, 0.2]}")
    code, out, err = call(
        capsys,
        "sweep",
        place / "n.ipynb",
        "--factors",
        place / "f.yaml",
        "--engine",
        "sequential",
        "--root",
        place / "a {study}",
    )
    assert code == 0, err
    copies = list((place / "a {study}").glob("*/notebook.ipynb"))  # braces are no place-holders
    assert len(copies) == 2 and json.loads(copies[0].read_text())["metadata"]["kernelspec"] == KERNEL


def test_parameters_are_what_the_cell_assigns(place):
    from spectral_diffusion.study.notebooks import known_parameters

    head = (
        "%matplotlib inline\nlr = 0.1  # was x=1\nsteps: int = 3\na = b = 2\nif True:\n    hidden = 1\nlevels"
        " = [\n    1,\n    2]\ndef f(x=1): y = 2\nmode = 'a=b'"
    )
    (place / "n.ipynb").write_text(json.dumps(page(head=head)))
    assert known_parameters(place / "n.ipynb") == ["lr", "steps", "a", "b", "levels", "mode"]


@pytest.mark.parametrize(
    "name, folder",
    [
        ("My Study.ipynb", "sweep-my-study"),
        ("Étude (2).ipynb", "sweep-etude-2"),
        ("a" * 90 + ".ipynb", "sweep-" + "a" * 50),
        ("plain_1.ipynb", "sweep-plain_1"),
    ],
)
def test_a_sweep_of_any_name_has_a_folder(name, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sweep_root(name, None) == tmp_path / "results" / folder


def test_a_name_without_letters_asks_for_a_root(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "研究.ipynb").write_text(GOOD)
    (tmp_path / "f.yaml").write_text("factors: {lr: [0.1, 0.2]}")
    code, out, err = call(capsys, "sweep", "研究.ipynb", "--factors", "f.yaml")
    assert code == 2 and "--root" in err.splitlines()[-1] and not (tmp_path / "results").exists()


def test_another_folder_than_the_name_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "My Study.ipynb").write_text(GOOD)
    (tmp_path / "f.yaml").write_text("factors: {lr: [0.1]}")
    code, out, err = call(capsys, "sweep", "My Study.ipynb", "--factors", "f.yaml")
    assert code == 2 and "at least 2 different levels" in err  # before any work
    (tmp_path / "f.yaml").write_text("factors: {lr: [0.1, 0.2]}")
    code, out, err = call(capsys, "sweep", "My Study.ipynb", "--factors", "f.yaml", "--engine", "sequential")
    assert code == 0 and "sweep-my-study; --root DIR names another" in err
    assert len(list((tmp_path / "results" / "sweep-my-study").glob("*/metrics.json"))) == 2


# --------------------------------------------------------------------------------------------------------
# configurations

CORE = {
    "010": 10,
    "-012": -12,
    "+7": 7,
    "0": 0,
    "00": 0,
    "0o17": 15,
    "0x1f": 31,
    "0b11": "0b11",
    "1:30": "1:30",
    "1:30.5": "1:30.5",
    "1_000": "1_000",
    "1e3": 1000.0,
    "1E-3": 0.001,
    "-1e-3": -0.001,
    "1.e2": 100.0,
    ".5": 0.5,
    "5.": 5.0,
    ".": ".",
    "e3": "e3",
    "yes": "yes",
    "No": "No",
    "on": "on",
    "OFF": "OFF",
    "y": "y",
    "n": "n",
    "true": True,
    "False": False,
    "TRUE": True,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "": None,
    "nULL": "nULL",
    "2001-01-01": "2001-01-01",
    "2001-12-14t21:59:43.10-05:00": "2001-12-14t21:59:43.10-05:00",
    "=": "=",
    ".inf": math.inf,
    "-.INF": -math.inf,
    "0o8": "0o8",
    "0xg": "0xg",
    "1.2.3": "1.2.3",
    "٣": "٣",
    "1e": "1e",
    "+": "+",
    "-": [None],
}


@pytest.mark.parametrize("text", CORE)
def test_the_core_schema(text):
    got = parse_yaml(text)
    assert got == CORE[text] and type(got) is type(CORE[text])
    assert parse_yaml(f"{{a: '{text}'}}") == {"a": text}
    if CORE[text] is not None and text != "-":
        assert parse_yaml(f"a: [{text}, x]") == {"a": [CORE[text], "x"]}


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(sorted(CORE)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(min_size=1) | st.sampled_from(sorted(CORE)), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(min_size=1), PLAIN, max_size=4))
def test_what_is_written_is_read_back(data):
    text = dump_yaml(data)
    assert json.dumps(parse_yaml(text)) == json.dumps(data)  # types too: 1 is not 1.0, and -0.0 is not 0.0
    for word in CORE:
        assert yaml.safe_load(dump_yaml({"a": word})) == {"a": word}  # by a reader of YAML 1.1 too


@pytest.mark.parametrize(
    "text, says",
    [
        ("a: 1\nb: 2\na: 3", "key a stands twice"),
        ("a: {b: 1, b: 2}", "key b stands twice"),
        ("010: 1", "a key is a name"),
        ("<<: {a: 1}", "merge keys"),
        ("a: &x {b: 1}\nc: {<<: *x}", "merge keys"),
        ("a: !!bool yes", "true or false"),
        ("!!int ten", "is no number"),
        ("!!float 1:30", "is no number"),
        ("!!timestamp 2001-01-01", "could not determine"),
        ("a: b: c", "line 1, column 5"),
        ("a: [1", "line 1"),
        ("\t- x", "line 1"),
        ("a: *nothing", "undefined alias"),
        ("a\0b", "special characters"),
        ("%YAML 3.0\n---\na: 1", "version"),
        ("!!python/object/apply:os.getcwd []", "could not determine"),
        ("1" * 100, "at most 64"),
        ("? [a]\n: 1", "a key is a name"),
    ],
)
def test_what_is_wrong_with_yaml_is_one_line(text, says):
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        parse_yaml(text, "run.yaml")
    assert "\n" not in str(caught.value) and "run.yaml" in str(caught.value)


def test_a_truth_in_words_gets_a_hint(capsys, tmp_path):
    code, out, err = call(capsys, "train", "--set", "data.statistics=yes", "--results", tmp_path / "r")
    assert code == 2 and "got 'yes' of type str" in err
    from dataclasses import dataclass

    from spectral_diffusion.core.config import from_dict, load_yaml

    globals()["Switch"] = dataclass(frozen=True, kw_only=True)(
        type("Switch", (), {"__annotations__": {"on": "bool"}, "on": False, "__module__": __name__})
    )
    with pytest.raises(InputError, match="a truth is true or false"):
        from_dict(Switch, {"on": "yes"})  # noqa: F821
    (tmp_path / "s.yaml").write_bytes(b"\xef\xbb\xbfon: true\r\n")
    assert load_yaml(Switch, tmp_path / "s.yaml").on is True  # noqa: F821


def test_dumper_is_safe():
    assert issubclass(StrictDumper, yaml.SafeDumper)
    with pytest.raises(yaml.representer.RepresenterError):
        yaml.dump(Path("x"), Dumper=StrictDumper)


# ---------------------------------------------------------------------------------------------------------
# factor files

LEVELS = {
    "null": [None, 1.0],
    "lists": [[3, 3], [5, 5], []],
    "mappings": [{"name": "a"}, {"name": "b", "x": [1]}],
    "mixed": [None, "null", "None", [None]],
    "truths": [True, 1, 1.0],
    "texts": ["large", "small", "medium"],
    "falling": [3, 2, 1],
    "words": ["yes", "010", ""],
    "big": [2**70, 1],
}


@pytest.mark.parametrize("name", LEVELS)
def test_any_levels_from_rows_to_analysis(tmp_path, name):
    levels, page_file = LEVELS[name], tmp_path / "n.ipynb"
    page_file.write_text(GOOD)

    def run(parameters, out):
        (out / "metrics.json").write_text(
            json.dumps(
                {
                    "loss": (
                        1
                        + 10 * parameters["lr"]
                        + 3 * [json.dumps(x) for x in levels].index(json.dumps(parameters["mode"]))
                    )
                }
            )
        )

    study = run_study(
        page_file,
        Factors(factors={"lr": [0.1, 0.2], "mode": levels}),
        "full",
        "sequential",
        root=tmp_path / "s",
        run=run,
    )
    assert len(study.names) == 2 * len(levels)
    design, y, factors = read_study(tmp_path / "s", "loss")
    assert factors.factors["mode"] == levels and len(design) == 2 * len(levels)
    found = analyze(design, y, "smaller", response="mean")
    assert found.effects["level"].tolist()[2:] == level_names(levels)  # in the order of the file
    best = optimum(found).setting
    assert best == {"lr": 0.1, "mode": level_names(levels)[0]} and found.anova.index.is_unique
    assert (
        predict(found, {"lr": 0.1, "mode": levels[0]}).value
        == predict(found, best).value
        == pytest.approx(2.0)
    )
    assert set(ranking(found)["factor"]) == {"lr", "mode"}


def test_order_of_levels_makes_the_contrasts():
    order = ["small", "medium", "large"]
    design = pd.DataFrame({"size": declared(order * 2, order), "lr": [1, 1, 1, 2, 2, 2]})
    beta = analyze(design, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0], response="mean", pool=["lr"]).full.beta
    assert beta[1] == pytest.approx(math.sqrt(2 / 3)) and beta[2] == pytest.approx(0)
    plain = analyze(
        design.astype({"size": object}), [1.0, 2.0, 3.0, 1.0, 2.0, 3.0], response="mean", pool=["lr"]
    )
    assert plain.effects["level"].tolist()[:3] == sorted(order)  # without a declared order
    unused = pd.DataFrame(
        {"size": pd.Categorical(order * 2, categories=[*order, "huge"]), "lr": [1, 1, 1, 2, 2, 2]}
    )
    assert (
        analyze(unused, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0], response="mean", pool=["lr"])
        .effects["level"]
        .tolist()[:3]
        == order
    )


NAMES = [
    "w x h",
    "total",
    "error",
    "lack of fit",
    "x",
    "a x",
    "x b",
    '"total"',
    "größe",
    "model.base",
    "a  b",
    "'w x h'",
    "term",
    "p",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_factor(name, tmp_path):
    a, y = (
        orthogonal_array("L8"),
        np.array([[1.0, 2.0], [2, 3], [3, 5], [4, 4], [2, 1], [6, 5], [7, 7], [9, 8]]),
    )
    other = analyze(
        pd.DataFrame({"A": a[:, 0], "b": a[:, 1]}), y, "smaller", response="raw", interactions=[("A", "b")]
    )
    this = analyze(
        pd.DataFrame({name: a[:, 0], "b": a[:, 1]}), y, "smaller", response="raw", interactions=[(name, "b")]
    )
    assert this.anova.index.is_unique and np.allclose(
        this.anova.to_numpy(float), other.anova.to_numpy(float), equal_nan=True
    )
    assert this.interactions == [(name, "b")] and optimum(this).setting[name] == optimum(other).setting["A"]
    pooled = analyze(
        pd.DataFrame({name: a[:, 0], "b": a[:, 1], "c": a[:, 3]}),
        y,
        "smaller",
        response="raw",
        pool=[term_name((name,))],
    )
    assert (
        pooled.pooled == (term_name((name,)),)
        and pooled.error_dof == analyze(a[:, [0, 1, 3]], y, "smaller", response="raw", pool=["A"]).error_dof
    )
    from spectral_diffusion.doe.figures import plot_contribution, plot_interaction, plot_main_effects
    from spectral_diffusion.doe.lenth import half_normal

    assert len(half_normal(this)) == 3
    for draw in (plot_main_effects, plot_contribution, lambda s: plot_interaction(s, name, "b")):
        draw(this)


def test_names_of_terms_are_read_back():
    draw = random.Random(0)
    words = [*NAMES, "A", "b"]
    for _ in range(2000):
        factors = tuple(
            "".join(
                draw.choice(["x", " ", '"', "'", "\\", "a", "total", " x "])
                for _ in range(draw.randint(1, 5))
            )
            for _ in range(draw.randint(1, 2))
        )
        if all(f.strip() for f in factors):
            assert term_factors(term_name(factors)) == factors
    seen = [term_name(t) for t in [*((w,) for w in words), *((v, w) for v in words for w in words)]]
    assert len({*seen, "total", "error", "lack of fit"}) == len(seen) + 3


@pytest.mark.parametrize(
    "text, says",
    [
        ("factors: {'': [1, 2]}", "must be a name"),
        ("factors: {' ': [1, 2]}", "must be a name"),
        ("factors: {lr: 3}", "list of levels"),
        ("factors: {lr: [1, 1]}", "different levels"),
        ("factors: {lr: [[1], [1]]}", "different levels"),
        ("factors: {lr: [.nan, 1]}", "finite"),
        ("factors: {out: [1, 2]}", "sets itself"),
        ("factors: {probe: [1, 2]}", "sets itself"),
        ("", "at least one factor"),
        ("- lr", "mapping"),
        ("factors: {lr: [1, 2]}\nreplicates: yes", "must be int"),
        ("factors: {lr: [1, 2], lr: [3, 4]}", "stands twice"),
        ("factors: {lr: [010, 10]}", "different levels"),
        ("factors: {lr: [2001-01-01, 2001-01-02], 7: [1, 2]}", "a key is a name"),
        ("\x00", "not valid"),
    ],
)
def test_bad_factors_are_one_line(place, capsys, text, says):
    (place / "n.ipynb").write_text(json.dumps(page(head=HEAD + "probe = False\noverrides = {}\n")))
    (place / "f.yaml").write_text(text)
    code, out, err = sweep(capsys, place)
    assert code == 2 and says in err and len(err.splitlines()) == 1 and not (place / "s").exists()


def test_blank_names_and_missing_levels_of_a_table():
    with pytest.raises(InputError, match="not blank"):
        analyze(pd.DataFrame({" ": [1, 2], "b": [1, 2]}), [1.0, 2.0])
    with pytest.raises(InputError, match="no level in rows"):
        analyze(
            pd.DataFrame({"a": pd.Categorical(["x", None, "y", "x"]), "b": [1, 1, 2, 2]}),
            [1.0, 2.0, 3.0, 4.0],
        )


@pytest.mark.parametrize(
    "levels, runs",
    [
        ((2, 3), 6),
        ((3, 2), 6),
        ((2, 2, 3), 12),
        ((2,), 2),
        ((7,), 7),
        ((5, 2), 10),
        ((7, 2), 14),
        ((2, 2), 4),
        ((3, 3), 9),
        ((2, 4), 8),
        ((2, 3, 5), 30),
        ((2, 2, 2), 4),
        ((2, 3, 3), 18),
    ],
)
def test_a_study_of_mixed_levels(levels, runs):
    plan = rows_of(None, {f"f{i}": list(range(q)) for i, q in enumerate(levels)})
    assert len(plan.rows) == runs == len({json.dumps(r) for r in plan.rows})
    for name, column in plan.design.items():
        assert column.value_counts().nunique() == 1, name
    y = np.random.default_rng(0).normal(size=runs)
    assert analyze(plan.design, y, response="mean").anova.index.is_unique


def test_all_combinations_are_refused_where_they_are_many():
    with pytest.raises(InputError, match="are 16384 runs"):
        assign(dict.fromkeys("ABCDEFGHIJKLMN", 2), "full")
    with pytest.raises(InputError, match="any array here"):
        assign({"A": 11, "B": 13})
    with pytest.raises(InputError, match="array 'full' takes all"):
        rows_of("L8", {"a": [1, 2], "b": [3, 4]})


@pytest.mark.parametrize(
    "text, says",
    [
        (b"", "a header"),
        (b"A,B\n", "a header"),
        (b"A,A\n0,0\n", "different names"),
        (b",B\n0,0\n1,1\n", "different names"),
        (b"A,B\n0,0,0\n", "line 2"),
        (b"A,B\n0,0\n1\n", "line 3"),
        (b"A;B\n0;0\n", "got others"),
        (b"A,B\n0,\n", "got others"),
        (b"A,B\n0,x\n", "got others"),
        (b"A,B\n0,0.5\n", "got others"),
        (b"A,B\n0,1e3\n", "got others"),
        ("A,ä\n0,0\n".encode("latin-1"), "UTF-8"),
        (b"A,B\n0,0\n1,1\n", "not orthogonal"),
        (b"A,B\n0," + b"9" * 30, "got others"),
        ("A,B\n".encode("utf-16"), "UTF-8"),
    ],
)
def test_bad_design_files(tmp_path, text, says):
    (tmp_path / "a.csv").write_bytes(text)
    with pytest.raises(InputError, match=says):
        read_array(tmp_path / "a.csv")
    with pytest.raises(InputError, match="no array file"):
        read_array(tmp_path)


def test_design_files_of_other_programs(tmp_path):
    (tmp_path / "a.csv").write_bytes(
        b'\xef\xbb\xbf"Run #", A ,"B"\r\n1, 1,"1"\r\n\r\n2,1 ,+2\r\n3,2,1\r\n4,2,2\r\n,,\r\n'
    )
    assert (read_array(tmp_path / "a.csv", columns=["A", "B"])["A"].tolist()) == [0, 0, 1, 1]


# ------------------------------------------------------------------------------------------------- folders,
# users, errors


def as_nobody(code: str, **more: str) -> subprocess.CompletedProcess:
    "Python as a user without a name and a home."
    env = {
        k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME", "SPECTRAL_DIFFUSION_DATA")
    } | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}
    return subprocess.run(
        ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", sys.executable, "-c", code],
        env=env,
        capture_output=True,
        text=True,
        cwd="/",
    )


nobody = pytest.mark.skipif(
    not hasattr(os, "geteuid")
    or os.geteuid() != 0
    or subprocess.run(["which", "setpriv"], capture_output=True).returncode != 0,
    reason="only root can become nobody",
)


@nobody
def test_a_user_without_a_home(tmp_path):
    tmp_path.chmod(0o777)
    say = (
        "from spectral_diffusion.core.runtime import without_paths; from spectral_diffusion.data.real import"
        " data_folders, find_cifar10; "
    )
    done = as_nobody(
        say + "print(without_paths('/x/y'), [str(p) for p in data_folders('/here')], find_cifar10())",
        SPECTRAL_DIFFUSION_DATA=str(tmp_path),
    )
    assert done.stdout.strip() == f"/x/y ['/here', '{tmp_path}'] None", done.stderr
    done = as_nobody("from spectral_diffusion.lab.cli import main; import sys; sys.exit(main(['data']))")
    assert done.returncode == 2 and "no home" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    done = as_nobody(
        "from spectral_diffusion.lab.cli import main; import sys; sys.exit(main(['doctor', '--results',"
        " '~/x']))"
    )
    assert done.returncode == 2 and "write the whole path" in done.stderr
    assert as_nobody(
        "from spectral_diffusion.lab.cli import main; import sys; sys.exit(main(['doctor']))",
        SPECTRAL_DIFFUSION_DATA=str(tmp_path),
    ).returncode in (0, 1)


def test_a_sweep_without_a_home(place, capsys, monkeypatch):
    "Jupyter asks for the home of whoever starts a kernel."
    import pwd

    def unknown(number):
        raise KeyError(number)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(RuntimeError, match="home"):
        Path.home()
    (place / "n.ipynb").write_text(GOOD)
    code, out, err = sweep(capsys, place)
    assert code == 0 and len(list((place / "s").glob("*/metrics.json"))) == 4, err
    assert "HOME" not in os.environ


def test_home_is_written_out_where_no_shell_does(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    args = parser().parse_args(["sweep", "~/n.ipynb", "--factors", "~/f.yaml", "--root=~/s"])
    assert (args.notebook, args.factors, args.root) == (
        f"{tmp_path}/n.ipynb",
        f"{tmp_path}/f.yaml",
        f"{tmp_path}/s",
    )
    from spectral_diffusion.run.record import results_root

    assert results_root("~/results") == tmp_path / "results"


def test_a_working_folder_that_is_gone(tmp_path):
    (tmp_path / "gone").mkdir()
    code = (
        f"import os, torch; os.chdir({str(tmp_path / 'gone')!r}); os.rmdir({str(tmp_path / 'gone')!r}); from"
        " spectral_diffusion.core.runtime import without_paths; print(without_paths('/x/y'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "/x/y", done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--dry-run", "--results"),
        ("bench", "b07_samplers", "--results"),
        ("report", "--results"),
        ("sweep", "n.ipynb", "--factors", "f.yaml", "--engine", "sequential", "--root"),
    ],
)
def test_results_that_are_a_file(place, capsys, monkeypatch, words):
    monkeypatch.chdir(place)
    (place / "n.ipynb").write_text(GOOD)
    (place / "results").write_text("mine")
    monkeypatch.chdir(ROOT if words[0] in ("bench", "report") else place)
    code, out, err = call(capsys, *words, place / "results")
    assert (
        code == 2 and "must be a folder, and is a file" in err and (place / "results").read_text() == "mine"
    )


def test_an_error_that_nobody_foresaw(capsys, monkeypatch, tmp_path):
    import spectral_diffusion.lab.cli as cli

    def surprise(args):
        raise KeyError("one\ntwo")

    monkeypatch.setattr(cli, "run_doctor", surprise)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, out, err = call(capsys, "doctor")
    assert code == 1 and len(err.splitlines()) == 1 and err.startswith("spectral-diffusion doctor: KeyError")
    file = Path(err.split(" is in ")[1])
    assert file.parent == tmp_path and "surprise" in file.read_text()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    code, out, err = call(capsys, "doctor")
    assert code == 1 and len(err.splitlines()) == 1 and "could not be written" in err
    monkeypatch.setenv("SPECTRAL_DIFFUSION_DEBUG", "1")
    with pytest.raises(KeyError):
        main(["doctor"])


@pytest.mark.parametrize(
    "error, code",
    [
        (InputError("a\nb"), 2),
        (KeyboardInterrupt(), 130),
        (KeyboardInterrupt("at\nstep 3"), 130),
        (MemoryError(), 1),
        (RecursionError("deep"), 1),
        (OSError(28, "No space left", "f"), 1),
        (RuntimeError("a\n\nb"), 1),
        (AssertionError(), 1),
    ],
)
def test_every_end_is_one_line(capsys, monkeypatch, error, code):
    import spectral_diffusion.lab.cli as cli

    def end(args):
        raise error

    monkeypatch.setattr(cli, "run_doctor", end)
    got, out, err = call(capsys, "doctor")
    assert got == code and len(err.splitlines()) == 1 and not out


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("nothing",),
        ("taguchi",),
        ("train", "--nothing"),
        ("sample", "x", "--num-samples", "many"),
        ("sample", "x", "--seed", "1e-3"),
        ("sweep", "a", "--factors"),
    ],
)
def test_bad_options_are_one_line(capsys, words):
    code, out, err = call(capsys, *words)
    assert code == 2 and len(err.splitlines()) == 1 and "hint: spectral-diffusion" in err


@pytest.mark.parametrize("word", ["-1e-3", "-1E+3", "-1.5e10", "-.5", "-5.", "-0", "-inf", "-NaN"])
def test_negative_numbers_are_values(word):
    got = parser().parse_args(["taguchi", "r", "--metric", "m", "--target", word]).target
    assert got == float(word) or math.isnan(got)
    for option in ("--confidence", "--target"):
        parser().parse_args(["taguchi", "r", "--metric", "m", option, word])
    assert parser().parse_args(["sweep", "n", "--factors", "f", "--limit", word]).limit is not None


@pytest.mark.parametrize(
    "option", [("--limit", "0"), ("--limit", "-1e-3"), ("--limit", "nan"), ("--jobs", "0"), ("--jobs", "-2")]
)
def test_sizes_of_a_sweep(place, capsys, option):
    (place / "n.ipynb").write_text(GOOD)
    code, out, err = call(
        capsys, "sweep", place / "n.ipynb", "--factors", place / "f.yaml", "--root", place / "s", *option
    )
    assert code == 2 and not (place / "s").exists()


def test_huge_sizes_of_a_sweep(place, capsys):
    "A limit of any size is one, and no more processes are started than there are rows."
    (place / "n.ipynb").write_text(GOOD)
    (place / "f.yaml").write_text("factors: {lr: [0.1, 0.2]}")
    code, out, err = call(
        capsys,
        "sweep",
        place / "n.ipynb",
        "--factors",
        place / "f.yaml",
        "--root",
        place / "s",
        "--limit",
        "1e300",
        "--engine",
        "sequential",
    )
    assert code == 0 and "Error" not in err
    import joblib

    asked = []

    class Known(joblib.Parallel):
        def __init__(self, **options):
            asked.append(options["n_jobs"])
            super().__init__(**{**options, "n_jobs": 1})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joblib, "Parallel", Known)
        for jobs in (10**9, 3, 1, -1):
            assert sorted(each(abs, [-1, -2, -3, -4], engine="loky", jobs=jobs)) == [1, 2, 3, 4]
    assert asked == [4, 3, 1, -1]


# ------------------------------------------------------------------------------------------------- clean-ups
# that fail


def done_work(parameters, out):
    (out / "metrics.json").write_text('{"loss": 1}')


def test_a_kernel_that_cannot_be_cleaned_up(place, capsys, caplog, monkeypatch):
    from jupyter_client.manager import AsyncKernelManager

    async def fails(self, *args, **kw):
        raise PermissionError(13, "connection file is held")

    monkeypatch.setattr(AsyncKernelManager, "cleanup_resources", fails)
    (place / "n.ipynb").write_text(GOOD)
    (place / "f.yaml").write_text("factors: {lr: [0.1, 0.2]}")
    code, out, err = sweep(capsys, place)
    assert code == 0 and len(list((place / "s").glob("*/metrics.json"))) == 2
    assert "connection file is held" in caplog.text and all(
        "\n" not in r.getMessage() for r in caplog.records
    )


def test_a_copy_that_cannot_be_tidied(place, capsys, caplog, monkeypatch):
    import spectral_diffusion.study.execute as execute

    def fails(path):
        raise OSError(5, "I/O error")

    monkeypatch.setattr(execute, "tidy", fails)
    (place / "n.ipynb").write_text(GOOD)
    (place / "f.yaml").write_text("factors: {lr: [0.1, 0.2]}")
    code, out, err = sweep(capsys, place)
    assert code == 0 and "is not tidied" in caplog.text


def test_permissions_that_cannot_be_set(tmp_path, caplog, monkeypatch):
    def fails(*args, **kw):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", fails)
    job = Job(tmp_path, {"source": "1"}, {"lr": 1})
    assert run_row(job, done_work) == (job.name, "done") and (job.path / "metrics.json").exists()
    assert "keeps its permissions" in caplog.text


def test_an_older_failure_that_cannot_be_moved(tmp_path, caplog, monkeypatch):
    job = Job(tmp_path, {"source": "1"}, {"lr": 1})

    def fails(parameters, out):
        raise ValueError("no")

    assert run_row(job, fails)[1] == "failed"
    real = os.replace

    def stuck(a, b):
        if Path(a) == job.failed:
            raise PermissionError(13, "held by another program")
        real(a, b)

    monkeypatch.setattr(os, "replace", stuck)
    assert run_row(job._replace(forgiven=1), done_work)[1] == "done" and job.path.exists()
    assert "held by another program" in caplog.text and "the row is kept" in caplog.text
    from spectral_diffusion.study.rows import sweep_table

    assert sweep_table(tmp_path)["status"].tolist() == ["done"]


# -----------------------------------------------------------------------------------------------------------
# small things


def test_tensorboard_has_each_step_once(tmp_path):
    pytest.importorskip("tensorboard")
    from types import SimpleNamespace as State

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from spectral_diffusion.lab.curves import log_history, log_tensorboard

    def states(a, b):
        return (
            State(step=i, loss=float(i), grad_norm=1.0, lr=1.0, images_per_second=1.0) for i in range(a, b)
        )

    for first, last in ((1, 251), (201, 226), (201, 301)):  # killed twice after the checkpoint of step 200
        for _ in log_tensorboard(states(first, last), tmp_path / "tb", every=10):
            pass
    assert list(log_tensorboard(iter(()), tmp_path / "none")) == [] and not (tmp_path / "none").exists()
    read = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [e.step for e in read.Scalars("train/loss")] == [1, *range(10, 301, 10)]
    history = pd.DataFrame({"step": [0, 100, 200], "loss": [3.0, 2.0, 1.0]})
    for _ in range(2):
        log_history(history, tmp_path / "tb")
    read = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [e.step for e in read.Scalars("history/loss")] == [0, 100, 200] and len(
        read.Scalars("train/loss")
    ) == 31


def test_hints_name_what_can_be_installed():
    "The package is not on an index: a hint names the checkout, and an extra that exists."
    import configparser

    config = configparser.ConfigParser()
    config.read(ROOT / "settings.ini")
    extras = {key.removeprefix("extra_") for key in config["DEFAULT"] if key.startswith("extra_")} | {"dev"}
    found = []
    for path in (ROOT / "spectral_diffusion").rglob("*.py"):
        text = re.sub(r'"\n\s*f?"', "", path.read_text(encoding="utf-8"))  # one hint may take two lines
        assert not re.search(r"pip install [^;\n]*spectral[-_]diffusion", text), path
        found += re.findall(r"pip install -e '\.\[(\w+)\]' in a checkout", text)
    assert len(found) > 10 and set(found) <= extras
    from spectral_diffusion.lab.doctor import examine

    for finding in examine():
        assert "pip install" not in finding.remedy or "pip install -e" in finding.remedy
