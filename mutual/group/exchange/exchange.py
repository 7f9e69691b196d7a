"""Exchange: what peers on other ranks say of this rank's images, in one packed collective for each micro-batch; detached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from mutual.group.communication import AllToAllWork, Communicator
from mutual.group.exchange.transfer_plan import Transfer, TransferPlan
from mutual.group.peers import Outputs


@dataclass(frozen=True)
class _Plan:
    """What this rank sends and gets of micro-batches of one size: parcels in the order of the ranks, and by rank how many numbers."""

    begin: int
    sends: list[Transfer]
    sent: list[int]
    gets: list[Transfer]
    received: list[int]


class OutputExchange:
    """Sends outputs of local peers where they are read, and gets what local learners read of others.

    Attributes:
        routes: who sends what to whom.
        sent_bytes: what this rank has sent so far.
    """

    def __init__(self, transfer_plan: TransferPlan, comm: Communicator) -> None:
        self.transfer_plan = transfer_plan
        self.sent_bytes = 0
        self._comm = comm
        self._plans: dict[int, _Plan] = {}

    def start(self, said: Mapping[str, Outputs], *, size: int) -> ExchangeHandle:
        """Begins to exchange what local peers `said` of a micro-batch of `size` images over all ranks; every process must call it."""
        if self.transfer_plan.is_empty:
            return ExchangeHandle(self, None, size)
        plan, dtype = self._plan(size), self.transfer_plan.dtype
        pieces = [
            transfer.packed(said[transfer.output_key[0]][transfer.output_key[1]], plan.begin).to(dtype).flatten() for transfer in plan.sends
        ]
        outgoing = torch.cat(pieces) if pieces else torch.empty(0, dtype=dtype, device=self._comm.device)
        self.sent_bytes += outgoing.numel() * outgoing.element_size()
        return ExchangeHandle(self, self._comm.all_to_all(outgoing, plan.sent, plan.received), size)

    def unpacked(self, incoming: Tensor, size: int) -> dict[str, Outputs]:
        """Returns what came in from all ranks as outputs of this rank's rows, by source."""
        parts: dict[tuple[str, str], list[Tensor]] = {}
        place = 0
        for transfer in self._plan(size).gets:
            length = prod(transfer.shape)
            rows = incoming[place : place + length].view(transfer.shape).to(transfer.dtype)
            parts.setdefault((transfer.output_key[0], transfer.key), []).append(rows)
            place += length
        if not parts:  # this rank has no image: its edges read padding, with weight 0
            missing = self.transfer_plan.missing(self._comm.rank)
            parts = {
                output_key: [torch.zeros(1, *shape, dtype=dtype, device=incoming.device)] for output_key, (shape, dtype) in missing.items()
            }
        heard: dict[str, Outputs] = {}
        for (name, key), rows_of_senders in parts.items():
            heard.setdefault(name, {})[key] = torch.cat(rows_of_senders)
        return heard

    def _plan(self, size: int) -> _Plan:
        if size not in self._plans:  # an epoch has micro-batches of two or three sizes
            rank, ranks, transfer_plan = self._comm.rank, range(self._comm.size), self.transfer_plan
            self._plans[size] = _Plan(
                begin=transfer_plan.rows(rank, size)[0],
                sends=[transfer for receiver in ranks for transfer in transfer_plan.transfers(rank, receiver, size)],
                sent=[transfer_plan.num_values(rank, receiver, size) for receiver in ranks],
                gets=[transfer for sender in ranks for transfer in transfer_plan.transfers(sender, rank, size)],
                received=[transfer_plan.num_values(sender, rank, size) for sender in ranks],
            )
        return self._plans[size]


@dataclass(frozen=True)
class ExchangeHandle:
    """An exchange under way, or none where nothing travels."""

    exchange: OutputExchange
    work: AllToAllWork | None
    size: int

    def wait(self) -> dict[str, Outputs]:
        """Returns by source what peers elsewhere said of this rank's images."""
        return {} if self.work is None else self.exchange.unpacked(self.work.wait(), self.size)
