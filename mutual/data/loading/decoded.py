"""Decoded images: what the deterministic transforms make of a split's files, kept in a folder, so that each file is decoded once for all.

What is kept is what would be made of a file each time, bit for bit, with its strides: it changes time and no number. The folder's name
is a fingerprint of the files (their names below the root, sizes and times of change), of these transforms and of the packages that
decode and resize.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from mutual.data.datasets.splits import EncodedSplit
from mutual.data.files.decoding import ImageError
from mutual.data.files.image_store import FORMAT, ImageBlock, ImageStore, ImageWriter, check_mark, is_complete, locked_folder
from mutual.data.loading.cores import available_cores
from mutual.data.loading.workers import Loader
from mutual.data.transforms.pipelines import Transforms
from mutual.recipe import printable

_BLOCK = 32
"""Images that a process decodes and sends together."""
_NUM_SAMPLES = 16
"""Images of which the size of all is estimated."""


class DeterministicImages(Protocol):
    """What the deterministic transforms make of each image of a split."""

    def deterministic(self, index: int) -> Tensor:
        """Returns an image, uint8 `[C, H, W]`.

        Raises:
            ImageError: it cannot be read.
            OSError: the disk or the machine failed.
        """
        ...


class DecodedFolder:
    """Where the decoded images of a split are kept, and their fingerprint.

    Args:
        folder: the recipe's, which holds those of all splits and transforms.
        name: the split's.
        split: its files.
        transforms: what is done to them.
        shape: channels, and the height and width of transforms that name no size.
    """

    def __init__(self, folder: Path, name: str, split: EncodedSplit, transforms: Transforms, shape: tuple[int, int, int]) -> None:
        self._num_images = len(split.labels)
        self.about: dict[str, Any] = {
            "format": FORMAT,
            "images": self._num_images,
            "files": _digest_of_files(split),
            "channels": shape[0],
            "image_size": list(shape[1:]),
            "transforms": [spec.model_dump(mode="json") for spec in transforms.deterministic_specs],
            "packages": {package: version(package) for package in ("pillow", "torch", "torchvision")},
        }
        digest = hashlib.blake2b(json.dumps(self.about, sort_keys=True).encode(), digest_size=8).hexdigest()
        self.path = folder / f"{name}-{digest}"

    def open(self) -> ImageStore | None:
        """Returns the images if they are there, all of them.

        Raises:
            InputError: they are damaged.
        """
        if not is_complete(self.path):
            return None
        check_mark(self.path, self.about)
        return ImageStore(self.path, self._num_images)

    def fill(self, images: DeterministicImages, *, workers: int | None, prefetch: int) -> ImageStore:
        """Returns the images, which are made where they are not there; of several processes one makes them, and the others wait.

        Raises:
            InputError: the folder holds something else, or is damaged.
            OSError: the disk is full, or failed.
        """
        found = self.open()
        if found is None:
            with locked_folder(self.path, self.about, waits=self._say_who_waits):
                if not is_complete(self.path):
                    self._write(images, workers=available_cores() if workers is None else workers, prefetch=prefetch)
            found = self.open()
        assert found is not None, "it is complete"
        return found

    def _write(self, images: DeterministicImages, *, workers: int, prefetch: int) -> None:
        writer = ImageWriter(self.path)
        first = writer.num_images
        dataset = _Blocks(images)
        loader: Loader[ImageBlock | OSError] = Loader(dataset, workers=workers, prefetch=prefetch)
        try:
            self._announce(images, first)
            begins = range(first, self._num_images, _BLOCK)
            blocks = loader([range(begin, min(begin + _BLOCK, self._num_images))] for begin in begins)
            with tqdm(
                total=self._num_images, initial=first, desc="decoding", unit="image", file=sys.stderr, disable=not sys.stderr.isatty()
            ) as bar:
                for block in blocks:
                    if isinstance(block, OSError):
                        raise OSError(block.errno or errno.EIO, block.strerror or str(block), block.filename)
                    writer.append(block)
                    bar.update(len(block.rows))
            writer.complete()
        except OSError as error:
            raise OSError(error.errno or errno.EIO, error.strerror or str(error), error.filename or str(self.path)) from error
        finally:
            loader.close()
            writer.close()

    def _say_who_waits(self) -> None:
        if os.environ.get("RANK", "0") == "0":
            tqdm.write(f"waiting for the process that decodes images into {printable(self.path)}", file=sys.stderr)

    def _announce(self, images: DeterministicImages, first: int) -> None:
        """Says how many bytes the images take that are not there yet.

        Raises:
            OSError: the disk has less.
        """
        rest = range(first, self._num_images)
        drawn = rest[:: max(1, len(rest) // _NUM_SAMPLES)]
        sizes = [0 if image is None else image.numel() for image in (_image(images, index) for index in drawn)]
        needed, free = sum(sizes) * len(rest) // max(1, len(drawn)), shutil.disk_usage(self.path).free
        about = f"{len(rest):,} decoded images take about {_readable(needed)}"
        if needed > free:
            raise OSError(errno.ENOSPC, f"{about}, and {_readable(free)} are free", str(self.path))
        tqdm.write(f"{about} in {printable(self.path)}", file=sys.stderr)


class _Blocks(Dataset[ImageBlock | OSError]):
    """Images by their numbers, as blocks; or what went wrong with the machine."""

    def __init__(self, images: DeterministicImages) -> None:
        self._images = images

    def __getitems__(self, requests: Sequence[range]) -> list[ImageBlock | OSError]:
        (indices,) = requests
        try:
            return [ImageBlock(_image(self._images, index) for index in indices)]
        except OSError as error:
            return [error]


def _image(images: DeterministicImages, index: int) -> Tensor | None:
    try:
        return images.deterministic(index)
    except ImageError:  # whoever asks for it is told, as its file is read again then
        return None


def _readable(num_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} GB"


def _digest_of_files(split: EncodedSplit) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, stamp in zip(split.portable_names(), _stamps(split), strict=True):
        digest.update(os.fsencode(name) + b"\0" + stamp.encode() + b"\n")
    return digest.hexdigest()


def _stamps(split: EncodedSplit) -> Iterator[str]:
    """Yields of each file its size and when it was changed; empty where it is not there."""
    for index in range(len(split.labels)):
        try:
            status = os.stat(split.name(index))  # noqa: PTH116, a Path for each file takes longer
        except OSError:
            yield ""
        else:
            yield f"{status.st_size} {status.st_mtime_ns}"
