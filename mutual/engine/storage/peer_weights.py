"""peer_file: the weights of a run's peer as users name it, after comparing their checksum."""

from __future__ import annotations

from pathlib import Path

from mutual.engine.storage.run_folder import RunFolder, epoch_name
from mutual.engine.storage.run_records import BEST
from mutual.recipe import InputError


def peer_files(folder: RunFolder, peer: str | None, *, epoch: int | None = None) -> list[Path]:
    """Returns the files of the best weights of `peer`, or of all peers that were trained where it is None; see `peer_file`."""
    names = folder.recipe().trainable if peer is None else [peer]
    return [peer_file(folder, name, epoch=epoch) for name in names]


def peer_file(folder: RunFolder, peer: str, *, epoch: int | None = None) -> Path:
    """Returns the path of a peer's best weights after comparing their checksum.

    Args:
        folder: the run folder.
        peer: name of the peer, or `best`.
        epoch: take the weights of this epoch, which the run has kept, and not the best ones.

    Raises:
        InputError: there is no such run, no such peer in it, no epoch has been evaluated, this one was not kept, or the file is not as it
            was written.
    """
    recipe = folder.recipe()
    best = folder.best_peer()
    name = best if peer == "best" else peer
    if name not in recipe.trainable:
        trained = f"{', '.join(recipe.trainable)}, and `best` is {best}"
        raise InputError(f"{folder.path} trained no peer {peer!r}; it trained {trained}; evaluate knows `all`, predict `ensemble`, too")
    if epoch is None:
        return folder.verified_weights(BEST, name)
    kept = sorted(int(row["epoch"] or 0) for row in folder.read_best().kept.get(name, []))
    if epoch not in kept:
        known = f"of epochs {', '.join(map(str, kept))}" if kept else "of none, as checkpoint.keep_best was not set"
        raise InputError(f"{folder.path} has not kept the weights of epoch {epoch} of peer {name!r}; it has kept those {known}")
    return folder.verified_weights(BEST, epoch_name(name, epoch))
