"""OutputExchange: brings the detached outputs of peers on other ranks, in one packed all-to-all for each micro-batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import itemgetter

import torch
from torch import Tensor

from mutual.group.communication import AllToAllWork, Communicator
from mutual.group.edges import OutputKey
from mutual.group.exchange.transfer_plan import Transfer, TransferPlan
from mutual.group.peers import Outputs


@dataclass(frozen=True)
class _Plan:
    """Transfers of this rank for micro-batches of one size.

    Attributes:
        sends: outgoing transfers, in the order of the receiving ranks.
        num_sent: elements sent to each rank.
        receives: incoming transfers, in the order of the sending ranks.
        num_received: elements received from each rank.
    """

    sends: list[Transfer]
    num_sent: list[int]
    receives: list[Transfer]
    num_received: list[int]


class OutputExchange:
    """Sends outputs of local peers to the ranks that read them, and receives those that local learners read.

    Args:
        transfer_plan: which outputs travel between which ranks.
        comm: all processes.

    Attributes:
        transfer_plan: which outputs travel between which ranks.
        sent_bytes: bytes that this rank has sent so far.
    """

    def __init__(self, transfer_plan: TransferPlan, comm: Communicator) -> None:
        self.transfer_plan = transfer_plan
        self.sent_bytes = 0
        self._knows_dtype = not transfer_plan.is_exact
        self._comm = comm
        self._plans: dict[int, _Plan] = {}

    def start(self, outputs: Mapping[str, Outputs], *, size: int | None) -> ExchangeHandle:
        """Starts the exchange of a micro-batch of `size` images over all ranks.

        Collective: all ranks must call it.

        Args:
            outputs: outputs of the peers that this rank holds, by peer and module path.
            size: images of the micro-batch over all ranks; may be None only if nothing travels.
        """
        if self.transfer_plan.is_empty:
            return ExchangeHandle(self, None, 0)
        assert size, "what each rank sends depends on the number of images"
        if not self._knows_dtype:
            self._agree_on_dtype(outputs)
        plan, dtype = self._plan(size), self.transfer_plan.dtype
        packed = [transfer.pack(outputs) for transfer in plan.sends]
        assert not self.transfer_plan.is_exact or all(torch.promote_types(each.dtype, dtype) == dtype for each in packed), "as at first"
        chunks = [each.to(dtype).flatten() for each in packed]
        outgoing = torch.cat(chunks) if chunks else torch.empty(0, dtype=dtype, device=self._comm.device)
        self.sent_bytes += (outgoing.numel() - plan.num_sent[self._comm.rank]) * outgoing.element_size()
        return ExchangeHandle(self, self._comm.all_to_all(outgoing, plan.num_sent, plan.num_received), size)

    def _agree_on_dtype(self, outputs: Mapping[str, Outputs]) -> None:
        """Lets outputs travel in the widest dtype that any rank sends: under autocast in half of float32's bytes. Collective."""
        names = [str(dtype).removeprefix("torch.") for dtype in self.transfer_plan.sent_dtypes(self._comm.rank, outputs)]
        sent = [getattr(torch, name) for names_of_rank in self._comm.all_gather_json(names) for name in names_of_rank]
        self.transfer_plan.dtype = reduce(torch.promote_types, sent)
        self._knows_dtype = True

    def computed_rows(self, peer: str, size: int) -> list[slice]:
        """Returns for which of this rank's rows it computes the outputs of a split peer, for a micro-batch of `size` images."""
        rank = self._comm.rank
        first_row = self.transfer_plan.rows(rank, size)[0]
        return [slice(begin - first_row, end - first_row) for begin, end in self.transfer_plan.computed_rows(rank, peer, size)]

    def unpack(self, incoming: Tensor, size: int) -> dict[str, Outputs]:
        """Returns received elements as outputs of this rank's rows, by source and module path."""
        chunks: dict[OutputKey, list[tuple[int, Tensor]]] = {}
        offset = 0
        for transfer in self._plan(size).receives:
            length = prod(transfer.shape)
            rows = incoming[offset : offset + length].view(transfer.shape).to(transfer.dtype)
            chunks.setdefault(transfer.received_key, []).append((transfer.rows[0], rows))
            offset += length
        if not chunks:  # this rank has no image: its edges read padding, with weight 0
            specs = self.transfer_plan.received_specs(self._comm.rank)
            chunks = {key: [(0, torch.zeros(1, *shape, dtype=dtype, device=incoming.device))] for key, (shape, dtype) in specs.items()}
        source_outputs: dict[str, Outputs] = {}
        for key, ranges in chunks.items():
            in_order = sorted(ranges, key=itemgetter(0))  # of a split peer, ranks have sent several ranges
            source_outputs.setdefault(key.peer, {})[key.path] = torch.cat([rows for _, rows in in_order])
        return source_outputs

    def _plan(self, size: int) -> _Plan:
        if size not in self._plans:  # an epoch has micro-batches of two or three sizes
            rank, ranks, transfer_plan = self._comm.rank, range(self._comm.size), self.transfer_plan
            self._plans[size] = _Plan(
                sends=[transfer for receiver in ranks for transfer in transfer_plan.transfers(rank, receiver, size)],
                num_sent=[transfer_plan.num_values(rank, receiver, size) for receiver in ranks],
                receives=[transfer for sender in ranks for transfer in transfer_plan.transfers(sender, rank, size)],
                num_received=[transfer_plan.num_values(sender, rank, size) for sender in ranks],
            )
        return self._plans[size]


@dataclass(frozen=True)
class ExchangeHandle:
    """An exchange under way; `work` is None, and `size` 0, where nothing travels."""

    exchange: OutputExchange
    work: AllToAllWork | None
    size: int

    def wait(self) -> dict[str, Outputs]:
        """Waits, and returns the outputs of peers on other ranks for this rank's images, by source and module path."""
        return {} if self.work is None else self.exchange.unpack(self.work.wait(), self.size)
