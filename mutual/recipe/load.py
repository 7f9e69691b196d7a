"""load_recipe, convert_recipe, parse_recipe, dump_recipe: recipes from files and dicts, checked once and for good, and back to text."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from mutual.recipe.base import Spec
from mutual.recipe.checks import check
from mutual.recipe.document import Recipe
from mutual.recipe.errors import Fault, Origin, RecipeError, did_you_mean
from mutual.recipe.faults import faults_of
from mutual.recipe.limits import MAX_CANDIDATES, MAX_RECIPE_BYTES, Extent, LimitError, measure
from mutual.recipe.overrides import apply_overrides
from mutual.recipe.own_loss import LossTraits
from mutual.recipe.paddleclas import Conversion, convert_config, is_config, is_override
from mutual.recipe.syntax import YamlError, dump_yaml, parse_yaml
from mutual.recipe.text import format_value

_SURELY_READABLE = Extent(500, 4096, 16)  # far below the limits, as defaults, escapes and indentation make the text longer
SectionT = TypeVar("SectionT", bound=Spec)


def load_recipe(recipe: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Returns a checked recipe.

    Args:
        recipe: a YAML file, or what such a file says as a dict, which is left as it is. Errors call a dict `recipe`. The file may be a
            config of PaddleClas, which is converted; a warning names what of it has no counterpart here.
        overrides: changes of the form `key.path=value`; those of a config's own keys (`Global.epochs=3`) are made before it is converted.

    Raises:
        RecipeError: whatever is wrong with the file, the recipe or the overrides, all of it in one line each.

    Example:
        >>> document = {"name": "demo", "peers": {"a": {"model": "small_cnn"}}, "objectives": [{"loss": "cross_entropy"}]}
        >>> load_recipe(document, ["train.epochs=3"]).train.epochs
        3
        >>> load_recipe({**document, "seed": "zero"})
        Traceback (most recent call last):
        mutual.recipe.errors.RecipeError: recipe: seed: 'zero' is no whole number
    """
    if isinstance(recipe, str | os.PathLike):
        source = os.fspath(recipe)
        document = _parse(Path(source))
        if is_config(document):
            document, overrides = _converted(document, source, overrides)
    else:
        source = "recipe"
        document = _copy(recipe, source)
    document = _sections(document, source)
    return _validate(document, Origin(source, apply_overrides(document, overrides)))


