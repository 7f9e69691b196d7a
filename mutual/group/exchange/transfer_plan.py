"""TransferPlan: what each rank sends to each other of a micro-batch, as a pure function of placement, edges and shapes.

Of every source only what an edge of the receiving rank reads is sent, and only the rows of that rank's images: feature maps of which the
receiver's edges read the mean over the positions as vectors, outputs of which they read the distances between images as these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from mutual.data import shard_bounds
from mutual.group.edges import Edge, OutputKey, TensorSpec, distances_key
from mutual.group.exchange.placement import Placement
from mutual.objectives import SourcePayload, distances, to_vector, vector_width
from mutual.recipe import LOGITS, peer_of

_WIRE = {"exact": None, "bf16": torch.bfloat16, "fp16": torch.float16}
RequiredOutputs = Mapping[OutputKey, SourcePayload]
"""How much a rank reads of each output of peers that it does not hold."""


@dataclass(frozen=True)
class Transfer:
    """One output on its way.

    Attributes:
        reading: whose it is, and which.
        key: the receiver finds it under this name.
        rows: which rows of the micro-batch it is of, first and one behind the last.
        shape: its shape, rows included.
        payload: how much of the output it is.
        dtype: its precision where it is read.
    """

    output_key: OutputKey
    key: str
    rows: tuple[int, int]
    shape: tuple[int, ...]
    payload: SourcePayload
    dtype: torch.dtype

    def packed(self, output: Tensor, begin: int) -> Tensor:
        """Returns what travels of the sender's `output`, whose first row is row `begin` of the micro-batch."""
        rows = output[self.rows[0] - begin : self.rows[1] - begin].detach()
        if self.payload is SourcePayload.DISTANCES:
            return distances(rows.to(self.dtype))
        return to_vector(rows) if self.payload is SourcePayload.VECTOR else rows


