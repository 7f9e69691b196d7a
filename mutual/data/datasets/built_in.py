"""Data sets that are built in or torchvision's: digits, MNIST and its like, CIFAR, and images that are made up."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from mutual.data.datasets.idx import read_idx
from mutual.data.datasets.presence import IDX_IMAGES, IDX_LABELS, find_idx, idx_folders
from mutual.data.datasets.splits import FakeSplit, MemorySplit, ReadSplits
from mutual.recipe import Data, derive_seed

FASHION_CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DIGIT_CLASSES = tuple("0123456789")


def read_digits(_spec: Data, _seed: int) -> ReadSplits:
    """Returns 8 x 8 digits of a file that comes with the package."""
    with files("mutual.data").joinpath("assets/digits.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        images, labels = torch.from_numpy(arrays["images"])[:, None], torch.from_numpy(arrays["labels"]).long()
    index_in_class = torch.zeros_like(labels)
    for label in range(10):
        members = (labels == label).nonzero().flatten()
        index_in_class[members] = torch.arange(len(members))
    held_out = index_in_class % 5 == 4  # a fixed stratified fifth
    everything = MemorySplit(images, labels)
    train, val = (everything.select(mask.nonzero().flatten()) for mask in (~held_out, held_out))
    return ReadSplits(train, val, DIGIT_CLASSES)


def mnist_reader(name: str, classes: tuple[str, ...]) -> Callable[[Data, int], ReadSplits]:
    """Returns the reader of MNIST, or of what has its form under another `name` of torchvision's."""

    def read(spec: Data, _seed: int) -> ReadSplits:
        root = Path(spec.root or "")
        folders = idx_folders(root, name)
        if spec.download and not any(find_idx(folder, IDX_IMAGES.format("train")) for folder in folders):
            import torchvision.datasets  # seconds, and rarely needed

            getattr(torchvision.datasets, name)(str(root), download=True)
        splits = []
        for prefix in ("train", "t10k"):
            images = read_idx(folders, IDX_IMAGES.format(prefix), dimensions=3)
            labels = read_idx(folders, IDX_LABELS.format(prefix), dimensions=1)
            if len(images) != len(labels):
                raise ValueError(f"{root}: {len(images)} {prefix} images but {len(labels)} labels")
            if int(labels.max()) >= len(classes):
                raise ValueError(f"{root}: the {prefix} labels go up to {int(labels.max())}, {name} has {len(classes)} classes")
            splits.append(MemorySplit(images[:, None], labels.long()))
        return ReadSplits(splits[0], splits[1], classes)

    return read


def cifar_reader(name: str) -> Callable[[Data, int], ReadSplits]:
    """Returns the reader of CIFAR10 or CIFAR100."""

    def read(spec: Data, _seed: int) -> ReadSplits:
        import torchvision.datasets

        dataset = getattr(torchvision.datasets, name)
        try:
            sets = [dataset(str(spec.root), train=train, download=spec.download) for train in (True, False)]
        except RuntimeError as error:
            raise ValueError(f"{spec.root} holds no whole {name} ({error}); set data.download: true") from error
        splits = [MemorySplit(torch.from_numpy(each.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(each.targets)) for each in sets]
        return ReadSplits(splits[0], splits[1], tuple(sets[0].classes))

    return read


def read_fake(spec: Data, _seed: int) -> ReadSplits:
    """Returns random images, the same for every seed of a recipe."""
    channels, size = spec.num_channels, spec.height_width
    classes = spec.num_classes or 10

    def split(num_images: int, seed: int) -> FakeSplit:
        generator = torch.Generator().manual_seed(derive_seed(seed, "fake labels"))
        flags = torch.randint(0, 2, (num_images, classes), generator=generator).float()
        labels = flags if spec.multi_label else torch.arange(num_images) % classes
        return FakeSplit(torch.arange(num_images), labels, (channels, *size), seed)

    names = tuple(map(str, range(classes)))
    return ReadSplits(split(spec.num_train, 0), split(spec.num_val, 1), names)
