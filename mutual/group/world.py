"""World: the processes of a run, and the only door to torch.distributed.

With one process every method is the identity, so that no caller asks how many there are.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class World:
    """This process' place among the `size` processes, and the device it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on the one process that writes files and prints."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Returns `module` with its gradients averaged over the processes (DDP); frozen modules are not for this.

        Buffers are not broadcast: `average_buffers` brings them together where they are read.
        """
        if self.size == 1:
            return module
        devices = [self.device.index] if self.device.type == "cuda" else None
        with warnings.catch_warnings():  # torch 2.15 deprecates the name for one that 2.6 does not have
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True)

    @contextmanager
    def no_sync(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        """Within it, backward leaves the gradients of the wrapped `modules` local."""
        with ExitStack() as stack:
            for module in modules:
                if isinstance(module, DistributedDataParallel):
                    stack.enter_context(module.no_sync())
            yield

    def sum(self, tensor: Tensor) -> Tensor:
        """Returns the sum over the processes; every process must call it."""
        return self._reduce(tensor, dist.ReduceOp.SUM)

    def min(self, tensor: Tensor) -> Tensor:
        """Returns the element-wise minimum over the processes; every process must call it."""
        return self._reduce(tensor, dist.ReduceOp.MIN)

    def gather(self, tensor: Tensor) -> Tensor:
        """Returns `[W, ...]`: `tensor` of every process, by rank; every process must call it."""
        if self.size == 1:
            return tensor[None]
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    def gather_rows(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], int]:
        """Returns the rows of every process' `tensors`, by rank, and where this process' rows begin; every process must call it.

        The tensors of one process have equally many rows; the processes may differ in how many.
        """
        if self.size == 1:
            return list(tensors), 0
        num_rows = len(tensors[0])
        counts = self.gather(torch.tensor([num_rows], device=self.device)).flatten().tolist()
        rows = []
        for tensor in tensors:
            padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
            padded[:num_rows] = tensor
            rows.append(torch.cat([part[:count] for part, count in zip(self.gather(padded), counts, strict=True)]))
        return rows, sum(counts[: self.rank])

    def average_buffers(self, modules: Iterable[nn.Module]) -> None:
        """Sets floating-point buffers (BatchNorm statistics) to their mean over the processes; every process must call it."""
        buffers = float_buffers(modules)
        if self.size == 1 or not buffers:
            return
        mean = self.sum(flatten(buffers)) / self.size
        unflatten_(buffers, mean)

    def barrier(self) -> None:
        """Waits until every process is here."""
        if self.size > 1:
            dist.barrier()

    def stop_poll(self) -> StopPoll:
        """Returns a poll by which the processes agree to stop at the same update."""
        group = dist.new_group(backend="gloo") if self.size > 1 else None
        assert not isinstance(group, int), "every process is in the group"
        return StopPoll(group)

    def _reduce(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size == 1:
            return tensor
        result = tensor.clone()
        dist.all_reduce(result, operation)
        return result


def leave() -> None:
    """Ends this process' part in the group of processes, after waiting for the others; does nothing where there is none.

    Without it, a process that exits first makes the others abort.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


class StopPoll:
    """Says on every process at the same call whether some process wants to stop.

    The answer to a call's question comes with the next call, so that no process ever waits for the slowest one.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = group
        self._pending: tuple[dist.Work, Tensor] | None = None

    def __call__(self, wanted: bool) -> bool:
        """Posts this process' wish and returns the processes' joint wish, as of the call before."""
        if self._group is None:
            return wanted
        answer = self.drain()
        flag = torch.tensor([int(wanted)])
        work = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._pending = (work, flag)
        return answer

    def drain(self) -> bool:
        """Returns the joint wish as of the last call, after waiting for it."""
        if self._pending is None:
            return False
        work, flag = self._pending
        work.wait()
        self._pending = None
        return bool(flag.item())


def float_buffers(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Returns the floating-point buffers of `modules`, in a fixed order."""
    return [buffer for module in modules for buffer in module.buffers() if buffer.is_floating_point()]


def flatten(tensors: list[Tensor]) -> Tensor:
    """Returns all elements of `tensors` in one vector."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def unflatten_(tensors: list[Tensor], vector: Tensor) -> None:
    """Writes the elements of `vector` back into `tensors`, in place."""
    with torch.no_grad():
        for tensor, part in zip(tensors, vector.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))
