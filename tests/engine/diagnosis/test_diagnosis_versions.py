"""Which packages are shown, and whether they are those that mutual declares."""

import pytest
from packaging.requirements import Requirement
from support import ROOT

from mutual.engine.diagnosis import versions as module
from mutual.engine.diagnosis.versions import Package, declared_packages, read_packages, read_torch_build

DECLARED = [
    "torch>=2.6",
    "zzz>=1",
    'onnx>=1.17; extra == "export"',
    'onnx>=1.17; extra == "test"',
    'pytest>=8; extra == "test"',
    'ruff; extra == "dev"',
    'absent>=3; python_version < "3"',
]


def by_name(packages):
    return {package.name: package for package in packages}


def test_what_serves_tests_alone_is_not_shown_and_extras_come_last(monkeypatch):
    monkeypatch.setattr(module, "installed_version", {"torch": "2.7.1+cu128"}.get)
    packages = declared_packages(DECLARED)
    found = by_name(packages)
    assert found["torch"] == Package("torch", "2.7.1+cu128", ">=2.6")
    assert found["onnx"] == Package("onnx", None, ">=1.17", "export")
    assert not {"pytest", "ruff", "absent"} & found.keys()
    is_extra = [package.extra is not None for package in packages]
    assert is_extra == sorted(is_extra)


@pytest.mark.parametrize(
    ("version", "required", "is_unfit"),
    [
        ("2.6.0", ">=2.6", False),
        ("2.10", ">=2.6", False),  # as numbers, not as texts
        ("2.5.1+cu121", ">=2.6", True),
        ("2.6.0+cpu", ">=2.6", False),
        ("2.7.0.dev20250101", ">=2.6", False),
        ("1", "", False),
        (None, ">=2.6", False),
    ],
)
def test_a_version_is_compared_with_the_lowest(version, required, is_unfit):
    assert Package("torch", version, required).is_unfit == is_unfit


def test_a_package_is_missing_where_mutual_needs_it():
    assert Package("torch", None, ">=2.6").is_missing
    assert not Package("onnx", None, ">=1.17", "export").is_missing
    assert not Package("torch", "2.6").is_missing


def test_without_an_installation_the_usual_packages_are_shown(monkeypatch):
    def none(name):
        raise module.PackageNotFoundError

    monkeypatch.setattr(module, "requires", none)
    packages = by_name(read_packages("1.2.3"))
    assert packages["mutual"].version == "1.2.3"
    assert packages["torch"].version is not None
    assert packages["torch"].required == ""


def test_what_is_always_shown_is_declared_under_the_same_extra():
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra_of = {Requirement(text).name: extra for extra, texts in project["optional-dependencies"].items() for text in texts}
    extra_of |= {Requirement(text).name: None for text in project["dependencies"]}
    for name, extra in module._ALWAYS_SHOWN.items():
        if name != "mlflow":  # brings a server
            assert name in extra_of, name
            assert extra is None or name in {Requirement(text).name for text in project["optional-dependencies"][extra]}


def test_torchs_build_is_read():
    build = read_torch_build()
    assert (build.cudnn is None) or build.cuda is not None
    assert module._cudnn_name(90501) == "9.5.1"
    assert module._cudnn_name(8902) == "8.9.2"
