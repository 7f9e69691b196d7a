"""convert_optimizer: the section Optimizer as the optimizer and the schedule of a recipe, or of each peer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from glob import escape
from typing import Any

from mutual.recipe.errors import did_you_mean
from mutual.recipe.paddleclas.architectures import Model
from mutual.recipe.paddleclas.parameter_groups import groups_of
from mutual.recipe.paddleclas.schedules import convert_schedule
from mutual.recipe.paddleclas.section import Section
from mutual.recipe.text import format_value

_ALL = ("all", "models", "model")
"""Scopes of an optimizer that are all models; so is the name of a class."""
_PASSED_OVER = ("multi_precision", "use_multi_tensor", "use_master_param_norm", "lazy_mode", "parameter_list")
"""How theirs computes a step: weights are in float32 here, and all of them are stepped."""

Fields = dict[str, Any]


def convert_optimizer(root: Section, models: Sequence[Model]) -> dict[str, Any]:
    """Returns the sections `optimizer` and `schedule` of a recipe (and `train`, where gradients are clipped).

    Peers of `models` that need an optimizer or a schedule of their own get it.

    Args:
        root: the whole config; Optimizer is there to be taken.
        models: the peers.

    Raises:
        RecipeError: an optimizer or a schedule that nothing here can stand for.
    """
    if "Optimizer" not in root:
        root.remark("there is none; the peers have this trainer's default, sgd with a rate of 0.1 that falls as a cosine", "Optimizer")
        return {}
    trained = [model for model in models if not model.document.get("frozen")]
    found: dict[str, Fields] = {}
    for section, name, peers in _scopes(root, trained):
        sections = _convert(section, name, several=len(peers) > 1)
        decays = sections.pop("undecayed")
        for model in peers:
            if model.name in found:
                raise section.error("scope", f"{model.name} has an optimizer already")
            groups = groups_of(model, *decays)
            found[model.name] = {**sections, "optimizer": sections["optimizer"] | ({"groups": groups} if groups else {})}
    for model in trained:
        if model.name not in found:
            raise root.error("Optimizer", f"no entry's scope has the model {model.name}, which is trained; write scope: {model.name}")
    return _divided(root, trained, found)


def _scopes(root: Section, trained: Sequence[Model]) -> list[tuple[Section, str, Sequence[Model]]]:
    """Returns the optimizers with their names and what they train; what trains a part of a model or a loss is left out."""
    if not root.is_list("Optimizer"):
        section = root.section("Optimizer")
        name = section.text("name")
        if name is None:
            raise section.error("name", "is missing; write the name of an optimizer, such as Momentum")
        return [(section, name, trained)]
    found: list[tuple[Section, str, Sequence[Model]]] = []
    for name, section in root.named_sections("Optimizer"):
        scope = section.text("scope", "all")
        own = [model for model in trained if model.name == scope]
        if own or scope in _ALL or (scope[:1].isupper() and not scope.endswith("Loss")):
            found.append((section, name, own or trained))
            continue
        part = "a loss's parameters are trained by their learner's optimizer" if scope.endswith("Loss") else "a model has one optimizer"
        section.leave_out("scope", f"{part}; optimizer.groups gives modules a rate and a weight decay of their own", value=scope)
        section.pass_over(*section)
    return found


def _convert(section: Section, name: str, *, several: bool) -> Fields:
    """Returns the sections that an optimizer becomes; `undecayed` says what else than `groups_of` needs to know."""
    if name not in _CONVERTERS:
        raise section.error("name", f"nothing here stands for the optimizer {name!r}{did_you_mean(name, _CONVERTERS)}")
    lr, schedule = convert_schedule(section)
    optimizer = _CONVERTERS[name](section)
    section.pass_over(*_PASSED_OVER)
    decay, exempt = _weight_decay(section, name), _exempt_names(section, name)
    one_dim = section.flag("one_dim_param_no_weight_decay") if name in ("Momentum", "RMSProp", "AdamW") else False
    if one_dim and name == "Momentum" and not exempt:
        section.remark("their Momentum heeds it beside no_weight_decay_name alone", "one_dim_param_no_weight_decay")
        one_dim = False
    fields: Fields = {"name": optimizer.pop("name"), "lr": lr}
    fields |= {"weight_decay": decay} if decay else {}
    fields |= {"decay_norm_and_bias": False} if decay and one_dim else {}
    clipping = _clipping(section, several=several)
    # a regularizer of a parameter's own, which their models give some, is nothing to the decoupled decay of AdamW
    undecayed = (bool(decay) and not name.startswith("AdamW"), exempt if decay else [])
    return {"optimizer": fields | optimizer, "schedule": schedule, "train": clipping, "undecayed": undecayed}


def _sgd(_section: Section) -> Fields:
    return {"name": "sgd"}


def _momentum(section: Section) -> Fields:
    nesterov = {"nesterov": True} if section.flag("use_nesterov") else {}
    return {"name": "sgd", "momentum": float(section.number("momentum", 0.9)), **nesterov}


def _adam(section: Section) -> Fields:
    betas = [float(section.number("beta1", 0.9)), float(section.number("beta2", 0.999))]
    return {"name": "adam", "betas": betas, "eps": section.number("epsilon", 1e-8)}


def _adamw(section: Section) -> Fields:
    return {**_adam(section), "name": "adamw"}


def _adamw_by_layers(section: Section) -> Fields:
    decay = section.number("layerwise_decay")
    fields = {**_adamw(section), "decay_norm_and_bias": not section.flag("filter_bias_and_bn", True)}
    if decay is not None and decay < 1:
        section.remark("layers are those of layer_decay, for timm's vision transformers the same; they scale weight decay, too")
        fields["layer_decay"] = float(decay)
    return fields


def _rmsprop(section: Section) -> Fields:
    rho = float(section.number("rho", 0.95))
    eps = section.number("epsilon", 1e-6)
    return {"name": "paddle_rmsprop", "momentum": float(section.number("momentum", 0.0)), "eps": eps, "args": {"alpha": rho}}


_CONVERTERS: dict[str, Callable[[Section], Fields]] = {
    "SGD": _sgd,
    "Momentum": _momentum,
    "Adam": _adam,
    "AdamW": _adamw,
    "AdamWDL": _adamw_by_layers,
    "RMSProp": _rmsprop,
}


def _weight_decay(section: Section, name: str) -> float:
    if "regularizer" not in section:
        return float(section.number("weight_decay", 0.0))
    if name.startswith("AdamW"):
        raise section.error("regularizer", f"their {name} takes none; write weight_decay")
    if "weight_decay" in section:
        section.remark("passed over, as there is a regularizer", "weight_decay")
        section.take("weight_decay")
    regularizer = section.section("regularizer")
    kind, coefficient = regularizer.text("name"), float(regularizer.number("coeff", 0.0))
    if kind == "L2":
        return coefficient
    if kind != "L1":
        raise regularizer.error("name", f"{format_value(kind)} is neither L2 nor L1")
    if coefficient:
        regularizer.leave_out("coeff", "no optimizer here adds the sign of the weights; L2 is there", value=coefficient)
    return 0.0


def _exempt_names(section: Section, name: str) -> list[str]:
    """Returns the pieces of parameters' names that have no weight decay, as patterns of `optimizer.groups`."""
    if name not in ("Momentum", "RMSProp", "AdamW"):
        return []
    names = section.text("no_weight_decay_name", "").split()
    return [f"*{escape(each)}*" for each in dict.fromkeys(names)]


