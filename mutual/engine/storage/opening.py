"""Opening a run folder: the main process reads what an earlier training has left, and all ranks go on from the same."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mutual.data import DataModule, data_changes
from mutual.engine.runtime import LaunchSettings, resolve_launch
from mutual.engine.storage.checkpoint_store import CheckpointStore
from mutual.engine.storage.files import sha256
from mutual.engine.storage.lock import locked
from mutual.engine.storage.run_folder import RECIPE, RunFolder
from mutual.group import Communicator
from mutual.recipe import InputError, Recipe, format_value, parse_recipe

FREE_TO_CHANGE = re.compile(
    "|".join(
        (
            "name|output|checkpoint|placement|exchange",
            r"train\.(log_every|progress|accumulate|timeout_seconds|tune_seconds)",
            r"data\.(batch_size|eval_batch_size|workers|prefetch|on_bad_image|root|download|train_list|val_list|test|unlabelled|decoded)",
            r"peers\.\w+\.(weights|rank|ranks|cost|expect|store\.folder)",
        )
    )
)
"""Key paths that a resumed run may change; that an update is of as many images, and frozen weights the same, is checked elsewhere."""


@contextmanager
def exclusive_access(folder: RunFolder, comm: Communicator) -> Iterator[None]:
    """Context in which no other training writes into the run folder. Collective: all ranks must enter it.

    Args:
        folder: the run folder.
        comm: the ranks of the run.

    Raises:
        InputError: another training has locked it, or something else is in its place.
        OSError: it cannot be created or written to.
    """
    with ExitStack() as stack:
        with comm.raise_together():
            if comm.is_main:
                folder.check_owner()
                stack.enter_context(locked(folder.path))
                folder.check_owner()  # once more: another training may have been here between
        yield


def resumed_recipe(
    folder: RunFolder, recipe: Recipe, comm: Communicator, launch: LaunchSettings, *, resume: bool, overwrite: bool
) -> Recipe | None:
    """Returns the recipe of the run that is resumed, or None where a run begins. Collective: all ranks must call it.

    Args:
        folder: the run folder.
        recipe: what is to be trained.
        comm: the ranks of the run.
        launch: what the launcher has chosen.
        resume: whether the run may go on.
        overwrite: whether it may be removed.

    Raises:
        InputError: the folder holds a run, and neither `resume` nor `overwrite` was given; or that run is of another recipe.
    """
    document = None
    with comm.raise_together():
        if comm.is_main:
            document = _saved_document(folder, recipe, launch, resume=resume, overwrite=overwrite)
    document = comm.all_gather_json(document)[0]
    return None if document is None else parse_recipe(document, source=str(folder.path))


def _saved_document(folder: RunFolder, recipe: Recipe, launch: LaunchSettings, *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """Returns the recipe of the run that is resumed as JSON values, after a comparison with `recipe`."""
    has_checkpoint = bool(folder.checkpoints().resumable())
    if not (resume or overwrite):
        folder.check_unused()
    # where weights are left without a checkpoint, what is trained again in their place must be the same run
    if not resume or not (has_checkpoint or (folder.holds_run() and (folder.path / RECIPE).exists())):
        return None
    saved_recipe = folder.recipe()
    given = (
        recipe.with_tuned_of(saved_recipe).with_inputs_of(saved_recipe).with_classes_of(saved_recipe).with_class_weights_of(saved_recipe)
    )  # whether they still are these is seen when peers are built
    _check_same(resolve_launch(given, saved_recipe, launch), saved_recipe.resolved())
    return saved_recipe.model_dump(mode="json")


def select_checkpoint(checkpoints: CheckpointStore, comm: Communicator, holders: Mapping[str, Sequence[int]]) -> dict[str, bytes] | None:
    """Returns the files of the checkpoint to resume from that this rank needs; None where there is none.

    The main process chooses it after comparing the checksums of all its files, and sends those that all ranks need. What only some need
    they read themselves, and compare its checksum; where they do not see the main process's disk, or read something else, it is sent.
    Those that do hold checkpoints of this run must hold the same: if one has more, or others, the main process was started in the wrong
    place. Collective: all ranks must call it.

    Args:
        checkpoints: those of the run.
        comm: the ranks of the run.
        holders: by peer the ranks that need its files, which begin with its name; all ranks need the others.

    Raises:
        InputError: a rank holds other checkpoints than rank 0, or all are damaged; the line says which.
    """
    _check_same_checkpoints(checkpoints, comm)

    def readers(name: str) -> Sequence[int]:
        return holders.get(name.partition(".")[0], range(comm.size))

    checkpoint = None
    with comm.raise_together():
        if comm.is_main:
            checkpoint = checkpoints.latest(wanted=lambda name: 0 in readers(name))
    selected = comm.all_gather_json(None if checkpoint is None else [checkpoint.path.name, checkpoint.sha256])[0]
    if selected is None:
        return None
    path, digests = checkpoints.folder / selected[0], selected[1]
    files = {} if checkpoint is None else dict(checkpoint.files)
    for name in digests:
        if len(readers(name)) == comm.size:
            files[name] = comm.broadcast_bytes(files.get(name))
    missing = []
    for name, digest in digests.items():
        if comm.rank in readers(name) and name not in files:
            content = _read_whole(path / name, digest)
            if content is None:
                missing.append(name)
            else:
                files[name] = content
    return files | _receive(missing, path, digests, comm)


def _check_same_checkpoints(checkpoints: CheckpointStore, comm: Communicator) -> None:
    with comm.raise_together():
        local_listing = checkpoints.listing()
    views = comm.all_gather_json([socket.gethostname(), str(checkpoints.folder), local_listing])
    main_host, _, main_listing = views[0]
    for rank, (host, folder, listing) in enumerate(views):
        for name, digest in listing.items():
            if main_listing.get(name) != digest:
                raise InputError(
                    f"{folder}/{name} on rank {rank} ({host}) is not what rank 0 ({main_host}) holds; start rank 0 where the "
                    "newest checkpoint is, or take this folder away"
                )


def _receive(missing: Sequence[str], path: Path, digests: Mapping[str, str], comm: Communicator) -> dict[str, bytes]:
    """Returns the `missing` files of this rank, which the main process reads from `path` and sends. Collective."""
    received = {}
    for rank, names in enumerate(comm.all_gather_json(missing)):
        for name in names:
            content = None
            with comm.raise_together():
                if comm.is_main:
                    content = _read_whole(path / name, digests[name])
                    if content is None:
                        raise InputError(f"{path / name} was changed while it was read; resume again")
            if content is not None:
                comm.send(content, to=rank)
            elif comm.rank == rank:
                received[name] = comm.receive(source=0)
    return received


def _read_whole(path: Path, digest: str) -> bytes | None:
    """Returns the content of a file with this checksum; None where it cannot be read, or is another."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content if sha256(content) == digest else None


