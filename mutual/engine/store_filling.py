"""fill_stores: what frozen peers say of every view, computed ahead of training; check_stores: some of it computed again and compared."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from mutual.data import Window
from mutual.engine.runtime import LaunchSettings, init_environment, resolve_launch, restore_switches, torch_threads
from mutual.engine.storage import check_same_data
from mutual.engine.training import Training, build_training
from mutual.group import Communicator
from mutual.recipe import Recipe, RunError, derive_seed


class StoreMismatchError(RunError):
    """What a store holds is not what the peer says."""


@dataclass(frozen=True)
class FilledStore:
    """A store after it has been filled.

    Attributes:
        peer: whose outputs it keeps.
        folder: where it is.
        num_images: training images.
        num_views: views of each.
        record_bytes: bytes that one view of one image takes.
        num_computed: views that were computed now, over all ranks; the others were there.
    """

    peer: str
    folder: str
    num_images: int
    num_views: int
    record_bytes: int
    num_computed: int


@restore_switches()
def fill_stores(recipe: Recipe) -> list[FilledStore]:
    """Computes what the stores of `recipe` lack: every view, or where epochs have views of their own, those of all epochs.

    Interrupted and called again it goes on. Collective: all ranks must call it; each computes its shard.

    Raises:
        RecipeError: the recipe has no store, or one that is another's.
        OSError: the disk is full, say.
    """
    with _training(recipe) as (training, comm):
        num_epochs = recipe.train.epochs if recipe.counted_views is None else recipe.counted_views[0]
        total = num_epochs * training.updates_per_epoch
        with tqdm(total=total, desc="filling", unit="batch", file=sys.stderr, disable=not (comm.is_main and sys.stderr.isatty())) as bar:
            for epoch in range(num_epochs):
                _fill_epoch(training, epoch, bar)
                comm.barrier()  # nobody is further ahead than others wait
        return [
            FilledStore(
                peer=name,
                folder=str(store.folder),
                num_images=training.data.info.num_train,
                num_views=num_epochs,
                record_bytes=store.shards.record_bytes,
                num_computed=sum(comm.all_gather_json(store.num_computed)),
            )
            for name, store in training.stores.items()
        ]


@restore_switches()
def check_stores(recipe: Recipe, number: int) -> dict[str, tuple[int, float]]:
    """Computes outputs again that the stores of `recipe` hold, and compares. Collective: all ranks must call it.

    Args:
        recipe: it names the stores.
        number: how many views of images are drawn of each store.

    Returns:
        For each peer how many were compared, and the largest difference of a log-probability or a tapped value.

    Raises:
        RecipeError: the recipe has no store, one that is another's, or an empty one.
        StoreMismatchError: some differ by more than float16 and the order of sums explain.
    """
    with _training(recipe) as (training, comm):
        result, bad = {}, []
        for name, store in training.stores.items():
            keys = store.shards.keys()
            if len(keys) == 0:
                raise recipe.error(f"peers.{name}.store.folder", f"{store.folder} is empty; fill it first, without --check")
            drawn = random.Random(derive_seed(recipe.seed, "check", name)).sample(range(len(keys)), min(number, len(keys)))
            local = [_difference(training, name, (int(index), int(view))) for index, view in keys[drawn[comm.rank :: comm.size]]]
            compared = [each for some in comm.all_gather_json(local) for each in some]
            result[name] = len(compared), max(difference for difference, _ in compared)
            num_bad = sum(not is_close for _, is_close in compared)
            if num_bad:
                differing = f"{num_bad} of {len(compared)} records are not what {name!r} says, by up to {result[name][1]:.3g}"
                bad.append(f"{store.folder}: {differing}")
        if bad:
            raise StoreMismatchError(f"{'; '.join(bad)}; remove the folder and fill it anew")
        return result


@contextmanager
def _training(recipe: Recipe) -> Iterator[tuple[Training, Communicator]]:
    """Context with all peers on every rank, as for a training of `recipe`."""
    if not recipe.stores:
        raise recipe.error("peers", "no peer has a store; give a frozen one `store: {folder: ...}`")
    everywhere = {name: peer.model_copy(update={"rank": None, "ranks": None}) for name, peer in recipe.peers.items()}
    each_once = {"sampler": "shuffle", "epoch_size": None, "crops_per_image": 1}  # counted views depend on none of them
    data = recipe.data.model_copy(update=each_once)
    recipe = recipe.model_copy(update={"placement": "replicated", "peers": everywhere, "data": data}).resolved()
    environment = init_environment(recipe)
    recipe = resolve_launch(recipe, None, LaunchSettings.of(recipe, environment.comm))
    assert recipe.train.precision is not None, "it is resolved"
    assert recipe.train.threads is not None, "it is resolved"
    with torch_threads(recipe.train.threads):
        training = build_training(recipe, replace(environment, precision=recipe.train.precision))
        try:
            check_same_data(training.data, environment.comm)
            yield training, environment.comm
        finally:
            training.close()


def _fill_epoch(training: Training, epoch: int, bar: tqdm[Any]) -> None:
    """Computes what is missing of an epoch's views, from the first window on of which something is; the bar counts windows."""
    start = _first_incomplete(training, epoch)
    bar.update(start)
    if start < training.updates_per_epoch:
        for window in training.windows(epoch, start=start):
            training.train_step.fill_stores(window, epoch * training.updates_per_epoch)
            bar.update()


def _first_incomplete(training: Training, epoch: int) -> int:
    """Returns the first window of this rank's shard of which some store lacks a view; the number of windows if there is none."""
    keys_of_windows = training.data.train_keys(
        epoch, world_size=training.world_size, shard=training.group.shard, accumulate=training.accumulate
    )
    for window, keys in enumerate(keys_of_windows):
        if not all(store.shards.has(np.array(keys)).all() for store in training.stores.values()):
            return window
    return training.updates_per_epoch


def _difference(training: Training, name: str, key: tuple[int, int]) -> tuple[float, bool]:
    """Returns by how much a record differs from what is computed now, and whether that is little."""
    batch = training.data.train_batch(*key)
    window = Window(num_samples=1, batches=[batch], sizes=[batch.num_rows])
    return training.stores[name].difference(key, training.train_step.recompute_stored(window)[name])
