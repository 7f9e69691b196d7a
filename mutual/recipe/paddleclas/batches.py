"""convert_sampler, convert_mixing: how PaddleClas makes batches, in the words of a recipe's data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mutual.recipe.paddleclas.section import Section
from mutual.recipe.text import format_value

_PLAIN = ("DistributedBatchSampler", "BatchSampler")
_BY_CLASS: Mapping[str, str] = {
    "PKSampler": "sample_per_id",
    "DistributedRandomIdentitySampler": "num_instances",
    "ClassAwareSampler": "num_samples_cls",
}
"""By sampler that draws so many images of a class next to one another, what it calls their number."""
_KEYS = {"MixupOperator": "mixup", "CutmixOperator": "cutmix"}
"""By operator the field of a recipe's data."""


def convert_sampler(sampler: Section, *, trains: bool) -> dict[str, Any]:
    """Returns `batch_size` and, in training, `sampler` of a recipe's data.

    Raises:
        RecipeError: no batch size, or a sampler that nothing here can stand for.
    """
    name = sampler.text("name", _PLAIN[0])
    batch_size = sampler.take("batch_size")
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise sampler.error("batch_size", f"{format_value(batch_size)} is no number of images; each process has so many in a batch")
    found: dict[str, Any] = {"batch_size": batch_size}
    if name in _BY_CLASS:
        found |= _by_class(name, sampler)
    elif name not in _PLAIN:
        known = ", ".join([_PLAIN[0], *_BY_CLASS])
        raise sampler.error("name", f"{format_value(name)} has no counterpart; {known} have")
    is_dropped, is_shuffled = sampler.take("drop_last", False), sampler.take("shuffle", trains)
    if is_dropped:
        sampler.remark("the last, smaller batch of an epoch is used, too" if trains else "each image is scored once", "drop_last")
    if trains and not is_shuffled:
        sampler.warn("false: each epoch has an order of its own", "shuffle")
    return found


def convert_loader(loader: Section) -> dict[str, Any]:
    """Returns `workers` and `prefetch` of a recipe's data."""
    loader.pass_over("use_shared_memory", "use_buffer_reader", "timeout")
    workers, prefetch = loader.take("num_workers"), loader.take("prefetch_factor")
    return {key: value for key, value in (("workers", workers), ("prefetch", prefetch)) if value is not None}


def convert_mixing(dataset: Section) -> dict[str, Any]:
    """Returns `mixup` and `cutmix` of a recipe's data, with their probabilities, from `batch_transform_ops`.

    Raises:
        RecipeError: an argument that an operator does not take.
    """
    found: dict[str, Any] = {}
    for name, arguments in dataset.named_sections("batch_transform_ops"):
        if name not in ("MixupOperator", "CutmixOperator", "OpSampler", "MixupCutmixHybrid"):
            arguments.leave_out_all("has no counterpart; batches are not mixed by it")
        elif found:
            arguments.leave_out_all("an image is mixed with one other")
        elif name == "OpSampler":
            found = _sampled(arguments)
        elif name == "MixupCutmixHybrid" or "mixup_alpha" in arguments or "cutmix_alpha" in arguments:
            found = _hybrid(arguments)
        else:
            found = {_KEYS[name]: _alpha(arguments, "alpha", 1.0)}
    if found:
        text = "drawn for each pair of images that are next to one another in an epoch's order, and not once for a batch"
        dataset.remark(text, "batch_transform_ops")
    return found


def _by_class(name: str, sampler: Section) -> dict[str, Any]:
    key = _BY_CLASS[name]
    number = sampler.take(key, 1 if name == "ClassAwareSampler" else None)
    if not isinstance(number, int) or number < 1:
        raise sampler.error(key, f"{format_value(number)} is no number of images of a class")
    if name == "PKSampler" and sampler.text("sample_method", "sample_avg_prob") != "id_avg_prob":
        sampler.remark("classes are drawn equally often, and not as often as they have images", "sample_method")
    sampler.remark("which classes and images come together is drawn without replacement, and an epoch has as many images as there are")
    return {"sampler": "balanced" if number == 1 else {"repeated": number}}


def _sampled(operators: Section) -> dict[str, Any]:
    """Returns what an OpSampler draws from: at most one operator a batch, each with its probability."""
    found: dict[str, Any] = {}
    operators.take("class_num")
    for name in operators:
        arguments = operators.section(name)
        p = float(arguments.number("prob", 0.0))
        arguments.pass_over("class_num")
        if p > 0 and name in _KEYS:
            key = _KEYS[name]
            found |= {key: _alpha(arguments, "alpha", 1.0), f"{key}_p": p}
            continue
        arguments.take("alpha")
        if p > 0:
            arguments.warn(f"prob {p:g}: has no counterpart; so often nothing is mixed")
    total = sum(value for key, value in found.items() if key.endswith("_p"))
    if total > 1 + 1e-9:
        raise operators.error("", f"probabilities sum to {total:g}, and to 1 at most")
    return found


def _hybrid(arguments: Section) -> dict[str, Any]:
    """Returns MixUp and CutMix of one operator, which chooses CutMix by `switch_prob`."""
    arguments.pass_over("class_num", "num_classes", "correct_lam")
    if arguments.text("mode", "batch") != "batch":
        arguments.remark("drawn for each pair of images", "mode")
    p, switch = float(arguments.number("prob", 1.0)), float(arguments.number("switch_prob", 0.5))
    alphas = {key: _alpha(arguments, f"{key}_alpha", default, is_off=True) for key, default in (("mixup", 1.0), ("cutmix", 0.0))}
    shares = {"mixup": 1 - switch, "cutmix": switch} if all(alphas.values()) else {"mixup": 1.0, "cutmix": 1.0}
    found: dict[str, Any] = {}
    for key, alpha in alphas.items():
        if alpha > 0:
            found |= {key: alpha, f"{key}_p": round(p * shares[key], 9)}
    return found


def _alpha(arguments: Section, key: str, default: float, *, is_off: bool = False) -> float:
    alpha = float(arguments.number(key, default))
    arguments.pass_over("class_num")
    if alpha < 0 or (alpha == 0 and not is_off):
        raise arguments.error(key, f"{alpha:g} is no alpha of a Beta distribution; it is above 0")
    return alpha
