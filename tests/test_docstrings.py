"""The examples in docstrings give what they say, and every name of a public face has a docstring."""

import ast
import doctest
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support import ROOT

import mutual

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def documented(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Name and docstring of the module, its classes and its functions, in the order of the file."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        yield name, ast.get_docstring(node) or ""
        for child in node.body:
            yield from documented(child, f"{name}.{getattr(child, 'name', '')}")


SOURCES = {module_name(path): path for path in sorted((ROOT / "mutual").rglob("*.py"))}
EXAMPLES = [
    (module, name, text)
    for module, path in SOURCES.items()
    for name, text in documented(ast.parse(path.read_text()), module)
    if ">>>" in text
]


@pytest.mark.parametrize(("module", "name", "text"), EXAMPLES, ids=[name for _, name, _ in EXAMPLES])
def test_an_example_gives_what_it_says(module, name, text, tmp_path, monkeypatch):
    """It runs with the names of its module, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    names = {"mutual": mutual, "torch": torch, **vars(import_module(module))}
    test = doctest.DocTestParser().get_doctest(text, names, name, str(SOURCES[module]), 0)
    printed: list[str] = []
    with torch.random.fork_rng():
        failed = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=printed.append).failed
    assert not failed, "".join(printed)


FACES = [name for name, path in SOURCES.items() if path.name == "__init__.py" and hasattr(import_module(name), "__all__")]


@pytest.mark.parametrize("face", FACES)
def test_every_name_of_a_face_has_a_docstring(face):
    """Values (registries, constants) have none of their own; the docstring that a dataclass makes up counts as none."""
    module = import_module(face)
    assert module.__doc__
    for name in module.__all__:
        value = getattr(module, name)
        is_class = inspect.isclass(value) and not hasattr(value, "__origin__")  # before Python 3.11 some aliases of types are classes, too
        if is_class or inspect.isfunction(value) or isinstance(value, ModuleType):
            text = value.__doc__ or ""
            assert text, f"{face}.{name}"
            assert not text.startswith(f"{name}("), f"{face}.{name}"
