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
        self._last = (0.0, 0.0, 0)

    def flush(self, update: int) -> dict[str, float]:
        """Returns the megabytes (10^6 bytes) that a rank sent in an update since the last call, mean over the ranks, by chart.

        Collective: all ranks must call it, with the number of updates that are done.
        """
        if self._comm.size == 1:
            return {}
        gradients, outputs, last_update = self._last
        self._last = (self._comm.traffic.gradient_bytes, self._exchange.sent_bytes, update)
        sent = torch.tensor([self._last[0] - gradients, self._last[1] - outputs], device=self._comm.device)
        megabytes = self._comm.all_reduce_sum(sent) / (1e6 * self._comm.size * max(update - last_update, 1))
        gradients_mb, exchange_mb = megabytes.tolist()
        return {"traffic/gradients_mb": gradients_mb, "traffic/exchange_mb": exchange_mb}
