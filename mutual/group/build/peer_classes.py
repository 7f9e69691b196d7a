"""The classes of a peer: with how many outputs its model is built, and which of them stand for classes of the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mutual.group.build.data_spec import DataSpec
from mutual.models import ClassMap, ModelCard, class_columns, match_indices, match_names, pretrained_classes
from mutual.recipe import PRETRAINED, Recipe, program_file


def num_outputs(recipe: Recipe, name: str, card: ModelCard | None, data: DataSpec) -> int | None:
    """Returns with how many outputs a peer's model is built; None: with those of the zoo's own weights."""
    spec = recipe.peers[name]
    if spec.head == "none":
        return 0
    if recipe.is_trained(name):
        return data.num_classes
    names = _given_names(recipe, name)
    if names is not None and card is not None and len(names) != card.num_classes:
        raise recipe.error(f"peers.{name}.classes", f"{len(names)} names for the model's {card.num_classes} outputs; give one for each")
    if names is not None and spec.weights != PRETRAINED:
        return len(names)
    if card is not None:
        return card.num_classes
    return None if spec.weights == PRETRAINED else data.num_classes


def check_own_classifier(recipe: Recipe, name: str, model: nn.Module) -> None:
    """Refuses a frozen peer with the zoo's weights and a classifier of another width, which nothing would have trained."""
    spec = recipe.peers[name]
    if not spec.frozen or spec.weights != PRETRAINED or spec.head == "none":
        return
    config = getattr(model, "pretrained_cfg", None)
    own = config.get("num_classes") if isinstance(config, dict) else len(pretrained_classes(spec.model) or ())
    asked, names = spec.args.get("num_classes", own), _given_names(recipe, name)
    if own and asked != own:
        raise recipe.error(
            f"peers.{name}.args.num_classes",
            f"the pretrained classifier has {own} outputs, and a frozen peer would teach with one of {asked} that nothing has trained; "
            "take this away, `classes` says which outputs are the data's",
        )
    if own and names is not None and len(names) != own:
        raise recipe.error(f"peers.{name}.classes", f"{len(names)} names for the model's {own} outputs; give one for each, or indices")


def classes_of(recipe: Recipe, name: str, model: nn.Module, num_built: int | None, card: ModelCard | None, data: DataSpec) -> ClassMap:
    """Returns which outputs stand for which classes of the data; `num_built`: how many the model was asked to have, None: the zoo's."""
    spec, given = recipe.peers[name], recipe.peers[name].classes
    if not data.class_names or spec.head == "none":
        return ClassMap()
    program = program_file(spec.model)
    where = "classes" if given != "auto" else "weights" if program is None else "model"
    file = program or (spec.weights_file.file if spec.weights_file is not None else spec.weights)
    try:
        if recipe.is_trained(name):
            has_new_head = spec.weights_file is not None and spec.weights_file.head != "keep"
            columns = None if card is None or has_new_head else class_columns(card.class_names, data.class_names)
        elif isinstance(given, list) and not isinstance(given[0], str):
            num_asked = None if program is not None and card is None else num_built  # a program has the outputs that it has
            num_outputs: Any = spec.args.get("num_classes") or num_asked or getattr(model, "num_classes", None) or 1000
            return match_indices(given, int(num_outputs), data.num_classes)
        else:
            names = _names(recipe, name, card)
            return ClassMap() if names is None else match_names(names, data.class_names)
    except ValueError as error:
        raise recipe.error(f"peers.{name}.{where}", str(error) if where == "classes" else f"{file}: {error}") from error
    if columns is not None:
        raise recipe.error(f"peers.{name}.weights", f"{file} has the data's classes in another order, which only a frozen peer can have")
    return ClassMap()


def _given_names(recipe: Recipe, name: str) -> list[str] | None:
    """Returns the names of classes that the recipe gives, itself or by a file with a name a line; None where it gives none."""
    given = recipe.peers[name].classes
    if isinstance(given, list):
        names = [entry for entry in given if isinstance(entry, str)]
        return names if len(names) == len(given) else None
    if given == "auto":
        return None
    try:
        names = [line.strip() for line in Path(given).read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (OSError, ValueError) as error:  # a path may hold a character that no file's name has
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise recipe.error(f"peers.{name}.classes", f"{given} cannot be read ({reason}); give a text file with a class a line") from error
    if len(names) < 2:
        raise recipe.error(f"peers.{name}.classes", f"{given} has {len(names)} lines; give a text file with a class a line")
    return names


def _names(recipe: Recipe, name: str, card: ModelCard | None) -> Sequence[str | Sequence[str]] | None:
    """Returns the classes of a frozen peer's outputs, or None where nothing says them."""
    spec = recipe.peers[name]
    given = _given_names(recipe, name)
    if given is not None:
        return given
    if card is not None:
        return card.class_names
    return pretrained_classes(spec.model) if spec.weights == PRETRAINED else None
