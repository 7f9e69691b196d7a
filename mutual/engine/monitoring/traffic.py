"""TrafficMeter: what a rank sends to others in an update."""

from __future__ import annotations

import torch

from mutual.group import Communicator, OutputExchange


class TrafficMeter:
    """Reads the counters of what was sent; with one rank there is nothing to report.

    Args:
        exchange: sends outputs between the ranks; counts their bytes.
        comm: the ranks; counts the bytes of gradients.
    """

    def __init__(self, exchange: OutputExchange, comm: Communicator) -> None:
        self._exchange = exchange
        self._comm = comm
        self._flushed_bytes = (0.0, 0.0)
        self._num_updates = 0
        self._total_updates = 0

    def count_update(self) -> None:
        """Counts an update that is done."""
        self._num_updates += 1
        self._total_updates += 1

    def mean_sent_bytes(self) -> float:
        """Returns what a rank has sent in an update, mean over ranks and updates. Collective: all ranks must call it."""
        if self._comm.size == 1:
            return 0.0
        sent = torch.tensor(float(self._comm.traffic.gradient_bytes + self._exchange.sent_bytes), device=self._comm.device)
        return float(self._comm.all_reduce_sum(sent)) / (self._comm.size * max(self._total_updates, 1))

    def flush(self) -> dict[str, float]:
        """Returns the megabytes (10^6 bytes) that a rank sent in an update since the last call, mean over the ranks, by chart.

        Collective: all ranks must call it.
        """
        if self._comm.size == 1:
            return {}
        gradients, outputs = self._flushed_bytes
        self._flushed_bytes = (self._comm.traffic.gradient_bytes, self._exchange.sent_bytes)
        sent = torch.tensor([self._flushed_bytes[0] - gradients, self._flushed_bytes[1] - outputs], device=self._comm.device)
        megabytes = self._comm.all_reduce_sum(sent) / (1e6 * self._comm.size * max(self._num_updates, 1))
        self._num_updates = 0
        gradients_mb, exchange_mb = megabytes.tolist()
        return {"traffic/gradients_mb": gradients_mb, "traffic/exchange_mb": exchange_mb}
