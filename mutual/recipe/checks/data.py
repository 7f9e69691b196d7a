"""The checks of `data`: what each data set needs, sizes that fit into memory, and the losses that its labels are for."""

from __future__ import annotations

from collections.abc import Iterator

from mutual.recipe.checks.splits import check_splits
from mutual.recipe.data import Data
from mutual.recipe.datasets import DATASETS
from mutual.recipe.document import Recipe
from mutual.recipe.edges import DistillationObjective, LabelType, Objective
from mutual.recipe.errors import Fault
from mutual.recipe.objectives import DeepMutualLearning, Focal
from mutual.recipe.text import format_value

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
        yield Fault(
            "data.multi_label", f"{data.dataset} has one label an image; several come from image_list, hfds/NAME_OR_FOLDER and wds/SHARDS"
        )
    yield from _check_forms(data)
    best_metric, metrics = recipe.train.best_metric, ("map", "nll") if data.multi_label else ("top1", "macro_top1", "nll")
    if best_metric not in (None, *metrics):
        labels = "several labels" if data.multi_label else "one class"
        yield Fault("train.best_metric", f"images of {labels} each are scored by {', '.join(metrics)}, not by {best_metric}")
    yield from check_splits(data)
    yield from _check_sizes(data)
    yield from _check_unlabelled(data)
    for index, objective in enumerate(recipe.objectives):
        yield from _check_labels(objective, f"objectives.{index}", recipe.label_type_of(objective), multi_label=data.multi_label)


def _check_forms(data: Data) -> Iterator[Fault]:
    """Yields the keys that belong to another form of data set."""
    if data.columns is not None and data.family != "hfds":
        yield Fault("data.columns", f"names columns of a table (hfds/NAME_OR_FOLDER); {data.dataset} has none")
    if data.label_field is not None and data.family != "wds":
        yield Fault("data.label_field", f"names a key in the .json of images in shards (wds/...), not of {data.dataset}")
    for key, unused in (("val_root", None), ("delimiter", None), ("relabel", False), ("class_names", None)):
        if getattr(data, key) != unused and not data.kind.needs_lists:
            yield Fault(f"data.{key}", f"belongs to lists of images (dataset: image_list), not to {data.dataset}")
    if data.relabel and data.multi_label:
        yield Fault("data.relabel", "numbers classes anew, and lines of images with several labels have flags")
    if data.relabel and data.class_names is not None:
        yield Fault("data.class_names", "names classes by numbers from 0 on, and data.relabel numbers them anew; leave one of the two out")
    if data.args and data.family != "own":
        yield Fault("data.args", f"belongs to a function of yours (dataset: package.module:function), not to {data.dataset}")


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
            in_files = " or ".join([*(name for name, kind in DATASETS.items() if kind.in_files), "hfds/...", "wds/..."])
            yield Fault("data.unlabelled", f"needs labelled images in files ({in_files}), not {data.dataset}")
        for key in ("mixup", "cutmix"):
            if getattr(data, key):
                yield Fault(f"data.{key}", "mixes labels, and data.unlabelled has none; set it to 0")
        if data.multi_label:
            yield Fault("data.unlabelled", "cannot stand beside multi_label")
    elif data.unlabelled_root is not None:
        yield Fault("data.unlabelled_root", "is the folder of images that a list in data.unlabelled names, and there is none")


def _check_labels(objective: Objective, where: str, label_type: LabelType, *, multi_label: bool) -> Iterator[Fault]:
    if isinstance(objective, Focal):
        takes_number = objective.form == "sigmoid"
        if objective.alpha is not None and isinstance(objective.alpha, float) != takes_number:
            right = "one number, for classes that are there" if takes_number else "a list with a number for each class, or 'balanced'"
            yield Fault(f"{where}.alpha", f"{format_value(objective.alpha)} does not fit form: {objective.form}, which takes {right}")
    if not multi_label:
        if label_type == "multi":
            yield Fault(
                f"{where}.loss", f"{objective.loss} is for images with several labels each (data.multi_label); cross_entropy is for one"
            )
        return
    if label_type == "single":
        yield Fault(
            f"{where}.loss",
            f"{objective.loss} needs one class an image; for several take bce, focal or dml with form: sigmoid, or a feature loss",
        )
    if (isinstance(objective, DeepMutualLearning) and objective.form in ("js", "kl")) or (
        isinstance(objective, Focal) and objective.form == "softmax"
    ):
        yield Fault(f"{where}.form", f"{objective.form!r} needs one class an image; data.multi_label takes 'sigmoid'")
    if objective.gate == "correct":
        yield Fault(f"{where}.gate", "'correct' needs one class an image")
    if isinstance(objective, DistillationObjective) and objective.ensemble is not None and objective.ensemble.weighting != "mean":
        yield Fault(f"{where}.ensemble.weighting", f"{objective.ensemble.weighting!r} needs one class an image; take 'mean'")
