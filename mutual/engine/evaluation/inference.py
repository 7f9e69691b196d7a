"""evaluate_run: the scores of a trained run on the images of one of its splits."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mutual.data import Batch, DataInfo, DataModule, build_data
from mutual.engine.evaluation.class_scores import ClassScores, class_scores
from mutual.engine.evaluation.evaluator import Evaluator
from mutual.engine.evaluation.frozen import read_frozen
from mutual.engine.monitoring import Scores, SkippedImages, with_rank
from mutual.engine.runtime import Environment, init_environment, restore_switches
from mutual.engine.storage import peer_of_file
from mutual.models import ClassIndex, ModelCard, ModelInput, class_columns, read_model
from mutual.recipe import Data, InputError, Precision, Recipe, first_line


@dataclass(frozen=True)
class RunScores:
    """What an evaluation gives: the scores of each member, and where they were asked for those of each class."""

    scores: Scores
    classes: dict[str, list[ClassScores]]


def evaluate_run(recipe: Recipe, files: Sequence[Path], **options: Any) -> Scores:
    """Returns the scores that `score_run` gives. Collective: all ranks must call it."""
    return score_run(recipe, files, **options).scores


@restore_switches()
def score_run(
    recipe: Recipe,
    files: Sequence[Path],
    *,
    factories: Sequence[str] = (),
    datasets: Sequence[str] = (),
    frozen: str | None = None,
    split: str = "val",
    per_class: bool = False,
) -> RunScores:
    """Scores peers and their ensemble on images of `recipe`, each counted once. Collective: all ranks must call it.

    Args:
        recipe: the run's, with other values where the user gave some.
        files: the peers' weights, as `peer_files` finds them.
        factories: names of models of the user's own that may be built (`my_models:net`), which runs their code.
        datasets: names of data sets of the user's own that may be made (`my_data:make`), which runs their code.
        frozen: name of a frozen peer of the recipe, which is scored in place of the peers in `files`: these say what the run's data were.
        split: `val`, `test` or `train`: of the training images those with labels, prepared as the others are.
        per_class: single classes are scored, too.

    Raises:
        InputError: there is no such split; a file or the data cannot be read, or they do not fit.
    """
    check_trusted_data(recipe.data, datasets)
    if frozen is None:
        peers = {name: LoadedPeer(model, model, card) for name, (model, card) in read_models(files, factories).items()}
    else:
        peers = {frozen: load_frozen(recipe, frozen, files[0], factories)}
    inference = RunInference.prepare(recipe, peers, split=split)
    comm, info, data = inference.environment.comm, inference.data.info, inference.data
    evaluator = Evaluator(
        list(peers),
        list(peers),
        num_classes=info.num_classes,
        device=comm.device,
        multi_label=info.multi_label,
        known_classes=inference.known_classes,
        counts_classes=per_class,
    )
    ranks: dict[str, Any] = {"world_size": comm.size, "shard": (comm.rank, comm.size)}
    loaded = data.sample_batches(info.num_train, **ranks) if split == "train" else data.eval_batches(**ranks, split=split)
    batches = with_rank(loaded, comm)
    try:
        scores = evaluator(inference.predict, batches)
        of_classes = inference.class_scores(evaluator)
    finally:
        data.close()
    SkippedImages(recipe, data, comm, shard=(comm.rank, comm.size), trains=False).report(partial(warnings.warn, stacklevel=2))
    return RunScores(scores, of_classes)


@dataclass(frozen=True)
class LoadedPeer:
    """A peer of a run with its weights.

    Attributes:
        model: in eval mode.
        bare: the same without what selects classes, so that module paths are those of the recipe.
        card: what it was trained for.
        known: the classes of the data, by their index, that its outputs stand for; None: all.
        precision: in which it is run; None: the run's.
    """

    model: nn.Module
    bare: nn.Module
    card: ModelCard
    known: tuple[int, ...] | None = None
    precision: Precision | None = None


def load_frozen(recipe: Recipe, name: str, trained: Path, factories: Sequence[str]) -> LoadedPeer:
    """Returns the frozen peer `name`, as `read_frozen` reads it."""
    model, card, classes = read_frozen(recipe, name, trained, factories)
    return LoadedPeer(model, model.model, card, classes.known, recipe.peers[name].precision)


@dataclass(frozen=True)
class RunInference:
    """Peers of a run on their device and the images of its data: what evaluation and the report share.

    Attributes:
        environment: device, processes and precision.
        data: images as large as the peers need them.
        peers: by name, with the classes as they stand in their outputs.
        inputs: by name what each reads.
        columns: by name what brings its outputs into the data's order.
    """

    environment: Environment
    data: DataModule
    peers: dict[str, LoadedPeer]
    inputs: dict[str, ModelInput]
    columns: dict[str, nn.Module]

    @classmethod
    def prepare(cls, recipe: Recipe, peers: Mapping[str, LoadedPeer], *, split: str) -> RunInference:
        """Reads the data as the first of `peers` was trained on, and moves the peers to their device. Collective.

        Sets numerical switches of the process, as `init_environment` does.

        Raises:
            InputError: the data cannot be read, have no such split, or do not fit the peers.
        """
        environment = init_environment(recipe)
        device = environment.comm.device
        inputs = {name: _input_of(recipe, name, peer.card) for name, peer in peers.items()}
        data = build_data_as_trained(recipe, next(iter(peers.values())).card, list(inputs.values()), split=split)
        columns = {
            name: class_order(recipe, name, peer.card, data.info, is_partial=peer.known is not None).to(device)
            for name, peer in peers.items()
        }
        for name, peer in peers.items():
            _check_size(recipe, name, peer.model, peer.card, inputs[name])
            peer.model.to(device)
        return cls(environment, data, dict(peers), inputs, columns)

    @property
    def known_classes(self) -> dict[str, tuple[int, ...]]:
        """By peer that does not know all classes of the data the indices of those that it knows."""
        return {name: peer.known for name, peer in self.peers.items() if peer.known is not None}

    def class_scores(self, evaluator: Evaluator) -> dict[str, list[ClassScores]]:
        """Returns by member the scores of each class that it knows, of the images that `evaluator` has counted. Collective."""
        info, known = self.data.info, self.known_classes
        names = {member: [info.class_names[label] for label in labels] for member, labels in known.items()}
        counts = evaluator.class_counts()
        return {member: class_scores(names.get(member, info.class_names), rows) for member, rows in counts.items()}

    def predict(self, pixels: Tensor, _: Batch) -> dict[str, Tensor]:
        """Returns by peer its float32 logits `[B, C]`, `[B, K]` of one that knows a part of the classes."""
        images = {each: each(pixels) for each in set(self.inputs.values())}
        logits = {}
        for name, peer in self.peers.items():
            with self.environment.autocast(peer.precision):
                logits[name] = self.columns[name](peer.model(images[self.inputs[name]]).float())
        return logits


def build_data_as_trained(recipe: Recipe, card: ModelCard, inputs: Sequence[ModelInput], *, split: str) -> DataModule:
    """Returns the data of `recipe` as the peer with this card was trained on, as large as `inputs` need them.

    Raises:
        InputError: they cannot be read, or have no such split.
    """
    try:
        data = build_data(_as_trained(recipe.data, card), seed=recipe.seed)
        data.load_for([*(each.shape for each in inputs), *recipe.input_shapes])
    except ValueError as error:
        raise recipe.error("data", str(error)) from error
    if split == "test" and data.info.num_test is None:
        raise recipe.error("data.test", "the data have no test images; name some here")
    return data


def check_trusted_data(data: Data, datasets: Sequence[str]) -> None:
    """Refuses data whose code the run's recipe would choose."""
    if data.family == "own" and data.dataset not in datasets:
        given = f" (given: {', '.join(sorted(datasets))})" if datasets else ""
        raise InputError(f"the images come from the data set {data.dataset!r}; to run that code add --dataset {data.dataset}{given}")


