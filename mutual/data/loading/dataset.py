"""Loading: requests to batches, in this process or in workers, each image a function of (seed, epoch or view number, index) alone."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import overload

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mutual.data.datasets.splits import EncodedSplit, MemorySplit, Split
from mutual.data.files.decoding import ImageError
from mutual.data.loading.batch import Batch
from mutual.data.loading.decoded import DecodedFolder
from mutual.data.loading.images import DecodedImages, Images, MemoryImages
from mutual.data.loading.mixing import Mixer
from mutual.data.loading.requests import Request
from mutual.data.loading.views import TransformError, apply_transform
from mutual.data.transforms.augmentation import Augmentation, CountedTransforms
from mutual.data.transforms.draws import image_keys
from mutual.data.transforms.pipelines import Pipeline, Transforms
from mutual.recipe import Data, derive_seed

_REMEDY = "; repair it or take it out, `python -m mutual.data.check` finds all such files"
_SKIP = ", or set data.on_bad_image: skip"


@dataclass(frozen=True)
class Failure:
    """Why a batch could not be loaded; worker processes send it in place of an exception, which would arrive as a traceback's text."""

    error: ImageError | OSError
    """An OSError where the disk or the machine failed, and not the image."""

    def exception(self, epoch: int | None, *, skips: bool) -> ImageError | OSError:
        """Returns the exception to raise for it; `epoch` (0 is the first) is None in evaluation, `skips`: data.on_bad_image is so."""
        stage = "evaluation" if epoch is None else f"epoch {epoch + 1}"
        match self.error:
            case OSError() as error:
                return OSError(error.errno or errno.EIO, error.strerror or str(error), error.filename)
            case TransformError(path=path, reason=reason):
                return TransformError(path, f"{reason} ({stage}); add a resize before it, or take the image out")
            case ImageError(path=path, reason=reason):
                return ImageError(path, f"{reason} ({stage}{_REMEDY}{'' if skips else _SKIP})")


