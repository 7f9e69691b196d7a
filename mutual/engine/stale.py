"""Codistillation (arXiv:1804.03235): jobs with no process group between them, each learning from the others' latest published weights."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings

import fsspec
import safetensors.torch
from safetensors import SafetensorError

from mutual.engine.files import UNFINISHED
from mutual.group import Group, World, divide_launch
from mutual.recipe import Objective, Recipe


def divided(recipe: Recipe) -> Recipe:
    """Returns the recipe of the job that this process is in; every process of the launch must call it.

    One launch may train all peers of a stale exchange. Its processes are then divided into a job for each peer, with a run folder
    `NAME_PEER` of its own and no process group in common: none waits for another.

    Raises:
        RecipeError: the recipe names no peers to train, and the processes cannot be divided.
    """
    exchange, peers = recipe.exchange, recipe.trainable
    if exchange.kind != "stale" or exchange.trains:
        return recipe
    rank, size = (int(os.environ.get(name) or default) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    if size % len(peers):
        raise recipe.error(
            "exchange.trains",
            f"say which peers this job trains, of {', '.join(peers)}; or start a multiple of {len(peers)} processes, to train all",
        )
    number, rank = divmod(rank, size // len(peers))
    try:
        divide_launch(f"job/{peers[number]}", rank=rank, size=size // len(peers), timeout=recipe.train.timeout_seconds)
    except ValueError as error:
        raise recipe.error("exchange.trains", f"{error}; or say which peers this job trains") from error
    update = {"name": f"{recipe.name}_{peers[number]}", "exchange": exchange.model_copy(update={"trains": [peers[number]]})}
    return recipe.model_copy(update=update)


def as_job(recipe: Recipe) -> Recipe:
    """Returns what this job trains of a recipe whose exchange is stale: its own peers; the others only teach, from what they publish."""
    exchange = recipe.exchange
    if exchange.kind != "stale":
        return recipe
    trains = tuple(exchange.trains or ())
    remote = [name for name in recipe.trainable if name not in trains]
    alone = {"frozen": True, "optimizer": None, "schedule": None}
    peers = {name: peer.model_copy(update=alone) if name in remote else peer for name, peer in recipe.peers.items()}
    objectives = [kept for objective in recipe.objectives if (kept := _of_job(objective, trains)) is not None]
    reads = [*remote, *(name for name in exchange.reads if name not in remote)]
    update = {"peers": peers, "objectives": objectives, "exchange": exchange.model_copy(update={"reads": reads})}
    return recipe.model_copy(update=update)


def _of_job(objective: Objective, trains: tuple[str, ...]) -> Objective | None:
    if objective.learners is None:
        return objective
    learners = [name for name in objective.learners if name in trains]
    return objective.model_copy(update={"learners": learners}) if learners else None


class Shelf:
    """A folder, or any address that fsspec knows, in which peers' weights are published whole."""

    def __init__(self, address: str) -> None:
        self._files, self._root = fsspec.core.url_to_fs(address)

    def publish(self, peer: str, content: bytes, *, step: int) -> None:
        """Writes the weights under a name of their own, and only then the note that points to them; older ones go, nothing else does."""
        self._files.makedirs(self._root, exist_ok=True)
        digest = hashlib.sha256(content).hexdigest()
        name = f"{peer}-{step:010d}-{digest[:8]}.safetensors"
        kept = (name, self._noted(peer))  # a slow reader may still be at the one before
        self._write(name, content)
        self._write(f"{peer}.json", json.dumps({"file": name, "sha256": digest, "step": step}).encode())
        ours = re.compile(rf"({re.escape(UNFINISHED)})?{re.escape(peer)}-\d{{10}}-[0-9a-f]{{8}}\.safetensors")
        for old in self._files.ls(self._root, detail=False, refresh=True):
            found = old.rpartition("/")[2]
            if ours.fullmatch(found) and found not in kept:
                self._files.rm_file(old)

    def _noted(self, peer: str) -> str | None:
        """Returns the file that the peer's note points to; not the highest step, as a job may have begun anew."""
        try:
            note = json.loads(self._files.cat_file(f"{self._root}/{peer}.json"))
            return str(note["file"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def latest(self, peer: str) -> tuple[str, bytes] | None:
        """Returns digest and contents of the peer's latest publication, or None where there is none yet.

        Raises:
            ValueError: it is missing, half-written or altered.
        """
        try:
            note = json.loads(self._files.cat_file(f"{self._root}/{peer}.json"))
            file, digest = str(note["file"]), str(note["sha256"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the note of peer {peer!r} cannot be read ({type(error).__name__})") from error
        try:
            content: bytes = self._files.cat_file(f"{self._root}/{file}")
        except OSError as error:
            raise ValueError(f"the weights of peer {peer!r} cannot be read ({type(error).__name__})") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"the weights of peer {peer!r} are half-written or altered")
        return digest, content

    def _write(self, name: str, content: bytes) -> None:
        beside = f"{self._root}/{UNFINISHED}{name}"
        self._files.pipe_file(beside, content)
        self._files.mv(beside, f"{self._root}/{name}")


PATIENCE = 3
"""A peer that has not been published after so many looks is named."""


class StaleExchange:
    """Publishes this job's peers and takes over what others have published, every so many updates; without a shelf it does nothing.

    The first process of those that hold a peer speaks for it: it publishes a peer of this job, and reads one of another for all.
    """

    def __init__(self, recipe: Recipe, group: Group, world: World) -> None:
        exchange = recipe.exchange
        self._group = group
        self._world = world
        self._every = exchange.every
        self._reads = tuple(exchange.reads) if exchange.kind == "stale" else ()
        self._folder = exchange.folder
        self._shelf = Shelf(exchange.folder) if exchange.kind == "stale" and exchange.folder is not None else None
        self._seen: dict[str, str] = {}
        self._looks = 0
        group.silent |= set(self._reads)

    def __call__(self, update: int) -> None:
        """Exchanges where it is due after `update` updates; every process must call it."""
        if self._shelf is not None and update % self._every == 0:
            self.publish(update)
            self.refresh()

    def publish(self, update: int) -> None:
        """Publishes the weights that this job's peers have now; every process must call it."""
        if self._shelf is None:
            return
        complaints = []
        for peer in self._group.trainable:
            if not self._speaks_for(peer.name):
                continue
            tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in peer.scored_model.state_dict().items()}
            try:
                self._shelf.publish(peer.name, safetensors.torch.save(tensors), step=update)
            except OSError as error:
                complaints.append(f"could not publish peer {peer.name!r} ({error}); going on")
        for complaint in (each for said in self._world.gather_json(complaints) for each in said):
            self._warn(complaint)

    def refresh(self) -> None:
        """Takes over the others' latest weights; one that cannot be read is skipped with a warning; every process must call it."""
        self._looks += 1
        for name in self._reads:
            found, told = self._newer(name) if self._speaks_for(name) else (None, None)
            speaker = self._group.placement.teams[name][0]
            content = self._world.broadcast_bytes(found, source=speaker)
            complaint = self._world.broadcast_bytes(told, source=speaker).decode()
            if complaint:
                self._warn(f"{complaint}; going on with what was read before")
            if content:
                if name in self._group.peers:
                    self._group.peers[name].model.load_state_dict(safetensors.torch.load(content))
                self._group.silent.discard(name)
            elif name in self._group.silent and self._looks == PATIENCE + 1:  # the first look was before the first update
                missing = f"nobody has published peer {name!r} in {self._folder} so far, so nothing is learned from it"
                self._warn(f"{missing}; is the job that trains it running, with the same exchange.folder?")

    def _speaks_for(self, name: str) -> bool:
        return self._world.rank == self._group.placement.teams[name][0]

    def _warn(self, complaint: str) -> None:
        if self._world.is_main:
            warnings.warn(complaint, stacklevel=3)

    def _newer(self, name: str) -> tuple[bytes, bytes]:
        """Returns what another job has published of a peer since the last look, or nothing and what is wrong with it."""
        assert self._shelf is not None, "only a stale exchange reads"
        try:
            found = self._shelf.latest(name)
            if found is None or self._seen.get(name) == found[0]:
                return b"", b""
            tensors = safetensors.torch.load(found[1])
            own = self._group.peers[name].model.state_dict()
            shapes = [{key: tuple(tensor.shape) for key, tensor in each.items()} for each in (tensors, own)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"what peer {name!r} has published is another model's")
            if any(tensor.is_floating_point() and tensor.isnan().any() for tensor in tensors.values()):
                raise ValueError(f"what peer {name!r} has published is not finite; its training has probably diverged")
        except (ValueError, OSError, SafetensorError) as error:
            return b"", str(error).encode()
        self._seen[name] = found[0]
        return found[1], b""
