"""RunImages: the images of a run as an exported peer reads them: some to calibrate with, and those on which programs are scored.

Shapes: N images, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mutual.data import Batch, build_data
from mutual.engine.evaluation import Evaluator
from mutual.models import ModelCard, class_columns
from mutual.recipe import InputError, Recipe

MAX_SCORED = 10_000
"""No more validation images than these are scored, spread evenly."""
Program = Callable[[Tensor], Tensor]


class RunImages:
    """The images of a run's data, where they still are.

    Args:
        recipe: the run's, with other values where the user gave some.
        card: of the peer that reads them.
        datasets: names of data sets of the user's own that may be made (`my_data:make`), which runs their code.
        takes_pixels: programs take uint8 pixels of the card's size, and not normalised images.

    Raises:
        InputError: the data are not there, cannot be read, or are not what the peer was trained for.
    """

    def __init__(self, recipe: Recipe, card: ModelCard, *, datasets: Sequence[str], takes_pixels: bool) -> None:
        if recipe.data.family == "own" and recipe.data.dataset not in datasets:
            name = recipe.data.dataset
            raise InputError(f"the images come from the data set {name!r}; to run that code add --dataset {name}")
        self.card = card
        self._takes_pixels = takes_pixels
        size = {"image_size": recipe.data.image_size or card.image_size, "channels": recipe.data.channels or card.in_channels}
        try:
            self._data = build_data(recipe.data.without_users_transforms().model_copy(update=size), seed=recipe.seed)
            self._data.load_for([card.input.shape, *recipe.input_shapes])
            self._order = class_columns(card.class_names, self._data.info.class_names)
        except ValueError as error:
            raise recipe.error("data", str(error)) from error

    def calibration(self, size: int) -> Iterator[Tensor]:
        """Yields batches of `size` labelled training images, prepared as in evaluation; which depends on the recipe's seed alone."""
        try:
            for batch in self._data.sample_batches(size, world_size=1, shard=(0, 1)):
                if rows := _readable(batch):
                    yield self._input(batch.images[rows])
        finally:
            self._data.close()

    @torch.no_grad()
    def logits(self, programs: Mapping[str, Program]) -> tuple[dict[str, Tensor], Tensor]:
        """Returns by program its logits `[N, C]` of the validation images, in the data's order of classes, and the labels."""
        found: dict[str, list[Tensor]] = {name: [] for name in programs}
        labels: list[Tensor] = []
        first = 0
        try:
            for batch in self._data.eval_batches(world_size=1, shard=(0, 1)):
                chosen = [
                    row for row in range(batch.num_valid) if (first + row) % self._stride == 0 and row not in {b.row for b in batch.bad}
                ]
                first += batch.num_valid
                if chosen:
                    images = self._input(batch.images[chosen])
                    labels.append(batch.labels[chosen])
                    for name, program in programs.items():
                        found[name].append(self._ordered(program(images).float()))
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

    @property
    def _stride(self) -> int:
        return -(-self._data.info.num_val // MAX_SCORED)

    def _input(self, pixels: Tensor) -> Tensor:
        if not self._takes_pixels:
            return self.card.input(pixels)
        return self.card.input.resize(pixels).round().to(torch.uint8)

    def _ordered(self, logits_NC: Tensor) -> Tensor:
        return logits_NC if self._order is None else logits_NC[:, self._order]


def _readable(batch: Batch) -> list[int]:
    """Returns the rows of a batch's images that could be read."""
    bad = {image.row for image in batch.bad}
    return [row for row in range(batch.num_valid) if row not in bad]
