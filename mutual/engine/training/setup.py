"""build_training: from a recipe to what its updates need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

from mutual.data import DataInfo, DataModule, Window, build_data
from mutual.engine.monitoring import TrainMeter
from mutual.engine.runtime import Environment
from mutual.engine.teacher_store import TeacherStore, open_stores
from mutual.engine.training.class_weights import resolve_class_weights
from mutual.engine.training.parameter_groups import unknown_paths
from mutual.engine.training.pause import PauseSelector
from mutual.engine.training.peer_optimizer import PeerOptimizer, build_optimizer, with_fused_steps
from mutual.engine.training.schedule import build_schedule
from mutual.engine.training.standardization import standardize_embeddings
from mutual.engine.training.train_step import TrainStep
from mutual.group import Group, Peer, build_group
from mutual.models import ModelInput
from mutual.recipe import Recipe, is_users_name


@dataclass(frozen=True)
class Training:
    """What the updates of a recipe need; what a run folder needs is built by `build_trainer`.

    Attributes:
        data: the images; to be closed.
        group: the peers that this rank holds, and their edges.
        optimizers: one for each trainable peer of this rank.
        train_step: updates all of them from one window.
        meter: collects what the micro-batches gave.
        pause_selector: decides which peer skips an update.
        stores: what the outputs of frozen peers are kept in, by peer; to be closed.
        updates_per_epoch: number of windows of an epoch.
        world_size: number of ranks.
        accumulate: number of micro-batches of a window.
    """

    data: DataModule
    group: Group
    optimizers: dict[str, PeerOptimizer]
    train_step: TrainStep
    meter: TrainMeter
    pause_selector: PauseSelector
    stores: dict[str, TeacherStore]
    updates_per_epoch: int
    world_size: int
    accumulate: int

    def close(self) -> None:
        """Ends the loader's processes, and lets others write into the stores."""
        self.data.close()
        for store in self.stores.values():
            store.close()

    def windows(
        self, epoch: int, *, start: int = 0, waiting: Callable[[], AbstractContextManager[object]] | None = None
    ) -> Iterator[Window]:
        """Yields this rank's shard of an epoch's windows, from window `start` on; `waiting` as `DataModule.train_windows` takes it."""
        return self.data.train_windows(
            epoch, start=start, world_size=self.world_size, shard=self.group.shard, accumulate=self.accumulate, waiting=waiting
        )


def build_training(recipe: Recipe, environment: Environment, *, data: DataModule | None = None) -> Training:
    """Builds the data, the peers with their edges, an optimizer for each that is trained, and the step that updates them.

    Collective: all ranks must call it.

    Args:
        recipe: what is trained.
        environment: the ranks of the run.
        data: the recipe's, if it is built already.

    Raises:
        RecipeError: the data, a model, an objective or an optimizer does not fit.
    """
    comm = environment.comm
    recipe = with_fused_steps(recipe, environment.precision, comm.device)
    data = data or build_dataset(recipe)
    recipe = resolve_class_weights(recipe, data)
    info = data.info
    group = _build_group(recipe, info, environment)
    load_for_peers(recipe, data, group.inputs.values())
    if recipe.data.views == "per_peer":
        data.make_views([index for index, name in enumerate(recipe.peers) if name in group.peers])
    standardized = tuple(name for name, peer in recipe.peers.items() if peer.standardize)
    standardize_embeddings(group, data, comm, names=standardized)
    stores = open_stores(recipe, group, data, comm, environment.precision)  # they keep standardised embeddings
    group.frozen_forwards.stores.update(stores)
    updates_per_epoch = data.num_windows(world_size=comm.size, accumulate=recipe.train.accumulate)
    with comm.raise_together(names_rank=True):
        optimizers = {peer.name: _build_peer_optimizer(recipe, peer, environment, updates_per_epoch) for peer in group.trainable}
    meter = TrainMeter(group.edges, recipe.trainable, comm, is_scoring_rank=group.is_scoring_rank)
    pause_selector = PauseSelector(recipe.train.pause, comm)
    train_step = TrainStep(
        group,
        optimizers,
        meter,
        comm=comm,
        num_classes=info.num_classes,
        seed=recipe.seed,
        updates_per_epoch=updates_per_epoch,
        pause_selector=pause_selector,
        is_alternating=recipe.train.update == "alternating",
        backward=recipe.train.backward,
    )
    return Training(
        data=data,
        group=group,
        optimizers=optimizers,
        train_step=train_step,
        meter=meter,
        pause_selector=pause_selector,
        stores=stores,
        updates_per_epoch=updates_per_epoch,
        world_size=comm.size,
        accumulate=recipe.train.accumulate,
    )


