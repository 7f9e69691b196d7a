"""take_arguments: what the factories of their architectures are called with, as arguments of ours, groups of the optimizer and outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mutual.recipe.paddleclas.section import Section, is_number
from mutual.recipe.paddleclas.zoo_names import Counterpart
from mutual.recipe.syntax import YamlError, parse_yaml
from mutual.recipe.text import format_value

_DEPTHS = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3), "50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3), "200": (3, 12, 48, 3)}
"""Blocks of each stage of their ResNets."""
_MOBILENET_V3_STAGES = (
    ("blocks[0]", "blocks[2]", "blocks[5]", "blocks[11]", "blocks[14]"),
    ("blocks[0]", "blocks[2]", "blocks[7]", "blocks[10]"),
)
"""Of the large and the small ones; the smallest large one has those of the small ones in their code."""
_PPLCNET_STAGES = ("blocks2", "blocks3", "blocks4", "blocks5", "blocks6")
_PPLCNET_PATHS = {"avg_pool": "last_conv:input", "act": "dropout:input", "flatten": "fc:input"}
"""Layers of their PPLCNet that are functions in ours, by the module that they go into."""
_VGG_LAYERS = {"VGG11": (1, 1, 2, 2, 2), "VGG13": (2, 2, 2, 2, 2), "VGG16": (2, 2, 3, 3, 3), "VGG19": (2, 2, 4, 4, 4)}
_OF_CONVNEXT = {"layer_scale_init_value": "ls_init_value", "head_init_scale": "head_init_scale"}
_WITHOUT_EFFECT = ("freeze_befor", "stop_after")
_DOWNSCALED = (
    "their dropout scales in evaluation, ours in training: the same function, with a classifier that is theirs times 1 - p; "
    "the weights it begins with are not scaled down"
)


@dataclass(frozen=True)
class Factory:
    """What a factory's arguments say.

    Attributes:
        args: of the model's factory here.
        outputs: by their name of an output what `at` calls it.
        lr_scales: entries of `optimizer.groups`.
        freeze: module paths that are not trained.
    """

    args: dict[str, Any]
    outputs: dict[str, str] = field(default_factory=dict)
    lr_scales: tuple[dict[str, Any], ...] = ()
    freeze: tuple[str, ...] = ()


def take_arguments(section: Section, architecture: str, counterpart: Counterpart) -> Factory:
    """Returns what the arguments of an architecture say; weights and number of classes are for others to take.

    Raises:
        RecipeError: one that theirs refuses, too.
    """
    for key in _WITHOUT_EFFECT:
        if key in section:
            section.remark(
                "has no effect in PaddleClas, where it is read before there are layers; `freeze` of a peer lists module paths", key
            )
            section.pass_over(key)
    if counterpart.library:
        return _of_library(section, architecture, counterpart)
    if architecture.startswith("PPLCNet"):
        return _of_pplcnet(section)
    if architecture.startswith("MobileNetV3"):
        return _of_mobilenet_v3(section, _MOBILENET_V3_STAGES[architecture == "MobileNetV3_large_x0_35" or "small" in architecture])
    return _of_resnet(section, _DEPTHS[re.findall(r"\d+", architecture)[0]])


def _of_library(section: Section, architecture: str, counterpart: Counterpart) -> Factory:
    args = dict(counterpart.args)
    for key in ("drop_rate", "drop_path_rate", "img_size"):
        if key in section and counterpart.library == "timm":
            args[key] = section.take(key)
    for key, ours in _OF_CONVNEXT.items() if architecture.startswith("ConvNeXt") else ():
        if key in section:
            args[ours] = section.number(key)
    for key in ("return_patterns", "return_stages"):
        if key in section:
            section.leave_out(key, f"{counterpart.model} has modules of other names; a loss's `at` takes its paths")
    freeze: tuple[str, ...] = ()
    if architecture in _VGG_LAYERS and "stop_grad_layers" in section:
        freeze = _first_convolutions(_VGG_LAYERS[architecture], int(section.number("stop_grad_layers")))
    return Factory(args, {"logits": "logits"}, freeze=freeze)


def _first_convolutions(layers: Sequence[int], num_stages: int) -> tuple[str, ...]:
    """Returns the paths of the convolutions of torchvision's VGG in its first stages."""
    paths, index = [], 0
    for stage, number in enumerate(layers):
        paths += [f"features.{index + 2 * each}" for each in range(number) if stage < num_stages]
        index += 2 * number + 1  # a ReLU behind each, and a pooling behind all
    return tuple(paths)


def _of_pplcnet(section: Section) -> Factory:
    args: dict[str, Any] = {}
    if (strides := _sequence(section, "stride_list", 5)) not in (None, [2] * 5):
        args["strides"] = strides
    if (dropout := section.number("dropout_prob", 0.2)) != 0.2:
        args["dropout"] = dropout
    if (width := section.number("class_expand", 1280)) != 1280:
        args["class_expand"] = width
    if dropout:
        section.remark(_DOWNSCALED, "dropout_prob")
    _take_default(section, "use_last_conv", True)
    _take_default(section, "act", "hardswish")
    scales = _rates(section, 6)
    parts = (("conv1",), *((stage,) for stage in _PPLCNET_STAGES))
    return Factory(args, _outputs(section, _PPLCNET_STAGES, _PPLCNET_PATHS), _lr_scales(section, scales, parts))


def _of_mobilenet_v3(section: Section, stages: Sequence[str]) -> Factory:
    args: dict[str, Any] = {}
    for key, default in (("inplanes", 16), ("class_expand", 1280)):
        if (value := section.number(key, default)) != default:
            args[key] = value
    default_dropout = 0.0 if _is_null(section, "dropout_prob") else 0.2
    dropout = section.number("dropout_prob", default_dropout)
    if dropout != 0.2:
        args["dropout_prob"] = dropout
    if dropout:
        section.remark(_DOWNSCALED, "dropout_prob")
    return Factory(args, _outputs(section, stages))


