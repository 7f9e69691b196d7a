"""Transforms: what a recipe names, as torchvision.transforms.v2 pipelines on uint8 images `[C, H, W]`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mutual.data.files.decoding import ImageSource, read_file
from mutual.data.transforms.augmentation import CountedTransforms, is_counted
from mutual.data.transforms.regions import plan_of
from mutual.recipe import Data
from mutual.recipe import transforms as specs

Pipeline = Callable[[Tensor], Tensor]
_EVAL_CROP = 0.875  # the part of the scaled image that torchvision's evaluation presets keep
_DETERMINISTIC = (specs.Resize, specs.CenterCrop)


class Transforms:
    """A pipeline in two parts: a deterministic one, and a random one that begins at the first random transform.

    Args:
        chosen: the transforms.
        image_size: height and width of what a transform without a size of its own gives.
        reads_files: images are files, of which the first transform may take a part before they are decoded.

    Attributes:
        region: what the first transform takes of a file, or None; the other pipelines begin behind it then.
        deterministic: what comes before the first random transform, for an image or for a batch of images of one size.
        random: the rest, for one image.
        is_random: whether there is any.
        deterministic_specs: the transforms before the first random one; `region` may be the first of them.
        stages: `random` for a batch of images of one size: transforms that are drawn for all of them at once, and between these
            pipelines for one image.
    """

    def __init__(self, chosen: Sequence[specs.Transform], image_size: tuple[int, int], *, reads_files: bool = False) -> None:
        self.region = plan_of(chosen[0], image_size) if reads_files and chosen else None
        begin = int(self.region is not None)
        first_random = next((index for index, spec in enumerate(chosen) if not isinstance(spec, _DETERMINISTIC)), len(chosen))
        built = _build(chosen, image_size)
        self.deterministic: Pipeline = nn.Sequential(*built[begin:first_random])
        self.random: Pipeline = nn.Sequential(*built[max(begin, first_random) :])
        self.is_random = first_random < len(chosen)
        self.deterministic_specs = list(chosen[:first_random])
        self.stages = list(_stages(chosen, built, first_random, begin, image_size))

    def __call__(self, image: Tensor) -> Tensor:
        """Returns the transformed image, drawing from torch's default generator."""
        return self.random(self.deterministic(image))


def train_transforms(data: Data, image_size: tuple[int, int]) -> Transforms:
    """Returns the pipeline of the training images."""
    return Transforms(_chosen(data, data.filled_augment, image_size, crop=1.0), image_size, reads_files=data.kind.in_files)


def eval_transforms(data: Data, image_size: tuple[int, int]) -> Transforms:
    """Returns the pipeline of the evaluation images.

    Raises:
        ValueError: it names a random transform.
    """
    transforms = Transforms(_chosen(data, data.preprocess, image_size, crop=_EVAL_CROP), image_size, reads_files=data.kind.in_files)
    if transforms.is_random:
        raise ValueError("preprocess names a random transform; evaluation takes resize and center_crop only")
    return transforms


class Preprocess:
    """What brings an image through transforms as evaluation brings it, of any size, with `channels` channels.

    Args:
        chosen: the transforms.
        channels: of the images that go through them.
        image_size: what a transform without a size brings images to.
    """

    def __init__(self, chosen: Sequence[specs.Transform], *, channels: int, image_size: tuple[int, int]) -> None:
        self._channels = channels
        self._of_files = Transforms(chosen, image_size, reads_files=True)
        self._of_images = Transforms(chosen, image_size)

    def __call__(self, image: Tensor) -> Tensor:
        """Returns what becomes of a decoded image, uint8 `[C, H, W]`."""
        return self._of_images(to_channels(image, self._channels))

    def read(self, path: Path) -> Tensor:
        """Returns what becomes of an image file.

        Raises:
            ImageError: it is no image that can be read.
            OSError: the disk or the machine failed.
        """
        source = ImageSource(read_file(path), self._channels, path=path)
        plan = self._of_files.region
        return self._of_files(source.whole() if plan is None else plan(*source.size).read(source))


def build_preprocess(chosen: Sequence[specs.Transform], *, channels: int, image_size: tuple[int, int]) -> Preprocess:
    """Returns what brings one image, decoded or in a file and of any size, through transforms, with `channels` channels."""
    return Preprocess(chosen, channels=channels, image_size=image_size)


def resolved_preprocess(data: Data, image_size: tuple[int, int]) -> list[dict[str, Any]]:
    """Returns the transforms of evaluation images as JSON values, each with its size."""
    chosen = _chosen(data, data.preprocess, image_size, crop=_EVAL_CROP)
    values = [spec.model_dump(mode="json") for spec in chosen]
    return [{**value, "size": _own_size(value, image_size)} for value in values]


def to_channels(images: Tensor, channels: int) -> Tensor:
    """Returns images `[..., C, H, W]` with 1 or 3 channels: grey is repeated, colour is weighted to luma."""
    if images.shape[-3] == channels:
        return images
    import torchvision.transforms.v2.functional as TF  # it takes seconds to import, and most images have their channels

    return TF.grayscale_to_rgb(images) if channels == 3 else TF.rgb_to_grayscale(images)


def _own_size(value: dict[str, Any], image_size: tuple[int, int]) -> Any:
    """Returns the size of a transform; of one that has none the images', or their shorter side where it scales that."""
    if value["size"] is not None:
        return value["size"]
    return min(image_size) if value.get("mode") == "shorter" else list(image_size)


def _chosen(data: Data, named: Sequence[specs.Transform] | None, image_size: tuple[int, int], *, crop: float) -> list[specs.Transform]:
    if not data.kind.in_files:  # images of one size: brought to image_size before anything else
        resized = named and isinstance(named[0], specs.Resize | specs.RandomResizedCrop)
        return [*([] if resized else [specs.Resize(name="resize")]), *(named or [])]
    if named is not None:
        return list(named)
    height, width = (round(side / crop) for side in image_size)
    if height != width:
        return [specs.Resize(name="resize", size=(height, width)), specs.CenterCrop(name="center_crop")]
    return [specs.Resize(name="resize", size=height, mode="shorter"), specs.CenterCrop(name="center_crop")]


def _stages(
    chosen: Sequence[specs.Transform], built: Sequence[nn.Module], first_random: int, begin: int, image_size: tuple[int, int]
) -> Iterator[CountedTransforms | Pipeline]:
    """Yields the stages of the transforms from `begin` on; what they draw depends on their positions behind the first random one."""
    for counted, group in groupby(range(max(begin, first_random), len(chosen)), key=lambda position: is_counted(chosen[position])):
        first, *_ = members = list(group)
        end = members[-1] + 1
        yield CountedTransforms(chosen[first:end], first - first_random, image_size) if counted else nn.Sequential(*built[first:end])


def _build(chosen: Sequence[specs.Transform], image_size: tuple[int, int]) -> list[nn.Module]:
    if not chosen:
        return []
    from mutual.data.transforms.v2 import BUILDERS  # torchvision imports its models and torch's compiler: seconds that not everybody needs

    return [BUILDERS[type(spec)](spec, image_size) for spec in chosen]
