"""PeerCollector: brings together what ranks know of the peers that they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mutual.engine.storage import Content, content_bytes
from mutual.group import Communicator, Placement

_ContentT = TypeVar("_ContentT", bound=Content)


class PeerCollector:
    """Collects on the main process, or on all ranks, what belongs to peers; where all ranks hold all peers, nothing is sent.

    Args:
        comm: the ranks of the run.
        placement: says which ranks hold which peer.

    Attributes:
        comm: as above.
    """

    def __init__(self, comm: Communicator, placement: Placement) -> None:
        self.comm = comm
        self._placement = placement

    def collect_to_main(self, peer: str, make: Callable[[], _ContentT]) -> _ContentT | bytes | None:
        """Returns on the main process what `make` returns on a rank that holds `peer`, as bytes if that is another one; elsewhere None.

        Collective: all ranks must call it.
        """
        ranks, rank = self._placement.replica_ranks[peer], self.comm.rank
        if 0 in ranks:
            return make() if rank == 0 else None
        if rank == ranks[0]:
            self.comm.send(content_bytes(make()), to=0)
        return self.comm.receive(source=ranks[0]) if rank == 0 else None

    def all_gather_dict(self, local: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the union of the ranks' dicts, as JSON values. Collective: all ranks must call it."""
        if self._placement.is_replicated:
            return dict(local)
        return {name: value for remote in self.comm.all_gather_json(local) for name, value in remote.items()}
