"""The laws of STYLE 3.1 hold in this tree, and each is able to fail: a small project gets a violation planted
and turns red."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tools import check, laws, readme
from tools.laws import LAWS, ROOT

KERNEL = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
PNG = base64.b64encode(b"not a real picture, but bytes").decode()


def cell(source, kind="code", tags=(), outputs=(), count=None, id="x"):
    c = {"cell_type": kind, "id": id, "metadata": {"tags": list(tags)} if tags else {}, "source": source}
    return {**c, "outputs": list(outputs), "execution_count": count} if kind == "code" else c


def library(module, *exported):
    "The cells of a library page."
    return [
        cell(f"# {module}", "markdown"),
        cell(f"#| default_exp {module}"),
        *(cell(f"#| export\n{s}") for s in exported),
    ]


class Project:
    "A project in a folder; `pages` maps a page name to its cells, in the order of the book."

    def __init__(self, root: Path):
        self.root = root
        for name in ("settings.ini", ".importlinter"):
            shutil.copyfile(ROOT / name, root / name)
        self.pages = {
            "index": [
                cell("# Small\n> A project. See [first](core/first.ipynb).", "markdown"),
                cell("#| label: fig-a\n#| echo: false\n1", outputs=[self.result({"image/png": PNG})]),
            ],
            "core/first": library(
                "core.first", "from __future__ import annotations", "def one():\n    return 1"
            ),
            "signals/second": library(
                "signals.second",
                "from spectral_diffusion.core.first import one",
                "def two():\n    return one() + 1",
            ),
            "bench/b01_small": [
                cell("# Is two two?", "markdown"),
                cell(
                    '# what a sweep may change\npreset = "smoke"\nsizes = [1, 2]\nrate = -1e-3',
                    tags=["parameters"],
                ),
            ],
        }
        self.write()

    def result(self, data):
        return {"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": data}

    def write(self, metadata=None, book=None):
        "Write notebooks, book, package and README; then the project keeps every law."
        for name, cells in self.pages.items():
            path = self.root / "nbs" / f"{name}.ipynb"
            path.parent.mkdir(parents=True, exist_ok=True)
            cells = [{**c, "id": f"c{i}"} for i, c in enumerate(cells)]
            nb = {
                "cells": cells,
                "metadata": KERNEL if metadata is None else metadata,
                "nbformat": 4,
                "nbformat_minor": 5,
            }
            path.write_text(json.dumps(nb, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        (self.root / "nbs/bench/.notest").touch()
        names = book or list(self.pages)
        (self.root / "_quarto.yml").write_text(
            "website:\n  navbar:\n    left: [nbs/index.ipynb]\n  sidebar:\n    contents:\n      -"
            " nbs/index.ipynb\n      - section: Library\n        contents:\n"
            + "".join(
                (
                    f"          - section: {n}\n            contents:\n              - {{file: nbs/{n}.ipynb,"
                    " text: x}\n"
                    if "core" in n
                    else f"          - nbs/{n}.ipynb\n"
                )
                for n in names
                if n != "index"
            )
        )
        self.export()
        for name, body in readme.files(self.root).items() if "index" in self.pages else ():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_bytes(body)

    def export(self):
        shutil.rmtree(self.root / laws.LIB, ignore_errors=True)
        fresh = laws.regenerate(self.root)
        assert not isinstance(fresh, str), fresh
        for name, body in fresh.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_bytes(body)

    def edit(self, name, change):
        "Change the text of a file."
        path = self.root / name
        before = path.read_text()
        path.write_text(change(before))
        assert path.read_text() != before, "the planted change changed nothing"

    def red(self, *expected):
        "The names of the laws that are broken; each must have something to say."
        found = {n: law(self.root) for n, law in LAWS.items()}
        assert all(isinstance(v, str) and v for vs in found.values() for v in vs)
        return {n for n, v in found.items() if v}


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path.resolve())


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_the_tree_keeps_the_law(law):
    assert law(ROOT) == []


def test_a_project_that_keeps_every_law_is_green(project):
    assert {n: law(project.root) for n, law in LAWS.items()} == {n: [] for n in LAWS}


def test_star_import(project):
    project.pages["core/first"][2]["source"] = "#| export\nfrom math import *"
    project.write()
    assert project.red() == {"no_star_import"}


def test_star_import_outside_exported_cells_is_no_matter(project):
    project.pages["core/first"].append(cell("from math import *"))
    project.write()
    assert project.red() == set()


@pytest.mark.parametrize(
    "line",
    [
        "from spectral_diffusion.signals.second import two",
        "import spectral_diffusion.signals.second as s",
        "from spectral_diffusion.signals import second",
        "def f():\n    from spectral_diffusion.signals.second import two\n    return two",
    ],
)
def test_import_from_a_later_page(project, line):
    project.pages["signals/before"] = library("signals.before", line)
    project.write(book=["index", "core/first", "signals/before", "signals/second", "bench/b01_small"])
    assert project.red() == {"imports_in_order"}
    project.write(book=["index", "core/first", "signals/second", "signals/before", "bench/b01_small"])
    assert project.red() == set()


@pytest.mark.parametrize(
    "line",
    [
        "from spectral_diffusion.signals.second import two",  # its own module
        "from spectral_diffusion.signals.ghost import two",
        "from spectral_diffusion.signals import two",
        "from .second import two",
        "this is (no python",
    ],
)
def test_import_of_what_no_earlier_page_exports(project, line):
    project.pages["signals/second"].append(cell(line))
    project.write()
    assert project.red() == {"imports_in_order"}


def test_the_rooms_below_may_come_later_in_the_book(project):
    project.write(book=["index", "signals/second", "bench/b01_small", "core/first"])
    assert project.red() == set()


def test_an_example_from_a_room_above_needs_its_page_before(project):
    project.pages["data/third"] = library("data.third", "def three():\n    return 3")
    project.pages["signals/second"].append(cell("from spectral_diffusion.data.third import three"))
    project.write(book=["index", "core/first", "signals/second", "data/third", "bench/b01_small"])
    assert project.red() == {"imports_in_order"}
    project.write(book=["index", "core/first", "data/third", "signals/second", "bench/b01_small"])
    assert project.red() == set()


def test_a_page_uses_the_new_address_and_a_benchmark_may_keep_the_old_one(project):
    project.pages["core/moved"] = library("core.moved", "MOVED = {'signals.old': 'signals.second'}")
    project.pages["bench/b01_small"].append(cell("from spectral_diffusion.signals.old import two"))
    project.write()
    assert project.red() == set()
    project.pages["core/first"].append(cell("from spectral_diffusion.signals.old import two"))
    project.write()
    found = laws.imports_in_order(project.root)
    assert found == [
        "nbs/core/first.ipynb: imports `spectral_diffusion.signals.old`, which has moved to signals.second"
    ]


def test_magics_and_the_version_are_allowed(project):
    project.pages["signals/second"] += [
        cell("%matplotlib inline\n!ls"),
        cell("%%time\nnot python"),
        cell("from spectral_diffusion import __version__"),
    ]
    project.write()
    assert project.red() == set()


def test_notebook_missing_from_the_book(project):
    project.write(book=["index", "core/first", "bench/b01_small"])
    assert project.red() == {"in_the_book"}


@pytest.mark.parametrize("extra", ["signals/ghost", "core/first"])
def test_book_lists_what_is_not_there_or_twice(project, extra):
    project.write(book=[*project.pages, extra])
    assert project.red() == {"in_the_book"}


def test_page_exports_elsewhere(project):
    project.pages["signals/other"] = library("signals.elsewhere", "x = 1")
    project.write()
    assert project.red() == {"folder_is_subpackage"}


def test_exported_cell_without_default_exp(project):
    project.pages["signals/second"].pop(1)
    project.write()
    assert project.red() == {"folder_is_subpackage"}


def test_numbered_file_name(project):
    project.pages["guide/01_hour"] = [cell("# First hour", "markdown")]
    project.write()
    assert project.red() == {"folder_is_subpackage"}


@pytest.mark.parametrize(
    "metadata", [{}, {"kernelspec": {"display_name": "mine", "language": "python", "name": "mine"}}]
)
def test_kernel_not_named(project, metadata):
    project.write(metadata=metadata)
    assert "kernel_named" in project.red() <= {"kernel_named", "notebooks_clean"}


@pytest.mark.parametrize("kind", ["raw", "markdown"])
def test_skip_exec(project, kind):
    project.pages["guide/hour"] = [
        cell("# Hour\n- skip_exec: true" if kind == "markdown" else "---\nskip_exec: true\n---", kind)
    ]
    project.write()
    assert project.red() == {"no_skipped_page"}


def test_notest_missing_and_notest_elsewhere(project):
    (project.root / "nbs/bench/.notest").rename(project.root / "nbs/core/.notest")
    assert len(LAWS["no_skipped_page"](project.root)) == 2
    assert project.red() == {"no_skipped_page"}


@pytest.mark.parametrize(
    "source",
    [
        'preset = "cpu"\nseeds = 3',
        'seeds = 3\npreset = "smoke"',
        "",
        'preset = "smoke"\nx = int(3)',
        'preset = "smoke"\nimport torch',
        'preset = "smoke"\nx: int',
        'preset = "smoke"\nx = y = 1',
    ],
)
def test_parameters_are_not_plain_literals_after_preset(project, source):
    project.pages["bench/b01_small"][1]["source"] = source
    project.write()
    assert project.red() == {"one_parameters_cell"}


@pytest.mark.parametrize("count", [0, 2])
def test_number_of_parameters_cells(project, count):
    page = project.pages["bench/b01_small"]
    page[1:] = [{**page[1], "metadata": {"tags": ["parameters"]} if count else {}}] * max(count, 1)
    project.write()
    assert project.red() == {"one_parameters_cell"}


def test_cleaning_strips_the_tag(project):
    project.edit("settings.ini", lambda s: s.replace("allowed_cell_metadata_keys = tags", ""))
    assert project.red() == {"parameters_survive_cleaning", "notebooks_clean"}


@pytest.mark.parametrize("stored", ["output", "count"])
def test_benchmark_stores_an_output(project, stored):
    page = project.pages["bench/b01_small"]
    page[1] |= (
        {"outputs": [project.result({"text/plain": "1"})]} if stored == "output" else {"execution_count": 4}
    )
    project.write()
    if stored == "count":  # nbdev_clean removes the count, so plant it after the cleaning
        project.edit(
            "nbs/bench/b01_small.ipynb",
            lambda s: s.replace('"execution_count": null', '"execution_count": 4'),
        )
        assert project.red() == {"benchmarks_store_no_output", "notebooks_clean"}
    else:
        assert project.red() == {"benchmarks_store_no_output"}


def test_module_whose_notebook_is_gone(project):
    project.pages.pop("signals/second")
    (project.root / "nbs/signals/second.ipynb").unlink()
    left = (project.root / "spectral_diffusion/signals/second.py").read_bytes()
    project.write()
    (project.root / "spectral_diffusion/signals").mkdir()
    (project.root / "spectral_diffusion/signals/second.py").write_bytes(left)
    assert project.red() == {"no_orphan_module", "export_in_sync"}


def test_module_written_by_hand(project):
    (project.root / "spectral_diffusion/core/hand.py").write_text("x = 1\n")
    assert project.red() == {"no_orphan_module", "export_in_sync"}


def test_module_edited_by_hand(project):
    project.edit("spectral_diffusion/core/first.py", lambda s: s.replace("return 1", "return 2"))
    assert project.red() == {"export_in_sync"}


def test_notebook_edited_and_not_exported(project):
    project.edit("nbs/core/first.ipynb", lambda s: s.replace("return 1", "return 2"))
    assert project.red() == {"export_in_sync"}


@pytest.mark.parametrize("name", ["core/first.py", "_modidx.py", "core/__init__.py"])
def test_module_not_there(project, name):
    (project.root / "spectral_diffusion" / name).unlink()
    assert "export_in_sync" in project.red() <= {"export_in_sync", "levels"}


def test_notebook_not_clean(project):
    project.edit(
        "nbs/core/first.ipynb", lambda s: s.replace('"metadata": {},', '"metadata": {"collapsed": true},', 1)
    )
    assert project.red() == {"notebooks_clean"}


def test_notebook_that_nbdev_cannot_export_is_said(project):
    project.pages["core/first"].append(cell("#| export\ndef broken(:"))
    with pytest.raises(AssertionError, match="nbdev_clean failed"):
        project.write()
    assert any("nbdev_clean failed" in v for v in LAWS["export_in_sync"](project.root))


def test_import_up_the_levels(project):
    project.pages["learn/loop"] = library("learn.loop", "def train():\n    return 1")
    project.pages["signals/upward"] = library(
        "signals.upward", "from spectral_diffusion.learn.loop import train"
    )
    project.write()
    assert project.red() == {"levels"}
    assert any("signals" in v and "learn" in v for v in LAWS["levels"](project.root))


def test_siblings_that_know_each_other(project):
    project.pages["noise/process"] = library("noise.process", "def diffuse():\n    return 1")
    project.pages["models/net"] = library(
        "models.net", "def f():\n    from spectral_diffusion.noise.process import diffuse\n    return diffuse"
    )
    project.write()
    assert project.red() == {"levels"}


def test_room_without_a_level(project):
    project.pages["attic/box"] = library("attic.box", "x = 1")
    project.write()
    assert project.red() == {"levels"}


@pytest.mark.parametrize("module", ["nbdev.test", "pywt", "fastcore.basics"])
def test_undeclared_import(project, module):
    project.pages["core/first"][2]["source"] = f"#| export\nimport {module}"
    project.write()
    assert project.red() == {"declared_imports"}


def test_import_where_it_is_used_needs_no_declaration(project):
    project.pages["core/first"].append(
        cell("#| export\ndef f():\n    import pywt, yaml, torch\n    return pywt, yaml, torch")
    )
    project.pages["core/first"][2]["source"] = "#| export\nimport torch, yaml, json\nfrom PIL import Image"
    project.write()
    assert project.red() == set()


@pytest.mark.parametrize("start", ["", "../.."])
@pytest.mark.parametrize("where", ["output", "source", "result"])
def test_machine_path(project, where, start):
    path = "/".join([start, "home", "someone", "x.py"])
    if where == "result":
        (project.root / "results/b01/abc").mkdir(parents=True)
        (project.root / "results/b01/abc/system.json").write_text(json.dumps({"file": path}))
    elif where == "source":
        project.pages["core/first"].append(cell(f"open('{path}')"))
    else:
        project.pages["core/first"].append(
            cell(
                "1", outputs=[{"output_type": "stream", "name": "stderr", "text": f"a\n{path}:1: warning\n"}]
            )
        )
    project.write()
    assert project.red() == {"no_machine_path"}


def test_addresses_and_pictures_are_no_machine_paths(project):
    path = "/".join(["", "home", "someone"])
    project.pages["core/first"].append(
        cell(f"# https://example.org{path}\n1", outputs=[project.result({"image/png": path})])
    )
    project.write()
    assert project.red() == set()


@pytest.mark.parametrize("name", ["=0.5", "nbs/core/a b.txt", "results/x'y"])
def test_a_name_that_is_a_slip(project, name):
    (project.root / name).write_text("")
    assert project.red() == {"plain_names"}


@pytest.mark.parametrize("name", ["README.md", "results/readme/fig-a.png"])
def test_readme_not_generated(project, name):
    (project.root / name).write_bytes((project.root / name).read_bytes() + b"by hand\n")
    assert project.red() == {"readme_current"}
    (project.root / name).unlink()
    assert project.red() == {"readme_current"}


def test_index_missing(project):
    project.pages.pop("index")
    (project.root / "nbs/index.ipynb").unlink()
    assert {"readme_current", "in_the_book"} == project.red()


def test_readme_text(project):
    project.pages["index"] += [
        cell(
            '::: {.callout}\nsee ![a](../results/b01/x.png), <img src="../results/y.png">,'
            " [web](https://a.b/c.ipynb), [here](#part)\n:::",
            "markdown",
        ),
        cell("#| hide\nsecret = 1"),
        cell("---\ntitle: x\n---", "raw"),
        cell(
            "print('shown')",
            outputs=[
                {"output_type": "stream", "name": "stdout", "text": ["shown\n"]},
                {"output_type": "stream", "name": "stderr", "text": "noise"},
            ],
        ),
        cell(
            "#| echo: false\ntable",
            outputs=[
                project.result(
                    {"text/markdown": "| a |\n|---|\n| [1](core/first.ipynb) |", "text/plain": "no"}
                )
            ],
        ),
    ]
    project.write()
    body = (project.root / "README.md").read_text()
    for part in (
        "# Small\n",
        "[first](nbs/core/first.ipynb)",
        "![](results/readme/fig-a.png)",
        "![a](results/b01/x.png)",
        'src="results/y.png"',
        "https://a.b/c.ipynb",
        "(#part)",
        "```python\nprint('shown')\n```\n\n```text\nshown\n```",
        "| [1](nbs/core/first.ipynb) |",
    ):
        assert part in body, part
    for part in (":::", "secret", "title: x", "noise", "table\n", "no |"):
        assert part not in body, part
    assert (project.root / "results/readme/fig-a.png").read_bytes() == base64.b64decode(PNG)


def record(project, name, loss):
    "A complete run in a project."
    folder = project.root / "results" / "demo" / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("bench: demo\nseed: 0\n")
    (folder / "system.json").write_text('{"commit": "abc", "processor": "p", "gpu": null}')
    (folder / "metrics.json").write_text(json.dumps({"loss": loss}))
    return folder


def test_the_ledger_is_not_what_the_records_say(project):
    first = record(project, "0123456789ab", 0.5)
    assert project.red() == {"ledger_current"}
    ledger = project.root / "results/summary.csv"
    ledger.write_bytes(laws.derived_ledger({first}))
    assert project.red() == set() and ledger.read_text().count("0123456789ab") == 1
    (first / "metrics.json").write_text('{"loss": 0.25}')
    assert project.red() == {"ledger_current"}
    shutil.rmtree(first)
    assert project.red() == {"ledger_current"}


def test_a_record_that_git_does_not_hold_may_stay_out_of_the_ledger(project):
    first = record(project, "0123456789ab", 0.5)
    ledger = project.root / "results/summary.csv"
    ledger.write_bytes(laws.derived_ledger({first}))
    for words in (["init", "--quiet"], ["add", "results"]):
        subprocess.run(["git", *words], cwd=project.root, check=True)
    second = record(project, "ba9876543210", 0.75)
    assert project.red() == set()
    ledger.write_bytes(laws.derived_ledger({first, second}))
    assert project.red() == set()
    ledger.write_bytes(laws.derived_ledger({second}))
    assert project.red() == {"ledger_current"}


def test_every_law_has_a_planted_violation():
    "The names of the laws appear in an assertion above, each at least once."
    source = Path(__file__).read_text()
    assert [n for n in LAWS if f'"{n}"' not in source] == []


def test_check_takes_several_stages(monkeypatch):
    ran = []
    monkeypatch.setattr(
        check,
        "STAGES",
        {name: lambda name=name: ran.append(name) or "" for name in ("clean", "ruff", "site")},
    )
    monkeypatch.setattr(check, "tests", lambda rows: ran.append("tests") or 0)
    for words, stages in (
        (["--only", "site", "ruff"], ["ruff", "site"]),
        (["--only", "clean", "--only", "ruff", "tests"], ["clean", "ruff", "tests"]),
        ([], ["clean", "ruff", "site", "tests"]),
    ):
        ran.clear()
        assert check.main(words) == 0 and ran == stages
    with pytest.raises(SystemExit, match="2"):
        check.main(["--only", "ruff", "levles"])


class Ended:
    "In the place of a process of pytest that is over."

    stdout = ("1 passed\n",)

    def wait(self):
        return 0


def test_laws_are_asked_once_and_long_forms_when_wanted(monkeypatch):
    seen = []
    monkeypatch.setattr(check, "LONG", False)
    monkeypatch.setattr(check.subprocess, "Popen", lambda command, **options: seen.append(command) or Ended())
    again = "tests/test_laws.py::test_the_tree_keeps_the_law"
    for rows in ([], [("clean", "ok", 1.0, "")], [("clean", "ok", 1.0, ""), ("levels", "ok", 1.0, "")]):
        check.tests(rows)
    assert [again in command for command in seen] == [False, False, True]
    assert not any("--long" in command for command in seen)
    assert check.main(["--only", "tests", "--long"]) == 0 and "--long" in seen[-1]


def test_the_long_forms_run_once_a_week():
    import yaml

    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "test-all.yml").read_text())
    (when,) = flow[True]["schedule"]  # YAML 1.1 takes the key `on` for a truth
    assert re.fullmatch(r"\d+ \d+ \* \* [0-6]", when["cron"])
    assert {"run": "make test-all"} in flow["jobs"]["test"]["steps"]
    shown = subprocess.run(["make", "-n", "test-all"], cwd=ROOT, capture_output=True, text=True).stdout
    assert "tools/check.py --long" in shown


BOOKS = """SOURCES = '''
Sun, Poor and Zhang 2026 | A law of tangents | arXiv
Wiener 1949 | Smoothing | Wiley
'''
NO_SOURCES = {"JPEG 2000"}
CITED = re.compile(r"([A-Z]\\w+(?:(?:, [A-Z]\\w+)* and [A-Z]\\w+| et al\\.)?),? \\(?((?:19|20)\\d\\d)")"""


def with_sources(project, text):
    "The small project with a bibliography, and a page that cites."
    project.pages["guide/bibliography"] = [cell("# Sources", "markdown"), cell(BOOKS)]
    project.pages["guide/text"] = [cell("# Text\n" + text, "markdown")]
    project.write()


@pytest.mark.parametrize(
    "text",
    [
        "Sun, Poor and Zhang 2026 after Wiener (1949).",
        "Sun et al. 2026, Wiener 1949, JPEG 2000.",
        "Sun, Poor\nand Zhang 2026; Wiener\n1949.",
    ],
)
def test_cited_sources_are_listed(project, text):
    with_sources(project, text)
    assert project.red() == set()


@pytest.mark.parametrize(
    "text, said",
    [
        (
            "Sun et al. 2026, Wiener 1949, Shannon 1948.",
            "nbs/guide/text.ipynb cites Shannon 1948, which is not in nbs/guide/bibliography.ipynb",
        ),
        (
            "Sun et al. 2026, Wiener 1949, Sun et al. 2025.",
            "nbs/guide/text.ipynb cites Sun et al. 2025, which is not in nbs/guide/bibliography.ipynb",
        ),
        ("Wiener 1949.", "nbs/guide/bibliography.ipynb lists Sun, Poor and Zhang 2026, which no page cites"),
    ],
)
def test_source_that_is_missing_or_not_cited(project, text, said):
    with_sources(project, text)
    assert project.red() == {"sources_cited"}
    assert laws.sources_cited(project.root) == [said]
