"""Packages whose names are imported when they are first used: they list them, and no module hides one."""

import sys
from importlib import import_module
from pkgutil import iter_modules

import pytest

import mutual
from mutual.lazy import lazy_attributes

LAZY = ["mutual", "mutual.data", "mutual.models", "mutual.engine", "mutual.engine.comparison", "mutual.engine.storage"]


@pytest.mark.parametrize("name", LAZY)
def test_every_name_of_a_lazy_package_is_listed_and_found(name):
    package = import_module(name)
    assert set(package.__all__) <= set(dir(package))
    for attribute in package.__all__:
        getattr(package, attribute)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.parametrize("name", LAZY)
def test_no_name_is_a_modules_too(name):
    """Whoever imports that module first would get it in the name's place; `predict` is a module that can be called."""
    package = import_module(name)
    modules = {module.name for module in iter_modules(package.__path__)}
    assert modules & set(package.__all__) == ({"predict"} if name == "mutual" else set())
    assert callable(mutual.predict)


def test_a_name_is_imported_once(monkeypatch):
    package = type(sys)("lazy_package")
    monkeypatch.setitem(sys.modules, "lazy_package", package)
    package.__getattr__, package.__dir__ = lazy_attributes("lazy_package", {"math": ["tau"]})
    package.__all__ = ["tau"]
    assert "tau" in package.__dir__()
    assert package.tau == package.__dict__["tau"]