class TransformedDataset(Dataset[Batch | Failure]):
    """A split behind its transforms: a list of one Request to a list of one Batch.

    Args:
        split: the images and labels.
        transforms: what becomes of each image.
        data: the recipe's data section.
        channels: channels of the transformed images.
        image_size: their height and width.
        seed: the recipe's seed.
        views: the numbers of the views that are made of each image.
        substitute: with `data.on_bad_image: skip`, an image that cannot be read has a substitute; otherwise it is blank.
        substitute_groups: for each image the number of those among which a substitute is looked for first; None: all alike.
        defers: what can be done to all images of a batch at once is left to `Batch.to`, to be done on the device.

    Attributes:
        views: the numbers of the views that are made of each image; a view's random numbers depend on its number.
    """

    def __init__(
        self,
        split: Split,
        transforms: Transforms,
        *,
        data: Data,
        channels: int,
        image_size: tuple[int, int],
        seed: int,
        views: Sequence[int] = (0,),
        substitute: bool = False,
        substitute_groups: Tensor | None = None,
        defers: bool = False,
    ) -> None:
        self.views = tuple(views)
        self._transforms = transforms
        self._defers = defers and [type(stage) for stage in transforms.stages] == [CountedTransforms]
        self._seed = seed
        self._shape = (channels, *image_size)
        self._mixer = None
        if data.mixup or data.cutmix:
            self._mixer = Mixer(data.mixup, data.cutmix, image_size, seed, probabilities=data.mix_probabilities)
        self._images: Images
        if isinstance(split, MemorySplit):
            self._images = MemoryImages(split, transforms.deterministic, channels=channels, image_size=image_size)
        else:
            self._images = DecodedImages(
                split,
                transforms.deterministic,
                region=transforms.region,
                channels=channels,
                image_size=image_size,
                seed=seed,
                skip_bad=data.on_bad_image == "skip",
                substitute=substitute,
                substitute_groups=substitute_groups,
            )

    def __getitems__(self, requests: Sequence[Request]) -> list[Batch | Failure]:
        """Loads one batch; torch's loader calls this with what the batch sampler gave."""
        (request,) = requests
        try:
            return [self._batch(request)]
        except (ImageError, OSError) as error:
            return [Failure(error)]

    def sample(self, index: int) -> Tensor:
        """Returns one transformed image, without counted random numbers; to look at its shape."""
        request = Request(0, [index], num_valid=1, global_batch_size=1)
        (images,) = self._images.load(request, self.views[:1]).images
        return self._augment(request, images, self.views[0])[0]

    def keep_decoded(self, folder: Path, name: str, split: EncodedSplit, *, workers: int | None, prefetch: int) -> None:
        """Reads the images from now on as `folder` keeps them decoded, where they are brought by one process if they are not there.

        Raises:
            InputError: the folder holds something else, or is damaged.
            OSError: the disk is full, or failed.
        """
        assert isinstance(self._images, DecodedImages), "they are files"
        kept = DecodedFolder(folder, name, split, self._transforms, self._shape)
        self._images.read_from(kept.fill(self._images, workers=workers, prefetch=prefetch))

    def _batch(self, request: Request) -> Batch:
        loaded = self._images.load(request, self.views)
        views, augmentations = list(loaded.images), self._left_to_device(request, loaded.images[0])
        if not augmentations:
            images_of = views if len(views) == len(self.views) else views * len(self.views)
            views = [self._augment(request, images, view) for images, view in zip(images_of, self.views, strict=True)]
        images = _stack(views[0] if len(views) == 1 else [_stack(each) for each in views])
        if not augmentations and tuple(images.shape[-2:]) != self._shape[1:]:
            raise self._size_error(request.indices[0], images)
        mix = None if self._mixer is None or request.partners is None else self._mixer(request)
        labels = self._images.labels[loaded.source_index]
        keys_B2 = torch.tensor([request.indices, request.view_numbers]).T[: request.num_rows]
        return Batch(images, labels, request.num_valid, request.global_batch_size, mix, loaded.bad, keys_B2, augmentations)

    def _left_to_device(self, request: Request, images: Tensor | list[Tensor]) -> tuple[Augmentation, ...]:
        """Returns what is done to the images of each view on the device; nothing where all has to be done here."""
        if not self._defers or isinstance(images, list):
            return ()
        (stage,) = self._transforms.stages
        assert isinstance(stage, CountedTransforms), "it defers these alone"
        height, width = images.shape[-2:]
        return tuple(
            stage.draw(image_keys(self._seed, view, request.view_numbers, request.indices), (height, width)) for view in self.views
        )

    def _augment(self, request: Request, images: Tensor | list[Tensor], view: int) -> Tensor:
        """Returns the images as one peer's view has them: by each one's index, the epoch or its view number, and the peer's number."""
        if not self._transforms.is_random:
            return _stack(images)
        if isinstance(images, list):
            return self._augment_each(self._transforms.random, request, images, view)
        keys = image_keys(self._seed, view, request.view_numbers, request.indices)
        for position, stage in enumerate(self._transforms.stages):
            if isinstance(stage, CountedTransforms):
                name = self._images.name(request.indices[0])
                images = apply_transform(partial(stage, keys=keys), images, name)
            else:
                images = self._augment_each(stage, request, images, view, *([position] if position else []))
        return images

    def _augment_each(self, transform: Pipeline, request: Request, images: Tensor | list[Tensor], *seed_parts: int) -> Tensor:
        """Returns the images after a transform that draws from torch's default generator, which is seeded for each."""
        state = torch.get_rng_state()
        keys = list(zip(request.indices, request.view_numbers, strict=True))
        augmented: dict[tuple[int, int], Tensor] = {}
        for (index, number), image in zip(keys, images, strict=True):
            if (index, number) not in augmented:
                torch.default_generator.manual_seed(derive_seed(self._seed, "augment", number, index, *seed_parts))
                augmented[index, number] = apply_transform(transform, image, self._images.name(index))
        torch.set_rng_state(state)
        first = augmented[keys[0]]
        for (index, _), image in augmented.items():
            if image.shape != first.shape:
                raise self._size_error(index, image)
        return torch.stack([augmented[key] for key in keys])

    def _size_error(self, index: int, image: Tensor) -> TransformError:
        """Returns the error of an image that a transform of the user's gives another size than the first one had."""
        found, wanted = (" x ".join(map(str, size)) for size in (image.shape[-2:], self._shape[1:]))
        return TransformError(self._images.name(index), f"augment gives {found} pixels of it, wanted are {wanted}")


class SplitsDataset(Dataset[Batch | Failure]):
    """The splits by name: a list of one name and Request to a list of one Batch, so that the same workers load them all."""

    def __init__(self, datasets: Mapping[str, TransformedDataset]) -> None:
        self._datasets = datasets

    def __getitems__(self, requests: Sequence[tuple[str, Request]]) -> list[Batch | Failure]:
        """Loads one batch; torch's loader calls this with what the batch sampler gave."""
        ((name, request),) = requests
        return self._datasets[name].__getitems__([request])


class BatchesOnDemand(Sequence[Batch]):
    """The next `number` of `batches`, each of which is loaded, and kept, when it is first asked for; those before it are, too.

    Args:
        batches: yields them, and after them those of others.
        number: how many they are.
        waiting: makes the context in which one is waited for that `load` has not loaded.
    """

    def __init__(self, batches: Iterator[Batch], number: int, waiting: Callable[[], AbstractContextManager[object]]) -> None:
        self._batches = batches
        self._number = number
        self._waiting = waiting
        self._loaded: list[Batch] = []

    def load(self, number: int) -> None:
        """Loads the first `number` of them."""
        while len(self._loaded) < number:
            self._loaded.append(next(self._batches))

    def __len__(self) -> int:
        return self._number

    @overload
    def __getitem__(self, index: int) -> Batch: ...

    @overload
    def __getitem__(self, index: slice) -> list[Batch]: ...

    def __getitem__(self, index: int | slice) -> Batch | list[Batch]:
        wanted = range(self._number)[index]
        for position in [wanted] if isinstance(wanted, int) else wanted:
            if position >= len(self._loaded):
                with self._waiting():
                    self.load(position + 1)
        return self._loaded[wanted] if isinstance(wanted, int) else [self._loaded[position] for position in wanted]


def _stack(images: Tensor | list[Tensor]) -> Tensor:
    return images if isinstance(images, Tensor) else torch.stack(images)
