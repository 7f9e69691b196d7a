"""TransferPlan: what each rank sends to each other of a micro-batch, as a pure function of placement, edges and shapes.

Of every source only what an edge of the receiving rank reads is sent, and only the rows of that rank's images: feature maps of which the
receiver's edges read the mean over the positions as vectors; if only distances are read, the distances are sent.

A frozen peer that several learners' ranks hold is split: of the images that these ranks have in common each computes a part, and gets
the others' outputs for the rest. Only logits and vectors are worth that: where an edge reads feature maps of it, each rank computes all
of its images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from mutual.data import shard_bounds
from mutual.group.edges import Edge, OutputKey, TensorSpec, distances_key
from mutual.group.exchange.placement import Placement
from mutual.group.peers import Outputs
from mutual.objectives import SourcePayload, distances, to_vector, vector_width
from mutual.recipe import LOGITS, peer_of

_TRANSFER_DTYPES = {"exact": None, "bf16": torch.bfloat16, "fp16": torch.float16}
RequiredOutputs = Mapping[OutputKey, SourcePayload]
"""How much a rank reads of each output of peers that it does not hold."""


@dataclass(frozen=True)
class Transfer:
    """Part of one output that travels between two ranks.

    Attributes:
        output_key: the output.
        received_key: under which key the receiver finds it.
        rows: first row of the micro-batch that it holds, and one after the last.
        start: the row of the sender's output at which they begin.
        shape: its shape, rows included.
        payload: how much of the output it is.
        dtype: its dtype where it is read.
    """

    output_key: OutputKey
    received_key: OutputKey
    rows: tuple[int, int]
    start: int
    shape: tuple[int, ...]
    payload: SourcePayload
    dtype: torch.dtype

    def pack(self, outputs: Mapping[str, Outputs]) -> Tensor:
        """Returns what is sent of the sender's `outputs`."""
        output = outputs[self.output_key.peer][self.output_key.path]
        rows = output[self.start : self.start + self.rows[1] - self.rows[0]].detach()
        if self.payload is SourcePayload.DISTANCES:
            return distances(rows.to(self.dtype))
        return to_vector(rows) if self.payload is SourcePayload.VECTOR else rows


