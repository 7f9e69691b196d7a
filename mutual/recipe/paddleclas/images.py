"""convert_images, convert_preprocess: lists of transforms as those of a recipe, with the size and the statistics that they end with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mutual.recipe.datasets import IMAGENET_MEAN, IMAGENET_STD
from mutual.recipe.paddleclas.section import Section
from mutual.recipe.paddleclas.values import deviations_of, interpolation_of, numbers_of, rounded, size_of

_NEXT_TO_1 = 1e-5
"""By so little a scale of 0.00392157 is another one than 1/255, which no pixel of 8 bits shows."""
_SIZED = ("resize", "center_crop", "random_crop", "random_resized_crop")


@dataclass
class Images:
    """What a list of transforms makes of images, from its first to its last.

    Attributes:
        quiet: remarks are not made; they stand at another list.
        transforms: sections of a recipe's `augment` or `preprocess`.
        size: height and width at this point, None where images may have different ones.
        mean: of pixel values in 0 .. 1, by channel.
        std: their standard deviation; without a normalisation pixels stay in 0 .. 255, which is one, too.
        is_normalized: whether that came before.
        is_bgr: whether channels are blue, green and red.
        padding: pixels on each side that the next random crop may take.
        padding_mode: what is in them.
        backends: what has resized there.
    """

    quiet: bool = False
    transforms: list[dict[str, Any]] = field(default_factory=list)
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1 / 255,) * 3
    is_normalized: bool = False
    is_bgr: bool = False
    padding: int = 0
    padding_mode: str = "constant"
    backends: set[str] = field(default_factory=set)

    def add(self, name: str, **arguments: Any) -> None:
        """Adds a transform."""
        self.transforms.append({"name": name, **arguments})

    def remark(self, section: Section, text: str, key: str = "") -> None:
        """Notes what differs, once for all lists."""
        if not self.quiet:
            section.remark(text, key)

    @property
    def normalize(self) -> dict[str, list[float]]:
        """The statistics, in the order of red, green and blue."""
        mean, std = ([*values][:: -1 if self.is_bgr else 1] for values in (self.mean, self.std))
        return {"mean": mean, "std": std}

    def without_size(self, image_size: tuple[int, int]) -> list[dict[str, Any]]:
        """Returns the transforms, of which those that give `image_size` say no size: it is the default."""
        return [_without_size(transform, image_size) for transform in self.transforms]


Operation = Callable[[Section, Images], None]
"""Takes a transform's arguments, and adds what it is here."""


def convert_images(
    section: Section,
    key: str,
    operations: Mapping[str, Operation],
    *,
    why_not: str,
    size: tuple[int, int] | None = None,
    quiet: bool = False,
) -> Images:
    """Returns what a list of transforms makes of images.

    Args:
        section: the section that holds the list.
        key: what it is called there.
        operations: by name what is known of transforms.
        why_not: what is said of a transform that is not among them.
        size: of the images before, where they have one.
        quiet: remarks are not made.

    Raises:
        RecipeError: an argument that a transform does not take.
    """
    images = Images(quiet=quiet, size=size)
    for name, arguments in section.named_sections(key):
        if name in operations:
            operations[name](arguments, images)
        else:
            arguments.leave_out_all(why_not)
    if images.backends:
        pixels = "pixels differ slightly" if "cv2" in images.backends else "pixels differ by about 1 of 255"
        by = "Pillow's methods, not cv2's" if "cv2" in images.backends else "Pillow's methods"
        text = f"images are resized by {by}: {pixels}, a longer side and the place of a crop by one pixel"
        if not any(line.endswith(text) for line in section.notes.remarks):
            images.remark(section, text, key)
    return images


def convert_preprocess(section: Section, key: str = "transforms") -> dict[str, Any]:
    """Returns what evaluation makes of an image: `image_size`, `preprocess` and `normalize` of a recipe's data; nothing of an empty list.

    Args:
        section: the section that holds the list of transforms, such as Infer.
        key: what it is called there; what differs is not noted once more, as it is the same at each such list.

    Raises:
        RecipeError: an argument that a transform does not take.
    """
    if key not in section:
        return {}
    images = convert_evaluation(section, key, quiet=True)
    found: dict[str, Any] = {} if images.size is None else {"image_size": plain_size(images.size)}
    preprocess = images.transforms if images.size is None else images.without_size(images.size)
    return {**found, "preprocess": preprocess, "normalize": images.normalize}