def _clipping(section: Section, *, several: bool) -> Fields:
    norm = section.number("clip_norm")
    fields: Fields = {} if norm is None else {"clip_parameter_norm": norm}
    if "grad_clip" not in section:
        return fields
    clip = section.section("grad_clip")
    kind, limit = clip.text("name"), clip.number("clip_norm")
    if kind not in ("ClipGradByNorm", "ClipGradByGlobalNorm"):
        clip.leave_out("name", "gradients are clipped by their norm here", value=kind)
        return fields
    if limit is None:
        raise clip.error("clip_norm", "is missing")
    if kind == "ClipGradByNorm":
        return {"clip_parameter_norm": limit}
    if several:
        clip.remark("each peer's gradient has a norm of its own; theirs is of all models together", "clip_norm")
    return {"clip_grad_norm": limit}


def _divided(root: Section, trained: Sequence[Model], found: dict[str, Fields]) -> dict[str, Any]:
    """Returns what the first trained peer has for the recipe, and gives other peers what they have in its place."""
    if not trained:
        return {}
    common = found[trained[0].name]
    for model in trained[1:]:
        own = found[model.name]
        for key in ("optimizer", "schedule"):
            if own[key] != common[key]:
                model.document[key] = own[key]
        if own["train"] != common["train"]:
            raise root.error("Optimizer", f"{trained[0].name} and {model.name} are clipped differently; a recipe clips all peers alike")
    return {key: value for key, value in common.items() if value}