def _input_of(recipe: Recipe, name: str, card: ModelCard) -> ModelInput:
    """Returns what a trained peer reads: as it was trained, apart from what the recipe's `peers.NAME.input` says now."""
    given = recipe.peers[name].input if name in recipe.peers else "auto"
    fields = {} if given == "auto" else given.given
    if fields.get("channels", card.in_channels) != card.in_channels:
        raise recipe.error(f"peers.{name}.input.channels", f"the peer was trained with {card.in_channels}")
    try:
        return card.input.replaced(fields)
    except ValueError as error:
        key, _, message = str(error).partition(": ")
        raise recipe.error(f"peers.{name}.input.{key}", message) from error


def class_order(recipe: Recipe, name: str, card: ModelCard, info: DataInfo, *, is_partial: bool = False) -> nn.Module:
    """Returns what brings a peer's logits into the data's order; `is_partial`: it knows some classes, which must be in their order.

    Raises:
        InputError: the peer was trained for other classes.
    """
    try:
        order = class_columns(card.class_names, info.class_names)
        if info.multi_label != card.multi_label:
            raise ValueError(f"its images have {'several labels' if card.multi_label else 'one class'} each")
        if is_partial and order is not None:
            raise ValueError("its classes are in another order, and it knows only some of them")
    except ValueError as error:
        raise recipe.error("data", f"not what peer {name!r} was trained for: {error}") from error
    return nn.Identity() if order is None else ClassIndex(order)


def _as_trained(data: Data, card: ModelCard) -> Data:
    """Returns the recipe's data section with the model's image size and channels where it leaves these to the data set.

    Other data than those of the training may have others. Transforms of the user's own, which are for training images alone, are left out.
    """
    return data.without_users_transforms().model_copy(
        update={"image_size": data.image_size or card.image_size, "channels": data.channels or card.in_channels}
    )


def _check_size(recipe: Recipe, name: str, model: nn.Module, card: ModelCard, model_input: ModelInput) -> None:
    """Refuses another size than the model was trained with where it does not take that."""
    if model_input.size == card.image_size:
        return
    try:
        with torch.no_grad():
            model(torch.zeros(1, *model_input.shape))
    except Exception as error:  # a model's own code says in its own way what it does not take
        size, own = (" x ".join(map(str, each)) for each in (model_input.size, card.image_size))
        raise recipe.error(
            f"peers.{name}.input.size", f"the peer was trained with {own} pixels, and {size} fail ({first_line(error)})"
        ) from error


def read_models(files: Sequence[Path], factories: Sequence[str]) -> dict[str, tuple[nn.Module, ModelCard]]:
    """Returns by peer the models in weights files, in eval mode, with their cards."""
    return {peer_of_file(file): read_model(file, factories=factories) for file in files}