def convert_evaluation(section: Section, key: str, *, size: tuple[int, int] | None = None, quiet: bool = False) -> Images:
    """Returns what evaluation makes of images; `size`: theirs before, where they have one."""
    why_not = "evaluation images are resized, and cropped in the middle, only"
    return convert_images(section, key, EVALUATION, why_not=why_not, size=size, quiet=quiet)


def plain_size(size: tuple[int, int]) -> int | list[int]:
    """Returns a size as a recipe has it: one number where it is square."""
    return size[0] if size[0] == size[1] else list(size)


def _decode(arguments: Section, images: Images) -> None:
    arguments.pass_over("to_np", "channel_first", "backend")
    if not arguments.flag("to_rgb", True):
        images.is_bgr = True
        why = "images are RGB here, and their statistics are put in this order; weights that were made for BGR do not fit"
        arguments.warn(f"false: {why}", "to_rgb")


def _resize(arguments: Section, images: Images) -> None:
    interpolation, backend = interpolation_of(arguments, quiet=images.quiet)
    arguments.pass_over("return_numpy")
    images.backends.add(backend)
    shorter = arguments.number("resize_short")
    if shorter is not None and shorter > 0:
        arguments.take("size")
        images.size = None
        images.add("resize", size=int(shorter), mode="shorter", interpolation=interpolation)
        return
    images.size = size_of(arguments)
    images.add("resize", size=plain_size(images.size), interpolation=interpolation)


def _paddles_resize(arguments: Section, images: Images) -> None:
    """Resize brings both sides to a list of them, and the shorter one to a number."""
    interpolation, backend = interpolation_of(arguments, quiet=images.quiet)
    images.backends.add(backend)
    arguments.pass_over("keys")
    is_shorter, size = not arguments.is_list("size"), size_of(arguments, height_first=True)
    if is_shorter:
        images.size = None
        images.add("resize", size=size[0], mode="shorter", interpolation=interpolation)
        return
    images.size = size
    images.add("resize", size=plain_size(images.size), interpolation=interpolation)


def _center_crop(arguments: Section, images: Images) -> None:
    images.size = size_of(arguments)
    images.add("center_crop", size=plain_size(images.size))


def _paddles_center_crop(arguments: Section, images: Images) -> None:
    arguments.pass_over("keys")
    images.size = size_of(arguments, height_first=True)
    images.add("center_crop", size=plain_size(images.size))


def _normalize(arguments: Section, images: Images) -> None:
    arguments.pass_over("order", "output_fp16", "data_format")
    if arguments.take("channel_num", 3) != 3:
        images.remark(arguments, "a fourth channel of zeros is not added, which changes nothing", "channel_num")
    scale = 255 * arguments.number("scale", 1 / 255)
    if scale <= 0:
        raise arguments.error("scale", f"{scale / 255:g} is no factor of pixel values; it is above 0, such as 1/255")
    scale = 1.0 if abs(scale - 1) < _NEXT_TO_1 else scale
    _set_statistics(arguments, images, scale)


def _paddles_normalize(arguments: Section, images: Images) -> None:
    arguments.pass_over("data_format", "to_rgb", "keys")
    _set_statistics(arguments, images, 1 / images.std[0])  # of 0 .. 1 behind ToTensor, else of 0 .. 255


def _set_statistics(arguments: Section, images: Images, scale: float) -> None:
    """Notes statistics of pixel values in 0 .. `scale`, as those of values in 0 .. 1."""
    mean, std = numbers_of(arguments, "mean", IMAGENET_MEAN), deviations_of(arguments, "std", IMAGENET_STD)
    images.mean, images.std = (tuple(rounded(value / scale) for value in values) for values in (mean, std))
    images.is_normalized = True


def _to_tensor(arguments: Section, images: Images) -> None:
    arguments.pass_over("data_format", "keys")
    images.std = (1.0, 1.0, 1.0)


def _nothing(arguments: Section, _images: Images) -> None:
    arguments.pass_over("keys")


EVALUATION: Mapping[str, Operation] = {
    "DecodeImage": _decode,
    "ResizeImage": _resize,
    "Resize": _paddles_resize,
    "CropImage": _center_crop,
    "CenterCrop": _paddles_center_crop,
    "NormalizeImage": _normalize,
    "Normalize": _paddles_normalize,
    "ToTensor": _to_tensor,
    "ToCHWImage": _nothing,
}
"""By name the transforms that draw nothing."""


def _without_size(transform: dict[str, Any], image_size: tuple[int, int]) -> dict[str, Any]:
    is_default = transform["name"] in _SIZED and transform.get("mode") != "shorter" and transform["size"] == plain_size(image_size)
    return {key: value for key, value in transform.items() if key != "size" or not is_default}
