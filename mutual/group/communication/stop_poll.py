"""StopPoll: all processes of a run stop at the same update."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor


class StopPoll:
    """Reports to all processes at the same call that one of them wants to stop.

    The answer comes with the next call, so that no process waits for the slowest one.

    Args:
        group: the processes; None: this one alone.
        count: called at each collective.
    """

    def __init__(self, group: dist.ProcessGroup | None, count: Callable[[], None]) -> None:
        self._group = group
        self._count = count
        self._pending: tuple[dist.Work, Tensor] | None = None

    def __call__(self, wanted: bool) -> bool:
        """Posts whether this process wants to stop; returns whether any wanted to at the previous call. Collective."""
        if self._group is None:
            return wanted
        self._count()
        answer = self.drain()
        flag = torch.tensor([int(wanted)])
        work = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._pending = (work, flag)
        return answer

    def drain(self) -> bool:
        """Waits for the last call's answer and returns it."""
        if self._pending is None:
            return False
        work, flag = self._pending
        work.wait()
        self._pending = None
        return bool(flag.item())
