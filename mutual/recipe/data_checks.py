"""The checks of `data`: what each data set needs, sizes that fit into memory, and the losses that its labels are for."""

from __future__ import annotations

from collections.abc import Iterator

from mutual.recipe.data import DATASETS, Data
from mutual.recipe.document import Recipe
from mutual.recipe.edges import DistillationObjective, Objective
from mutual.recipe.errors import Fault
from mutual.recipe.objectives import DeepMutualLearning
from mutual.recipe.split_checks import check_splits

MAX_BATCH_PIXELS = 2**31
"""Of the images of a micro-batch, 24 GiB of colour in float32: a slip in image_size or batch_size is found before memory is asked for."""
MAX_FLAGS = 100_000_000
"""Of made-up images with several labels, which are all held in memory (0.8 GB while they are drawn)."""


def check_data(recipe: Recipe) -> Iterator[Fault]:
    """Yields what is wrong with the data section of `recipe`, and which of its losses do not take such labels."""
    data = recipe.data
    if data.kind.needs_lists:
        for key in ("train_list", "val_list"):
            if getattr(data, key) is None and not (key == "val_list" and isinstance(data.val, float)):
                yield Fault(f"data.{key}", f"{data.dataset} needs a text file with a line `path label` for each image")
    if data.kind.needs_root and data.root is None:
        yield Fault("data.root", f"{data.dataset} needs the folder that holds the data")
    if data.multi_label and not data.kind.multi_label:
        yield Fault("data.multi_label", f"{data.dataset} has one label an image; several come from image_list")
    yield from check_splits(data)
    yield from _check_sizes(data)
    yield from _check_unlabelled(data)
    for index, objective in enumerate(recipe.objectives):
        yield from _check_labels(objective, f"objectives.{index}", multi_label=data.multi_label)


def _check_sizes(data: Data) -> Iterator[Fault]:
    height, width = data.height_width
    for key, batch_size in (("batch_size", data.batch_size), ("eval_batch_size", data.eval_batch_size or 1)):
        if batch_size * height * width > MAX_BATCH_PIXELS:
            yield Fault(
                f"data.{key}", f"{batch_size:,} images of {height:,} x {width:,} pixels are beyond any memory; take fewer or smaller ones"
            )
    if data.dataset == "fake" and data.multi_label:
        for key, num_images in (("num_train", data.num_train), ("num_val", data.num_val)):
            if num_images * (data.num_classes or 1) > MAX_FLAGS:
                yield Fault(f"data.{key}", f"{num_images:,} images with {data.num_classes:,} flags each are beyond any memory; take fewer")


def _check_unlabelled(data: Data) -> Iterator[Fault]:
    if data.unlabelled is not None:
        if not data.kind.in_files:
            in_files = " or ".join(name for name, kind in DATASETS.items() if kind.in_files)
            yield Fault("data.unlabelled", f"needs labelled images in files ({in_files}), not {data.dataset}")
        for key in ("mixup", "cutmix"):
            if getattr(data, key):
                yield Fault(f"data.{key}", "mixes labels, and data.unlabelled has none; set it to 0")
        if data.multi_label:
            yield Fault("data.unlabelled", "cannot stand beside multi_label")


def _check_labels(objective: Objective, where: str, *, multi_label: bool) -> Iterator[Fault]:
    sigmoid = isinstance(objective, DeepMutualLearning) and objective.form == "sigmoid"
    if not multi_label:
        if objective.label_type == "multi":
            yield Fault(
                f"{where}.loss", f"{objective.loss} is for images with several labels each (data.multi_label); cross_entropy is for one"
            )
        return
    if objective.label_type == "single":
        yield Fault(
            f"{where}.loss", f"{objective.loss} needs one class an image; for several take bce, dml with form: sigmoid, or a feature loss"
        )
    if isinstance(objective, DeepMutualLearning) and not sigmoid:
        yield Fault(f"{where}.form", f"{objective.form!r} needs one class an image; data.multi_label takes 'sigmoid'")
    if objective.gate == "correct":
        yield Fault(f"{where}.gate", "'correct' needs one class an image")
    if isinstance(objective, DistillationObjective) and objective.ensemble is not None and objective.ensemble.weighting != "mean":
        yield Fault(f"{where}.ensemble.weighting", f"{objective.ensemble.weighting!r} needs one class an image; take 'mean'")
