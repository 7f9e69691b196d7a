"""DataSpec: what peers are built for."""

from __future__ import annotations

from dataclasses import dataclass

from mutual.models import ModelInput


@dataclass(frozen=True)
class DataSpec:
    """What peers are built for.

    Attributes:
        num_classes: classes of the data.
        class_names: their names; empty where they have none.
        input: what a peer reads that has no input of its own: the data's size, channels and statistics.
        reads_pixels: False where the images that peers are given are normalised already; they then read them as they are.
    """

    num_classes: int
    class_names: tuple[str, ...]
    input: ModelInput
    reads_pixels: bool = True
