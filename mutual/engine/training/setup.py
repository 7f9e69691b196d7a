"""build_parts: what a training of a recipe is made of."""

from __future__ import annotations

import torch
from torch import nn

from mutual.data import DataModule, build_data
from mutual.engine.runtime import Environment
from mutual.engine.training.optimization import Optimization, build_optimizer, build_schedule
from mutual.group import Group, Peer, agreed, build_group
from mutual.recipe import Recipe


def build_parts(recipe: Recipe, environment: Environment) -> tuple[DataModule, Group, dict[str, Optimization]]:
    """Returns what a training of `recipe` is made of: its data, its peers with their edges, and an optimization for each that learns.

    Raises:
        RecipeError: the data, a model, an objective or an optimizer does not fit.
    """
    data = build_dataset(recipe)
    info = data.info
    group = build_group(
        recipe,
        num_classes=info.num_classes,
        in_channels=info.channels,
        image_size=info.image_size,
        world=environment.world,
        autocast=environment.autocast,
        class_names=info.class_names,
    )
    if recipe.data.views == "per_peer":
        data.make_views([number for number, name in enumerate(recipe.peers) if name in group.peers])
    updates = data.num_windows(world_size=environment.world.size, accumulate=recipe.train.accumulate)
    optimizations: dict[str, Optimization] = {}

    def optimize() -> None:
        optimizations.update({peer.name: _build_optimization(recipe, peer, environment, updates) for peer in group.trainable})

    if group.placement.shared:
        optimize()
    else:  # a mistake in one peer's optimizer is seen on its ranks alone
        agreed(environment.world, optimize)
    return data, group, optimizations


def build_dataset(recipe: Recipe) -> DataModule:
    """Returns the data of `recipe`.

    Raises:
        RecipeError: they are missing or do not fit.
        OSError: the disk or the machine failed.
    """
    num_views = len(recipe.peers) if recipe.data.views == "per_peer" else 1
    try:
        return build_data(recipe.data, seed=recipe.seed, num_views=num_views)
    except ValueError as error:
        raise recipe.error("data", str(error)) from error


def make_optimizer(recipe: Recipe, name: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Returns the optimizer of peer `name`.

    Raises:
        RecipeError: there is none of this name, or it does not take these arguments.
    """
    try:
        return build_optimizer(recipe.optimizer_of(name), parameters)
    except ValueError as error:
        path = "optimizer" if recipe.peers[name].optimizer is None else f"peers.{name}.optimizer"
        raise recipe.error(path, str(error)) from error


def _build_optimization(recipe: Recipe, peer: Peer, environment: Environment, updates_per_epoch: int) -> Optimization:
    spec, schedule = recipe.optimizer_of(peer.name), recipe.schedule_of(peer.name)
    optimizer = make_optimizer(recipe, peer.name, peer.parameters())
    learning_rate = build_schedule(schedule, lr=spec.lr, updates_per_epoch=updates_per_epoch, epochs=recipe.train.epochs)
    return Optimization(peer, optimizer, learning_rate, scaler=environment.scaler(), clip_grad_norm=recipe.train.clip_grad_norm)
