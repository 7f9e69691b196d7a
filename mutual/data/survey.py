"""Survey: what images of the user's are, as far as a recipe must know it: splits, classes, sizes, and a sample of them that is read."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mutual.data.datasets.labels import class_counts
from mutual.data.datasets.readers import DatasetSplits, NoValidationImagesError, read_splits
from mutual.data.datasets.splits import EncodedSplit, Split
from mutual.data.files.decoding import ImageError
from mutual.data.files.listing import class_folders, image_files
from mutual.data.files.reading import examine
from mutual.recipe import Data, InputError, format_value, printable

_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""By split the names that its folder may have."""
_FRACTION = 0.15
_FEW = 20
"""Images of the smallest class from which on some are held out as test images, too."""


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        fields: of a recipe's data section, which read the images.
        num_images: by split.
        class_sizes: by class the number of its training images, in the data's order.
        image_size: median height and width of those that were read.
        channels: 1 where all that were read are grey, 3 else.
        num_read: how many were read.
        bad: the reason by name of those that cannot be.
    """

    fields: dict[str, Any]
    num_images: dict[str, int]
    class_sizes: dict[str, int]
    image_size: tuple[int, int]
    channels: int
    num_read: int
    bad: dict[str, str]

    @property
    def imbalance(self) -> float:
        """How many times as many images the largest class has as the smallest."""
        return max(self.class_sizes.values()) / max(1, min(self.class_sizes.values()))


def survey_images(dataset: str, *, sample: int, workers: int) -> Survey:
    """Returns what `dataset` holds: a folder, or what a recipe's `data.dataset` may say.

    Args:
        dataset: as the user wrote it.
        sample: how many images are read, of all splits.
        workers: processes that read files.

    Raises:
        InputError: there are no classes, or too few images, or none that can be read.
        OSError: the disk or the machine failed.
    """
    fields = _fields(dataset)
    try:
        fields, splits = _split(fields)
    except ValueError as error:
        raise InputError(f"{printable(dataset)}: {printable(error)}") from error
    if len(splits.class_names) < 2:
        raise InputError(f"{printable(dataset)} holds one class, {printable(splits.class_names[0])}; a classifier needs two")
    by_name: dict[str, Split] = {"train": splits.train, "val": splits.val} | ({} if splits.test is None else {"test": splits.test})
    num_images = {name: len(split.labels) for name, split in by_name.items()}
    sizes, greys, bad, num_read = _read_sample(by_name, sample, workers)
    if not sizes:
        raise InputError(f"{printable(dataset)}: none of {num_read} images can be read: {next(iter(bad.values()), 'there is none')}")
    heights, widths = zip(*sizes, strict=True)
    return Survey(
        fields=fields,
        num_images=num_images,
        class_sizes=dict(zip(splits.class_names, class_counts(splits.train.labels, len(splits.class_names)).tolist(), strict=True)),
        image_size=(round(statistics.median(heights)), round(statistics.median(widths))),
        channels=1 if all(greys) else 3,
        num_read=num_read,
        bad=bad,
    )


def _split(fields: dict[str, Any]) -> tuple[dict[str, Any], DatasetSplits]:
    """Returns the splits that `fields` read, and these fields with the parts that are held out where there are no validation images."""
    try:
        return fields, read_splits(Data(**fields))
    except NoValidationImagesError as error:
        smallest = int(class_counts(error.found.train.labels, len(error.found.class_names)).min())
        fields = {**fields, **_held_out(smallest)}
    return fields, read_splits(Data(**fields))


def _held_out(smallest: int) -> dict[str, float]:
    """Returns the fractions to hold out of images whose smallest class has `smallest`."""
    return {"val": _FRACTION} | ({"test": _FRACTION} if smallest >= _FEW else {})


def _fields(dataset: str) -> dict[str, Any]:
    """Returns the fields of a data section that reads `dataset`."""
    path = Path(dataset)
    if not path.is_dir():
        try:
            kind = Data(dataset=dataset).kind
        except ValueError:
            raise InputError(f"{format_value(dataset)} is neither a folder nor a data set; give FOLDER, hfds/NAME or wds/SHARDS") from None
        if kind.needs_root or kind.needs_lists:
            raise InputError(f"{format_value(dataset)} is no folder; for a data set that is built in, copy a recipe of recipes/")
        return {"dataset": dataset}
    root = {"dataset": "image_folder", "root": dataset}
    folders = {split: next((name for name in names if class_folders_of(path / name)), None) for split, names in _NAMES.items()}
    if folders["train"] is None:
        classes = class_folders_of(path)
        if not classes:
            other = next((f"; as {kind} it is {name}" for kind, name in _other_names(path)), "")
            raise InputError(f"{printable(dataset)} holds no folder of a class; it should hold CLASS/*.jpg, or train/CLASS/*.jpg{other}")
        return {**root, "train": ".", **_held_out(_smallest(classes))}
    named = {split: name for split, name in folders.items() if name is not None and (split == "test" or name != split)}
    return {**root, **({} if folders["val"] is not None else {"val": _FRACTION}), **named}


def _other_names(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields what else than folders of classes `folder` may hold, and how that is named."""
    if any(folder.glob("*.tar")):
        yield "shards", printable(f"wds/{folder}/*.tar")
    if any(folder.glob("**/*.parquet")) or any(folder.glob("**/*.arrow")):
        yield "tables", printable(f"hfds/{folder}")


def class_folders_of(folder: Path) -> list[Path]:
    """Returns the folders in `folder` that hold images, none where there is no such folder."""
    return [each for each in class_folders(folder) if image_files(each)] if folder.is_dir() else []


def _smallest(classes: list[Path]) -> int:
    return min(len(image_files(each)) for each in classes)


def _read_sample(splits: dict[str, Split], sample: int, workers: int) -> tuple[list[tuple[int, int]], list[bool], dict[str, str], int]:
    """Returns of a sample of the images their sizes, whether they are grey, why some cannot be read, and how many it were."""
    total = sum(len(split.labels) for split in splits.values())
    sizes, greys, bad, num_read = [], [], {}, 0
    for split in splits.values():
        size = min(len(split.labels), max(1, sample * len(split.labels) // total))
        chosen = torch.linspace(0, len(split.labels) - 1, size).round().long().unique()
        num_read += len(chosen)
        for name, reason, image_size, is_grey in _read(split.select(chosen), workers):
            if reason:
                bad[name] = reason
            else:
                sizes.append(image_size)
                greys.append(is_grey)
    return sizes, greys, bad, num_read


def _read(split: Split, workers: int) -> Iterator[tuple[str, str, tuple[int, int], bool]]:
    """Yields of each image its name, why it is bad, its size, and whether it is grey."""
    reasons = {}
    if isinstance(split, EncodedSplit):  # in processes: a decoder that crashes is a finding about its image
        reasons = {report.index: report.reason for report in examine(split, len(split.labels), workers=workers)}
    for index in range(len(split.labels)):
        reason, size, is_grey = reasons.get(index, ""), (0, 0), False
        try:
            if isinstance(split, EncodedSplit):
                if not reason:
                    source = split.source(index)
                    size, is_grey = source.size, source.is_grey
            else:
                image = split.image(index)
                size, is_grey = (image.shape[-2], image.shape[-1]), image.shape[0] == 1
        except ImageError as error:
            reason = error.reason
        yield split.name(index), reason, size, is_grey
