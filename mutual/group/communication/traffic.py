"""Traffic: what a process has sent, and where it is among the collectives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Traffic:
    """What a process has sent, and how many collectives it has come to.

    Attributes:
        gradient_bytes: sent to average gradients, as a ring all-reduce of what was reduced sends them.
        world_calls: collectives of all processes; the same on each of them at the same point of the program.
        team_calls: since the last of these, collectives of a part of the processes, and messages.
    """

    gradient_bytes: float = 0.0
    global_calls: int = 0
    subgroup_calls: int = 0
