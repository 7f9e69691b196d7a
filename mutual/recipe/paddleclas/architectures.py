"""convert_models: the section Arch as the peers of a recipe."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mutual.recipe.checks import RESERVED_NAMES
from mutual.recipe.paddleclas.factory_arguments import Factory, take_arguments
from mutual.recipe.paddleclas.pretrained import Weights, given_file, take_weights
from mutual.recipe.paddleclas.section import Section
from mutual.recipe.paddleclas.zoo_names import find_counterpart
from mutual.recipe.text import format_value

PLAIN = "model"
"""What the peer of a config with one model is called."""
_NUM_CLASSES = 1000
"""Of a model that is not told how many."""
_FOR_EXPORT = ("infer_output_key", "infer_add_softmax", "is_rec")
_FROZEN = (
    "a frozen model stays in training mode there: its BatchNorm normalises by the batch and its statistics move, its dropout is on; "
    "here it is in eval mode for good"
)
_TRANSFORMS = ("LinearTransformTeacher", "LinearTransformStudent")


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
        outputs: by what losses call an output of theirs (`logits`, `blocks5`, `blocks[7]`) what `at` calls it here.
        attention: of a model inside an AttentionModel what its transform says: `qk_dim`, and `paths`, the outputs as `at` lists them;
            empty of any other.
        synchronized: BatchNorm's statistics are those of all processes.
    """

    name: str
    document: dict[str, Any]
    num_classes: int
    undecayed: tuple[str, ...] = ()
    lr_scales: tuple[dict[str, Any], ...] = ()
    outputs: dict[str, str] = field(default_factory=dict)
    attention: dict[str, Any] = field(default_factory=dict)
    synchronized: bool = False


def convert_models(arch: Section, settings: Section) -> Sequence[Model]:
    """Returns the models of a config.

    Raises:
        RecipeError: a model that nothing here can stand for.
    """
    name = arch.text("name", "")
    arch.pass_over(*_FOR_EXPORT)
    if exported := arch.text("infer_model_name"):
        arch.remark(
            f"is an option of `python -m mutual.export RUN --peer {exported}`; by default the best peer is exported", "infer_model_name"
        )
    synchronized = arch.flag("use_sync_bn")
    num_classes = _class_num(arch, settings)
    whole = given_file(settings, "pretrained_model")
    if name == "DistillationModel":
        models = _distilled(arch, num_classes, whole)
    elif name == "RecModel":
        models = [_recognition_model(arch, whole)]
    else:
        models = [_attention_model(arch, PLAIN, whole) if name == "AttentionModel" else _backbone(arch, name, PLAIN, num_classes, whole)]
    return [replace(model, synchronized=synchronized) for model in models]


def _class_num(section: Section, settings: Section | None = None) -> int | None:
    """Returns `class_num`, or else that of the settings."""
    given = None if settings is None else settings.number("class_num")
    number = section.number("class_num", given)
    if number is not None and (not isinstance(number, int) or number < 1):
        raise section.error("class_num", f"{format_value(number)} is no number of classes")
    return number


def _distilled(arch: Section, num_classes: int | None, whole: Weights) -> list[Model]:
    """Returns the models of a DistillationModel.

    There the `class_num` of the whole is for whoever reads the file; each model has its own.
    """
    entries = arch.named_sections("models")
    if not entries:
        raise arch.error("models", "is empty; list the models that are trained together")
    files, freezes = (_one_for_each(arch, key, len(entries)) for key in ("pretrained_list", "freeze_params_list"))
    models: list[Model] = []
    for (name, section), file, is_frozen in zip(entries, files, freezes, strict=True):
        _check_name(section, name, [model.name for model in models])
        inner = section.text("name", "")
        own = whole.behind(f"{name}.") or Weights.of(arch, "pretrained_list", file)
        if inner == "AttentionModel":
            model = _attention_model(section, name, own, is_frozen=bool(is_frozen))
        elif inner in ("DistillationModel", "RecModel"):
            raise section.error("name", f"{inner} inside a DistillationModel; name an architecture, such as PPLCNet_x1_0")
        else:
            model = _backbone(section, inner, name, _class_num(section), own, is_frozen=bool(is_frozen))
        models.append(model)
    for key in arch:
        arch.take(key)
        arch.remark("a DistillationModel passes it over, there as here; it belongs into one of its models", key)
    if num_classes is not None and any(model.num_classes != num_classes for model in models):
        arch.remark(f"{num_classes} classes there say nothing: each of the models has its own class_num, or {_NUM_CLASSES}", "class_num")
    return models


def _one_for_each(section: Section, key: str, number: int) -> list[Any]:
    """Returns a list with an entry for each model; where there is none, of nulls."""
    entries = section.entries(key)
    if entries and len(entries) != number:
        raise section.error(key, f"has {len(entries)} entries for {number} models; give one for each, or null")
    if key == "freeze_params_list" and not all(isinstance(entry, bool) for entry in entries):
        raise section.error(key, f"{format_value(entries)} are not all true or false")
    return entries or [None] * number


