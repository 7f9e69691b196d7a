"""Codistillation (arXiv:1804.03235): jobs with no process group between them, each learning from the others' latest published weights."""

from __future__ import annotations

import warnings

import safetensors.torch
from safetensors import SafetensorError

from mutual.engine.codistillation.weight_store import WeightStore
from mutual.group import Communicator, Group
from mutual.recipe import Recipe

MAX_MISSES = 3
"""A peer that has not been published after so many looks is named."""


class WeightExchange:
    """Publishes this job's peers and takes over what others have published, every so many updates; without a shelf it does nothing.

    The first process of those that hold a peer speaks for it: it publishes a peer of this job, and reads one of another for all.
    """

    def __init__(self, recipe: Recipe, group: Group, comm: Communicator) -> None:
        exchange = recipe.exchange
        self._group = group
        self._comm = comm
        self._every = exchange.every
        self._reads = tuple(exchange.reads) if exchange.kind == "stale" else ()
        self._folder = exchange.folder
        self._store_of_weights = WeightStore(exchange.folder) if exchange.kind == "stale" and exchange.folder is not None else None
        self._seen: dict[str, str] = {}
        self._num_polls = 0
        group.unavailable_sources |= set(self._reads)

    def __call__(self, update: int) -> None:
        """Exchanges where it is due after `update` updates; every process must call it."""
        if self._store_of_weights is not None and update % self._every == 0:
            self.publish(update)
            self.refresh()

    def publish(self, update: int) -> None:
        """Publishes the weights that this job's peers have now; every process must call it."""
        if self._store_of_weights is None:
            return
        complaints = []
        for peer in self._group.trainable:
            if not self._is_publisher(peer.name):
                continue
            tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in peer.eval_model.state_dict().items()}
            try:
                self._store_of_weights.publish(peer.name, safetensors.torch.save(tensors), step=update)
            except OSError as error:
                complaints.append(f"could not publish peer {peer.name!r} ({error}); going on")
        for complaint in (each for said in self._comm.all_gather_json(complaints) for each in said):
            self._warn(complaint)

    def refresh(self) -> None:
        """Takes over the others' latest weights; one that cannot be read is skipped with a warning; every process must call it."""
        self._num_polls += 1
        for name in self._reads:
            found, told = self._newer(name) if self._is_publisher(name) else (None, None)
            source = self._group.placement.replica_ranks[name][0]
            content = self._comm.broadcast_bytes(found, source=source)
            complaint = self._comm.broadcast_bytes(told, source=source).decode()
            if complaint:
                self._warn(f"{complaint}; going on with what was read before")
            if content:
                if name in self._group.peers:
                    self._group.peers[name].model.load_state_dict(safetensors.torch.load(content))
                self._group.unavailable_sources.discard(name)
            elif (
                name in self._group.unavailable_sources and self._num_polls == MAX_MISSES + 1
            ):  # the first look was before the first update
                missing = f"nobody has published peer {name!r} in {self._folder} so far, so nothing is learned from it"
                self._warn(f"{missing}; is the job that trains it running, with the same exchange.folder?")

    def _is_publisher(self, name: str) -> bool:
        return self._comm.rank == self._group.placement.replica_ranks[name][0]

    def _warn(self, complaint: str) -> None:
        if self._comm.is_main:
            warnings.warn(complaint, stacklevel=3)

    def _newer(self, name: str) -> tuple[bytes, bytes]:
        """Returns what another job has published of a peer since the last look, or nothing and what is wrong with it."""
        assert self._store_of_weights is not None, "only a stale exchange reads"
        try:
            found = self._store_of_weights.latest(name)
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
