"""What pyproject.toml declares is what the package imports, and CI can install the lowest versions of it."""

import ast
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from support import ROOT

OPTIONAL = {"datasets", "mlflow", "onnx", "onnxruntime", "pyarrow", "trackio", "wandb"}


def imported():
    """The packages that modules of ours import, without the standard library's and our own."""
    found = set()
    for path in (ROOT / "mutual").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").split(".")[0])
    return found - set(sys.stdlib_module_names) - {"mutual"}


def test_everything_that_is_imported_is_declared():
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {Requirement(text).name.lower() for text in project["dependencies"]}
    names = packages_distributions()
    assert {"torch", "numpy", "yaml", "PIL"} <= imported()
    for package in imported() - OPTIONAL:
        assert {name.lower() for name in names[package]} & declared, f"pyproject.toml does not declare {package}"


def test_every_dependency_says_the_lowest_version_that_ci_installs():
    done = subprocess.run([sys.executable, ROOT / ".ci" / "lowest.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {"torch==2.6", "timm==1.0.12", "pytest==8"} <= set(lines)
    assert len(lines) == len({line.split("==")[0] for line in lines}), "a package has one lowest version"
