"""The transforms a recipe may name: each is one torchvision.transforms.v2 transform with its own arguments, or one of the user's own."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializationInfo,
    StrictBool,
    StrictFloat,
    StrictInt,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from mutual.recipe.base import Deviation, KernelSize, NonNegativeFloat, Number, Probability, Size, Spec
from mutual.recipe.timm_configs import TimmOperation, check_config
from mutual.recipe.users_code import is_users_name

Interpolation = Literal["nearest", "bilinear", "bicubic"]


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("must begin with the smaller one")
    return pair


_Ratio = Annotated[StrictFloat, Field(ge=0.1, le=10)]  # a narrower rectangle of a small image has no pixels
Deviations = Annotated[tuple[NonNegativeFloat, NonNegativeFloat], AfterValidator(_ordered)]
Fractions = Annotated[tuple[Probability, Probability], AfterValidator(_ordered)]
Ratios = Annotated[tuple[_Ratio, _Ratio], AfterValidator(_ordered)]
PixelColor = Annotated[tuple[Annotated[StrictInt, Field(ge=0, le=255)], ...], Field(min_length=1, max_length=3)]


class Resize(Spec):
    """Scale to `size`: both sides (`mode: exact`) or the shorter one, keeping the aspect ratio (`mode: shorter`)."""

    name: Literal["resize"]
    size: Size | None = None
    """Pixels, one number or height and width; the default is `data.image_size`."""
    mode: Literal["exact", "shorter"] = "exact"
    """exact: both sides; shorter: the shorter one, with the aspect ratio kept."""
    interpolation: Interpolation = "bilinear"
    """Interpolation between pixels."""


class CenterCrop(Spec):
    """Cut the middle."""

    name: Literal["center_crop"]
    size: Size | None = None
    """Pixels, one number or height and width; the default is `data.image_size`."""


class RandomResizedCrop(Spec):
    """Cut a random rectangle (a fraction `scale` of the area, width/height in `ratio`) and scale it to the image size."""

    name: Literal["random_resized_crop"]
    size: Size | None = None
    """Pixels, one number or height and width; the default is `data.image_size`."""
    scale: Fractions = (0.08, 1.0)
    """Smallest and largest fraction of the image's area."""
    ratio: Ratios = (3 / 4, 4 / 3)
    """Smallest and largest width divided by height."""
    interpolation: Interpolation = "bilinear"
    """Interpolation between pixels."""


class RandomCrop(Spec):
    """Pad by `padding` pixels, then cut the image size at a random place."""

    name: Literal["random_crop"]
    size: Size | None = None
    """Pixels, one number or height and width; the default is `data.image_size`."""
    padding: Annotated[StrictInt, Field(ge=0, le=512)] = 4
    """Pixels on each side."""
    padding_mode: Literal["constant", "edge", "reflect", "symmetric"] = "constant"
    """What the padding holds: zeros, the edge's pixels, or the image mirrored."""


class HorizontalFlip(Spec):
    """Mirror left and right with probability `p`."""

    name: Literal["horizontal_flip"]
    p: Probability = 0.5
    """Probability."""


class VerticalFlip(Spec):
    """Mirror top and bottom with probability `p`."""

    name: Literal["vertical_flip"]
    p: Probability = 0.5
    """Probability."""


class HalfTurn(Spec):
    """Turn by 180 degrees with probability `p`: mirror left and right, and top and bottom, at once."""

    name: Literal["half_turn"]
    p: Probability = 0.5
    """Probability."""


class Rotation(Spec):
    """Rotate by an angle drawn from -degrees .. degrees."""

    name: Literal["rotation"]
    degrees: Annotated[StrictFloat, Field(ge=0, le=360)]
    """Largest angle, to both sides."""
    interpolation: Interpolation = "bilinear"
    """Interpolation between pixels."""


class GaussianBlur(Spec):
    """Blur with a Gaussian whose standard deviation (pixels) is drawn from `sigma`, with probability `p`."""

    name: Literal["gaussian_blur"]
    kernel_size: KernelSize = 3
    """Pixels; an odd number."""
    sigma: Deviations = (0.1, 2.0)
    """Smallest and largest standard deviation in pixels."""
    p: Probability = 1.0
    """Probability."""


class ColorJitter(Spec):
    """Change brightness, contrast, saturation and hue by random factors up to these."""

    name: Literal["color_jitter"]
    brightness: NonNegativeFloat = 0.0
    """Factor drawn from 1 - brightness .. 1 + brightness."""
    contrast: NonNegativeFloat = 0.0
    """Factor drawn from 1 - contrast .. 1 + contrast."""
    saturation: NonNegativeFloat = 0.0
    """Factor drawn from 1 - saturation .. 1 + saturation."""
    hue: Annotated[StrictFloat, Field(ge=0, le=0.5)] = 0.0
    """Shift drawn from -hue .. hue of the colour circle."""
    p: Probability = 1.0
    """Probability."""


class TrivialAugment(Spec):
    """TrivialAugmentWide (arXiv:2103.10158)."""

    name: Literal["trivial_augment"]
    num_magnitude_bins: Annotated[StrictInt, Field(gt=1, le=1_000)] = 31
    """Number of magnitudes to draw from."""


