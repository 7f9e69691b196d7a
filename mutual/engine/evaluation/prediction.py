"""Predictor: the classes of images by trained peers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mutual.data import ImageError, Preprocess, ShapeError, build_preprocess, named_images, pixels, resolved_preprocess
from mutual.engine.evaluation.inference import read_models
from mutual.engine.storage import RunFolder, peer_files
from mutual.models import ModelCard, read_preprocess
from mutual.recipe import ENSEMBLE, InputError, Recipe

ImageLike: TypeAlias = "str | Path | Image.Image | Tensor"
"""An image file, an image of Pillow's, or the pixels `[C, H, W]` as uint8."""
_BATCH = 32


@dataclass(frozen=True)
class Prediction:
    """What is in an image.

    Attributes:
        image: its file, or None where it was given as pixels.
        classes: names of classes, most probable first.
        probabilities: theirs; they sum to 1 over all classes, or each is for itself where images may have several labels.
    """

    image: Path | None
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


class Predictor:
    """Classifies images with one or more peers, whose probabilities are averaged."""

    def __init__(self, recipe: Recipe, files: Sequence[Path], *, factories: Sequence[str] = ()) -> None:
        """Reads the peers' weights in `files`; `recipe` says how images are prepared.

        Raises:
            InputError: a file cannot be read, or holds a model that is not to be built.
        """
        self._models = list(read_models(files, factories).values())
        self.card = self._models[0][1]
        self._loaders = [_Loader.of(recipe, card) for _, card in self._models]

    def __call__(self, images: Iterable[ImageLike], *, topk: int | None = None) -> Iterator[Prediction]:
        """Yields for each image its `topk` classes, or all of them.

        Raises:
            InputError: an image cannot be read.
        """
        remaining = iter(images)
        while batch := list(islice(remaining, _BATCH)):
            for image, row_C in zip(batch, self._probabilities(batch), strict=True):
                best = row_C.topk(len(row_C) if topk is None else min(topk, len(row_C)))
                names = tuple(self.card.class_names[index] for index in best.indices.tolist())
                yield Prediction(Path(image) if isinstance(image, str | Path) else None, names, tuple(best.values.tolist()))

    @torch.no_grad()
    def _probabilities(self, images: Sequence[ImageLike]) -> Tensor:
        """Returns the mean probabilities `[B, C]` of the peers."""
        pixels = {loader: torch.stack([loader(image) for image in images]) for loader in dict.fromkeys(self._loaders)}
        probabilities = []
        for (model, card), loader in zip(self._models, self._loaders, strict=True):
            logits_BC = model(card.input(pixels[loader])).float()
            probabilities.append(logits_BC.sigmoid() if card.multi_label else logits_BC.softmax(dim=1))
        return torch.stack(probabilities).mean(dim=0)


@dataclass(frozen=True)
class _Loader:
    """Called on an image of any kind, it returns the pixels `[C, H, W]` that a peer's input is made of, as evaluation loads them."""

    preprocess: str
    channels: int
    image_size: tuple[int, int]

    @classmethod
    def of(cls, recipe: Recipe, card: ModelCard) -> _Loader:
        """Returns the loader that a card describes; a card of before leaves it to the recipe of the run."""
        steps = card.preprocess or resolved_preprocess(recipe.data, card.image_size)
        return cls(json.dumps(steps), card.loaded_channels or card.in_channels, card.image_size)

    def __call__(self, image: ImageLike) -> Tensor:
        try:
            if isinstance(image, str | Path):
                return self._pipeline.read(Path(image))
            return self._pipeline(_pixels_of(image, self.channels))
        except ShapeError as error:
            if isinstance(image, str | Path):
                raise ImageError(Path(image), str(error)) from error
            raise InputError(f"an image cannot be prepared: {error}") from error

    @cached_property
    def _pipeline(self) -> Preprocess:
        return build_preprocess(read_preprocess(json.loads(self.preprocess)), channels=self.channels, image_size=self.image_size)


def predict(
    run: str | Path,
    images: ImageLike | Iterable[ImageLike],
    *,
    peer: str = "best",
    topk: int | None = None,
    factory: str | None = None,
) -> list[Prediction]:
    """Classifies images with a trained peer, as `python -m mutual.predict` does.

    Args:
        run: the run folder.
        images: an image or several: files, folders that hold some, images of Pillow's, or uint8 tensors `[C, H, W]` or `[B, C, H, W]`
            of any size. They are brought to the peer's size and normalised here.
        peer: name of a peer, `best`, or `ensemble` for the mean probabilities of all that were trained.
        topk: number of classes for each image; by default all.
        factory: names a model of the user's own that may be built (`my_models:net`), which runs its code.

    Returns:
        One prediction for each image, in their order.

    Raises:
        InputError: there is no such run or peer, or an image cannot be read.

    Example:
        >>> import mutual
        >>> found = mutual.predict("runs/dml_pplcnet", ["cat.jpg"], topk=3)      # doctest: +SKIP
        >>> found[0].classes[0], found[0].probabilities[0]                       # doctest: +SKIP
        ('cat', 0.98)
    """
    if topk is not None and topk < 1:
        raise InputError(f"topk={topk} must be at least 1")
    folder = RunFolder(Path(run))
    files = peer_files(folder, None if peer == ENSEMBLE else peer)
    listed = list(_listed(images))
    return list(Predictor(folder.recipe(), files, factories=[] if factory is None else [factory])(listed, topk=topk))


def _listed(images: ImageLike | Iterable[ImageLike]) -> Iterator[ImageLike]:
    """Yields single images: the files of a folder, the images of a batch."""
    if isinstance(images, str | Path):
        yield from named_images([Path(images)])
    elif isinstance(images, Image.Image) or (isinstance(images, Tensor) and images.dim() != 4):
        yield images
    elif isinstance(images, np.ndarray):
        raise InputError("a NumPy array may be [H, W, C] or [C, H, W], RGB or BGR; give torch.from_numpy(array) as uint8 [C, H, W] in RGB")
    elif isinstance(images, Iterable):
        for image in images:
            yield from _listed(image)
    else:
        raise InputError(f"{type(images).__name__} is no image; give files, folders, images of Pillow's or uint8 tensors [C, H, W]")


def _pixels_of(image: Image.Image | Tensor, channels: int) -> Tensor:
    if isinstance(image, Image.Image):
        return pixels(image, channels)
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] not in (1, 3):
        raise InputError(
            f"a tensor of {str(image.dtype).removeprefix('torch.')} and shape {list(image.shape)} is no image; give uint8 [C, H, W] with "
            "1 or 3 channels, or call the model that load_peer returns"
        )
    return image
