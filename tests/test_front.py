"""The first screen: names at the top of the package, the code of README.md, and what a reader meets first."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spectral_diffusion.core.front import FRONT
from spectral_diffusion.data.real import find_cifar10

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_of(readme: str) -> list[str]:
    "The Python blocks of a text."
    return re.findall(r"^```python\n(.*?)^```", readme, flags=re.M | re.S)


def words_of(text: str) -> int:
    "Words outside of code blocks and of addresses."
    prose = re.sub(r"^```.*?^```|<!--.*?-->", "", text, flags=re.M | re.S)
    prose = re.sub(r"\]\([^)]*\)", "]", prose)
    return len(re.findall(r"\w[\w'.-]*", prose))


def test_a_type_checker_sees_the_names_that_are_looked_up():
    tree = ast.parse((ROOT / "spectral_diffusion" / "__init__.py").read_text(encoding="utf-8"))
    guarded = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for block in guarded for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {name.asname: node.module for node in imports for name in node.names} == FRONT


def test_the_package_alone_imports_nothing_heavy():
    heavy = ["torch", "numpy", "pandas", "matplotlib", "torchvision", "scipy"]
    ask = f"import sys, spectral_diffusion; print([n for n in {heavy} if n in sys.modules])"
    said = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


@pytest.mark.skipif(find_cifar10() is None, reason="no copy of CIFAR-10 on this machine")
def test_the_code_of_the_readme_runs_as_printed(tmp_path):
    (code,) = code_of(README)
    check = """
assert new.shape == (16, 3, 32, 32) and new.isfinite().all() and state.step == 50
from spectral_diffusion.run.held_out import evaluation_set, squared_errors
held_out = evaluation_set(cifar10("test").x, 256)
fresh = build_model({"name": "unet_tiny", "base": 16})
fresh = wrap(fresh, process, preconditioning="spectral", statistics=field)
assert squared_errors(denoiser, held_out).mean() < squared_errors(fresh, held_out).mean()
"""
    env = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error::UserWarning", "-c", code + check]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    losses = [float(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(losses) == 50 and all(0 < loss < 0.2 for loss in losses)  # predicting no noise scores one
    assert not list(tmp_path.iterdir())  # it writes nothing


def test_the_code_of_the_readme_uses_names_of_the_top_alone():
    (code,) = code_of(README)
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert all(isinstance(n, ast.ImportFrom) and n.module == "spectral_diffusion" for n in imports)
    assert {a.name for n in imports for a in n.names} <= set(FRONT)


def test_the_readme_is_short_and_begins_with_what_to_type():
    assert words_of(README) < 700
    before = README[: README.index("```")]
    assert words_of(before) < 120 and before.count("![") == 1
    assert "git clone" in README[: README.index("```python")]
    tables = re.findall(r"(?:^\|.*\n)+", README, flags=re.M)
    assert all(table.count("\n") - 2 <= 10 for table in tables)
