"""convert_models: the section Arch as the peers of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mutual.recipe.paddleclas.section import Section


@dataclass(frozen=True)
class Model:
    """A model of a config, as a peer.

    Attributes:
        name: of the peer; theirs, such as Student.
        document: the peer's section of a recipe.
        num_classes: outputs.
        undecayed: module paths whose parameters their code takes out of an L2 regularizer by itself (BatchNorm of PPLCNet), as
            `optimizer.groups` name modules.
        lr_scales: learning rates that their code multiplies by itself (`lr_mult_list`), as entries of `optimizer.groups`.
    """

    name: str
    document: dict[str, Any]
    num_classes: int
    undecayed: tuple[str, ...] = ()
    lr_scales: tuple[dict[str, Any], ...] = ()
    outputs: dict[str, str] = field(default_factory=dict)
    """By what losses call an output of theirs (`logits`, `blocks5`, `blocks[7]`) what `at` calls it here."""
    attention: dict[str, Any] = field(default_factory=dict)


def convert_models(arch: Section, settings: Section) -> Sequence[Model]:
    """Returns the models of a config.

    Raises:
        RecipeError: a model that nothing here can stand for.
    """
    raise NotImplementedError
