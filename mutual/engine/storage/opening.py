"""Opening a run folder: what a training finds there is looked at by the main process, and all processes go on from the same."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from mutual.data import DataModule, data_changes
from mutual.engine.runtime import LaunchSettings, resolve_launch
from mutual.engine.storage.files import sha256
from mutual.engine.storage.lock import locked
from mutual.engine.storage.run_folder import RECIPE, RunFolder
from mutual.group import Communicator, all_ranks_or_raise
from mutual.recipe import InputError, Recipe, parse_recipe

FREE_TO_CHANGE = re.compile(
    "|".join(
        (
            "name|output|checkpoint|placement|exchange",
            r"train\.(log_every|progress|accumulate|timeout_seconds)",
            r"data\.(batch_size|eval_batch_size|workers|on_bad_image|root|download|train_list|val_list|unlabelled)",
            r"peers\.\w+\.(weights|rank|ranks|cost)",
        )
    )
)
"""Key paths that a resumed run may change; that an update is of as many images, and frozen weights the same, is checked elsewhere."""


@contextmanager
def exclusive_access(folder: RunFolder, comm: Communicator) -> Iterator[None]:
    """Within it, no other training writes into the run folder; every process must enter it.

    Raises:
        InputError: another training holds it, or there is something in its place that is not ours.
        OSError: it cannot be made or written to.
    """
    with ExitStack() as stack:

        def hold() -> None:
            if not comm.is_main:
                return
            folder.check_ours()
            stack.enter_context(locked(folder.path))
            folder.check_ours()  # once more: another training may have been here between

        all_ranks_or_raise(comm, hold)
        yield


def resumed_recipe(
    folder: RunFolder, recipe: Recipe, comm: Communicator, launch: LaunchSettings, *, resume: bool, overwrite: bool
) -> Recipe | None:
    """Returns the recipe of the run to go on with, or None where one begins; every process must call it.

    Raises:
        InputError: the folder holds a run, and neither `resume` nor `overwrite` was given; or that run is of another recipe.
    """

    def look() -> dict[str, Any] | None:
        if not comm.is_main:
            return None
        if not (resume or overwrite) and folder.holds_run():
            what = "a checkpoint" if folder.checkpoints().resumable() else "trained weights"
            raise InputError(f"{folder.path} holds {what}; add --resume to go on, --overwrite to start anew, or give another name=...")
        # where weights are left without a checkpoint, what is trained anew in their place must be the same run
        left = folder.checkpoints().resumable() or (folder.holds_run() and (folder.path / RECIPE).exists())
        if not resume or not left:
            return None
        saved_recipe = folder.recipe()
        _check_same(resolve_launch(recipe, saved_recipe, launch), saved_recipe.resolved())
        return saved_recipe.model_dump(mode="json")

    document = all_ranks_or_raise(comm, look)[0]
    return None if document is None else parse_recipe(document, source=str(folder.path))


def select_checkpoint(folder: RunFolder, comm: Communicator) -> dict[str, bytes] | None:
    """Returns the files of the checkpoint to resume from, the same on every process; None where there is none.

    The main process chooses and sends it, as the others need not see its disk. Those that do hold checkpoints of this run must hold
    the same: one that has more, or others, says that the main process was started in the wrong place. Every process must call it.

    Raises:
        InputError: a process holds other checkpoints than the main one, or all are damaged; the line says which.
    """
    checkpoints = folder.checkpoints()
    views = all_ranks_or_raise(comm, lambda: (socket.gethostname(), str(checkpoints.folder), checkpoints.listing()))
    for rank, (host, place, listing) in enumerate(views):
        for name, digest in listing.items():
            if views[0][2].get(name) != digest:
                raise InputError(
                    f"{place}/{name} on rank {rank} ({host}) is not what rank 0 ({views[0][0]}) holds; start rank 0 where the "
                    "newest checkpoint is, or take this folder away"
                )
    checkpoint = None

    def read() -> list[str] | None:
        nonlocal checkpoint
        checkpoint = checkpoints.latest() if comm.is_main else None
        return None if checkpoint is None else list(checkpoint.files)

    names = all_ranks_or_raise(comm, read)[0]
    if names is None:
        return None
    return {name: comm.broadcast_bytes(None if checkpoint is None else checkpoint.files[name]) for name in names}


def _check_same(recipe: Recipe, trained: Recipe) -> None:
    """Refuses to go on with a recipe whose numbers would be others than those of the run so far."""
    changed = _differences(trained.model_dump(mode="json"), recipe.model_dump(mode="json"))
    for path, (old, new) in changed.items():
        raise recipe.error(
            path, f"the run was begun with {old!r} and cannot go on with {new!r}; give the old value, or --overwrite, or another name=..."
        )


def _differences(old: object, new: object, path: str = "") -> dict[str, tuple[object, object]]:
    if FREE_TO_CHANGE.fullmatch(path) or old == new:
        return {}
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return {path: (old, new)}
    found: dict[str, tuple[object, object]] = {}
    for key in dict.fromkeys([*old, *new]):
        found |= _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    return found


def check_data(data: DataModule, comm: Communicator) -> None:
    """Refuses ranks that read other data than the main process: the images of an update would not be those that were meant.

    Raises:
        InputError: a rank has others; the line says which, and how they differ.
    """
    own = json.dumps(data.fingerprint)
    views = all_ranks_or_raise(comm, lambda: (socket.gethostname(), sha256(own.encode())))
    if len({digest for _, digest in views}) == 1:
        return
    main = json.loads(comm.broadcast_bytes(own.encode() if comm.is_main else None))
    changes = all_ranks_or_raise(comm, lambda: data_changes(main, data.fingerprint, names=("on rank 0", f"on rank {comm.rank}")))
    for rank, (host, digest) in enumerate(views):
        if digest != views[0][1]:
            raise InputError(f"data: rank {rank} ({host}) reads others than rank 0 ({views[0][0]}): {changes[rank]}")