class TransferPlan:
    """Who sends what to whom.

    Attributes:
        dtype: the precision in which it travels.
        silent: nothing travels between any two.
        forms: of every output that is read, whoever reads it.
    """

    def __init__(
        self,
        placement: Placement,
        requirements: Sequence[RequiredOutputs],
        specs: Mapping[OutputKey, TensorSpec],
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Gives rank r what `needs[r]` lists; `dtype` None is the widest precision that is there."""
        self._placement = placement
        self._requirements = requirements
        self.specs = specs
        ranks = range(placement.world_size)
        self._output_keys = {
            (sender, receiver): [
                output_key for output_key in requirements[receiver] if _is_sent(placement, peer_of(output_key[0]), sender, receiver)
            ]
            for sender in ranks
            for receiver in ranks
            if sender != receiver
        }
        travelling = {output_key for required_outputs in self._output_keys.values() for output_key in required_outputs}
        widest = torch.float32
        for output_key in travelling:
            widest = torch.promote_types(widest, specs[output_key][1])
        self.dtype = widest if dtype is None else dtype
        self.is_empty = not travelling

    @classmethod
    def of(cls, placement: Placement, edges: Sequence[Edge], specs: Mapping[OutputKey, TensorSpec], *, dtype: str) -> TransferPlan:
        """Returns the routes by which learners hear of their sources; `dtype` as in a recipe's exchange."""
        return cls(placement, learner_requirements(placement, edges), specs, dtype=_WIRE[dtype])

    @property
    def full_feature_maps(self) -> dict[OutputKey, int]:
        """The feature maps `[C, H, W]` that travel, with their bytes for each image and receiver: far more than logits or vectors."""
        whole = {
            output_key
            for (_, receiver), required_outputs in self._output_keys.items()
            for output_key in required_outputs
            if len(self.specs[output_key][0]) == 3 and self._is_whole(output_key, receiver)
        }
        return {output_key: prod(self.specs[output_key][0]) * self.dtype.itemsize for output_key in sorted(whole)}

    def missing(self, rank: int) -> dict[OutputKey, TensorSpec]:
        """Returns what `rank` reads of peers that it does not hold; what is read as vectors in the form of vectors."""
        found = {}
        for output_key, payload in self._requirements[rank].items():
            shape, dtype = self.specs[output_key]
            found[output_key] = ((vector_width(shape),) if payload is SourcePayload.VECTOR else shape), dtype
        return found

    def rows(self, rank: int, size: int) -> tuple[int, int]:
        """Returns which rows `rank` computes of a micro-batch of `size` images over all ranks, first and one behind the last."""
        return shard_bounds(size, *self._placement.shard(rank))

    def transfers(self, sender: int, receiver: int, size: int) -> Iterator[Transfer]:
        """Yields what `sender` sends to `receiver` of a micro-batch of `size` images over all ranks."""
        mine, theirs = self.rows(sender, size), self.rows(receiver, size)
        rows = max(mine[0], theirs[0]), min(mine[1], theirs[1])
        count = rows[1] - rows[0]
        for output_key in self._output_keys.get((sender, receiver), ()) if count > 0 else ():
            payload, path, (shape, dtype) = self._requirements[receiver][output_key], output_key[1], self.specs[output_key]
            if payload is SourcePayload.DISTANCES and rows == theirs and count < prod(shape):
                yield Transfer(output_key, distances_key(path), rows, (count, count), payload, torch.promote_types(dtype, torch.float32))
            elif payload is SourcePayload.VECTOR:
                yield Transfer(output_key, path, rows, (count, vector_width(shape)), payload, dtype)
            else:
                yield Transfer(output_key, path, rows, (count, *shape), SourcePayload.WHOLE, dtype)

    def num_values(self, sender: int, receiver: int, size: int) -> int:
        """Returns how many numbers `sender` sends to `receiver`."""
        return sum(prod(transfer.shape) for transfer in self.transfers(sender, receiver, size))

    def sent_bytes(self, sender: int, size: int) -> int:
        """Returns how many bytes `sender` sends for a micro-batch of `size` images over all ranks."""
        return self.dtype.itemsize * sum(self.num_values(sender, receiver, size) for receiver in range(self._placement.world_size))

    def _is_whole(self, output_key: OutputKey, receiver: int) -> bool:
        """Returns True where a reading of `receiver` travels whole: its edges read all, or distances across what several ranks compute."""
        payload = self._requirements[receiver][output_key]
        (_, spoken), (_, parts) = (
            self._placement.shard(rank) for rank in (self._placement.sender_ranks[peer_of(output_key[0])][0], receiver)
        )
        return payload is SourcePayload.WHOLE or (payload is SourcePayload.DISTANCES and spoken not in (1, parts))


def learner_requirements(placement: Placement, edges: Sequence[Edge]) -> list[RequiredOutputs]:
    """Returns for each rank what the edges of its learners read of peers that it does not hold."""
    requirements = []
    for rank in range(placement.world_size):
        found: dict[OutputKey, SourcePayload] = {}
        for edge in edges:
            for output_key, payload in edge.required_outputs.items() if rank in placement.replica_ranks[edge.learner] else ():
                found[output_key] = max(found.get(output_key, payload), payload)
        requirements.append(_elsewhere(placement, rank, found))
    return requirements


def scoring_requirements(placement: Placement, peers: Sequence[str]) -> list[RequiredOutputs]:
    """Returns for each rank the logits that it needs to score all peers: the ranks of the first peer's team do."""
    logits = {(name, LOGITS): SourcePayload.WHOLE for name in peers}
    return [_elsewhere(placement, rank, logits) if is_scoring_rank(placement, rank) else {} for rank in range(placement.world_size)]


def is_scoring_rank(placement: Placement, rank: int) -> bool:
    """Returns True on the ranks that between them see every image once, and count."""
    return placement.is_replicated or rank in next(iter(placement.replica_ranks.values()))


def _elsewhere(placement: Placement, rank: int, requirements: RequiredOutputs) -> RequiredOutputs:
    return {
        output_key: payload for output_key, payload in requirements.items() if rank not in placement.replica_ranks[peer_of(output_key[0])]
    }


def _is_sent(placement: Placement, peer: str, sender: int, receiver: int) -> bool:
    return receiver not in placement.replica_ranks[peer] and sender in placement.sender_ranks[peer]