class RandAugment(Spec):
    """RandAugment (arXiv:1909.13719)."""

    name: Literal["rand_augment"]
    num_ops: Annotated[StrictInt, Field(gt=0, le=64)] = 2
    """Operations on each image."""
    magnitude: Annotated[StrictInt, Field(ge=0, le=30)] = 9
    """Magnitude of each operation, of 30."""


class AutoAugment(Spec):
    """AutoAugment (arXiv:1805.09501) with the policy learned on one of three data sets."""

    name: Literal["auto_augment"]
    policy: Literal["imagenet", "cifar10", "svhn"] = "imagenet"
    """The data set that the policy was learned on."""


class TimmAugment(Spec):
    """RandAugment, AutoAugment or AugMix (arXiv:1912.02781) by timm, as its configuration strings say."""

    name: Literal["timm_augment"]
    config: Annotated[str, Field(max_length=100, examples=["rand-m9-mstd0.5-inc1"]), AfterValidator(check_config)]
    """timm's string: rand-m9-mstd0.5-inc1 (m: magnitude, n: operations, p: probability of each, mstd: deviation of the magnitude, mmax: its
    bound, inc1: operations that become stronger with it, t: weights, 3a or 3aw); augmix-m3-w3 (m, w: chains, d: their length, a: alpha, b1:
    blended, mstd); or a policy v0, v0r, original, originalr or 3a, with mstd."""
    p: Probability = 1.0
    """Probability."""
    interpolation: Literal["bilinear", "bicubic", "random"] = "random"
    """Interpolation between pixels; random: bilinear or bicubic, drawn for each operation."""
    fill: PixelColor | None = None
    """What comes in from outside of the image: 0 .. 255 for each channel. The default is the mean of `data.normalize`."""
    ops: Annotated[list[TimmOperation], Field(min_length=1, max_length=len(get_args(TimmOperation)))] | None = None
    """rand-...: the operations to draw from, by timm's names; the default is what `inc` and `t` of the string say."""


class RandomErasing(Spec):
    """Erase a random rectangle (arXiv:1708.04896) with probability `p`."""

    name: Literal["random_erasing"]
    p: Probability = 0.25
    """Probability."""
    scale: Fractions = (0.02, 0.33)
    """Smallest and largest fraction of the image's area."""
    ratio: Ratios = (0.3, 3.3)
    """Smallest and largest ratio of the sides."""
    value: Literal["zero", "random", "normal", "normal_color"] | PixelColor = "zero"
    """What the rectangle holds: zeros; uniform noise; normal noise of `mean` and `std`, drawn for each pixel (normal) or once for the
    rectangle (normal_color); or a colour, 0 .. 255 for each channel."""
    mean: tuple[Number, ...] | None = None
    """normal, normal_color: mean of each channel, of pixel values in 0 .. 1; the default is that of `data.normalize`."""
    std: tuple[Deviation, ...] | None = None
    """normal, normal_color: standard deviation of each channel; the default is that of `data.normalize`."""
    attempts: Annotated[StrictInt, Field(ge=1, le=100)] = 10
    """Rectangles that are drawn until one fits into the image."""
    log_ratio: StrictBool = True
    """Whether the ratio's logarithm is drawn uniformly, so that tall and wide are as likely, or the ratio itself."""


class UsersTransform(Spec):
    """A transform of the user's own: `package.module:name` is called with the keys beside `name`, and gives a function of an image."""

    model_config = ConfigDict(extra="allow")

    name: str
    """package.module:name."""

    @property
    def args(self) -> dict[str, Any]:
        """What it is called with."""
        return dict(self.model_extra or {})


def _from_bare_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Transform = Annotated[
    Resize
    | CenterCrop
    | RandomResizedCrop
    | RandomCrop
    | HorizontalFlip
    | VerticalFlip
    | HalfTurn
    | Rotation
    | GaussianBlur
    | ColorJitter
    | TrivialAugment
    | RandAugment
    | AutoAugment
    | TimmAugment
    | RandomErasing,
    Field(discriminator="name"),
]


def _own_or_known(value: Any, known: ValidatorFunctionWrapHandler) -> Any:
    section = _from_bare_name(value)
    if isinstance(section, UsersTransform):
        return section
    if _is_users(section):
        return UsersTransform.model_validate(section)
    return known(section)


def _built_in(value: Any) -> Any:
    section = _from_bare_name(value)
    if isinstance(section, UsersTransform) or _is_users(section):
        raise ValueError("is no built-in transform; a file of the run must say how images are prepared, so that no code of yours is needed")
    return section


def _is_users(section: Any) -> bool:
    return isinstance(section, dict) and isinstance(section.get("name"), str) and is_users_name(section["name"])


def _dump(section: Spec, info: SerializationInfo) -> dict[str, Any]:
    return section.model_dump(mode=info.mode)


AnyTransform = Annotated[Transform, WrapValidator(_own_or_known), PlainSerializer(_dump)]
"""A transform, or a `UsersTransform`; one that needs no arguments may be written as its name alone."""
BuiltInTransform = Annotated[Transform, BeforeValidator(_built_in)]
"""The same without transforms of the user's."""
