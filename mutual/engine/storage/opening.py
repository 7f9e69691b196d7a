"""Opening a run folder: the main process reads what an earlier training has left, and all ranks go on from the same."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mutual.data import DataModule, data_changes
from mutual.engine.runtime import LaunchSettings, resolve_launch
from mutual.engine.storage.checkpoint_store import CheckpointStore
from mutual.engine.storage.files import sha256
from mutual.engine.storage.lock import check_not_in_training, locked
from mutual.engine.storage.recipe_changes import check_extended, check_resumed
from mutual.engine.storage.run_folder import RECIPE, RunFolder
from mutual.group import Communicator
from mutual.recipe import InputError, Recipe, format_value, parse_recipe


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


@dataclass(frozen=True)
class Predecessor:
    """The run whose checkpoint a training begins with.

    Attributes:
        recipe: its resolved recipe.
        extended: the folder of the run that is extended; None where the training's own is resumed, which on each rank may be another.
    """

    recipe: Recipe
    extended: RunFolder | None = None


def find_predecessor(
    folder: RunFolder, recipe: Recipe, comm: Communicator, launch: LaunchSettings, *, resume: bool, overwrite: bool
) -> Predecessor | None:
    """Returns the run that is resumed or extended, or None where a run begins anew. Collective: all ranks must call it.

    Args:
        folder: the run folder.
        recipe: what is to be trained.
        comm: the ranks of the run.
        launch: what the launcher has chosen.
        resume: whether the run may go on.
        overwrite: whether it may be removed.

    Raises:
        InputError: the folder holds a run, and neither `resume` nor `overwrite` was given; or the run that is resumed or extended is of
            another recipe, or holds no checkpoint.
    """
    found = None
    with comm.raise_together():
        if comm.is_main:
            _check_other_folder(folder, recipe)
            predecessor = _resumed(folder, recipe, launch) if resume else None
            if not (resume or overwrite):
                folder.check_unused()
            predecessor = predecessor or _extended(folder, recipe, launch, resume=resume)
            if predecessor is not None:
                path = None if predecessor.extended is None else str(predecessor.extended.path)
                found = [predecessor.recipe.model_dump(mode="json"), path]
    found = comm.all_gather_json(found)[0]
    if found is None:
        return None
    extended = None if found[1] is None else RunFolder(Path(found[1]))
    return Predecessor(parse_recipe(found[0], source=str((extended or folder).path)), extended)


def _resumed(folder: RunFolder, recipe: Recipe, launch: LaunchSettings) -> Predecessor | None:
    """Returns the run in `folder` after a comparison with `recipe`; None where it has nothing to go on from."""
    has_checkpoint = bool(folder.checkpoints().resumable())
    # where weights are left without a checkpoint, what is trained again in their place must be the same run
    if not has_checkpoint and not (folder.holds_run() and (folder.path / RECIPE).exists()):
        return None
    saved_recipe = folder.recipe()
    check_resumed(_as_saved(recipe, saved_recipe, launch).with_extension_of(saved_recipe), saved_recipe.resolved(), folder.path)
    if not has_checkpoint and saved_recipe.extended_from is not None:  # it was cut before it had a checkpoint of its own
        return None
    return Predecessor(saved_recipe)


def _extended(folder: RunFolder, recipe: Recipe, launch: LaunchSettings, *, resume: bool) -> Predecessor | None:
    """Returns the run that `recipe` goes on from after a comparison; None where it names none."""
    extended_from = recipe.extended_from
    if resume and extended_from is None and (folder.path / RECIPE).exists():  # cut before it had a checkpoint of its own
        with suppress(InputError):  # a recipe that was changed says nothing, and the run begins anew
            extended_from = folder.recipe().extended_from
    if extended_from is None:
        return None
    earlier = RunFolder(Path(extended_from.run))
    saved_recipe = earlier.recipe()
    check_not_in_training(earlier.path)
    if not earlier.checkpoints().resumable():
        raise recipe.error("extended_from.run", f"{earlier.path} holds no checkpoint; begin with its weights, peers.NAME.weights=...")
    check_extended(_as_saved(recipe, saved_recipe, launch), saved_recipe.resolved(), earlier.path)
    return Predecessor(saved_recipe, earlier)


def _check_other_folder(folder: RunFolder, recipe: Recipe) -> None:
    if recipe.extended_from is not None and Path(recipe.extended_from.run).resolve() == folder.path.resolve():
        raise recipe.error("extended_from.run", f"{folder.path} would go on from itself; give the new run a name of its own, name=...")


def _as_saved(recipe: Recipe, saved_recipe: Recipe, launch: LaunchSettings) -> Recipe:
    """Returns `recipe` with what a run has found out where it leaves that open."""
    given = recipe.with_tuned_of(saved_recipe).with_step_forms_of(saved_recipe).with_inputs_of(saved_recipe)
    # whether classes and inputs still are these is seen when peers are built
    given = given.with_classes_of(saved_recipe).with_class_weights_of(saved_recipe)
    return resolve_launch(given, saved_recipe, launch)


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
