"""The files around the code: changelog, contributing, workflows, hooks, issue forms."""

import configparser
import json
import re
from pathlib import Path

import pytest
import yaml

from tools import check

ROOT = Path(__file__).resolve().parents[1]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def settings() -> dict[str, str]:
    config = configparser.ConfigParser(delimiters=["="])
    config.read_string(text("settings.ini"))
    return dict(config["DEFAULT"])


def test_the_versions_of_python_in_the_workflow_are_those_of_setup():
    declared = re.findall(r"Python :: (3\.\d+)", text("setup.py"))
    workflow = yaml.safe_load(text(".github/workflows/test.yml"))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == declared
    assert declared[0] == settings()["min_python"]


def test_one_version_everywhere():
    version = settings()["version"]
    assert yaml.safe_load(text("CITATION.cff"))["version"] == version
    assert f'__version__ = "{version}"' in text("spectral_diffusion/__init__.py")
    first = re.search(r"^## (\S+) \(tag `v(\S+)`\)$", text("CHANGELOG.md"), re.M)
    assert first and first[1] == first[2] == version


def test_the_changelog_has_short_lines_under_versions():
    lines = [line for line in text("CHANGELOG.md").splitlines()[4:] if line.strip()]
    assert all(re.match(r"## \d+\.\d+\.\d+ |### [A-Z]|- ", line) for line in lines)
    assert max(map(len, lines)) <= 140


def test_contributing_is_read_in_one_go():
    assert text("CONTRIBUTING.md").count("\n") < 120


def test_the_hook_runs_stages_that_there_are():
    (repo,) = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    (hook,) = repo["hooks"]
    program, script, only, *stages = hook["entry"].split()
    assert (script, only) == ("tools/check.py", "--only") and (ROOT / script).is_file()
    assert stages == [name for name in check.STAGES if name in stages]  # all known, in their order


@pytest.mark.parametrize("name", ["wrong_number", "new_sampler", "new_claim"])
def test_an_issue_form_asks_for_what_is_needed(name):
    form = yaml.safe_load(text(f".github/ISSUE_TEMPLATE/{name}.yml"))
    assert form["name"] and form["description"] and form["labels"]
    asked = [part for part in form["body"] if part["type"] in ("input", "textarea")]
    assert sum(part.get("validations", {}).get("required", False) for part in asked) >= 3
    ids = [part["id"] for part in form["body"]]
    assert len(set(ids)) == len(ids) and all(part["attributes"]["label"] for part in form["body"])


def test_a_page_puts_back_what_it_patched():
    "Pages share a process when they are tested: a patch that stays would change the pages after it."
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        started = [found.end() for found in re.finditer(r"\bpatch\b.*\)\.start\(\)", code)]
        assert not started or code.rfind("patch.stopall()") > started[-1], path.name
