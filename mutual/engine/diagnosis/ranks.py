"""Ranks: the processes of a launch beside each other, whether they see each other, and how fast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mutual.group import Communicator

_MESSAGE_BYTES = 16 * 2**20
_SMALL_ROUNDS, _LARGE_ROUNDS = 20, 3


@dataclass(frozen=True)
class Links:
    """What collectives between the processes take.

    Attributes:
        latency_seconds: an all-gather of one number.
        bytes_per_second: what each process sends in an all-reduce of 16 MiB, in a ring.
        is_right: whether the sums were right.
    """

    latency_seconds: float
    bytes_per_second: float
    is_right: bool


@dataclass(frozen=True)
class RankFacts:
    """A process of the launch.

    Attributes:
        rank: its rank.
        host: number of its machine, by the lowest rank there.
        device: what it computes on, None where it did not come so far.
        model: of its devices, what their maker calls them.
        threads: CPU threads of an operation in a training.
        errors: what went wrong on it, a line each.
    """

    rank: int
    host: int
    device: str | None
    model: str
    threads: int | None
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ranks:
    """The processes of the launch.

    Attributes:
        size: how many were started.
        backend: what carries their collectives, None for one process.
        arrived: those that have come to the launcher's store.
        missing: ranks of the others.
        differences: in what they differ that should be alike, a line each.
        shared_devices: groups of ranks that compute on one device.
        links: None where they did not see each other, or there is one.
        error: why they do not see each other.
    """

    size: int
    backend: str | None
    arrived: tuple[RankFacts, ...]
    missing: tuple[int, ...] = ()
    differences: tuple[str, ...] = ()
    shared_devices: tuple[tuple[int, ...], ...] = ()
    links: Links | None = None
    error: str | None = None


def measure_links(comm: Communicator) -> Links:
    """Returns what collectives of `comm` take. Collective."""
    number = torch.ones(1, device=comm.device)
    message = torch.full((_MESSAGE_BYTES // 4,), comm.rank + 1.0, device=comm.device)
    comm.all_gather(number)  # the first ones connect
    total = comm.all_reduce_sum(message)
    latency = _median_seconds(lambda: comm.all_gather(number), _SMALL_ROUNDS, comm.device)
    seconds = _median_seconds(lambda: comm.all_reduce_sum(message), _LARGE_ROUNDS, comm.device)
    sent_bytes = 2 * (comm.size - 1) / comm.size * _MESSAGE_BYTES
    return Links(latency, sent_bytes / seconds, bool((total == comm.size * (comm.size + 1) / 2).all()))


def host_numbers(hosts: Mapping[int, str]) -> dict[int, int]:
    """Returns by rank the number of its machine, whose name nobody needs to know.

    Example:
        >>> host_numbers({0: "a", 1: "b", 2: "a"})
        {0: 0, 1: 1, 2: 0}
    """
    numbers = {host: number for number, host in enumerate(dict.fromkeys(hosts.values()))}
    return {rank: numbers[host] for rank, host in hosts.items()}


def differences(values: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    """Yields a line for each name under which ranks have not all the same value.

    Example:
        >>> list(differences({0: {"torch": "2.6"}, 1: {"torch": "2.7"}, 2: {"torch": "2.6"}}))
        ['torch is 2.6 on ranks 0, 2 and 2.7 on rank 1']
    """
    for name in dict.fromkeys(name for each in values.values() for name in each):
        ranks_of: dict[str, list[int]] = {}
        for rank, each in values.items():
            ranks_of.setdefault(str(each.get(name)), []).append(rank)
        if len(ranks_of) > 1:
            yield f"{name} is " + " and ".join(f"{value} on {rank_names(ranks)}" for value, ranks in ranks_of.items())


def shared_devices(places: Mapping[int, tuple[str, str | None]]) -> tuple[tuple[int, ...], ...]:
    """Returns the groups of ranks that compute on one device; `places` are machine and identity, which a CPU has not."""
    ranks_of: dict[tuple[str, str], list[int]] = {}
    for rank, (host, identity) in places.items():
        if identity is not None:
            ranks_of.setdefault((host, identity), []).append(rank)
    return tuple(tuple(ranks) for ranks in ranks_of.values() if len(ranks) > 1)


def rank_names(ranks: Sequence[int]) -> str:
    """Returns ranks in words, the first eight of them."""
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"rank{'' if len(ranks) == 1 else 's'} {shown}"


def _median_seconds(function: Callable[[], object], rounds: int, device: torch.device) -> float:
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        function()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)