def convert_recipe(config: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Conversion:
    """Returns a config of PaddleClas as the document of a recipe, which `load_recipe` would make of it, with what there is to say of it.

    Raises:
        RecipeError: whatever is wrong with the file or the overrides, or with the recipe that comes of it.
    """
    source = os.fspath(config)
    content = _parse(Path(source))
    if isinstance(content, Mapping) and "base_config_file" in content:
        why = f"is searched from: convert {format_value(content['base_config_file'])}; `mutual.compare` trains it with lists of values"
        raise RecipeError([Fault("base_config_file", why)], source=source)
    if not is_config(content):
        raise RecipeError([Fault("", "no config of PaddleClas: there is no section Arch")], source=source)
    conversion = convert_config(content, source=source, overrides=overrides)
    parse_recipe(conversion.document, source=source)
    return conversion


def parse_recipe(document: Mapping[str, Any], *, source: str = "") -> Recipe:
    """Returns the recipe that `document` says, checked as a file is; errors call it `source`.

    Raises:
        RecipeError: whatever is wrong with the recipe, all of it in one line each.
    """
    return _validate(_sections(document, source), Origin(source))


def dump_recipe(recipe: Recipe, *, notes: Mapping[str, Any] | None = None) -> str:
    """Returns `recipe` as YAML in which every field is written out; loading it gives an equal recipe.

    `notes` stand behind it as information; their keys begin with `x-` and are not read.

    Raises:
        RecipeError: some `args` hold a Python object that a file cannot.
    """
    try:
        return dump_yaml({**recipe.model_dump(), **(notes or {})})
    except yaml.YAMLError as error:
        raise recipe.error("", f"cannot be written to a file, keep to text, numbers, lists and mappings: {error.args}") from error


def check_section(section: type[SectionT], document: Mapping[str, Any]) -> SectionT:
    """Returns one section of a recipe by itself, from its keys and values.

    Raises:
        RecipeError: an unknown key, a missing one or a wrong value.
    """
    try:
        return section.model_validate(document)
    except ValidationError as error:
        raise RecipeError(faults_of(error, section, document)) from None


def with_loss_traits(recipe: Recipe, traits: Mapping[str, LossTraits]) -> Recipe:
    """Returns `recipe` with what its losses of the user's own say of themselves, by their names, and checked with it once more.

    Raises:
        RecipeError: what it says does not fit together.
    """
    informed = recipe.with_loss_traits(traits)
    faults = check(informed)
    if faults:
        raise recipe._origin.error(faults)
    return informed


def _parse(file: Path) -> Any:
    try:
        return parse_yaml(_read(file))
    except YamlError as error:
        raise RecipeError([Fault("", str(error))], source=str(file)) from error


def _converted(config: Mapping[str, Any], source: str, overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns a config of PaddleClas as a recipe's document, and those of the overrides that are a recipe's."""
    theirs = [text for text in overrides if is_override(text)]
    conversion = convert_config(config, source=source, overrides=theirs)
    for line in conversion.left_out:
        warnings.warn(f"{source}: {line}", stacklevel=3)
    return conversion.document, [text for text in overrides if text not in theirs]


def _copy(document: Any, source: str) -> Any:
    """Returns a copy that overrides may change: its mappings and lists are new ones."""
    try:
        measure(document)  # it may hold itself
    except LimitError as error:
        raise RecipeError([Fault("", str(error))], source=source) from None
    return _copy_containers(document)


def _copy_containers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy_containers(entry) for key, entry in value.items()}
    return [_copy_containers(entry) for entry in value] if isinstance(value, list | tuple) else value


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_RECIPE_BYTES + 1)  # the file may be a device, which has no end
        if len(content) <= MAX_RECIPE_BYTES:
            return content.decode("utf-8-sig")
        fault = f"more than {MAX_RECIPE_BYTES:,} bytes; a recipe has fewer"
    except FileNotFoundError:
        fault = f"no such file{_similar_files(file)}" if file.parent.is_dir() else f"no such file; there is no folder {str(file.parent)!r}"
    except IsADirectoryError:
        fault = f"a folder, not a recipe{_similar_files(file / 'recipe.yaml')}"
    except OSError as error:
        fault = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        fault = f"no UTF-8 text (byte {error.start}); save it as UTF-8"
    except ValueError:
        fault = "no file can have this name"
    raise RecipeError([Fault("", fault)], source=str(file))


def _similar_files(file: Path) -> str:
    recipes = (other.name for pattern in ("*.yaml", "*.yml") for other in islice(file.parent.glob(pattern), MAX_CANDIDATES))
    return did_you_mean(file.name, recipes)


def _sections(document: Any, source: str) -> dict[str, Any]:
    """Returns the sections of a recipe, without the `x-...` that only hold anchors."""
    if not isinstance(document, Mapping):
        fault = "empty" if document is None else f"{format_value(document)} is no mapping"
        raise RecipeError([Fault("", f"{fault}; a recipe has at least name, peers and objectives")], source=source)
    return {key: value for key, value in document.items() if not str(key).startswith("x-")}


def _validate(document: dict[str, Any], origin: Origin) -> Recipe:
    try:
        extent = measure(document)
        recipe = Recipe.model_validate(document)
    except LimitError as error:
        raise origin.error([Fault("", str(error))]) from None
    except ValidationError as error:
        raise origin.error(faults_of(error, Recipe, document)) from None
    faults = check(recipe)
    if faults:
        raise origin.error(faults)
    recipe._origin = origin
    if extent.beyond(_SURELY_READABLE):
        _check_read_again(recipe)
    return recipe


def _check_read_again(recipe: Recipe) -> None:
    """Refuses a recipe that is within the limits as it was given, and beyond them as a run writes it, with every default written out."""
    try:
        parse_yaml(dump_recipe(recipe))
    except YamlError as error:
        raise recipe.error("", f"written out with all its defaults, it cannot be read again: {error}") from error
