"""convert_config: a config of PaddleClas (2.x) for classification as the document of a recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mutual.recipe.datasets import IMAGENET_MEAN, IMAGENET_STD
from mutual.recipe.errors import RecipeError
from mutual.recipe.overrides import apply_overrides
from mutual.recipe.paddleclas.architectures import convert_models
from mutual.recipe.paddleclas.data import convert_data
from mutual.recipe.paddleclas.losses import convert_losses
from mutual.recipe.paddleclas.optimizers import convert_optimizer
from mutual.recipe.paddleclas.section import Notes, Section
from mutual.recipe.paddleclas.settings import convert_settings
from mutual.recipe.peers import PRETRAINED
from mutual.recipe.text import printable

SECTIONS = ("Global", "Arch", "Loss", "Optimizer", "DataLoader", "AMP", "EMA", "Metric", "Infer", "Slim", "DALI", "SWA", "Export")
"""What a config of theirs consists of; a recipe's keys begin with small letters."""
_NEEDED = ("Arch", "Loss", "DataLoader")
_PUBLISHED_SIZE = 224
"""Of the images that their published weights were trained on."""
_OF_PYTHON = {"None": None, "True": True, "False": False}


@dataclass(frozen=True)
class Conversion:
    """A config as the document of a recipe, and what there is to say of it.

    Attributes:
        document: of a recipe, as its YAML would be; it is not checked.
        left_out: what has no counterpart, a line each: `Arch.models.0.Teacher.use_ssld: true: why`.
        remarks: what is said or done in another way, a line each.
        unneeded: key paths of what says nothing to a recipe.
    """

    document: dict[str, Any]
    left_out: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    unneeded: tuple[str, ...] = ()


def is_config(document: Any) -> bool:
    """Returns True for the content of a config of PaddleClas; a recipe of ours has none of its sections."""
    return isinstance(document, Mapping) and "Arch" in document and not {"peers", "objectives"} & document.keys()


def is_override(text: str) -> bool:
    """Returns True for `Global.epochs=3`, which changes a config; `train.epochs=3` changes a recipe."""
    return re.split(r"[.=]", text, maxsplit=1)[0] in SECTIONS


def convert_config(config: Mapping[str, Any], *, source: str, overrides: Sequence[str] = ()) -> Conversion:
    """Returns a config as the document of a recipe.

    Args:
        config: what the config's YAML says; it is changed by `overrides`.
        source: its file, after which the recipe is called.
        overrides: changes of the config, `Key.path=value`, as its own `-o` takes them.

    Raises:
        RecipeError: what is there is no such config, or a part of it that nothing can stand for: a model, say.
    """
    content = dict(config)
    notes = Notes()
    try:
        apply_overrides(content, overrides)
        root = Section(_evaluated(content), "", notes)
        root.check_keys()
        if missing := [name for name in _NEEDED if name not in root]:
            raise root.error(missing[0], "is missing; a config of PaddleClas has Arch, Loss, DataLoader, Optimizer and Global")
        document = _converted(root, Path(source).stem)
    except RecipeError as error:
        raise RecipeError([replace(fault, source=fault.source or source) for fault in error.faults]) from None
    root.name_untaken()
    return Conversion(document, *(tuple(map(printable, lines)) for lines in (notes.left_out, notes.remarks, notes.unneeded)))


def _read_as_theirs(peer: dict[str, Any], data: Mapping[str, Any]) -> None:
    """Lets a peer with published weights of theirs read the data's images, and not others that its weights were made for."""
    if peer.get("weights") != PRETRAINED or peer["model"].startswith(("timm/", "torchvision/")):
        return
    read: dict[str, Any] = {}
    if peer.get("frozen") and data["image_size"] != _PUBLISHED_SIZE:
        read["size"] = data["image_size"]
    if data["normalize"] != {"mean": [*IMAGENET_MEAN], "std": [*IMAGENET_STD]}:
        read |= data["normalize"]
    if read:
        peer["input"] = read


def _evaluated(value: Any) -> Any:
    """Returns what a config says with `None`, `True` and `False` evaluated, which theirs reads as Python's; YAML has them as texts."""
    if isinstance(value, Mapping):
        return {key: _evaluated(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_evaluated(each) for each in value]
    return _OF_PYTHON.get(value, value) if isinstance(value, str) else value


def _converted(root: Section, stem: str) -> dict[str, Any]:
    settings = root.section("Global")
    models = convert_models(root.section("Arch"), settings)
    data = convert_data(root.section("DataLoader"), settings, models)
    objectives = convert_losses(root.section("Loss"), models, data)
    optimizer = convert_optimizer(root, models)
    for model in models:
        _read_as_theirs(model.document, data)
    document: dict[str, Any] = {"name": re.sub(r"[^\w.\-]+", "_", stem).strip("_.-") or "paddleclas"}
    document |= {"data": data, "peers": {model.name: model.document for model in models}, "objectives": objectives, **optimizer}
    convert_settings(document, root, settings)
    is_on_gpus = settings.content.get("device", "gpu") == "gpu"  # elsewhere theirs keeps BatchNorm's statistics apart whatever Arch says
    if is_on_gpus and any(model.synchronized for model in models):
        document["train"]["sync_batchnorm"] = True
    return document
