"""evaluate_run: the scores of a trained run on the validation images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mutual.data import Batch, DataInfo, build_data
from mutual.engine.evaluation.evaluator import Evaluator
from mutual.engine.evaluation.frozen import read_frozen
from mutual.engine.monitoring import Scores, SkippedImages, with_rank
from mutual.engine.runtime import init_environment, restore_switches
from mutual.models import ModelCard, class_columns, read_model
from mutual.recipe import Data, Recipe, Statistics, first_line


@restore_switches()
def evaluate_run(recipe: Recipe, files: Sequence[Path], *, factories: Sequence[str] = (), frozen: str | None = None) -> Scores:
    """Scores peers and their ensemble on the validation images of `recipe`, each counted once. Collective: all ranks must call it.

    Args:
        recipe: the run's, with other values where the user gave some.
        files: the peers' weights, as `peer_files` finds them.
        factories: names of models of the user's own that may be built (`my_models:net`), which runs their code.
        frozen: name of a frozen peer of the recipe, which is scored in place of the peers in `files`: these say what the run's data were.

    Raises:
        InputError: a file or the data cannot be read, or they do not fit.
    """
    models = read_models(files, factories) if frozen is None else {frozen: read_frozen(recipe, frozen, files[0], factories)}
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

    precision = None if frozen is None else recipe.peers[frozen].precision

    def predict(images: Tensor, _: Batch) -> dict[str, Tensor]:
        with environment.autocast(precision):
            return {name: model(images).float()[:, columns[name]] for name, (model, _) in models.items()}

    batches = with_rank(data.eval_batches(world_size=comm.size, shard=(comm.rank, comm.size)), comm)
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


def read_models(files: Sequence[Path], factories: Sequence[str]) -> dict[str, tuple[nn.Module, ModelCard]]:
    """Returns by peer the models in weights files, in eval mode, with their cards."""
    return {file.stem: read_model(file, factories=factories) for file in files}
