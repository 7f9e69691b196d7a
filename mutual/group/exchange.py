"""Exchange: what peers on other ranks say of this rank's images, in one packed collective for each micro-batch.

Of every source only what an edge of the receiving rank reads is sent, and only the rows of that rank's images; detached. Feature maps
of which the receiver's edges read the mean over the positions are averaged before they travel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from mutual.data import even_part
from mutual.group.edges import Edge, Reading, definition_of
from mutual.group.placement import Placement
from mutual.group.taps import Outputs
from mutual.group.world import Swap, World
from mutual.objectives import to_vector, vector_width
from mutual.recipe import LOGITS, peer_of

Forms = Mapping[Reading, tuple[tuple[int, ...], torch.dtype]]
"""By source and output its shape (without the batch dimension) and precision."""


class Exchange:
    """Sends outputs of local peers where they are read, and gets what local learners read of others.

    Attributes:
        sent_bytes: what this rank has sent so far.
    """

    def __init__(
        self,
        placement: Placement,
        world: World,
        needs: Sequence[Mapping[Reading, bool]],
        forms: Forms,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Gives rank r what `needs[r]` lists, as vectors where it says True.

        `dtype` is the precision in which it travels (None: the widest that is there).
        """
        self.sent_bytes = 0
        self._needs = needs
        self._placement = placement
        self._world = world
        self._forms = forms
        self._routes = {
            (sender, receiver): [
                reading for reading in needs[receiver] if _is_sent(placement, peer_of(reading[0]), sender=sender, receiver=receiver)
            ]
            for sender in range(world.size)
            for receiver in range(world.size)
            if sender != receiver
        }
        self._missing = [reading for reading in needs[world.rank] if world.rank not in placement.teams[peer_of(reading[0])]]
        widest = torch.float32
        for reading in {reading for readings in self._routes.values() for reading in readings}:
            widest = torch.promote_types(widest, forms[reading][1])
        self._dtype = widest if dtype is None else dtype
        self._silent = not any(self._routes.values())

    @property
    def raw_maps(self) -> dict[Reading, int]:
        """The feature maps `[C, H, W]` that travel, with their bytes for each image and receiver: far more than logits or vectors."""
        shapes = {reading: self._form(reading, receiver)[0] for (_, receiver), readings in self._routes.items() for reading in readings}
        return {reading: prod(shape) * self._dtype.itemsize for reading, shape in sorted(shapes.items()) if len(shape) == 3}

    def start(self, said: Mapping[str, Outputs], *, size: int) -> Pending:
        """Begins to exchange what local peers `said` of a micro-batch of `size` images over all ranks; every process must call it."""
        if self._silent:
            return Pending(self, None, size)
        rank, ranks = self._world.rank, range(self._world.size)
        begin, _ = self._rows(rank, size)
        pieces = []
        for receiver in ranks:
            first, last = self._overlap(rank, receiver, size)
            for name, path in self._routes.get((rank, receiver), ()) if last > first else ():
                rows = said[name][path][first - begin : last - begin].detach()
                rows = to_vector(rows) if self._needs[receiver][name, path] else rows
                pieces.append(rows.to(self._dtype).flatten())
        outgoing = torch.cat(pieces) if pieces else torch.empty(0, dtype=self._dtype, device=self._world.device)
        sent = [self._numbers(rank, receiver, size) for receiver in ranks]
        self.sent_bytes += outgoing.numel() * outgoing.element_size()
        return Pending(self, self._world.swap(outgoing, sent, [self._numbers(sender, rank, size) for sender in ranks]), size)

    def unpacked(self, incoming: Tensor, size: int) -> dict[str, Outputs]:
        """Returns what came in from all ranks as outputs of this rank's rows, by source."""
        rank = self._world.rank
        parts: dict[Reading, list[Tensor]] = {reading: [] for reading in self._missing}
        place = 0
        for sender in range(self._world.size):
            first, last = self._overlap(sender, rank, size)
            for reading in self._routes.get((sender, rank), ()) if last > first else ():
                shape, dtype = self._form(reading, rank)
                length = (last - first) * prod(shape)
                parts[reading].append(incoming[place : place + length].view(last - first, *shape).to(dtype))
                place += length
        heard: dict[str, Outputs] = {}
        for (name, path), rows in parts.items():
            shape, dtype = self._form((name, path), rank)
            padding = torch.zeros(1, *shape, dtype=dtype, device=incoming.device)  # where this rank has no image
            heard.setdefault(name, {})[path] = torch.cat(rows) if rows else padding
        return heard

    def _rows(self, rank: int, size: int) -> tuple[int, int]:
        return even_part(size, *self._placement.part(rank))

    def _overlap(self, sender: int, receiver: int, size: int) -> tuple[int, int]:
        mine, theirs = self._rows(sender, size), self._rows(receiver, size)
        return max(mine[0], theirs[0]), min(mine[1], theirs[1])

    def _numbers(self, sender: int, receiver: int, size: int) -> int:
        first, last = self._overlap(sender, receiver, size)
        return max(last - first, 0) * sum(prod(self._form(reading, receiver)[0]) for reading in self._routes.get((sender, receiver), ()))

    def _form(self, reading: Reading, receiver: int) -> tuple[tuple[int, ...], torch.dtype]:
        """Returns the shape in which a reading travels to `receiver`, and the precision that it has."""
        shape, dtype = self._forms[reading]
        return ((vector_width(shape),) if self._needs[receiver][reading] else shape), dtype


@dataclass(frozen=True)
class Pending:
    """An exchange under way, or none where nothing travels."""

    exchange: Exchange
    swap: Swap | None
    size: int

    def wait(self) -> dict[str, Outputs]:
        """Returns by source what peers elsewhere said of this rank's images."""
        return {} if self.swap is None else self.exchange.unpacked(self.swap.wait(), self.size)


def needs_of_learners(placement: Placement, edges: Sequence[Edge]) -> list[dict[Reading, bool]]:
    """Returns for each rank what the edges of its learners read of peers that it does not hold, and whether as vectors alone."""
    needs = []
    for rank in range(placement.world_size):
        found: dict[Reading, bool] = {}
        for edge in edges:
            for reading in edge.readings if rank in placement.teams[edge.learner] else ():
                pooled = definition_of(edge).pools and reading[1] != LOGITS
                found[reading] = found.get(reading, True) and pooled
        needs.append(_elsewhere(placement, rank, found))
    return needs


def needs_of_scorers(placement: Placement, peers: Sequence[str]) -> list[dict[Reading, bool]]:
    """Returns for each rank the logits that it needs to score all peers: the ranks of the first peer's team do."""
    logits = {(name, LOGITS): False for name in peers}
    return [_elsewhere(placement, rank, logits) if scores(placement, rank) else {} for rank in range(placement.world_size)]


def scores(placement: Placement, rank: int) -> bool:
    """Returns True on the ranks that between them see every image once, and count."""
    return placement.shared or rank in next(iter(placement.teams.values()))


def _elsewhere(placement: Placement, rank: int, needs: Mapping[Reading, bool]) -> dict[Reading, bool]:
    return {reading: pooled for reading, pooled in needs.items() if rank not in placement.teams[peer_of(reading[0])]}


def _is_sent(placement: Placement, peer: str, *, sender: int, receiver: int) -> bool:
    return receiver not in placement.teams[peer] and sender in placement.voices[peer]
