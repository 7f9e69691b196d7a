"""Versions of mutual and of the packages that it needs or can use, and whether they are at least those that it declares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mutual.engine.runtime import installed_version
from mutual.group import nccl_version

_NOT_FOR_USERS = ("test", "dev")
"""Extras that serve the project's own checks."""
_ALWAYS_SHOWN = {
    **dict.fromkeys(("torch", "torchvision", "accelerate", "timm", "numpy", "pillow", "safetensors", "torchmetrics")),
    **dict.fromkeys(("datasets", "pyarrow"), "hf"),
    **dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "export"),
    **dict.fromkeys(("wandb", "trackio", "mlflow"), "tracking"),
}
"""By name the extra of what is looked for in any case: mutual may run from its folder, or its installation be older than its code."""


@dataclass(frozen=True)
class Package:
    """A package that mutual needs or can use.

    Attributes:
        name: as pip calls it.
        version: the one that is installed, or None.
        required: the versions that mutual declares, such as `>=2.6`, or an empty text.
        extra: the extra of mutual that it belongs to; None: mutual does not run without it.
    """

    name: str
    version: str | None
    required: str = ""
    extra: str | None = None

    @property
    def is_missing(self) -> bool:
        """True where mutual needs it and it is not installed."""
        return self.version is None and self.extra is None

    @property
    def is_unfit(self) -> bool:
        """True where another version is installed than mutual declares."""
        return self.version is not None and not SpecifierSet(self.required).contains(self.version, prereleases=True)


@dataclass(frozen=True)
class TorchBuild:
    """What torch was built with.

    Attributes:
        cuda: version of CUDA, or None.
        rocm: version of ROCm, or None.
        cudnn: version of cuDNN, or None.
        nccl: version of NCCL, or None.
    """

    cuda: str | None = None
    rocm: str | None = None
    cudnn: str | None = None
    nccl: str | None = None


def read_packages(own_version: str) -> tuple[Package, ...]:
    """Returns mutual itself, which is of `own_version`, and the packages that it declares, those of its extras last."""
    try:
        declared = requires("mutual") or []
    except PackageNotFoundError:
        declared = []
    return (Package("mutual", own_version), *declared_packages(declared))


def declared_packages(declared: Iterable[str]) -> tuple[Package, ...]:
    """Returns the packages of `declared`, requirements such as `onnx>=1.17; extra == "export"`, and those that are always shown."""
    packages = {name: Package(name, installed_version(name), extra=extra) for name, extra in _ALWAYS_SHOWN.items()}
    extras_of: dict[str, set[str | None]] = {}
    for requirement in map(Requirement, declared):
        extras_of.setdefault(requirement.name, set()).add(_extra_of(requirement))
        extras = extras_of[requirement.name] - set(_NOT_FOR_USERS)
        if extras and (_extra_of(requirement) is not None or requirement.marker is None or requirement.marker.evaluate()):
            extra = None if None in extras else min(filter(None, extras))
            packages[requirement.name] = Package(requirement.name, installed_version(requirement.name), str(requirement.specifier), extra)
    return tuple(sorted(packages.values(), key=lambda package: package.extra is not None))


def read_torch_build() -> TorchBuild:
    """Returns what torch was built with."""
    cudnn = torch.backends.cudnn.version() if torch.version.cuda else None
    return TorchBuild(torch.version.cuda, torch.version.hip, None if cudnn is None else _cudnn_name(cudnn), nccl_version())


def _cudnn_name(number: int) -> str:
    """Returns cuDNN's version as it is written: 90501 is 9.5.1, and before version 9 there was a digit less."""
    major, rest = divmod(number, 10_000 if number >= 90_000 else 1_000)
    return f"{major}.{rest // 100}.{rest % 100}"


def _extra_of(requirement: Requirement) -> str | None:
    """Returns the extra that a requirement belongs to; several of one requirement are not written."""
    _, _, name = str(requirement.marker or "").partition("extra == ")
    return name.strip("\"'() ") or None
