"""Courier: what the main process writes of peers that other processes hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mutual.group import Placement, World


class Courier:
    """Brings together what processes know of their peers; where all hold all, nothing travels."""

    def __init__(self, world: World, placement: Placement) -> None:
        self._world = world
        self._placement = placement

    @property
    def is_main(self) -> bool:
        """True on the process that writes."""
        return self._world.is_main

    def bring(self, peer: str, make: Callable[[], bytes]) -> bytes | None:
        """Returns on the main process what `make` gives where `peer` is held, elsewhere None; every process must call it."""
        team, rank = self._placement.teams[peer], self._world.rank
        if 0 in team:
            return make() if rank == 0 else None
        if rank == team[0]:
            self._world.send(make(), to=0)
        return self._world.receive(source=team[0]) if rank == 0 else None

    def merged(self, mine: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what all processes know, by name, as JSON values; every process must call it."""
        if self._placement.shared:
            return dict(mine)
        return {name: value for each in self._world.gather_json(mine) for name, value in each.items()}