def _check_same(recipe: Recipe, saved_recipe: Recipe) -> None:
    """Refuses to resume with a recipe that would change the run's numbers."""
    changed = _differences(saved_recipe.model_dump(mode="json"), recipe.model_dump(mode="json"))
    for path, (old, new) in changed.items():
        raise recipe.error(
            path, f"the run was started with {old!r} and cannot go on with {new!r}; give the old value, or --overwrite, or another name=..."
        )


def _differences(old: object, new: object, path: str = "") -> dict[str, tuple[object, object]]:
    if FREE_TO_CHANGE.fullmatch(path) or old == new:
        return {}
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return {path: (old, new)}
    differences: dict[str, tuple[object, object]] = {}
    for key in dict.fromkeys([*old, *new]):
        differences |= _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    return differences


def check_same_classes(recipe: Recipe, saved_recipe: Recipe, class_names: Sequence[str]) -> None:
    """Refuses to resume where outputs of a frozen peer stand for other classes than they did.

    Args:
        recipe: with the outputs that were found when the peers were built.
        saved_recipe: of the run that is resumed.
        class_names: the data's.

    Raises:
        RecipeError: they do not; on all ranks alike.
    """
    for name, peer in recipe.peers.items():
        now, then = peer.classes, saved_recipe.peers[name].classes
        if now == then:
            continue
        outputs = [list(range(len(class_names))) if isinstance(each, str) else each for each in (then, now)]
        changes = [
            f"{class_name!r} was output {format_value(before)} and is {format_value(after)}"
            for class_name, before, after in zip(class_names, *outputs, strict=False)
            if before != after
        ]
        changed = ", ".join(changes[:3]) + (", ..." if len(changes) > 3 else "")
        raise recipe.error(
            f"peers.{name}.classes",
            f"its outputs stand for other classes than when the run was started ({changed}); give back what says its classes, or "
            "--overwrite, or another name=...",
        )


def check_same_data(data: DataModule, comm: Communicator) -> None:
    """Refuses ranks that read other data than the main process. Collective: all ranks must call it.

    Raises:
        InputError: a rank has others; the line says which, and how they differ.
    """
    with comm.raise_together():
        local_fingerprint = json.dumps(data.fingerprint).encode()
    views = comm.all_gather_json([socket.gethostname(), sha256(local_fingerprint)])
    if len({digest for _, digest in views}) == 1:
        return
    main_fingerprint = json.loads(comm.broadcast_bytes(local_fingerprint if comm.is_main else None))
    changes = comm.all_gather_json(data_changes(main_fingerprint, data.fingerprint, names=("on rank 0", f"on rank {comm.rank}")))
    for rank, (host, digest) in enumerate(views):
        if digest != views[0][1]:
            raise InputError(f"data: rank {rank} ({host}) reads others than rank 0 ({views[0][0]}): {changes[rank]}")
