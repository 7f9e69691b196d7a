"""WeightExchange: jobs without a common process group learn from each other's latest published weights (arXiv:1804.03235)."""

from __future__ import annotations

import warnings

import safetensors.torch
from safetensors import SafetensorError

from mutual.engine.codistillation.weight_store import WeightStore
from mutual.group import Communicator, Group
from mutual.models import cpu_tensors
from mutual.recipe import Recipe

MAX_MISSES = 3
"""Number of reads after which a missing peer is warned of."""


class WeightExchange:
    """Publishes this job's peers and reads what other jobs have published, every N updates; without a store it does nothing.

    The first rank that holds a peer publishes it if this job trains it. Otherwise it reads it, and broadcasts its tensors to the other
    ranks that hold it.

    Args:
        recipe: says where and how often.
        group: its frozen peers of other jobs are refreshed; those that nobody has published are unavailable sources.
        comm: the ranks of this job.
    """

    def __init__(self, recipe: Recipe, group: Group, comm: Communicator) -> None:
        exchange = recipe.exchange
        self._group = group
        self._comm = comm
        self._every = exchange.every
        self._reads = tuple(exchange.reads) if exchange.kind == "stale" else ()
        self._folder = exchange.folder
        self._store = WeightStore(exchange.folder) if exchange.kind == "stale" and exchange.folder is not None else None
        self._digests: dict[str, str] = {}
        self._num_reads = 0
        self._holders = dict(zip(self._reads, comm.split([group.placement.replica_ranks[name] for name in self._reads]), strict=True))

    def attach(self) -> None:
        """Makes the peers of other jobs unavailable sources of the group, until they are read."""
        self._group.unavailable_sources |= set(self._reads)

    def exchange_if_due(self, update: int) -> None:
        """Publishes and reads, if that is due after `update` updates. Collective: all ranks must call it."""
        if self._store is not None and update % self._every == 0:
            self.publish(update)
            self.refresh()

    def publish(self, update: int) -> None:
        """Publishes the current weights of this job's peers. Collective: all ranks must call it."""
        if self._store is None:
            return
        failures = []
        for peer in self._group.trainable:
            if not self._is_first_holder(peer.name):
                continue
            try:
                self._store.publish(peer.name, safetensors.torch.save(cpu_tensors(peer.eval_model)), step=update)
            except OSError as error:
                failures.append(f"could not publish peer {peer.name!r} ({error}); going on")
        for rank_failures in self._comm.all_gather_json(failures):
            for failure in rank_failures:
                self._warn(failure)

    def refresh(self) -> None:
        """Loads the others' latest weights; what cannot be read is skipped with a warning. Collective: all ranks must call it."""
        self._num_reads += 1
        read_here = {name: self._load_newer(name) for name in self._reads if self._is_first_holder(name)}
        read = {name: each for of_rank in self._comm.all_gather_json(read_here) for name, each in of_rank.items()}
        for name in self._reads:
            is_new, failure = read[name]
            if failure:
                self._warn(f"{failure}; going on with what was read before")
            if is_new:
                holders = self._holders[name]
                if holders is not None:
                    holders.broadcast_(list(self._group.peers[name].model.state_dict().values()))
                self._group.unavailable_sources.discard(name)
            # the first read is before the first update
            elif name in self._group.unavailable_sources and self._num_reads == MAX_MISSES + 1:
                missing = f"nobody has published peer {name!r} in {self._folder} so far, so nothing is learned from it"
                self._warn(f"{missing}; is the job that trains it running, with the same exchange.folder?")

    def _is_first_holder(self, name: str) -> bool:
        return self._comm.rank == self._group.placement.replica_ranks[name][0]

    def _warn(self, message: str) -> None:
        if self._comm.is_main:
            warnings.warn(message, stacklevel=3)

    def _load_newer(self, name: str) -> tuple[bool, str]:
        """Loads what another job has published of a peer since the last read; returns whether there was something, and what is wrong."""
        assert self._store is not None, "only a stale exchange reads"
        model = self._group.peers[name].model
        try:
            published = self._store.latest(name)
            if published is None or self._digests.get(name) == published[0]:
                return False, ""
            digest, content = published
            tensors = safetensors.torch.load(content)
            expected = model.state_dict()
            if {key: tensor.shape for key, tensor in tensors.items()} != {key: tensor.shape for key, tensor in expected.items()}:
                raise ValueError(f"what peer {name!r} has published is another model's")
            if any(tensor.is_floating_point() and tensor.isnan().any() for tensor in tensors.values()):
                raise ValueError(f"what peer {name!r} has published is not finite; its training has probably diverged")
        except (ValueError, OSError, SafetensorError) as error:
            return False, str(error)
        model.load_state_dict(tensors)
        self._digests[name] = digest
        return True, ""
