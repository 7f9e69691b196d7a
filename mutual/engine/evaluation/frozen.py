"""read_frozen: a frozen peer of a run, which the run keeps no weights of, as it taught there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from mutual.group import create_peer_model
from mutual.models import ModelCard, architecture_args, is_in_zoo, read_card
from mutual.recipe import InputError, Recipe


def read_frozen(recipe: Recipe, name: str, trained: Path, factories: Sequence[str]) -> tuple[nn.Module, ModelCard]:
    """Returns the frozen peer `name` in eval mode, built from the recipe's `model` and `weights`, with a card of what it is given.

    No file chooses code: a model that is none of the zoo must be one of `factories`, which are the user's own word.

    Args:
        recipe: the run's.
        name: the peer.
        trained: weights of a peer that was trained beside it, whose card says what the run's images and classes were.
        factories: names of models of the user's own that may be built.

    Raises:
        InputError: the recipe names no weights, or they do not load; or the model is not to be built.
    """
    spec = recipe.peers[name]
    if not is_in_zoo(spec.model) and spec.model not in factories:
        given = f" (given: {', '.join(sorted(factories))})" if factories else ""
        raise InputError(f"peer {name!r} is the model {spec.model!r}; to run that code add --factory {spec.model}{given}")
    if is_in_zoo(spec.model) and (spec.weights is None or architecture_args(spec.model, spec.args) != spec.args):
        raise recipe.error(
            f"peers.{name}.weights",
            f"the run keeps no weights of a frozen peer, and its recipe names no file; give peers.{name}.weights=FILE",
        )
    try:
        card = read_card(trained)
        weights = None if spec.weights in (None, "pretrained") else read_card(spec.weights or "")
    except ValueError as error:
        raise InputError(str(error)) from error
    assert card is not None, "the run has written it"
    model = create_peer_model(recipe, name, num_classes=card.num_classes, in_channels=card.in_channels)
    names = card.class_names if weights is None else weights.class_names
    return model.eval(), replace(card, model=spec.model, args=architecture_args(spec.model, spec.args), class_names=names)
