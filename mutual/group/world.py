"""World: the processes of a run, or a team of them, and the only door to torch.distributed.

With one process every method is the identity, so that no caller asks how many there are.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.distributed_c10d import PrefixStore, Store, _get_default_store
from torch.nn.parallel import DistributedDataParallel


@dataclass
class Traffic:
    """Bytes that a process has sent to average gradients, as a ring all-reduce of what was reduced sends them."""

    gradient_bytes: float = 0.0


@dataclass(frozen=True)
class World:
    """This process' place among `size` processes, and the device it computes on.

    Attributes:
        rank: its number among them.
        size: how many they are.
        device: where it computes.
        team: the process group of a part of all processes, or None for all.
        traffic: what this process has sent to average gradients, in all worlds that it is in.
    """

    rank: int
    size: int
    device: torch.device
    team: dist.ProcessGroup | None = None
    traffic: Traffic = field(default_factory=Traffic, compare=False)

    def teams(self, members: Sequence[Sequence[int]]) -> list[World | None]:
        """Returns a world for each list of ranks that this process is in, else None; every process must call it, with the same lists."""
        worlds: list[World | None] = []
        made: dict[tuple[int, ...], dist.ProcessGroup | None] = {}
        for ranks in map(tuple, members):
            whole = len(ranks) == self.size
            if ranks not in made and not whole and len(ranks) > 1:
                group = dist.new_group(list(ranks))
                made[ranks] = group if isinstance(group, dist.ProcessGroup) else None
            inside = self.rank in ranks
            worlds.append(World(ranks.index(self.rank), len(ranks), self.device, made.get(ranks), self.traffic) if inside else None)
        return worlds

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
            wrapped = DistributedDataParallel(
                module, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True, process_group=self.team
            )
        wrapped.register_comm_hook(self, lambda world, bucket: _reduce_and_count(world, bucket))  # torch refuses annotations as text
        return wrapped

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
        dist.all_gather(parts, tensor.contiguous(), group=self.team)
        return torch.stack(parts)

    def gather_rows(self, tensors: Sequence[Tensor], counts: Sequence[int] | None = None) -> tuple[list[Tensor], int]:
        """Returns the rows of every process' `tensors`, by rank, and where this process' rows begin; every process must call it.

        The tensors of one process have equally many rows. The processes may differ in how many; where they know each other's `counts`,
        these need not be asked for.
        """
        if self.size == 1:
            return list(tensors), 0
        num_rows = len(tensors[0])
        if counts is None:
            counts = self.gather(torch.tensor([num_rows], device=self.device)).flatten().tolist()
        if max(counts) == 0:
            return list(tensors), 0
        rows = []
        for tensor in tensors:
            padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
            padded[:num_rows] = tensor
            rows.append(torch.cat([part[:count] for part, count in zip(self.gather(padded), counts, strict=True)]))
        return rows, sum(counts[: self.rank])

    def send(self, content: bytes, *, to: int) -> None:
        """Sends bytes to process `to`, which must call `receive`."""
        mine = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(self.device)
        dist.send(torch.tensor([len(content)], device=self.device), to)
        dist.send(mine, to)

    def receive(self, *, source: int) -> bytes:
        """Returns the bytes that process `source` sends."""
        length = torch.zeros(1, dtype=torch.int64, device=self.device)
        dist.recv(length, source)
        content = torch.empty(int(length.item()), dtype=torch.uint8, device=self.device)
        dist.recv(content, source)
        return bytes(content.cpu().numpy())

    def gather_bytes(self, content: bytes) -> list[bytes]:
        """Returns the bytes of every process, by rank; every process must call it."""
        if self.size == 1:
            return [content]
        mine = torch.frombuffer(bytearray(content) or bytearray(1), dtype=torch.uint8)[: len(content)].to(self.device)
        counts = self.gather(torch.tensor([len(content)], device=self.device)).flatten().tolist()
        padded = mine.new_zeros(max(counts))
        padded[: len(mine)] = mine
        return [bytes(part[:count].cpu().numpy()) for part, count in zip(self.gather(padded), counts, strict=True)]

    def broadcast_bytes(self, content: bytes | None) -> bytes:
        """Returns the bytes of the main process, which alone gives some; every process must call it."""
        assert self.is_main == (content is not None), "the main process gives, the others take"
        if content is not None and self.size == 1:
            return content
        length = torch.tensor([0 if content is None else len(content)], device=self.device)
        dist.broadcast(length, src=0, group=self.team)
        buffer = torch.empty(int(length.item()), dtype=torch.uint8, device=self.device)
        if content is not None:
            buffer.copy_(torch.frombuffer(bytearray(content) or bytearray(1), dtype=torch.uint8)[: len(content)])
        dist.broadcast(buffer, src=0, group=self.team)
        return bytes(buffer.cpu().numpy()) if content is None else content

    def gather_json(self, value: object) -> list[Any]:
        """Returns a JSON value of every process, by rank; every process must call it."""
        return [json.loads(content) for content in self.gather_bytes(json.dumps(value).encode())]

    def swap(self, outgoing: Tensor, sent: Sequence[int], received: Sequence[int]) -> Swap:
        """Sends `sent[r]` of the numbers in `outgoing` `[sum(sent)]` to every process r and gets `received[r]` of it; begins at once."""
        incoming = outgoing.new_empty(sum(received))
        work = dist.all_to_all_single(incoming, outgoing, list(received), list(sent), group=self.team, async_op=True)
        assert work is not None
        return Swap(work, outgoing, incoming)

    def average_buffers(self, modules: Iterable[nn.Module]) -> None:
        """Sets floating-point buffers (BatchNorm statistics) to their mean over the processes; every process must call it."""
        buffers = float_buffers(modules)
        if self.size == 1 or not buffers:
            return
        mean = self.sum(flatten(buffers)) / self.size
        unflatten_(buffers, mean)

    def store(self, name: str) -> Store | None:
        """Returns a key-value store that all processes share, for keys of `name`, which any thread may use; None for one process."""
        if self.size == 1:
            return None
        return PrefixStore(f"mutual/{name}", _get_default_store())

    def barrier(self) -> None:
        """Waits until every process is here."""
        if self.size > 1:
            dist.barrier(group=self.team)

    def stop_poll(self) -> StopPoll:
        """Returns a poll by which the processes agree to stop at the same update."""
        group = dist.new_group(backend="gloo") if self.size > 1 else None
        assert not isinstance(group, int), "every process is in the group"
        return StopPoll(group)

    def _reduce(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size == 1:
            return tensor
        result = tensor.clone()
        dist.all_reduce(result, operation, group=self.team)
        return result


def _reduce_and_count(world: World, bucket: Any) -> torch.futures.Future[Tensor]:
    world.traffic.gradient_bytes += 2 * (world.size - 1) / world.size * bucket.buffer().nbytes
    return allreduce_hook(world.team, bucket)  # type: ignore[arg-type]


def divide_launch(name: str, *, rank: int, size: int) -> None:
    """Makes of this process and those that give the same `name` a launch of their own: `size` processes, of which it is number `rank`.

    They meet in the launcher's store, which stays for as long as any of them. What asks the environment afterwards, as Accelerate does,
    finds them alone.

    Raises:
        ValueError: the launcher keeps no store.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise ValueError("several jobs in one launch need torchrun, or what starts it (accelerate launch --multi_gpu)")
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)  # type: ignore[attr-defined]
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=PrefixStore(f"{name}/{attempt}", store), rank=rank, world_size=size)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size))


def leave() -> None:
    """Ends this process' part in the group of processes, after waiting for the others; does nothing where there is none.

    Without it, a process that exits first makes the others abort.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


@dataclass(frozen=True)
class Swap:
    """An exchange under way; it holds what is being sent."""

    work: dist.Work
    outgoing: Tensor
    incoming: Tensor

    def wait(self) -> Tensor:
        """Returns what came in, in the order of the ranks."""
        self.work.wait()
        return self.incoming


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
