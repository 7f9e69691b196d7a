"""take_weights: the weights that a model of a config begins with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from mutual.recipe.paddleclas.section import Section
from mutual.recipe.paddleclas.zoo_names import Counterpart
from mutual.recipe.peers import PRETRAINED
from mutual.recipe.text import format_value

_SUFFIX = ".pdparams"
_SUFFIXES = (_SUFFIX, ".pdema", ".safetensors", ".pth", ".pt", ".bin", ".ckpt")
"""Files whose names are whole; theirs are named without the suffix."""


@dataclass(frozen=True)
class Weights:
    """A weights file that a config names; without a file, none.

    Attributes:
        file: its path.
        prefix: what stands before the model's names in it.
        head: of a peer's `weights`: new where the model's classifier is not among them, auto where theirs passes over another one.
    """

    file: str = ""
    prefix: str = ""
    head: str = "keep"

    @classmethod
    def of(cls, section: Section, key: str, path: Any) -> Weights:
        """Returns what an entry names; theirs leave the suffix away. Null and false name nothing.

        Raises:
            RecipeError: it is no path.
        """
        if path in (None, False, ""):
            return cls()
        if not isinstance(path, str):
            raise section.error(key, f"{format_value(path)} is no path of a weights file")
        if path.startswith(("http://", "https://")):
            file = path.rstrip("/").rpartition("/")[2]
            section.remark(f"fetch {path} first, into the folder in which you train; nothing is downloaded from there", key)
            return cls(file)
        return cls(path if path.endswith(_SUFFIXES) else f"{path}{_SUFFIX}")

    def __bool__(self) -> bool:
        """Whether there is a file."""
        return bool(self.file)

    def behind(self, prefix: str) -> Weights:
        """Returns those tensors of the file whose names begin with `prefix`."""
        return replace(self, prefix=f"{self.prefix}{prefix}") if self else self

    @property
    def value(self) -> str | dict[str, str]:
        """What a peer's `weights` says."""
        section = (
            {"file": self.file} | ({"prefix": self.prefix} if self.prefix else {}) | ({"head": self.head} if self.head != "keep" else {})
        )
        return section if len(section) > 1 else self.file


def given_file(section: Section, key: str) -> Weights:
    """Returns the weights file that an entry of a section names."""
    return Weights.of(section, key, section.take(key))


def take_weights(
    section: Section, architecture: str, counterpart: Counterpart, given: Weights, *, is_frozen: bool
) -> tuple[Any, dict[str, Any]]:
    """Returns `weights` of a peer, null where it begins with initial ones, and the arguments that choose between published ones.

    Args:
        section: of the model, with `pretrained` and `use_ssld`.
        architecture: their name.
        counterpart: what stands for it.
        given: the file that other sections name, which is loaded last.
        is_frozen: the model only teaches, which it cannot without weights.

    Raises:
        RecipeError: `pretrained` is neither true nor false nor a path, or a frozen model's weights do not fit.
    """
    pretrained = section.take("pretrained", default=False)
    is_published, is_distilled = _published(pretrained, architecture)
    if given and pretrained is not False:
        section.remark(f"{given.file} is loaded behind it, and replaces it", "pretrained")
    if is_published and not given and not counterpart.library:
        is_distilled = section.flag("use_ssld") or is_distilled
        return PRETRAINED, {"use_ssld": True} if is_distilled else {}
    section.pass_over("use_ssld")
    if is_published and not given:
        if counterpart.has_weights:
            return PRETRAINED, {}
        _leave_out(section, pretrained, f"there are no weights that fit {counterpart.model}", is_frozen=is_frozen)
        return None, {}
    weights = given or Weights.of(section, "pretrained", pretrained)
    if weights and counterpart.library and PurePath(weights.file).suffix == _SUFFIX:
        _leave_out(section, weights.file, f"weights of PaddleClas do not fit {counterpart.model}", is_frozen=is_frozen)
        return None, {}
    if is_frozen and not weights:
        section.remark("there are none, so that it teaches what its initial weights say; name a file here", "pretrained")
    if weights.head == "keep" and not is_frozen:
        weights = replace(weights, head="auto")
    return weights.value if weights else None, {}


def _published(pretrained: Any, architecture: str) -> tuple[bool, bool]:
    """Returns whether the weights are those that PaddleClas publishes, and whether they are its distilled ones."""
    for is_distilled, kind in ((False, ""), (True, "ssld_")):
        if (
            isinstance(pretrained, str)
            and pretrained.startswith("http")
            and pretrained.endswith(f"/{architecture}_{kind}pretrained{_SUFFIX}")
        ):
            return True, is_distilled
    return pretrained is True, False


def _leave_out(section: Section, value: Any, why: str, *, is_frozen: bool) -> None:
    if is_frozen:
        raise section.error(
            "pretrained", f"{why}, and a frozen model has nothing to teach without; give a file of its own (FILE.safetensors, FILE.pth)"
        )
    section.put_back("pretrained", value)
    section.leave_out("pretrained", f"{why}; it begins with initial weights")
