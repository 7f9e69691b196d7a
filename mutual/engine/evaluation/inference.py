"""evaluate_run, predict_images: a trained run's scores on the validation images, and its predictions for image files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mutual.data import (
    IMAGE_SUFFIXES,
    Batch,
    DataInfo,
    ImageError,
    ShapeError,
    build_data,
    build_preprocess,
    image_files,
    load_image,
    normalize,
)
from mutual.engine.evaluation.evaluator import Evaluator
from mutual.engine.monitoring import ENSEMBLE, Scores, SkippedImages, with_rank
from mutual.engine.runtime import init_environment, restore_switches
from mutual.engine.storage import RunFolder, peer_file
from mutual.models import ModelCard, class_columns, read_model
from mutual.recipe import Data, InputError, Statistics, first_line, printable

ALL = "all"
_BATCH = 32


@restore_switches()
def evaluate_run(folder: RunFolder, *, peer: str = ALL, overrides: Sequence[str] = (), factories: Sequence[str] = ()) -> Scores:
    """Scores the best weights of a run on the validation images, each counted once. Collective: all ranks must call it.

    Args:
        folder: the run folder.
        peer: name of the peer, `best`, or `all` with their ensemble.
        overrides: of the run's recipe (key.path=value), such as other data.
        factories: names of models of the user's own that may be built (`my_models:net`), which runs their code.

    Raises:
        InputError: there is no such run or peer, or its data cannot be read.
    """
    recipe = folder.recipe(overrides)
    models = _read_models(folder, list(recipe.trainable) if peer == ALL else [peer], factories)
    environment = init_environment(recipe)
    comm = environment.comm
    try:
        name, (_, card) = next(iter(models.items()))
        data = build_data(_as_trained(recipe.data, name, card), seed=recipe.seed)
    except ValueError as error:
        raise recipe.error("data", str(error)) from error
    info = data.info
    columns: dict[str, Tensor | slice] = {}
    for name, (model, card) in models.items():
        try:
            order = class_columns(card.class_names, info.class_names)
            _check_images(model, card, info)
        except ValueError as error:
            raise recipe.error("data", f"not what peer {name!r} was trained for: {error}") from error
        model.to(comm.device)
        columns[name] = slice(None) if order is None else torch.tensor(order, device=comm.device)
    evaluator = Evaluator(list(models), list(models), num_classes=info.num_classes, device=comm.device, multi_label=info.multi_label)

    def predict(images: Tensor, _: Batch) -> dict[str, Tensor]:
        with environment.autocast():
            return {name: model(images).float()[:, columns[name]] for name, (model, _) in models.items()}

    batches = with_rank(data.eval_batches(world_size=comm.size, rank=comm.rank), comm)
    try:
        scores = evaluator(predict, batches, info, prepare=lambda images: images)
    finally:
        data.close()
    SkippedImages(recipe, data, comm, shard=(comm.rank, comm.size)).report(partial(warnings.warn, stacklevel=2))
    return scores


def _as_trained(data: Data, name: str, card: ModelCard) -> Data:
    """Returns the recipe's data section with the model's image size, channels and normalisation where it leaves these to the data set.

    Other data than those of the training may have others.
    """
    if data.channels not in (None, card.in_channels):  # before their statistics are found not to fit, which says less
        raise ValueError(
            f"not what peer {name!r} was trained for: its images have {card.in_channels} channels, data.channels is {data.channels}"
        )
    update: dict[str, object] = {"image_size": data.image_size or card.image_size, "channels": card.in_channels}
    if data.normalize == "auto":
        update["normalize"] = Statistics.model_construct(mean=card.mean, std=card.std)
    return data.model_copy(update=update)


def _check_images(model: nn.Module, card: ModelCard, info: DataInfo) -> None:
    """Raises a ValueError where the data's images are of a shape that the model does not take."""
    if info.channels != card.in_channels:
        raise ValueError(f"its images have {card.in_channels} channels, data.channels is {info.channels}")
    if info.multi_label != card.multi_label:
        raise ValueError(f"its images have {'several labels' if card.multi_label else 'one class'} each")
    if info.image_size != card.image_size:
        height, width = info.image_size
        try:
            with torch.no_grad():
                model(torch.zeros(1, card.in_channels, height, width))
        except Exception as error:  # a model's own code says in its own way what it does not take
            size = " x ".join(map(str, card.image_size))
            raise ValueError(f"its images are of {size} pixels, and {height} x {width} fail ({first_line(error)})") from error


def predict_images(
    folder: RunFolder, paths: Sequence[Path], *, peer: str = "best", topk: int = 5, factories: Sequence[str] = ()
) -> Iterator[tuple[Path, list[tuple[str, float]]]]:
    """Yields for each image file its `topk` classes with their probabilities, most probable first.

    Args:
        folder: the run folder.
        paths: image files, or folders of images.
        peer: name of the peer, `best`, or `ensemble`.
        topk: number of classes.
        factories: names of models of the user's own that may be built (`my_models:net`), which runs their code.

    Raises:
        InputError: there is no such run or peer, a path holds no image, or an image cannot be read.
    """
    recipe = folder.recipe()
    models = _read_models(folder, list(recipe.trainable) if peer == ENSEMBLE else [peer], factories)
    card = next(iter(models.values()))[1]
    preprocess = build_preprocess(recipe.data, _info(card))
    files = list(_image_files(paths))
    for start in range(0, len(files), _BATCH):
        batch = files[start : start + _BATCH]
        images = torch.stack([_load(path, card.in_channels, preprocess) for path in batch])
        probabilities_BC = _probabilities(models.values(), normalize(images, card.mean, card.std))
        for path, row_C in zip(batch, probabilities_BC, strict=True):
            best = row_C.topk(min(topk, len(row_C)))
            yield path, [(card.class_names[index], value) for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)]


def _load(path: Path, channels: int, preprocess: Callable[[Tensor], Tensor]) -> Tensor:
    try:
        return preprocess(load_image(path, channels))
    except ShapeError as error:
        raise ImageError(path, str(error)) from error


@torch.no_grad()
def _probabilities(models: Iterable[tuple[nn.Module, ModelCard]], images: Tensor) -> Tensor:
    """Returns the mean probabilities `[B, C]` of the models."""
    logits = [(model(images).float(), card) for model, card in models]
    return torch.stack([logits_BC.sigmoid() if card.multi_label else logits_BC.softmax(dim=1) for logits_BC, card in logits]).mean(dim=0)


def _read_models(folder: RunFolder, peers: Sequence[str], factories: Sequence[str]) -> dict[str, tuple[nn.Module, ModelCard]]:
    files = [peer_file(folder, peer) for peer in peers]
    return {file.stem: read_model(file, factories=factories) for file in files}


def _info(card: ModelCard) -> DataInfo:
    return DataInfo(
        num_classes=card.num_classes,
        class_names=card.class_names,
        channels=card.in_channels,
        image_size=card.image_size,
        mean=card.mean,
        std=card.std,
        num_train=0,
        num_val=0,
        multi_label=card.multi_label,
    )


def _image_files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            files = image_files(path)
            if not files:
                raise InputError(f"{printable(path)} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
            yield from files
        elif os.path.lexists(path):
            yield path  # decoding tells what it is, if it is no file
        else:
            raise InputError(f"{printable(path)} does not exist; give image files or folders that hold some")
