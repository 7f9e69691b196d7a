"""TRAINING: PaddleClas' transforms of training images, by name, as those of a recipe."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from mutual.recipe.datasets import IMAGENET_MEAN
from mutual.recipe.paddleclas.images import EVALUATION, Images, Operation, convert_images, plain_size
from mutual.recipe.paddleclas.section import Section, is_number
from mutual.recipe.paddleclas.values import color_of, interpolation_of, numbers_of, range_of, rounded, size_of
from mutual.recipe.text import format_value
from mutual.recipe.timm_configs import check_config

_GREY = [128, 128, 128]
_RAND_AUGMENT = (
    "AutoContrast Equalize Invert Rotate Posterize Solarize ColorIncreasing ContrastIncreasing BrightnessIncreasing SharpnessIncreasing "
    "ShearX ShearY TranslateXRel TranslateYRel"
)
"""The operations of its RandAugment as timm calls them."""
_MOST_ATTEMPTS = 100


def convert_training(section: Section, key: str, *, size: tuple[int, int] | None = None, quiet: bool = False) -> Images:
    """Returns what a list of transforms makes of training images; `size`: theirs before, where they have one.

    Raises:
        RecipeError: an argument that a transform does not take.
    """
    images = convert_images(section, key, TRAINING, why_not="has no counterpart; images are trained on without it", size=size, quiet=quiet)
    _take_padding(section, images, None)
    fill = [round(255 * value) for value in images.normalize["mean"]]
    for transform in images.transforms:
        if transform["name"] == "timm_augment" and transform["fill"] == fill:
            del transform["fill"]  # it is the default
    return images


def _random_resized_crop(arguments: Section, images: Images) -> None:
    _add_random_resized_crop(arguments, images, size_of(arguments))
    text = (
        "the first of ten rectangles that fits is cut, its ratio's logarithm drawn evenly; there a ratio is drawn, and an area that fits it"
    )
    images.remark(arguments, text)


def _paddles_random_resized_crop(arguments: Section, images: Images) -> None:
    arguments.pass_over("keys")
    _add_random_resized_crop(arguments, images, size_of(arguments, height_first=True))


def _add_random_resized_crop(arguments: Section, images: Images, size: tuple[int, int]) -> None:
    interpolation, backend = interpolation_of(arguments, quiet=images.quiet)
    images.backends.add(backend)
    images.size = size
    scale, ratio = range_of(arguments, "scale", (0.08, 1.0)), range_of(arguments, "ratio", (3 / 4, 4 / 3))
    images.add("random_resized_crop", size=plain_size(images.size), scale=scale, ratio=ratio, interpolation=interpolation)


def _random_crop(arguments: Section, images: Images) -> None:
    _add_random_crop(arguments, images, size_of(arguments))


def _paddles_random_crop(arguments: Section, images: Images) -> None:
    arguments.pass_over("pad_if_needed", "keys", "fill")
    _add_random_crop(arguments, images, size_of(arguments, height_first=True))


def _add_random_crop(arguments: Section, images: Images, wanted: tuple[int, int]) -> None:
    padding = arguments.take("padding", 0)
    if not isinstance(padding, int):
        raise arguments.error("padding", f"{format_value(padding)} is no number of pixels that are the same on all sides")
    own = arguments.text("padding_mode", "constant")
    mode = _padding_mode(own) if padding else images.padding_mode
    images.add("random_crop", size=plain_size(wanted), padding=padding + _take_padding(arguments, images, wanted), padding_mode=mode)
    images.size = wanted


def _take_padding(section: Section, images: Images, wanted: tuple[int, int] | None) -> int:
    """Returns the pixels by which images were padded; what no crop takes again has no counterpart."""
    padding, images.padding = images.padding, 0
    if padding and wanted is None:
        section.warn(f"padding by {padding} pixels: only a random crop behind it takes padding")
    return padding


def _padding_mode(name: str) -> str:
    return name if name in ("edge", "reflect", "symmetric") else "constant"


def _pad(arguments: Section, images: Images) -> None:
    arguments.pass_over("padding_mode")  # it pads by one value whatever this says
    _add_padding(arguments, images)


def _paddles_pad(arguments: Section, images: Images) -> None:
    arguments.pass_over("keys")
    images.padding_mode = _padding_mode(arguments.text("padding_mode", "constant"))
    _add_padding(arguments, images)


def _add_padding(arguments: Section, images: Images) -> None:
    padding = arguments.take("padding", 0)
    if arguments.take("fill", 0) not in (0, [0, 0, 0]):
        images.remark(arguments, "padded by zeros", "fill")
    if not isinstance(padding, int):
        raise arguments.error("padding", f"{format_value(padding)} is no number of pixels that are the same on all sides")
    images.padding += padding


def _pad_to_size(arguments: Section, images: Images) -> None:
    """Padv2 pads to a size, around the middle with `pad_mode: 1`."""
    before, is_around = images.size, arguments.take("pad_mode", 0) == 1
    if not is_around or before is None or "size" not in arguments:
        arguments.leave_out_all("only padding around images of one size, to a size that a random crop takes again, has a counterpart")
        return
    to = size_of(arguments)
    arguments.pass_over("size_divisor", "offsets")
    more = {after - now for after, now in zip(to, before, strict=True)}
    if len(more) != 1 or min(more) < 0 or min(more) % 2:
        raise arguments.error("size", f"{to[1]} x {to[0]} is not as many pixels more than {before[1]} x {before[0]} on all sides")
    if arguments.take("fill_value", [127.5] * 3) not in (0, [0, 0, 0]):
        images.remark(arguments, "padded by zeros", "fill_value")
    images.padding += min(more) // 2


def _flip(arguments: Section, images: Images) -> None:
    code = arguments.number("flip_code", 1)
    names = {1: "horizontal_flip", 0: "vertical_flip", -1: "half_turn"}
    if code not in names:
        raise arguments.error("flip_code", f"{format_value(code)} is none of 1 (left and right), 0 (top and bottom) and -1 (both)")
    images.add(names[code])


def _paddles_flip(name: str) -> Operation:
    def convert(arguments: Section, images: Images) -> None:
        arguments.pass_over("keys")
        images.add(name, p=float(arguments.number("prob", 0.5)))

    return convert


def _timm_augment(arguments: Section, images: Images) -> None:
    arguments.pass_over("img_size")  # its operations move by fractions of the size
    config, p = arguments.text("config_str", "rand-m9-mstd0.5-inc1"), float(arguments.number("prob", 1.0))
    kind, *parts = config.split("-")
    interpolation = arguments.take("interpolation", "bicubic")
    fill = [min(255, round(255 * value)) for value in numbers_of(arguments, "mean", IMAGENET_MEAN)]
    if kind == "rand" and any(re.fullmatch(r"w\d+", part) for part in parts):
        arguments.leave_out_all(f"timm knows the weights of {config} no longer; take -tweights")
        return
    if any(part in ("inc0", "b0") for part in parts):
        parts = [part.replace("0", "1") if part in ("inc0", "b0") else part for part in parts]
        images.remark(arguments, "inc0 and b0 are inc1 and b1 there", "config_str")
    if kind == "augmix" and not any(part.startswith("mstd") for part in parts):
        parts.append("mstd0")  # timm draws magnitudes by default
    try:
        config = check_config("-".join([kind, *parts]))
    except ValueError as error:
        raise arguments.error("config_str", f"{config!r} {error}") from None
    if p > 0:
        here = interpolation if interpolation in ("bicubic", "random") else "bilinear"
        images.add("timm_augment", config=config, interpolation=here, fill=fill, **_unless_1(p))


def _rand_augment(arguments: Section, images: Images) -> None:
    number, magnitude = arguments.take("num_layers", 2), arguments.take("magnitude", 5)
    fill = color_of(arguments, "fillcolor", _GREY)
    _add_rand_augment(arguments, images, number, magnitude, fill, ops=_RAND_AUGMENT.split())
    images.remark(arguments, "by timm's operations, which rotate to both sides, and move by 0.45 of a side and not 0.453")


def _rand_augment_v2(arguments: Section, images: Images) -> None:
    number, magnitude = arguments.take("num_layers", 2), arguments.take("magnitude", 5)
    fill = color_of(arguments, "fillcolor", _GREY)
    if "progress_magnitude" in arguments:
        arguments.leave_out("progress_magnitude", "a magnitude does not change from epoch to epoch")
    _add_rand_augment(arguments, images, number, magnitude, fill, interpolation="bilinear")
    images.remark(arguments, "by timm's operations, which move by 0.45 of a side and not by 100 pixels; squares are not cut out")


def _rand_augment_v3(arguments: Section, images: Images) -> None:
    number, magnitude = arguments.take("num_layers", 2), arguments.take("magnitude", 3)
    arguments.pass_over("fillcolor", "interpolation")
    if not is_number(magnitude) or not 0 <= magnitude <= 10:
        raise arguments.error("magnitude", f"{format_value(magnitude)} is no number of 0 to 10")
    images.add("rand_augment", num_ops=number, magnitude=round(3 * magnitude))
    images.remark(arguments, "by torchvision's operations, with magnitudes of 0 to 30")


def _add_rand_augment(arguments: Section, images: Images, number: Any, magnitude: Any, fill: Any, **more: Any) -> None:
    for key, value, least in (("num_layers", number, 1), ("magnitude", magnitude, 0)):
        if not isinstance(value, int) or value < least:
            raise arguments.error(key, f"{format_value(value)} is no whole number from {least} on")
    largest = f"-mmax{magnitude}" if magnitude > 10 else ""
    config = f"rand-m{magnitude}-n{number}-p1{largest}"
    images.add("timm_augment", **{"config": config, "interpolation": "bicubic", "fill": fill, **more})


def _auto_augment(arguments: Section, images: Images) -> None:
    arguments.pass_over("fillcolor")
    images.add("auto_augment")
    images.remark(
        arguments, "by torchvision's operations: the same policy; black comes in from outside and not grey, and rotations go to both sides"
    )


def _aug_mix(arguments: Section, images: Images) -> None:
    severity, width = arguments.take("aug_severity", 1), arguments.take("mixture_width", 3)
    depth = arguments.take("mixture_depth", 1)
    length = f"-d{depth}" if is_number(depth) and depth > 0 else ""
    config = f"augmix-m{severity}-w{width}{length}-a{arguments.number('aug_prob_coeff', 0.1):g}-mstd0"
    try:
        images.add("timm_augment", config=check_config(config), fill=_GREY, **_unless_1(float(arguments.number("prob", 0.5))))
    except ValueError as error:
        raise arguments.error("aug_severity", f"{config!r} {error}") from None
    images.remark(arguments, "by timm's AugMix, which has more operations, each of one magnitude")


def _random_erasing(arguments: Section, images: Images) -> None:
    p, scale = float(arguments.number("EPSILON", 0.5)), [float(arguments.number("sl", 0.02)), float(arguments.number("sh", 0.4))]
    if (narrowest := float(arguments.number("r1", 0.3))) <= 0:
        raise arguments.error("r1", f"{narrowest:g} is no ratio of two sides")
    mode, mean = arguments.text("mode", "const"), numbers_of(arguments, "mean", (0.0, 0.0, 0.0))
    attempts, log_ratio = arguments.number("attempt", _MOST_ATTEMPTS), arguments.flag("use_log_aspect", False)
    if mode not in ("const", "pixel", "rand"):
        raise arguments.error("mode", f"{format_value(mode)} is none of const, pixel and rand")
    value: Any = {"pixel": "normal", "rand": "normal_color"}.get(mode) or _erased_color(images, mean)
    if mode != "const" and not images.is_normalized:
        images.remark(arguments, "noise of mean 0 and deviation 1 before images are normalised is next to black", "mode")
        value = "zero"
    if p > 0:
        drawn = {"attempts": min(attempts, _MOST_ATTEMPTS), "log_ratio": log_ratio}
        ratio = [narrowest, rounded(1 / narrowest)]
        images.add("random_erasing", p=p, scale=[rounded(each) for each in scale], ratio=ratio, value=value, **drawn)


def _erased_color(images: Images, mean: list[float]) -> list[int] | str:
    """Returns the pixel that a value stands for, which is a normalised one behind the normalisation."""
    values = [*mean, *mean, *mean][:3]
    if images.is_normalized:
        values = [255 * (value * std + center) for value, std, center in zip(values, images.std, images.mean, strict=True)]
    color = [min(255, max(0, round(value))) for value in values][:: -1 if images.is_bgr else 1]
    return color if any(color) else "zero"


def _color_jitter(arguments: Section, images: Images) -> None:
    found = {key: arguments.take(key, 0) for key in ("brightness", "contrast", "saturation", "hue")}
    arguments.pass_over("keys")
    for key, value in found.items():
        if _is_pair(value) and abs(sum(value) - (0 if key == "hue" else 2)) < 1e-6:
            found[key] = value = rounded((value[1] - value[0]) / 2)  # a range around no change
        if not is_number(value):
            raise arguments.error(key, f"{format_value(value)} is no number, and no range around what changes nothing")
    p = min(1.0, float(arguments.number("prob", 1.0)))
    images.add("color_jitter", **{key: float(value) for key, value in found.items() if value}, **_unless_1(p))


def _rotation(arguments: Section, images: Images) -> None:
    key = "degrees" if "degrees" in arguments else "angle"
    degrees = arguments.take(key, 0)
    if _is_pair(degrees) and degrees[0] == -degrees[1]:
        degrees = degrees[1]
    if not is_number(degrees):
        raise arguments.error(key, f"{format_value(degrees)} is no angle to both sides")
    arguments.pass_over("keys", "center", "expand", "fill", "fill_value", "interp_type")
    if arguments.number("prob", 1.0) < 1:
        images.remark(arguments, "each image is rotated", "prob")
    interpolation = arguments.text("interpolation", "nearest")
    images.add("rotation", degrees=float(degrees), interpolation=interpolation if interpolation in ("bilinear", "bicubic") else "nearest")


def _gaussian_blur(arguments: Section, images: Images) -> None:
    sigma = [float(arguments.number("radius_min", 0.1)), float(arguments.number("radius_max", 2.0))]
    p = float(arguments.number("prob" if "prob" in arguments else "p", 0.5))
    images.add("gaussian_blur", kernel_size=min(99, 2 * math.ceil(3 * sigma[1]) + 1), sigma=sigma, **_unless_1(p))


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def _unless_1(p: float) -> dict[str, float]:
    return {} if p >= 1 else {"p": p}


TRAINING: Mapping[str, Operation] = {
    **EVALUATION,
    "RandCropImage": _random_resized_crop,
    "RandomResizedCrop": _paddles_random_resized_crop,
    "RandCropImageV2": _random_crop,
    "RandomCropImage": _random_crop,
    "RandomCrop": _paddles_random_crop,
    "Pad": _pad,
    "Pad_paddle_vision": _paddles_pad,
    "Padv2": _pad_to_size,
    "PadV2": _pad_to_size,
    "RandFlipImage": _flip,
    "RandomHorizontalFlip": _paddles_flip("horizontal_flip"),
    "RandomVerticalFlip": _paddles_flip("vertical_flip"),
    "AutoAugment": _auto_augment,
    "RandAugment": _rand_augment,
    "RandAugmentV2": _rand_augment_v2,
    "RandAugmentV3": _rand_augment_v3,
    "TimmAutoAugment": _timm_augment,
    "AugMix": _aug_mix,
    "RandomErasing": _random_erasing,
    "ColorJitter": _color_jitter,
    "RandomRotation": _rotation,
    "GaussianBlur": _gaussian_blur,
}
"""By name the transforms of training images; a recipe has no counterpart of others."""
