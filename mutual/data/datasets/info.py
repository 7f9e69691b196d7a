"""DataInfo: what the rest of the program knows of a data set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataInfo:
    """What a data set is: its classes, its images' form, and the statistics that normalise pixel values in 0 .. 1."""

    num_classes: int
    class_names: tuple[str, ...]
    channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_train: int
    num_val: int
    multi_label: bool = False
