"""Traffic: bytes sent and collectives entered by a process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Traffic:
    """Bytes sent and collectives entered by a process.

    Attributes:
        gradient_bytes: sent to average gradients, as a ring all-reduce of what was reduced sends them.
        global_calls: collectives of all processes; equal on all of them at the same point of the program.
        subgroup_calls: collectives of subgroups and messages since the last of these.
    """

    gradient_bytes: float = 0.0
    global_calls: int = 0
    subgroup_calls: int = 0
