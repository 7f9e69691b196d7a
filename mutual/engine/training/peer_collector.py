"""PeerCollector: what the main process writes of peers that other processes hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mutual.group import Communicator, Placement


class PeerCollector:
    """Brings together what processes know of their peers; where all hold all, nothing travels."""

    def __init__(self, comm: Communicator, placement: Placement) -> None:
        self._comm = comm
        self._placement = placement

    @property
    def is_main(self) -> bool:
        """True on the process that writes."""
        return self._comm.is_main

    def collect_to_main(self, peer: str, make: Callable[[], bytes]) -> bytes | None:
        """Returns on the main process what `make` gives where `peer` is held, elsewhere None; every process must call it."""
        ranks, rank = self._placement.replica_ranks[peer], self._comm.rank
        if 0 in ranks:
            return make() if rank == 0 else None
        if rank == ranks[0]:
            self._comm.send(make(), to=0)
        return self._comm.receive(source=ranks[0]) if rank == 0 else None

    def all_gather_dict(self, mine: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what all processes know, by name, as JSON values; every process must call it."""
        if self._placement.is_replicated:
            return dict(mine)
        return {name: value for each in self._comm.all_gather_json(mine) for name, value in each.items()}
