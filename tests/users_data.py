"""Data sets that recipes of the tests name `users_data:...`, as a user would write them."""

import os
import random
import signal
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, get_worker_info, random_split

CLASSES = ["plane", "car", "bird"]


class Shades(Dataset):
    """Grey-blue images of 12 x 10 pixels, the shade of each its index; `form` is how an item holds its image."""

    def __init__(self, length, *, form="pil", noise=False, flags=False):
        self.length, self.form, self.noise, self.flags = length, form, noise, flags

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        pixels = np.full((12, 10, 3), (index, index, 2 * index), np.uint8)
        if self.noise:
            pixels += np.random.randint(0, 50, pixels.shape).astype(np.uint8)  # noqa: NPY002
            pixels += np.uint8(random.randrange(50) + int(torch.randint(50, ())))
        return FORMS[self.form](pixels), self.label(index)

    def label(self, index):
        return [index % 2 == 0, True, False] if self.flags else index % 3


def _tensor(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1)


FORMS = {
    "pil": Image.fromarray,
    "palette": lambda pixels: Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE),
    "rgba": lambda pixels: Image.fromarray(pixels).convert("RGBA"),
    "array": lambda pixels: pixels,
    "closed": lambda pixels: np.frombuffer(pixels.tobytes(), np.uint8).reshape(pixels.shape),
    "float_array": lambda pixels: pixels / 255,
    "tensor": _tensor,
    "float": lambda pixels: _tensor(pixels) / 255,
    "half": lambda pixels: (_tensor(pixels) / 255).half(),
    "normalized": lambda pixels: _tensor(pixels) / 255 - 0.5,
    "nan": lambda pixels: _tensor(pixels) * torch.nan,
    "wide": lambda pixels: pixels.astype(np.uint16),
    "whole": lambda pixels: _tensor(pixels).long(),
    "planes": lambda pixels: pixels.transpose(2, 0, 1),
    "list": lambda pixels: pixels.tolist(),
    "depth": lambda pixels: Image.fromarray(pixels[..., 0].astype(np.float32)),
}


class Declared(Shades):
    """Says its labels and classes beforehand, and counts how many items are read."""

    classes = CLASSES
    reads = 0

    def __init__(self, length, **options):
        super().__init__(length, **options)
        self.targets = [self.label(index) for index in range(length)]

    def __getitem__(self, index):
        type(self).reads += 1
        return super().__getitem__(index)


class Mislabelled(Declared):
    def __init__(self, length):
        super().__init__(length)
        self.targets[length - 1] = 0


class Named(Shades):
    """Has `labels` that are no labels."""

    labels = CLASSES


class Damaged(Declared):
    def __getitem__(self, index):
        if index == 7:
            raise KeyError("no such\nkey")
        return super().__getitem__(index)


class Crashing(Declared):
    """Its library crashes in a process that was forked."""

    def __getitem__(self, index):
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().__getitem__(index)


class Unsteady(Declared):
    """An item fails with some draws."""

    def __getitem__(self, index):
        if random.random() < 0.3:
            raise ValueError("bad luck")
        return super().__getitem__(index)


class Undeclared(Damaged):
    def __init__(self, length):
        super().__init__(length)
        del self.targets


class Fickle(Shades):
    """Draws from a generator that nobody seeds."""

    generator = np.random.default_rng()

    def __getitem__(self, index):
        return self.generator.integers(0, 256, (4, 4), np.uint8), 0


class Keyed(Shades):
    def __getitem__(self, index):
        return {"image": super().__getitem__(index)[0], "label": 0}


class Relabelling(Shades):
    def label(self, index):
        return random.randrange(3)


class Mirrored(Shades):
    """The same labels, other images."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), label


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


class Endless(Shades):
    def __len__(self):
        raise TypeError("unknown")


def make(kind="Shades", **options):
    dataset = globals()[kind]
    return dataset(30, **options), dataset(9, **options)


def damaged(kind="Damaged"):
    return globals()[kind](30), Shades(9)


def noisy(length=40):
    return Declared(length, noise=True), Declared(12, noise=True)


def labelled(labels):
    return [(np.zeros((4, 4), np.uint8), label) for label in labels], Shades(9)


def mapping(**more):
    return {"train": Shades(30), "val": Shades(9), "test": Shades(6), "classes": CLASSES, **more}


def namespace():
    return SimpleNamespace(**mapping())


def alone(**options):
    return Shades(30, **options)


def three():
    return Shades(30), Shades(9), Shades(6)


def parts():
    first, second = random_split(Declared(20), [15, 5])
    return ConcatDataset([first, Subset(Declared(30), range(20, 30))]), second


def asked(root, seed, image_size, channels=3, num_classes=None, *, length):
    assert (root, seed, image_size, channels, num_classes) == ("here", 5, (8, 8), 1, None)
    return Shades(length), Shades(9)


def nothing():
    return 3


def five():
    return [Shades(3)] * 5


def empty():
    return [], Shades(9)
