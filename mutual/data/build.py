"""build_data: from a recipe's data section to a DataModule."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from mutual.data.datasets.info import DataInfo
from mutual.data.datasets.readers import DatasetSplits, read_splits, with_unlabelled
from mutual.data.datasets.stratified import stratified_subset
from mutual.data.loading.requests import CountedViews
from mutual.data.loading.samplers import build_sampler, read_weights
from mutual.data.module import DataModule
from mutual.recipe import Data


def build_data(spec: Data, *, seed: int, num_views: int = 1, counted_views: tuple[int, int] | None = None) -> DataModule:
    """Reads the data set of `spec` and checks it: one image of each split goes through its transforms.

    Args:
        spec: the recipe's data section.
        seed: the recipe's seed.
        num_views: augmentations of each training image; one for each peer where `views` is per_peer.
        counted_views: number and seed of the views of each training image, where they are not each epoch's own.

    Raises:
        ValueError: the data are missing, empty, unreadable or do not fit; one line says where and what would be right.
        OSError: the disk or the machine failed.
    """
    splits = read_splits(spec, seed=seed)
    info = _info(spec, splits)
    train_split, weights = splits.train, _weights(spec, splits.train.labels, info)
    if spec.subset is not None:
        chosen = stratified_subset(train_split.labels, spec.subset, seed=seed if spec.subset_seed is None else spec.subset_seed)
        train_split, weights = train_split.select(chosen), None if weights is None else weights[chosen]
        info = replace(info, num_train=spec.subset)
    if spec.unlabelled is not None:
        train_split = with_unlabelled(train_split, spec)
        info = replace(info, num_train=len(train_split.labels))
    if weights is not None and not weights.any():
        raise ValueError("sampler.weights gives every image of the subset the weight 0, so that none could be drawn")
    views = None if counted_views is None else CountedViews(*counted_views)
    sampler = build_sampler(spec, train_split.labels, weights, seed=seed)
    by_name = {"train": train_split, "val": splits.val, **({} if splits.test is None else {"test": splits.test})}
    return DataModule(spec, info, by_name, notes=splits.notes, seed=seed, num_views=num_views, counted_views=views, sampler=sampler)


def _weights(spec: Data, labels: Tensor, info: DataInfo) -> Tensor | None:
    """Returns the weight of each training image, where the recipe gives weights."""
    if isinstance(spec.sampler, str) or spec.sampler.weights is None:
        return None
    return read_weights(spec.sampler.weights, labels, num_classes=info.num_classes)


def _info(spec: Data, splits: DatasetSplits) -> DataInfo:
    num_found = max(_num_classes(split.labels) for split in (splits.train, splits.val, splits.test) if split is not None)
    num_classes = max(num_found, len(splits.class_names)) if spec.num_classes is None else spec.num_classes
    if num_classes < num_found:
        raise ValueError(f"class counts differ: num_classes is {num_classes}, the labels of {spec.dataset} go up to {num_found - 1}")
    names = splits.class_names[:num_classes] + tuple(map(str, range(len(splits.class_names), num_classes)))
    channels, size = spec.num_channels, spec.height_width
    mean, std = _statistics(spec)
    return DataInfo(
        num_classes=num_classes,
        class_names=names,
        channels=channels,
        image_size=size,
        mean=mean,
        std=std,
        num_train=len(splits.train.labels),
        num_val=len(splits.val.labels),
        multi_label=spec.multi_label,
        num_test=None if splits.test is None else len(splits.test.labels),
    )


def _num_classes(labels: Tensor) -> int:
    return labels.shape[1] if labels.dim() == 2 else 1 + int(labels.max())


def _statistics(spec: Data) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = spec.statistics.mean, spec.statistics.std
    for key, values in (("mean", mean), ("std", std)):
        if len(values) != spec.num_channels:
            raise ValueError(f"normalize.{key} has {len(values)} values, the images have {spec.num_channels} channels")
    return mean, std
