"""RunImages: the images of a run as an exported peer reads them: some to calibrate with, and those on which programs are scored.

Shapes: N images, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mutual.data import Batch
from mutual.engine.evaluation import Evaluator, build_data_as_trained, check_trusted_data, class_order
from mutual.models import ModelCard
from mutual.recipe import InputError, Recipe

MAX_SCORED = 10_000
"""No more validation images than these are scored, spread evenly."""
Program = Callable[[Tensor], Tensor]


class RunImages:
    """The images of a run's data, where they still are.

    Args:
        recipe: the run's, with other values where the user gave some.
        peer: name of the peer that reads them.
        card: the peer's.
        datasets: names of data sets of the user's own that may be made (`my_data:make`), which runs their code.
        takes_pixels: programs take uint8 pixels of the card's size, and not normalised images.

    Raises:
        InputError: the data are not there, cannot be read, or are not what the peer was trained for.
    """

    def __init__(self, recipe: Recipe, peer: str, card: ModelCard, *, datasets: Sequence[str], takes_pixels: bool) -> None:
        check_trusted_data(recipe.data, datasets)
        self.card = card
        self._takes_pixels = takes_pixels
        self._data = build_data_as_trained(recipe, card, [card.input], split="val")
        self._order = class_order(recipe, peer, card, self._data.info)

    def calibration(self, size: int) -> Iterator[Tensor]:
        """Yields batches of `size` labelled training images, prepared as in evaluation; which depends on the recipe's seed alone."""
        try:
            for batch in self._data.sample_batches(size, world_size=1, shard=(0, 1)):
                if rows := batch.readable_rows:
                    yield self._input(batch.images[rows])
        finally:
            self._data.close()

    @torch.no_grad()
    def logits(self, programs: Mapping[str, Program]) -> tuple[dict[str, Tensor], Tensor]:
        """Returns by program its logits `[N, C]` of the validation images, in the data's order of classes, and the labels."""
        found: dict[str, list[Tensor]] = {name: [] for name in programs}
        labels: list[Tensor] = []
        images = self._data.select_images("val", MAX_SCORED)
        try:
            for batch in self._data.prepared_batches(images, world_size=1, shard=(0, 1)):
                if rows := batch.readable_rows:
                    pixels = self._input(batch.images[rows])
                    labels.append(batch.labels[rows])
                    for name, program in programs.items():
                        found[name].append(self._order(program(pixels).float()))
        finally:
            self._data.close()
        if not labels:
            raise InputError("none of the run's validation images can be read")
        return {name: torch.cat(logits) for name, logits in found.items()}, torch.cat(labels)

    def scores(self, logits: Mapping[str, Tensor], labels: Tensor) -> dict[str, dict[str, float]]:
        """Returns the scores of each program by its logits, as evaluation has them."""
        info = self._data.info
        evaluator = Evaluator(
            list(logits), [], num_classes=info.num_classes, device=torch.device("cpu"), multi_label=info.multi_label, compares=False
        )
        batch = Batch(torch.empty(len(labels), 0), labels, len(labels), len(labels))
        return evaluator(lambda _, __: dict(logits), [batch])

    def _input(self, pixels: Tensor) -> Tensor:
        if not self._takes_pixels:
            return self.card.input(pixels)
        return self.card.input.resize(pixels).round().to(torch.uint8)
