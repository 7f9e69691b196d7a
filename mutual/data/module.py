"""DataModule: a recipe's data as windows of training batches and as evaluation batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mutual.data.datasets.fingerprint import fingerprint
from mutual.data.datasets.info import DataInfo
from mutual.data.datasets.labels import class_counts
from mutual.data.datasets.splits import EncodedSplit, Split
from mutual.data.datasets.stratified import stratified_subset
from mutual.data.loading.batch import Batch, Window
from mutual.data.loading.cores import default_workers
from mutual.data.loading.dataset import BatchesOnDemand, Failure, SplitsDataset, TransformedDataset
from mutual.data.loading.plan import EpochPlan, Sampler
from mutual.data.loading.prepared import PreparedImages, evenly_spread
from mutual.data.loading.requests import CountedViews, Request, TrainBatchSampler, eval_requests
from mutual.data.loading.views import TransformError
from mutual.data.loading.workers import Loader
from mutual.data.transforms.pipelines import eval_transforms, resolved_preprocess, train_transforms
from mutual.recipe import MAX_SIDE, Data


class DataModule:
    """The splits of a data set, loaded as a pure function of (seed, epoch, window, shard).

    Args:
        spec: the recipe's data section.
        info: what the data set is.
        splits: the splits as they were read, without transforms: `train`, `val` and, where there is one, `test`.
        notes: lines about the data that a user should see.
        seed: the recipe's seed.
        num_views: augmentations of each training image.
        counted_views: the views of each training image, where they are not each epoch's own.
        sampler: which images an epoch takes; None: each once.

    Attributes:
        info: what the data set is.
        notes: lines about the data that a user should see.
        loaded_shape: (channels, height, width) of the images that are loaded; peers resize them to their own.

    Raises:
        ValueError: the transforms do not take the first image of a split, or give another shape.
    """

    loaded_shape: tuple[int, int, int]

    def __init__(
        self,
        spec: Data,
        info: DataInfo,
        splits: Mapping[str, Split],
        *,
        notes: Sequence[str] = (),
        seed: int,
        num_views: int = 1,
        counted_views: CountedViews | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        self.info = info
        self.notes = tuple(notes)
        self._splits = dict(splits)
        self._spec = spec
        self._seed = seed
        self._views: tuple[int, ...] = tuple(range(num_views))
        self._counted_views = counted_views
        self._sampler = sampler
        self._loader: Loader[Batch | Failure] | None = None
        self._sample_loader: Loader[Batch | Failure] | None = None
        self._load_as((info.channels, *info.image_size))
        self._bad: dict[str, dict[str, str]] = {name: {} for name in self._splits}

    @cached_property
    def fingerprint(self) -> Mapping[str, Any]:
        """By which a resumed run, and every rank, knows whether these are the same data; takes seconds where there are many."""
        return fingerprint(self.info, self._splits, None if self._sampler is None else self._sampler.weights)

    @property
    def class_counts(self) -> list[int]:
        """Number of training images of each class; those without a label are in none."""
        counts: list[int] = class_counts(self._splits["train"].labels, self.info.num_classes).tolist()
        return counts

    def make_views(self, views: Sequence[int]) -> None:
        """Makes of each training image only the views of these numbers, in their order; to be called before images are loaded."""
        self.close()
        self._train.views = self._views = tuple(views)

    def load_for(self, shapes: Sequence[tuple[int, int, int]]) -> None:
        """Loads images as large, and with as many channels, as peers need that read these shapes; to be called before images are loaded.

        No larger, and with no more channels, than the data set has them, nor smaller than `info` says: the peers resize. Where `augment`
        or `preprocess` names a size of its own, that holds.

        Raises:
            ValueError: the transforms do not take the first image of a split.
        """
        kind, before = self._spec.kind, (self.info.channels, *self.info.image_size)
        wanted = tuple(max(sides) for sides in zip(before, *shapes, strict=True))
        bounds = (kind.channels, *((MAX_SIDE, MAX_SIDE) if kind.any_size else kind.image_size))
        channels, height, width = (max(own, min(side, bound)) for own, side, bound in zip(before, wanted, bounds, strict=True))
        if (channels, height, width) == self.loaded_shape:
            return
        try:
            self._load_as((channels, height, width))
        except _FixedSizeError:
            self._load_as((channels, *self.info.image_size))

    def keep_decoded(self) -> None:
        """Reads the images from now on as `data.decoded` keeps them, if the recipe names such a folder; to be called behind `load_for`.

        Where they are not there, one process of those that ask for them makes them, and the others wait.

        Raises:
            InputError: the folder holds something else, or is damaged.
            OSError: the disk is full, or failed.
        """
        if self._spec.decoded is None:
            return
        self.close()
        for name in ("train", "val"):  # test images are read once
            split, folder, workers = self._splits[name], Path(self._spec.decoded), self._spec.workers
            assert isinstance(split, EncodedSplit), "the recipe's check lets only folders and lists through"
            self._datasets[name].keep_decoded(folder, name, split, workers=workers, prefetch=self._spec.prefetch)

    @property
    def preprocess(self) -> list[Any]:
        """The transforms of evaluation images, as sections of a recipe that leave nothing open."""
        return resolved_preprocess(self._spec, self.loaded_shape[1:])

    def epoch_plan(self, *, world_size: int, accumulate: int) -> EpochPlan:
        """Returns which images an epoch takes, in windows and micro-batches."""
        num_images, crops = self.info.num_train if self._sampler is None else self._sampler.epoch_size, self._spec.crops_per_image
        return EpochPlan(num_images * crops, self._spec.batch_size, world_size, accumulate, self._seed, self._sampler, crops)

    def num_windows(self, *, world_size: int, accumulate: int) -> int:
        """Returns the number of updates in an epoch."""
        return self.epoch_plan(world_size=world_size, accumulate=accumulate).num_windows

    def num_workers(self, *, world_size: int, accumulate: int) -> int:
        """Returns how many processes load a rank's training images."""
        return self._num_workers(self.epoch_plan(world_size=world_size, accumulate=accumulate).num_micro_batches)

    def train_windows(
        self,
        epoch: int,
        *,
        start: int = 0,
        world_size: int,
        shard: tuple[int, int],
        accumulate: int,
        waiting: Callable[[], AbstractContextManager[object]] | None = None,
    ) -> Iterator[Window]:
        """Yields a shard's windows of `epoch` from number `start` on; interrupted and started again there, they are the same bit for bit.

        Args:
            epoch: the epoch; 0 is the first.
            start: the window that is yielded first.
            world_size: number of ranks, on which the size of a window depends.
            shard: the shard's index, and the number of shards.
            accumulate: micro-batches in a window.
            waiting: makes a context. With it, the batches behind a window's first are loaded only when they are asked for, each in such
                a context; without, all are loaded when the window is yielded.

        Raises:
            ImageError: an image cannot be read, and data.on_bad_image is `error`; also where a batch is asked for.
            OSError: the disk or the machine failed.
        """
        requests = self._batch_sampler(world_size, shard, accumulate)
        requests.epoch, requests.start = epoch, start
        if start >= requests.plan.num_windows:
            return
        loaded = self._load("train", requests, requests.plan.num_micro_batches)
        batches = (self._checked(batch, "train", epoch) for batch in loaded)
        for window in range(start, requests.plan.num_windows):
            sizes = requests.sizes(window)
            of_window = BatchesOnDemand(batches, len(sizes), waiting or nullcontext)
            of_window.load(1 if waiting else len(sizes))
            yield Window(requests.plan.size(window), of_window, sizes)
            of_window.load(len(sizes))  # what was not asked for is not the next window's

    def train_keys(self, epoch: int, *, world_size: int, shard: tuple[int, int], accumulate: int) -> Iterator[list[tuple[int, int]]]:
        """Yields for each of a shard's windows of `epoch` the index and the view number of its images; nothing is loaded."""
        for requests in self._batch_sampler(world_size, shard, accumulate).windows(epoch):
            yield [key for each in requests for key in zip(each.indices[: each.num_rows], each.view_numbers, strict=False)]

    def train_batch(self, index: int, view: int) -> Batch:
        """Returns one view of one training image as a batch; without counted views its number is that of the epoch.

        Raises:
            ImageError: it cannot be read, and data.on_bad_image is `error`.
            OSError: the disk or the machine failed.
        """
        request = self._batch_sampler(1, (0, 1), 1).request_of(index, view)
        (loaded,) = self._train.__getitems__([request])
        return self._checked(loaded, "train", view)

    def first_images(self, epoch: int, num_images: int, *, world_size: int, accumulate: int) -> Batch | None:
        """Returns the first images of `epoch` (0 is the first), loaded and augmented here, to look at; None if one cannot be read."""
        request = self._batch_sampler(world_size, (0, 1), accumulate).first_request(epoch, num_images)
        (loaded,) = self._train.__getitems__([request])
        return None if isinstance(loaded, Failure) else loaded.augmented()

    def eval_batches(self, *, world_size: int, shard: tuple[int, int], split: str = "val") -> Iterator[Batch]:
        """Yields a shard of the images of `split`, `val` or `test`, round by round; over all shards each is there exactly once.

        A round without an image for this shard has a padding image in it, and `num_valid` 0.

        Args:
            world_size: number of ranks, on which the size of a round depends.
            shard: the shard's index, and the number of shards.
            split: `test` only where there is such a split.

        Raises:
            ImageError: an image cannot be read.
            OSError: the disk or the machine failed.
        """
        size = self._spec.eval_batch_size or self._spec.batch_size
        num_images = self.info.num_val if split == "val" else self.info.num_test
        assert num_images is not None, "there is such a split"
        requests = eval_requests(num_images, size, world_size=world_size, shard=shard)
        for loaded in self._load(split, requests, len(requests)):
            yield self._checked(loaded, split, None)

    def sample_batches(self, size: int, *, world_size: int, shard: tuple[int, int]) -> Iterator[Batch]:
        """Yields a shard of `size` labelled training images, or of all where there are fewer, prepared as the validation images are.

        The classes are as frequent as among all of them; which images it are depends on the recipe's seed alone.

        Args:
            size: number of images over all shards.
            world_size: number of ranks, on which the size of a round depends.
            shard: the shard's index, and the number of shards.
        """
        images = self.select_images("train")
        chosen = stratified_subset(images.split.labels[images.indices], min(size, len(images)), seed=self._seed)
        yield from self.prepared_batches(self._prepare("train", images.indices[chosen]), world_size=world_size, shard=shard)

    def select_images(self, split: str, size: int | None = None) -> PreparedImages:
        """Returns images of a split that have labels, prepared as the validation images are: `size` of them, spread evenly, or all."""
        labels = self._splits[split].labels
        labelled = torch.arange(len(labels)) if labels.dim() == 2 else (labels >= 0).nonzero().flatten()
        return self._prepare(split, labelled[evenly_spread(len(labelled), size)])

    def prepared_batches(self, images: PreparedImages, *, world_size: int, shard: tuple[int, int]) -> Iterator[Batch]:
        """Yields a shard of `images`, as `eval_batches` does of a split; over all shards each is there exactly once."""
        requests = eval_requests(len(images), self._spec.eval_batch_size or self._spec.batch_size, world_size=world_size, shard=shard)
        self._sample_loader = loader = self._new_loader(images.dataset, self._num_workers(len(requests)))
        for loaded in loader(requests):
            yield self._checked(loaded, images.split_name, None)
        loader.close()

    def take_bad_images(self) -> dict[str, dict[str, str]]:
        """Returns the images that could not be read since the last call: of `train`, `val` and `test` the reason by path."""
        bad, self._bad = self._bad, {split: {} for split in self._bad}
        return bad

    def close(self) -> None:
        """Ends the worker processes."""
        for loader in filter(None, (self._loader, self._sample_loader)):
            loader.close()
        self._loader = self._sample_loader = None

    def _prepare(self, split_name: str, indices: Tensor) -> PreparedImages:
        split, spec, side = self._splits[split_name], self._spec, self.loaded_shape[1:]
        form: dict[str, Any] = {"data": spec, "channels": self.loaded_shape[0], "image_size": side, "seed": self._seed}
        return PreparedImages(split_name, split, indices, TransformedDataset(split.select(indices), eval_transforms(spec, side), **form))

    def _load_as(self, shape: tuple[int, int, int]) -> None:
        """Brings the images of all splits to `shape`."""
        spec, size = self._spec, shape[1:]
        common: dict[str, Any] = {"data": spec, "channels": shape[0], "image_size": size}
        seed = self._seed if self._counted_views is None else self._counted_views.seed
        train = TransformedDataset(
            self._splits["train"],
            train_transforms(spec, size),
            seed=seed,
            views=self._views,
            substitute=True,
            # of counted views, whose pixels must not depend on the order, any
            substitute_groups=None if self._sampler is None or self._counted_views else self._sampler.substitute_groups,
            defers=torch.cuda.is_available(),
            **common,
        )
        datasets = {"train": train}
        for name, split in self._splits.items():
            if name != "train":
                datasets[name] = TransformedDataset(split, eval_transforms(spec, size), seed=self._seed, **common)
        for split_name, dataset in datasets.items():
            name = "augment" if split_name == "train" else "preprocess"
            found = _shape_of_first(dataset, name)
            if found != shape:
                message = f"{name} gives images of {found}, wanted are {shape}; end it with a crop or a resize"
                raise _FixedSizeError(message) if _says_size(spec) else ValueError(message)
        self.close()
        self._train, self._datasets, self.loaded_shape = train, datasets, shape

    def _checked(self, loaded: Batch | Failure, split: str, epoch: int | None) -> Batch:
        if isinstance(loaded, Failure):
            raise loaded.exception(epoch, skips=self._spec.on_bad_image == "skip")
        self._bad[split].update((bad.path, bad.reason) for bad in loaded.bad)
        return loaded

    def _batch_sampler(self, world_size: int, shard: tuple[int, int], accumulate: int) -> TrainBatchSampler:
        mixed = bool(self._spec.mixup or self._spec.cutmix)
        return TrainBatchSampler(
            self.epoch_plan(world_size=world_size, accumulate=accumulate), shard=shard, mixed=mixed, counted_views=self._counted_views
        )

    def _load(self, split: str, requests: Iterable[list[Request]], num_batches: int) -> Iterator[Batch | Failure]:
        """Begins to load requests of a split; in the workers that are there, or in more of them where it has more batches."""
        workers = self._num_workers(num_batches)
        if self._loader is None or self._loader.workers < workers:
            if self._loader is not None:
                self._loader.close()
            self._loader = self._new_loader(SplitsDataset(self._datasets), workers)
        return self._loader([(split, request)] for (request,) in requests)

    def _new_loader(self, dataset: Dataset[Batch | Failure], workers: int) -> Loader[Batch | Failure]:
        return Loader(dataset, workers=workers, prefetch=self._spec.prefetch)

    def _num_workers(self, num_batches: int) -> int:
        if self._spec.workers is not None:
            return self._spec.workers
        return default_workers(num_batches) if self._spec.kind.in_files else 0


class _FixedSizeError(ValueError):
    """Transforms give images of another size than was asked for."""


def _says_size(spec: Data) -> bool:
    """Returns True where the recipe says that images have one size alone, and not what a transform of the user's does to them."""
    ends = [*(spec.preprocess or ()), *spec.last_transforms]
    return not spec.has_users_transforms or any(getattr(transform, "size", None) is not None for transform in ends)


def _shape_of_first(dataset: TransformedDataset, name: str) -> tuple[int, ...]:
    try:
        return tuple(dataset.sample(0).shape)
    except TransformError as error:  # a padding or a kernel that is larger than the image, say
        raise ValueError(f"{name} cannot be applied to the first image: {error}") from error
