"""DataInfo: what the rest of the program knows of a data set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataInfo:
    """What a data set is: its classes, its images' form, and the statistics that normalise pixel values in 0 .. 1.

    `num_test` is None where it has no test split.
    """

    num_classes: int
    class_names: tuple[str, ...]
    channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_train: int
    num_val: int
    multi_label: bool = False
    num_test: int | None = None

    @property
    def sizes(self) -> str:
        """How many images there are, in words."""
        if self.num_test is None:
            return f"{self.num_train:,} training and {self.num_val:,} validation images"
        return f"{self.num_train:,} training, {self.num_val:,} validation and {self.num_test:,} test images"
