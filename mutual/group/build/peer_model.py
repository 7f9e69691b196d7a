"""create_peer_model: a peer's bare model with its initial weights, what it reads, and which classes its outputs stand for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from mutual.group.build.data_spec import DataSpec
from mutual.group.build.peer_classes import check_own_classifier, classes_of, num_outputs
from mutual.group.build.peer_inputs import channels_of, describe_input, input_of
from mutual.group.peers import checkpoint_activations, freeze_parts
from mutual.models import (
    ClassMap,
    ModelCard,
    ModelInput,
    class_columns,
    classifier_tensors,
    create_model,
    load_weights,
    read_card,
    weights_path,
)
from mutual.recipe import PRETRAINED, Recipe, derive_seed, program_file


@dataclass(frozen=True)
class PeerModel:
    """A peer's model before it is tapped.

    Attributes:
        model: with its initial weights.
        input: what it reads.
        classes: which of its outputs stand for classes of the data.
        notes: lines for the user.
    """

    model: nn.Module
    input: ModelInput
    classes: ClassMap
    notes: tuple[str, ...] = ()


def create_peer_model(recipe: Recipe, name: str, data: DataSpec) -> PeerModel:
    """Returns the model of peer `name`; its initial weights depend on the recipe's seed and on `name` alone.

    What `freeze` and `train_only` leave out of training is frozen.

    Raises:
        RecipeError: the model, its arguments, its weights, its input or its classes are wrong.
    """
    spec = recipe.peers[name]
    card = _card(recipe, name)
    num_classes = num_outputs(recipe, name, card, data)
    in_channels = channels_of(recipe, name, card, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "weights", name))
        pretrained = spec.weights if spec.weights == PRETRAINED else None
        try:
            model = create_model(spec.model, **{"num_classes": num_classes, "in_channels": in_channels, "weights": pretrained, **spec.args})
        except ValueError as error:
            raise recipe.error(f"peers.{name}.model", str(error)) from error
    check_own_classifier(recipe, name, model)
    dropped = partial(classifier_tensors, spec.model, model, num_classes, **{"in_channels": in_channels, **spec.args})
    notes = [f"peers.{name}.weights: {note}" for note in _load_weights(recipe, name, model, card, data, dropped)]
    freeze_peer_parts(recipe, name, model)
    model_input = input_of(recipe, name, model, card, data, in_channels)
    if spec.input == "auto" and model_input != data.input:
        notes.append(describe_input(name, model_input, data.input))
    return PeerModel(model, model_input, classes_of(recipe, name, model, num_classes, card, data), tuple(notes))


def freeze_peer_parts(recipe: Recipe, name: str, model: nn.Module) -> nn.Module:
    """Freezes what `freeze` and `train_only` of peer `name` leave out of its training; returns the model."""
    spec = recipe.peers[name]
    try:
        freeze_parts(model, train_only=spec.train_only, freeze=spec.freeze)
    except ValueError as error:
        raise recipe.error(f"peers.{name}.{'train_only' if spec.train_only else 'freeze'}", f"{spec.model}: {error}") from error
    return model


def checkpoint_peer_activations(recipe: Recipe, name: str, model: nn.Module) -> None:
    """Makes the blocks of peer `name` keep their inputs alone for the backward."""
    try:
        checkpoint_activations(model)
    except ValueError as error:
        raise recipe.error(f"peers.{name}.activation_checkpointing", f"{recipe.peers[name].model}: {error}") from error


def _load_weights(
    recipe: Recipe, name: str, model: nn.Module, card: ModelCard | None, data: DataSpec, dropped: Callable[[], Collection[str]]
) -> tuple[str, ...]:
    """Loads the weights file of peer `name`, if it has one; returns lines for the user.

    `dropped` returns the names of the file's tensors that may be left out.
    """
    spec = recipe.peers[name]
    source = spec.weights_file
    if source is None:
        return ()
    names = () if card is None else card.class_names
    other_classes = bool(names and data.class_names) and not _same_classes(names, data.class_names)
    if other_classes and source.head == "keep" and recipe.is_trained(name):
        _check_classes(recipe, name, source.file, names, data.class_names)
    try:
        path = weights_path(source.file)
        loaded = load_weights(model, path, prefix=source.prefix, head=source.head, other_classes=other_classes, dropped=dropped)
    except ValueError as error:
        raise recipe.error(f"peers.{name}.weights", str(error).replace("{file: FILE,", f"{{file: {source.file},")) from error
    if loaded.initial and not recipe.is_trained(name):
        raise recipe.error(f"peers.{name}.weights.head", "a frozen peer would teach with a classifier that nothing has trained; set keep")
    return loaded.notes


def _check_classes(recipe: Recipe, name: str, file: str, names: Sequence[str], data_names: Sequence[str]) -> None:
    """Refuses weights of other classes than the data's, for a peer that is trained; numbers are no names, and keep their places."""
    try:
        class_columns(names, data_names)
    except ValueError as error:
        remedy = f"write `weights: {{file: {file}, head: new}}` for a new classifier"
        raise recipe.error(f"peers.{name}.weights", f"{file}: {error}; {remedy}") from error


def _same_classes(first: Sequence[str], second: Sequence[str]) -> bool:
    try:
        return class_columns(first, second) is None
    except ValueError:
        return False


def _card(recipe: Recipe, name: str) -> ModelCard | None:
    """Returns the card of a peer's weights file, or of the program that it is; None where there is none."""
    spec = recipe.peers[name]
    key, file = f"peers.{name}.model", program_file(spec.model)
    if spec.weights_file is not None:
        key, file = f"peers.{name}.weights", spec.weights_file.file
    if file is None:
        return None
    try:
        return read_card(weights_path(file))
    except ValueError as error:
        raise recipe.error(key, str(error)) from error
