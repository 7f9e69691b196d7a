"""Routes: what each rank sends to each other of a micro-batch, as a pure function of placement, edges and shapes.

Of every source only what an edge of the receiving rank reads is sent, and only the rows of that rank's images: feature maps of which the
receiver's edges read the mean over the positions as vectors, outputs of which they read the distances between images as these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from mutual.data import even_part
from mutual.group.edges import Edge, Form, Reading, distances_key
from mutual.group.exchange.placement import Placement
from mutual.objectives import Extent, distances, to_vector, vector_width
from mutual.recipe import LOGITS, peer_of

_WIRE = {"exact": None, "bf16": torch.bfloat16, "fp16": torch.float16}
Needs = Mapping[Reading, Extent]
"""How much a rank reads of each output of peers that it does not hold."""


@dataclass(frozen=True)
class Parcel:
    """One output on its way.

    Attributes:
        reading: whose it is, and which.
        key: the receiver finds it under this name.
        rows: which rows of the micro-batch it is of, first and one behind the last.
        shape: its shape, rows included.
        extent: how much of the output it is.
        dtype: its precision where it is read.
    """

    reading: Reading
    key: str
    rows: tuple[int, int]
    shape: tuple[int, ...]
    extent: Extent
    dtype: torch.dtype

    def packed(self, output: Tensor, begin: int) -> Tensor:
        """Returns what travels of the sender's `output`, whose first row is row `begin` of the micro-batch."""
        rows = output[self.rows[0] - begin : self.rows[1] - begin].detach()
        if self.extent is Extent.DISTANCES:
            return distances(rows.to(self.dtype))
        return to_vector(rows) if self.extent is Extent.VECTOR else rows


class Routes:
    """Who sends what to whom.

    Attributes:
        dtype: the precision in which it travels.
        silent: nothing travels between any two.
        forms: of every output that is read, whoever reads it.
    """

    def __init__(
        self, placement: Placement, needs: Sequence[Needs], forms: Mapping[Reading, Form], *, dtype: torch.dtype | None = None
    ) -> None:
        """Gives rank r what `needs[r]` lists; `dtype` None is the widest precision that is there."""
        self._placement = placement
        self._needs = needs
        self.forms = forms
        ranks = range(placement.world_size)
        self._readings = {
            (sender, receiver): [reading for reading in needs[receiver] if _is_sent(placement, peer_of(reading[0]), sender, receiver)]
            for sender in ranks
            for receiver in ranks
            if sender != receiver
        }
        travelling = {reading for readings in self._readings.values() for reading in readings}
        widest = torch.float32
        for reading in travelling:
            widest = torch.promote_types(widest, forms[reading][1])
        self.dtype = widest if dtype is None else dtype
        self.silent = not travelling

    @classmethod
    def of(cls, placement: Placement, edges: Sequence[Edge], forms: Mapping[Reading, Form], *, dtype: str) -> Routes:
        """Returns the routes by which learners hear of their sources; `dtype` as in a recipe's exchange."""
        return cls(placement, needs_of_learners(placement, edges), forms, dtype=_WIRE[dtype])

    @property
    def raw_maps(self) -> dict[Reading, int]:
        """The feature maps `[C, H, W]` that travel, with their bytes for each image and receiver: far more than logits or vectors."""
        whole = {
            reading
            for (_, receiver), readings in self._readings.items()
            for reading in readings
            if len(self.forms[reading][0]) == 3 and self._is_whole(reading, receiver)
        }
        return {reading: prod(self.forms[reading][0]) * self.dtype.itemsize for reading in sorted(whole)}

    def missing(self, rank: int) -> dict[Reading, Form]:
        """Returns what `rank` reads of peers that it does not hold; what is read as vectors in the form of vectors."""
        found = {}
        for reading, extent in self._needs[rank].items():
            shape, dtype = self.forms[reading]
            found[reading] = ((vector_width(shape),) if extent is Extent.VECTOR else shape), dtype
        return found

    def rows(self, rank: int, size: int) -> tuple[int, int]:
        """Returns which rows `rank` computes of a micro-batch of `size` images over all ranks, first and one behind the last."""
        return even_part(size, *self._placement.part(rank))

    def parcels(self, sender: int, receiver: int, size: int) -> Iterator[Parcel]:
        """Yields what `sender` sends to `receiver` of a micro-batch of `size` images over all ranks."""
        mine, theirs = self.rows(sender, size), self.rows(receiver, size)
        rows = max(mine[0], theirs[0]), min(mine[1], theirs[1])
        count = rows[1] - rows[0]
        for reading in self._readings.get((sender, receiver), ()) if count > 0 else ():
            extent, path, (shape, dtype) = self._needs[receiver][reading], reading[1], self.forms[reading]
            if extent is Extent.DISTANCES and rows == theirs and count < prod(shape):
                yield Parcel(reading, distances_key(path), rows, (count, count), extent, torch.promote_types(dtype, torch.float32))
            elif extent is Extent.VECTOR:
                yield Parcel(reading, path, rows, (count, vector_width(shape)), extent, dtype)
            else:
                yield Parcel(reading, path, rows, (count, *shape), Extent.WHOLE, dtype)

    def num_values(self, sender: int, receiver: int, size: int) -> int:
        """Returns how many numbers `sender` sends to `receiver`."""
        return sum(prod(parcel.shape) for parcel in self.parcels(sender, receiver, size))

    def sent_bytes(self, sender: int, size: int) -> int:
        """Returns how many bytes `sender` sends for a micro-batch of `size` images over all ranks."""
        return self.dtype.itemsize * sum(self.num_values(sender, receiver, size) for receiver in range(self._placement.world_size))

    def _is_whole(self, reading: Reading, receiver: int) -> bool:
        """Returns True where a reading of `receiver` travels whole: its edges read all, or distances across what several ranks compute."""
        extent = self._needs[receiver][reading]
        (_, spoken), (_, parts) = (self._placement.part(rank) for rank in (self._placement.voices[peer_of(reading[0])][0], receiver))
        return extent is Extent.WHOLE or (extent is Extent.DISTANCES and spoken not in (1, parts))


def needs_of_learners(placement: Placement, edges: Sequence[Edge]) -> list[Needs]:
    """Returns for each rank what the edges of its learners read of peers that it does not hold."""
    needs = []
    for rank in range(placement.world_size):
        found: dict[Reading, Extent] = {}
        for edge in edges:
            for reading, extent in edge.readings.items() if rank in placement.teams[edge.learner] else ():
                found[reading] = max(found.get(reading, extent), extent)
        needs.append(_elsewhere(placement, rank, found))
    return needs


def needs_of_scorers(placement: Placement, peers: Sequence[str]) -> list[Needs]:
    """Returns for each rank the logits that it needs to score all peers: the ranks of the first peer's team do."""
    logits = {(name, LOGITS): Extent.WHOLE for name in peers}
    return [_elsewhere(placement, rank, logits) if scores(placement, rank) else {} for rank in range(placement.world_size)]


def scores(placement: Placement, rank: int) -> bool:
    """Returns True on the ranks that between them see every image once, and count."""
    return placement.shared or rank in next(iter(placement.teams.values()))


def _elsewhere(placement: Placement, rank: int, needs: Needs) -> Needs:
    return {reading: extent for reading, extent in needs.items() if rank not in placement.teams[peer_of(reading[0])]}


def _is_sent(placement: Placement, peer: str, sender: int, receiver: int) -> bool:
    return receiver not in placement.teams[peer] and sender in placement.voices[peer]