def _of_resnet(section: Section, depths: Sequence[int]) -> Factory:
    args: dict[str, Any] = {}
    if (strides := _sequence(section, "stride_list", 5)) not in (None, [2] * 5):
        args["stride_list"] = strides
    for key in ("max_pool", "use_first_short_conv"):
        if not section.flag(key, default=True):
            args[key] = False
    if _is_null(section, "stem_act"):
        args["stem_act"] = None
    elif section.text("stem_act", "relu") != "relu":
        section.remark("is a ReLU there, whatever it names", "stem_act")
    _take_default(section, "layer_type", "ConvBNLayer")
    _take_layout(section)
    ends = [sum(depths[: stage + 1]) for stage in range(4)]
    stages = [[f"blocks.{index}" for index in range(end - depth, end)] for end, depth in zip(ends, depths, strict=True)]
    scales = _rates(section, 5, others_are_ignored=True)
    outputs = _outputs(section, [f"blocks[{end - 1}]" for end in ends])
    return Factory(args, outputs, _lr_scales(section, scales, (("stem",), *stages)))


def _is_null(section: Section, key: str) -> bool:
    """Whether an entry is null, which to these is another value than none."""
    return key in list(section) and key not in section


def _take_default(section: Section, key: str, default: Any) -> None:
    """Takes an entry that is what it is by default; any other is named as one that has no counterpart."""
    if (value := section.take(key, default)) != default:
        section.put_back(key, value)
        section.leave_out(key, f"there is {format_value(default)} alone here")


def _take_layout(section: Section) -> None:
    if section.text("data_format", "NCHW") == "NHWC":
        section.remark("the layout of tensors is `train.channels_last`, or what `train.tune` finds", "data_format")
    channels = section.number("input_image_channel", 3)
    if channels == 4:
        section.remark("a fourth channel is of zeros there, which change nothing", "input_image_channel")
    elif channels != 3:
        section.remark("is `data.channels` here, for all models", "input_image_channel")


def _sequence(section: Section, key: str, length: int) -> list[Any] | None:
    """Returns a list of numbers, which may be written as a text; None where there is none.

    Raises:
        RecipeError: it is none, or of another length.
    """
    value = section.take(key)
    if isinstance(value, str):
        try:
            value = parse_yaml(value)
        except YamlError:
            raise section.error(key, f"{format_value(value)} is no list") from None
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != length:
        raise section.error(key, f"{format_value(value)} is no list of {length}")
    return value


def _rates(section: Section, length: int, *, others_are_ignored: bool = False) -> list[float]:
    """Returns `lr_mult_list`, without effect where their code ignores it."""
    value = section.take("lr_mult_list")
    if others_are_ignored and isinstance(value, list) and len(value) != length:
        section.remark(f"{len(value)} factors for {length} parts are ignored in PaddleClas, too", "lr_mult_list")
        return [1.0] * length
    section.put_back("lr_mult_list", value)
    rates = _sequence(section, "lr_mult_list", length) or [1.0] * length
    if not all(is_number(rate) and rate >= 0 for rate in rates):
        raise section.error("lr_mult_list", f"{format_value(rates)} are no factors of a learning rate")
    return [float(rate) for rate in rates]


def _lr_scales(section: Section, scales: Sequence[float], parts: Sequence[Sequence[str]]) -> tuple[dict[str, Any], ...]:
    """Returns the factors that are not 1 as groups of the optimizer, each with the parts of one factor."""
    modules: dict[float, list[str]] = {}
    for scale, paths in zip(scales, parts, strict=True):
        if scale != 1:
            modules.setdefault(scale, []).extend(paths)
    if 0.0 in modules:
        section.remark("0 keeps weights as they are, and BatchNorm's statistics move, as there; `freeze` holds both", "lr_mult_list")
    return tuple({"modules": paths, "lr_scale": scale} for scale, paths in modules.items())


def _outputs(section: Section, stages: Sequence[str], paths: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns what `return_patterns` or `return_stages` give to losses, beside the logits, by their names."""
    patterns, given = section.take("return_patterns"), section.take("return_stages")
    if not patterns and given:
        patterns = _stages(section, stages, given)
    patterns = [patterns] if isinstance(patterns, str) else patterns or []
    if not (isinstance(patterns, list) and all(isinstance(pattern, str) for pattern in patterns)):
        raise section.error("return_patterns", f"{format_value(patterns)} are no names of layers")
    return {"logits": "logits", **{pattern: module_path(pattern, paths or {}) for pattern in patterns}}


def _stages(section: Section, stages: Sequence[str], given: Any) -> list[str]:
    if given is True:
        return list(stages)
    indices = given if isinstance(given, list) else [given]
    if not all(isinstance(index, int) and not isinstance(index, bool) for index in indices):
        raise section.error("return_stages", f"{format_value(given)} is neither true nor a list of numbers of stages")
    if beyond := [index for index in indices if not 0 <= index < len(stages)]:
        section.remark(f"there are the stages 0 to {len(stages) - 1}; {format_value(beyond)} are ignored, as there", "return_stages")
    return [stages[index] for index in indices if 0 <= index < len(stages)]


def module_path(pattern: str, paths: Mapping[str, str]) -> str:
    """Returns our module path of what they call `pattern`.

    Example:
        >>> module_path("blocks5[0].dw_conv", {}), module_path("blocks[7]", {})
        ('blocks5.0.dw_conv', 'blocks.7')
    """
    return paths.get(pattern, re.sub(r"\[(\d+)\]", r".\1", pattern))