def build_dataset(recipe: Recipe) -> DataModule:
    """Builds the data of `recipe`.

    Raises:
        RecipeError: they are missing or do not fit.
        OSError: the disk or the machine failed.
    """
    num_views = len(recipe.peers) if recipe.data.views == "per_peer" else 1
    try:
        return build_data(recipe.data, seed=recipe.seed, num_views=num_views, counted_views=recipe.counted_views)
    except ValueError as error:
        raise recipe.error("data", str(error)) from error


def load_for_peers(recipe: Recipe, data: DataModule, inputs: Iterable[ModelInput]) -> None:
    """Makes the data load images with as many channels, and as large, as peers of these inputs need.

    Raises:
        RecipeError: the data's transforms do not take that.
    """
    try:
        data.load_for([model_input.shape for model_input in inputs])
        data.keep_decoded()
    except ValueError as error:
        raise recipe.error("data", str(error)) from error


def make_optimizer(recipe: Recipe, name: str, model: nn.Module, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Builds the optimizer of peer `name`.

    Args:
        recipe: says which.
        name: of the peer.
        model: the peer's, for groups of its parameters.
        parameters: what is trained: the model's, and those of adapters.

    Raises:
        RecipeError: there is none of this name, it does not take these arguments, or a group is of a module that the model has not.
    """
    spec = recipe.optimizer_of(name)
    path = "optimizer" if recipe.peers[name].optimizer is None else f"peers.{name}.optimizer"
    for index, message in unknown_paths(spec, model):
        raise recipe.error(f"{path}.groups.{index}.modules", f"peer {name!r} ({recipe.peers[name].model}) has {message}")
    try:
        return build_optimizer(spec, parameters, model)
    except ValueError as error:
        raise recipe.error(path, str(error)) from error


def _build_group(recipe: Recipe, info: DataInfo, environment: Environment) -> Group:
    return build_group(
        recipe,
        num_classes=info.num_classes,
        in_channels=info.channels,
        image_size=info.image_size,
        comm=environment.comm,
        autocast=environment.autocast,
        class_names=info.class_names,
        statistics=(info.mean, info.std),
    )


def _build_peer_optimizer(recipe: Recipe, peer: Peer, environment: Environment, updates_per_epoch: int) -> PeerOptimizer:
    spec, schedule = recipe.optimizer_of(peer.name), recipe.schedule_of(peer.name)
    optimizer = make_optimizer(recipe, peer.name, peer.model, peer.parameters())
    try:
        learning_rate = build_schedule(schedule, lr=spec.lr, updates_per_epoch=updates_per_epoch, epochs=recipe.train.epochs)
    except ValueError as error:
        path = "schedule" if recipe.peers[peer.name].schedule is None else f"peers.{peer.name}.schedule"
        raise recipe.error(path, str(error)) from error
    return PeerOptimizer(
        peer,
        optimizer,
        learning_rate,
        scaler=environment.scaler(),
        clip_grad_norm=recipe.train.clip_grad_norm,
        clip_parameter_norm=recipe.train.clip_parameter_norm,
        lr=spec.lr,
        seed=recipe.seed if is_users_name(spec.name) else None,
    )