class TransferPlan:
    """Which outputs travel between which ranks.

    Args:
        placement: which ranks hold which peers.
        requirements: for each rank the outputs that it reads of peers that it does not hold, or that are split.
        specs: shape and dtype of every output that is read, by any rank.
        dtype: the dtype in which they travel; by default the widest among them.
        split_peers: the peers of which ranks that hold the same images compute a part each.

    Attributes:
        split_peers: as above.
        dtype: the dtype in which they travel. By default the widest in which they may be; once they are there, that in which they are.
        is_exact: whether they travel as they are.
        is_empty: True if nothing travels.
        specs: shape and dtype of every output that is read, by any rank.
    """

    def __init__(
        self,
        placement: Placement,
        requirements: Sequence[RequiredOutputs],
        specs: Mapping[OutputKey, TensorSpec],
        *,
        dtype: torch.dtype | None = None,
        split_peers: Sequence[str] = (),
    ) -> None:
        self._placement = placement
        self.split_peers = tuple(split_peers)
        self._divided_rows: dict[tuple[str, int], dict[int, list[tuple[int, int]]]] = {}
        self._requirements = requirements
        self.specs = specs
        ranks = range(placement.world_size)
        self._output_keys = {
            (sender, receiver): [key for key in requirements[receiver] if sender in self._sender_ranks(key)]
            for sender in ranks
            for receiver in ranks
        }
        sent = {key for keys in self._output_keys.values() for key in keys}
        widest = torch.float32
        for key in sent:
            widest = torch.promote_types(widest, specs[key][1])
        self.is_exact = dtype is None
        self.dtype = widest if dtype is None else dtype
        self.is_empty = not sent

    @classmethod
    def of(cls, placement: Placement, edges: Sequence[Edge], specs: Mapping[OutputKey, TensorSpec], *, dtype: str) -> TransferPlan:
        """Returns the plan that brings learners their sources' outputs; `dtype` as in a recipe's `exchange`."""
        split_peers = _split_peers(placement, edges, specs)
        requirements = learner_requirements(placement, edges, split_peers)
        return cls(placement, requirements, specs, dtype=_TRANSFER_DTYPES[dtype], split_peers=split_peers)

    @property
    def full_feature_maps(self) -> dict[OutputKey, int]:
        """The feature maps `[C, H, W]` that travel, with their bytes for each image and receiver: far more than logits or vectors."""
        whole = {
            key
            for (_, receiver), keys in self._output_keys.items()
            for key in keys
            if len(self.specs[key][0]) == 3 and self._is_whole(key, receiver)
        }
        return {key: prod(self.specs[key][0]) * self.dtype.itemsize for key in sorted(whole)}

    def received_specs(self, rank: int) -> dict[OutputKey, TensorSpec]:
        """Returns shape and dtype of what `rank` receives for one image, of every output that it reads and does not hold."""
        received = {}
        for key, payload in self._requirements[rank].items():
            shape, dtype = self.specs[key]
            received[key] = ((vector_width(shape),) if payload is SourcePayload.VECTOR else shape), dtype
        return received

    def sent_dtypes(self, sender: int, outputs: Mapping[str, Outputs]) -> set[torch.dtype]:
        """Returns the dtypes in which `sender` has what it sends, of all outputs, also those of which this micro-batch has no rows."""
        dtypes = set()
        for receiver in range(self._placement.world_size):
            for key in self._output_keys[sender, receiver]:
                output = outputs.get(key.peer, {}).get(key.path)
                dtype = self.specs[key][1] if output is None else output.dtype
                is_distances = self._requirements[receiver][key] is SourcePayload.DISTANCES
                dtypes.add(torch.promote_types(dtype, torch.float32) if is_distances else dtype)
        return dtypes

    def rows(self, rank: int, size: int) -> tuple[int, int]:
        """Returns the first row that `rank` computes of a micro-batch of `size` images over all ranks, and one after the last."""
        return shard_bounds(size, *self._placement.shard(rank))

    def computed_rows(self, rank: int, peer: str, size: int) -> list[tuple[int, int]]:
        """Returns the ranges of rows for which `rank` computes the outputs of `peer`, which it holds: all its rows, or its part of them.

        Rows that several ranks hold are divided in proportion to the ranks' numbers of shards: then all compute equally many in total.
        """
        if peer not in self.split_peers:
            return [self.rows(rank, size)]
        if (peer, size) not in self._divided_rows:  # an epoch has micro-batches of two or three sizes
            self._divided_rows[peer, size] = self._divide_rows(peer, size)
        return self._divided_rows[peer, size][rank]

    def _divide_rows(self, peer: str, size: int) -> dict[int, list[tuple[int, int]]]:
        """Returns for each rank that holds a split peer the ranges of rows that it computes."""
        rows_of = {holder: self.rows(holder, size) for holder in self._placement.replica_ranks[peer]}
        weights = {holder: self._placement.shard(holder)[1] for holder in rows_of}
        ranges: dict[int, list[tuple[int, int]]] = {holder: [] for holder in rows_of}
        for begin, end in pairwise(sorted({bound for rows in rows_of.values() for bound in rows})):
            sharing = [holder for holder, rows in rows_of.items() if rows[0] <= begin and end <= rows[1]]
            before, total = 0, sum(weights[holder] for holder in sharing)
            for holder in sharing:
                first, last = ((end - begin) * weight // total + begin for weight in (before, before + weights[holder]))
                if first < last:
                    ranges[holder].append((first, last))
                before += weights[holder]
        return ranges

    def transfers(self, sender: int, receiver: int, size: int) -> Iterator[Transfer]:
        """Yields the transfers from `sender` to `receiver` for a micro-batch of `size` images over all ranks.

        Of a split peer, a rank's own part is a transfer to itself.
        """
        receiver_rows = self.rows(receiver, size)
        for key in self._output_keys[sender, receiver]:
            start = 0
            for begin, end in self.computed_rows(sender, key.peer, size):
                rows = max(begin, receiver_rows[0]), min(end, receiver_rows[1])
                if rows[0] < rows[1]:
                    yield self._transfer(key, receiver, rows, start + rows[0] - begin, receiver_rows)
                start += end - begin

    def _transfer(self, key: OutputKey, receiver: int, rows: tuple[int, int], start: int, receiver_rows: tuple[int, int]) -> Transfer:
        num_rows, payload, (shape, dtype) = rows[1] - rows[0], self._requirements[receiver][key], self.specs[key]
        if payload is SourcePayload.DISTANCES and rows == receiver_rows and num_rows < prod(shape) and key.peer not in self.split_peers:
            received_key, wide = OutputKey(key.peer, distances_key(key.path)), torch.promote_types(dtype, torch.float32)
            return Transfer(key, received_key, rows, start, (num_rows, num_rows), payload, wide)
        if payload is SourcePayload.VECTOR:
            return Transfer(key, key, rows, start, (num_rows, vector_width(shape)), payload, dtype)
        return Transfer(key, key, rows, start, (num_rows, *shape), SourcePayload.WHOLE, dtype)

    def num_values(self, sender: int, receiver: int, size: int) -> int:
        """Returns the number of elements that `sender` sends to `receiver`."""
        return sum(prod(transfer.shape) for transfer in self.transfers(sender, receiver, size))

    def sent_bytes(self, sender: int, size: int) -> int:
        """Returns the bytes that `sender` sends for a micro-batch of `size` images over all ranks."""
        receivers = (receiver for receiver in range(self._placement.world_size) if receiver != sender)
        return self.dtype.itemsize * sum(self.num_values(sender, receiver, size) for receiver in receivers)

    def _sender_ranks(self, key: OutputKey) -> tuple[int, ...]:
        peer = peer_of(key.peer)
        return (self._placement.replica_ranks if peer in self.split_peers else self._placement.sender_ranks)[peer]

    def _is_whole(self, key: OutputKey, receiver: int) -> bool:
        """Returns True if `receiver` gets the whole output: its edges read all of it, or distances between rows of several senders."""
        payload = self._requirements[receiver][key]
        sender = self._placement.sender_ranks[peer_of(key.peer)][0]
        (_, num_sender_shards), (_, num_receiver_shards) = self._placement.shard(sender), self._placement.shard(receiver)
        return payload is SourcePayload.WHOLE or (payload is SourcePayload.DISTANCES and num_sender_shards not in (1, num_receiver_shards))


def learner_requirements(placement: Placement, edges: Sequence[Edge], split_peers: Sequence[str] = ()) -> list[RequiredOutputs]:
    """Returns for each rank the outputs that its learners' edges read of peers that it does not hold, or that are split."""
    requirements = []
    for rank in range(placement.world_size):
        required: dict[OutputKey, SourcePayload] = {}
        for edge in edges:
            for key, payload in edge.required_outputs.items() if rank in placement.replica_ranks[edge.learner] else ():
                required[key] = required.get(key, payload).combined(payload)
        requirements.append(_not_held(placement, rank, required, split_peers))
    return requirements


def _split_peers(placement: Placement, edges: Sequence[Edge], specs: Mapping[OutputKey, TensorSpec]) -> list[str]:
    """Returns the frozen peers that several ranks would compute for the same images, and of which only logits or vectors are read."""
    required = [(key, payload) for edge in edges for key, payload in edge.required_outputs.items()]
    split = []
    for name in placement.shared:
        is_computed_twice = sum(Fraction(1, placement.shard(rank)[1]) for rank in placement.replica_ranks[name]) > 1
        sizes = [payload is SourcePayload.VECTOR or len(specs[key][0]) == 1 for key, payload in required if key.peer == name]
        if is_computed_twice and sizes and all(sizes):
            split.append(name)
    return split


def scoring_requirements(placement: Placement, peers: Sequence[str]) -> list[RequiredOutputs]:
    """Returns for each rank the logits that it needs to score all peers; the ranks of the first peer score."""
    logits = {OutputKey(name, LOGITS): SourcePayload.WHOLE for name in peers}
    return [_not_held(placement, rank, logits) if is_scoring_rank(placement, rank) else {} for rank in range(placement.world_size)]


def is_scoring_rank(placement: Placement, rank: int) -> bool:
    """Returns True for the ranks that score; together they process every image exactly once."""
    return placement.is_replicated or rank in next(iter(placement.replica_ranks.values()))


def _not_held(placement: Placement, rank: int, requirements: RequiredOutputs, split_peers: Sequence[str] = ()) -> RequiredOutputs:
    return {
        key: payload
        for key, payload in requirements.items()
        if rank not in placement.replica_ranks[peer_of(key.peer)] or key.peer in split_peers
    }
