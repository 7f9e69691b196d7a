"""build_parts: what a training of a recipe is made of."""

from __future__ import annotations

import torch
from torch import nn

from mutual.data import DataModule, build_data
from mutual.engine.runtime import Environment
from mutual.engine.training.peer_optimizer import PeerOptimizer, build_optimizer, build_schedule
from mutual.group import Group, Peer, all_ranks_or_raise, build_group
from mutual.recipe import Recipe


def build_training(recipe: Recipe, environment: Environment) -> tuple[DataModule, Group, dict[str, PeerOptimizer]]:
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
        comm=environment.comm,
        autocast=environment.autocast,
        class_names=info.class_names,
    )
    if recipe.data.views == "per_peer":
        data.make_views([number for number, name in enumerate(recipe.peers) if name in group.peers])
    updates = data.num_windows(world_size=environment.comm.size, accumulate=recipe.train.accumulate)
    optimizers: dict[str, PeerOptimizer] = {}

    def optimize() -> None:
        optimizers.update({peer.name: _build_peer_optimizer(recipe, peer, environment, updates) for peer in group.trainable})

    if group.placement.is_replicated:
        optimize()
    else:  # a mistake in one peer's optimizer is seen on its ranks alone
        all_ranks_or_raise(environment.comm, optimize)
    return data, group, optimizers


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


def _build_peer_optimizer(recipe: Recipe, peer: Peer, environment: Environment, updates_per_epoch: int) -> PeerOptimizer:
    spec, schedule = recipe.optimizer_of(peer.name), recipe.schedule_of(peer.name)
    optimizer = make_optimizer(recipe, peer.name, peer.parameters())
    learning_rate = build_schedule(schedule, lr=spec.lr, updates_per_epoch=updates_per_epoch, epochs=recipe.train.epochs)
    return PeerOptimizer(peer, optimizer, learning_rate, scaler=environment.scaler(), clip_grad_norm=recipe.train.clip_grad_norm)
