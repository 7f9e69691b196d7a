"""measured_training: what the updates of a recipe need, built to be looked at and thrown away."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch

from mutual.data import seeded_generators
from mutual.engine.costs.memory import release_memory
from mutual.engine.runtime import init_environment, restore_switches
from mutual.engine.training import Training, build_dataset, build_training
from mutual.group import Communicator
from mutual.recipe import ExchangeSpec, PeerSpec, Recipe


class MeasuredTraining(NamedTuple):
    """What was built, and the device that it computes on."""

    training: Training
    device: torch.device


@contextmanager
def measured_training(recipe: Recipe, *, loads_images: bool = False) -> Iterator[MeasuredTraining]:
    """Context with what the updates of `recipe` need, on this process' device, as if it were the only one.

    The mathematics is the recipe's; what saves time or memory is left out: compilation, precision, stores, activation checkpoints,
    backwards of one peer after another, placement. Nothing is written, and the process' random generators and switches stay as they were.

    Args:
        recipe: what is trained.
        loads_images: whether many images are loaded, by as many processes as the recipe says.

    Raises:
        RecipeError: the data, a model, an objective or an optimizer does not fit.
    """
    plain = _plain(recipe, workers={} if loads_images else {"workers": 0})
    with restore_switches(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whoever trains it is told
        environment = init_environment(plain)
        comm = Communicator(0, 1, environment.comm.device)
        devices = [comm.device] if comm.device.type == "cuda" else []
        with seeded_generators(0), torch.random.fork_rng(devices=devices):
            data = build_dataset(recipe.model_copy(update={"data": plain.data}))  # its stores say which views the images have
            training = build_training(plain, replace(environment, comm=comm, precision="no"), data=data)
            training.group.train()
            try:
                yield MeasuredTraining(training, comm.device)
            finally:
                training.close()
        del training
        release_memory(comm.device)


def _plain(recipe: Recipe, *, workers: dict[str, int]) -> Recipe:
    peers = {name: peer.model_copy(update=_PLAIN_PEER) for name, peer in recipe.peers.items()}
    return recipe.model_copy(
        update={
            "peers": peers,
            "placement": "replicated",
            "exchange": ExchangeSpec(),
            "train": recipe.train.model_copy(update=_PLAIN_TRAIN),
            "data": recipe.data.model_copy(update={"decoded": None, **workers}),
        }
    )


_PLAIN_TRAIN = {
    "backward": "joint",
    "channels_last": False,
    "compile": False,
    "precision": "no",
    "sync_batchnorm": False,
    "tune": False,
}
_PLAIN_PEER = {
    "activation_checkpointing": False,
    "standardize": False,
    **{key: PeerSpec.model_fields[key].default for key in ("channels_last", "compile", "cost", "precision", "rank", "ranks", "store")},
}
