"""read_frozen, read_headless: a frozen peer of a run, which the run keeps no weights of, as it taught there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from mutual.group import DataSpec, PeerModel, create_peer_model
from mutual.models import ClassIndex, ClassMap, ModelCard, ModelInput, architecture_args, is_in_zoo, read_card
from mutual.recipe import InputError, Recipe, program_file


def read_frozen(recipe: Recipe, name: str, trained: Path, factories: Sequence[str]) -> tuple[WithColumns, ModelCard, ClassMap]:
    """Returns the frozen peer `name` in eval mode, built from the recipe's `model` and `weights`, with a card of what it is given.

    Its logits are of the run's classes, in their order, or of those that it knows. No file chooses code: a model that is none of the zoo
    must be one of `factories`, which are the user's own word.

    Args:
        recipe: the run's.
        name: the peer.
        trained: weights of a peer that was trained beside it, whose card says what the run's images and classes were.
        factories: names of models of the user's own that may be built.

    Raises:
        InputError: the recipe names no weights, or they do not load; or the model is not to be built, or has no classifier.
    """
    spec = recipe.peers[name]
    _check_trusted(recipe, name, factories)
    if spec.head == "none":
        raise recipe.error(f"peers.{name}.head", "it has no classifier; metrics.jsonl has its score by nearest neighbours, in epoch 0")
    created, card = _create(recipe, name, trained)
    model_input = created.input
    card = replace(
        card,
        model=spec.model,
        args=architecture_args(spec.model, spec.args),
        in_channels=model_input.channels,
        image_size=model_input.size,
        mean=model_input.mean,
        std=model_input.std,
        interpolation=model_input.interpolation,
    )
    model = WithColumns(created.model, created.classes)
    model.eval()
    return model, card, created.classes


def read_headless(recipe: Recipe, name: str, trained: Path, factories: Sequence[str]) -> tuple[nn.Module, ModelInput]:
    """Returns the frozen peer `name`, which has no classifier, in eval mode, and what it reads; otherwise as `read_frozen`."""
    _check_trusted(recipe, name, factories)
    created, _ = _create(recipe, name, trained)
    return created.model.eval(), created.input


def _check_trusted(recipe: Recipe, name: str, factories: Sequence[str]) -> None:
    """Refuses a model whose code the run's recipe would choose."""
    model = recipe.peers[name].model
    if program_file(model) is None and not is_in_zoo(model) and model not in factories:
        given = f" (given: {', '.join(sorted(factories))})" if factories else ""
        raise InputError(f"peer {name!r} is the model {model!r}; to run that code add --factory {model}{given}")


def _create(recipe: Recipe, name: str, trained: Path) -> tuple[PeerModel, ModelCard]:
    """Returns the peer's model, and the card of the weights at `trained`."""
    spec = recipe.peers[name]
    if is_in_zoo(spec.model) and (spec.weights is None or architecture_args(spec.model, spec.args) != spec.args):
        raise recipe.error(
            f"peers.{name}.weights",
            f"the run keeps no weights of a frozen peer, and its recipe names no file; give peers.{name}.weights=FILE",
        )
    try:
        card = read_card(trained)
    except ValueError as error:
        raise InputError(str(error)) from error
    assert card is not None, "the run has written it"
    return create_peer_model(recipe, name, DataSpec(card.num_classes, card.class_names, card.input)), card


class WithColumns(nn.Module):
    """A model whose logits are those of the data's classes."""

    def __init__(self, model: nn.Module, classes: ClassMap) -> None:
        super().__init__()
        self.model = model
        self.columns = None if classes.columns is None else ClassIndex(classes.columns)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits `[B, C]`, or `[B, K]` of the classes that it knows."""
        logits: Tensor = self.model(images)
        return logits if self.columns is None else self.columns(logits)
