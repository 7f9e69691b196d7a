"""Codistillation (arXiv:1804.03235): jobs with no process group between them, each learning from the others' latest published weights."""

from __future__ import annotations

import warnings

import safetensors.torch
from safetensors import SafetensorError

from mutual.engine.codistillation.weight_store import Shelf
from mutual.group import Group, World
from mutual.recipe import Recipe

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