def _check_name(section: Section, name: str, before: Sequence[str]) -> None:
    if name in before:
        raise section.error("", f"two models are called {format_value(name)}; give each a name of its own")
    if name in RESERVED_NAMES or not re.fullmatch(r"[A-Za-z]\w*", name):
        raise section.error(
            "", f"{format_value(name)} cannot name a peer; take letters, digits and _, and none of {', '.join(RESERVED_NAMES)}"
        )


def _backbone(section: Section, architecture: str, name: str, num_classes: int | None, given: Weights, *, is_frozen: bool = False) -> Model:
    """Returns the peer of a section that says an architecture and its arguments; `given` are weights that other sections name."""
    if not architecture:
        raise section.error("name", "is missing; name an architecture, such as PPLCNet_x1_0")
    try:
        counterpart = find_counterpart(architecture)
    except ValueError as error:
        raise section.error("name", str(error)) from None
    if counterpart.library:
        library = counterpart.library
        text = f"it is {counterpart.model}: their weights do not fit it, it takes {library}'s or your own"
        section.remark(f"{text}; initial weights are {library}'s, too", "name")
    if counterpart.difference:
        section.put_back("name", architecture)
        section.leave_out("name", f"{counterpart.model} takes its place, and differs: {counterpart.difference}")
    num_classes = num_classes or _NUM_CLASSES
    factory: Factory = take_arguments(section, architecture, counterpart)
    weights, args = take_weights(section, architecture, counterpart, given, is_frozen=is_frozen)
    document: dict[str, Any] = {"model": counterpart.model}
    document |= {"args": {**factory.args, **args}} if factory.args or args else {}
    document |= {} if weights is None else {"weights": weights}
    if is_frozen:
        document["frozen"] = True
        section.remark(_FROZEN)
    elif factory.freeze:
        document["freeze"] = list(factory.freeze)
    return Model(name, document, num_classes, counterpart.undecayed, factory.lr_scales, factory.outputs)


def _attention_model(section: Section, name: str, given: Weights, *, is_frozen: bool = False) -> Model:
    """Returns the peer of an AttentionModel: its backbone; the transform behind it becomes a part of the loss."""
    entries = section.named_sections("models")
    files, freezes = (_one_for_each(section, key, len(entries)) for key in ("pretrained_list", "freeze_params_list"))
    named = [(inner, part, part.text("name", "")) for inner, part in entries]
    bodies = [index for index, (_, _, architecture) in enumerate(named) if architecture not in _TRANSFORMS]
    if len(bodies) != 1 or len(named) > 2:
        found = " and ".join(architecture or format_value(inner) for inner, _, architecture in named) or "nothing"
        raise section.error("models", f"{found}; an AttentionModel here is an architecture, and {' or '.join(_TRANSFORMS)} behind it")
    inner, part, architecture = named[bodies[0]]
    own = given.behind(f"{inner}.") or Weights.of(section, "pretrained_list", files[bodies[0]])
    model = _backbone(part, architecture, name, _class_num(part), own, is_frozen=is_frozen or bool(freezes[bodies[0]]))
    for _, transform, _ in (each for index, each in enumerate(named) if index not in bodies):
        model = replace(model, attention=_attention(transform, model))
    return model


def _attention(transform: Section, model: Model) -> dict[str, Any]:
    if "qk_dim" not in transform:
        raise transform.error("qk_dim", "is missing; it is the width of queries and keys")
    keys = transform.entries("keys")
    for key in keys:
        if not isinstance(key, str) or key not in model.outputs:
            raise transform.error("keys", f"{format_value(key)} is not among the return_patterns of the architecture before")
    for key in ("t_shapes", "s_shapes"):
        transform.entries(key)  # shapes are found when the group is built
    return {"qk_dim": transform.number("qk_dim"), "paths": [model.outputs[key] for key in keys]}


def _recognition_model(arch: Section, whole: Weights) -> Model:
    """Returns the peer of a RecModel that is a classifier: a backbone that is cut before its classifier, and a linear layer.

    Raises:
        RecipeError: it learns a metric.
    """
    backbone, head, neck, stop = (arch.section(key) for key in ("Backbone", "Head", "Neck", "BackboneStopLayer"))
    kind, cut = head.text("name", ""), stop.text("name", "")
    if "name" in neck or kind != "FC" or cut not in ("flatten", "avg_pool"):
        parts = " and ".join(part for part in (neck.text("name"), kind) if part) or "no head"
        raise arch.error(
            "name",
            f"RecModel with {parts} learns a metric (recognition, retrieval), which has no counterpart here; "
            "an architecture by itself, or a DistillationModel, can be trained",
        )
    arch.pass_over("head_feature_from")
    head.pass_over("embedding_size")
    arch.remark("the backbone with a linear layer is the architecture with its own classifier; from a file of the whole, it is new", "name")
    own = replace(whole.behind("backbone."), head="new")
    return _backbone(backbone, backbone.text("name", ""), PLAIN, _class_num(head), own)
