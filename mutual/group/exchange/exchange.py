"""Exchange: what peers on other ranks say of this rank's images, in one packed collective for each micro-batch; detached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from mutual.group.communication import Swap, World
from mutual.group.exchange.transfer_plan import Parcel, Routes
from mutual.group.peers import Outputs


@dataclass(frozen=True)
class _Plan:
    """What this rank sends and gets of micro-batches of one size: parcels in the order of the ranks, and by rank how many numbers."""

    begin: int
    sends: list[Parcel]
    sent: list[int]
    gets: list[Parcel]
    received: list[int]


class Exchange:
    """Sends outputs of local peers where they are read, and gets what local learners read of others.

    Attributes:
        routes: who sends what to whom.
        sent_bytes: what this rank has sent so far.
    """

    def __init__(self, routes: Routes, world: World) -> None:
        self.routes = routes
        self.sent_bytes = 0
        self._world = world
        self._plans: dict[int, _Plan] = {}

    def start(self, said: Mapping[str, Outputs], *, size: int) -> Pending:
        """Begins to exchange what local peers `said` of a micro-batch of `size` images over all ranks; every process must call it."""
        if self.routes.silent:
            return Pending(self, None, size)
        plan, dtype = self._plan(size), self.routes.dtype
        pieces = [parcel.packed(said[parcel.reading[0]][parcel.reading[1]], plan.begin).to(dtype).flatten() for parcel in plan.sends]
        outgoing = torch.cat(pieces) if pieces else torch.empty(0, dtype=dtype, device=self._world.device)
        self.sent_bytes += outgoing.numel() * outgoing.element_size()
        return Pending(self, self._world.swap(outgoing, plan.sent, plan.received), size)

    def unpacked(self, incoming: Tensor, size: int) -> dict[str, Outputs]:
        """Returns what came in from all ranks as outputs of this rank's rows, by source."""
        parts: dict[tuple[str, str], list[Tensor]] = {}
        place = 0
        for parcel in self._plan(size).gets:
            length = prod(parcel.shape)
            rows = incoming[place : place + length].view(parcel.shape).to(parcel.dtype)
            parts.setdefault((parcel.reading[0], parcel.key), []).append(rows)
            place += length
        if not parts:  # this rank has no image: its edges read padding, with weight 0
            missing = self.routes.missing(self._world.rank)
            parts = {reading: [torch.zeros(1, *shape, dtype=dtype, device=incoming.device)] for reading, (shape, dtype) in missing.items()}
        heard: dict[str, Outputs] = {}
        for (name, key), rows_of_senders in parts.items():
            heard.setdefault(name, {})[key] = torch.cat(rows_of_senders)
        return heard

    def _plan(self, size: int) -> _Plan:
        if size not in self._plans:  # an epoch has micro-batches of two or three sizes
            rank, ranks, routes = self._world.rank, range(self._world.size), self.routes
            self._plans[size] = _Plan(
                begin=routes.rows(rank, size)[0],
                sends=[parcel for receiver in ranks for parcel in routes.parcels(rank, receiver, size)],
                sent=[routes.num_values(rank, receiver, size) for receiver in ranks],
                gets=[parcel for sender in ranks for parcel in routes.parcels(sender, rank, size)],
                received=[routes.num_values(sender, rank, size) for sender in ranks],
            )
        return self._plans[size]


@dataclass(frozen=True)
class Pending:
    """An exchange under way, or none where nothing travels."""

    exchange: Exchange
    swap: Swap | None
    size: int

    def wait(self) -> dict[str, Outputs]:
        """Returns by source what peers elsewhere said of this rank's images."""
        return {} if self.swap is None else self.exchange.unpacked(self.swap.wait(), self.size)
