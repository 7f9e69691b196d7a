"""Communicator: the processes of a run, or a subgroup of them, and all that others know of torch.distributed.

With one process every reduction and gather is the identity, so that no caller asks how many there are.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store
from torch.distributed.distributed_c10d import Store as Store
from torch.nn.parallel import DistributedDataParallel

from mutual.group.communication.errors import OtherRankError, describe_error, restore_error
from mutual.group.communication.launch import JOB, launch_store
from mutual.group.communication.stop_poll import StopPoll
from mutual.group.communication.tensors import flatten, float_buffers, unflatten_
from mutual.group.communication.traffic import Traffic
from mutual.recipe import InputError


@dataclass(frozen=True)
class Communicator:
    """The processes of a run, or a subgroup of them, as one of them sees them; in MPI's sense of the word.

    Attributes:
        rank: index of this process among them.
        size: number of processes.
        device: the device that this process computes on.
        process_group: their process group, also for all processes or a single one of many; None only if no others were started.
        traffic: what this process has sent, through all its communicators.
        timeout: longest time that a collective may take.

    Example:
        >>> comm = Communicator(rank=0, size=1, device=torch.device("cpu"))
        >>> comm.all_reduce_sum(torch.ones(2))
        tensor([1., 1.])
        >>> comm.all_gather_json({"host": "a"})
        [{'host': 'a'}]
    """

    rank: int
    size: int
    device: torch.device
    process_group: dist.ProcessGroup | None = None
    traffic: Traffic = field(default_factory=Traffic, compare=False)
    timeout: timedelta = timedelta(minutes=30)

    def __post_init__(self) -> None:
        if self.process_group is None and self.size > 1:  # torch takes None for all processes, we for one
            object.__setattr__(self, "process_group", dist.group.WORLD)

    def split(self, members: Sequence[Sequence[int]]) -> list[Communicator | None]:
        """Returns a communicator for each list of ranks that this process is in, and None for the others.

        Collective: all ranks must call it, with the same lists. A list of one rank, too, gets a process group: a user's model may have
        SyncBatchNorm, which takes None for all processes.

        Args:
            members: lists of ranks.
        """
        made: dict[tuple[int, ...], dist.ProcessGroup | None] = {tuple(range(self.size)): self.process_group}
        for ranks in map(tuple, members):
            if ranks not in made:
                group = dist.new_group(list(ranks), timeout=self.timeout)
                made[ranks] = group if isinstance(group, dist.ProcessGroup) else None
        return [self._subgroup(ranks, made[ranks]) if self.rank in ranks else None for ranks in map(tuple, members)]

    def _subgroup(self, ranks: tuple[int, ...], group: dist.ProcessGroup | None) -> Communicator:
        return replace(self, rank=ranks.index(self.rank), size=len(ranks), process_group=group)

    @property
    def is_main(self) -> bool:
        """True on rank 0, which writes files and prints."""
        return self.rank == 0

    @property
    def backend(self) -> str | None:
        """Name of what carries collectives, such as gloo or nccl; None where there is one process."""
        return None if self.process_group is None else dist.get_backend(self.process_group)

    def wrap_ddp(self, module: nn.Module) -> nn.Module:
        """Returns `module` wrapped in DDP, which averages gradients over the processes; the module itself if there is one process.

        Buffers are not broadcast; see `average_buffers`.
        """
        if self.size == 1:
            return module
        devices = [self.device.index] if self.device.type == "cuda" else None
        with warnings.catch_warnings():  # torch 2.15 deprecates the name for one that 2.6 does not have
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            wrapped = DistributedDataParallel(
                module, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True, process_group=self.process_group
            )
        self._count_gradients_of(wrapped)
        return wrapped

    def _count_gradients_of(self, wrapped: DistributedDataParallel) -> None:
        """Counts the averaging of its gradients when a backward reaches the outputs of `wrapped`.

        A communication hook would count the bytes as well, but it is Python for each bucket while the backward runs. What is sent is known
        before, and the others wait as soon as their backwards have begun: that is when a rank has entered this collective.
        """
        num_bytes = sum(parameter.nbytes for parameter in wrapped.parameters() if parameter.requires_grad)

        def count(_gradient: Tensor) -> None:
            self._count()
            self.traffic.gradient_bytes += 2 * (self.size - 1) / self.size * num_bytes

        def follow(module: nn.Module, _inputs: Any, outputs: Tensor | Mapping[str, Tensor]) -> None:
            tensors = [outputs] if isinstance(outputs, Tensor) else outputs.values()
            reached = [tensor for tensor in tensors if tensor.requires_grad]
            if reached and module.require_backward_grad_sync:
                reached[0].register_hook(count)

        wrapped.register_forward_hook(follow)

    @contextmanager
    def no_sync(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        """Context in which backward does not average the gradients of the wrapped `modules`."""
        with ExitStack() as stack:
            for module in modules:
                if isinstance(module, DistributedDataParallel):
                    stack.enter_context(module.no_sync())
            yield

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Returns the sum over the processes. Collective."""
        return self._reduce(tensor, dist.ReduceOp.SUM)

    def all_reduce_min(self, tensor: Tensor) -> Tensor:
        """Returns the element-wise minimum over the processes. Collective."""
        return self._reduce(tensor, dist.ReduceOp.MIN)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Returns `[W, ...]`, the `tensor` of every rank. Collective."""
        if self.size == 1:
            return tensor[None]
        self._count()
        tensors_by_rank = [tensor.new_empty(tensor.shape) for _ in range(self.size)]  # empty_like keeps strides, which may differ
        dist.all_gather(tensors_by_rank, tensor.contiguous(), group=self.process_group)
        return torch.stack(tensors_by_rank)

    def all_gather_rows(self, tensors: Sequence[Tensor], counts: Sequence[int] | None = None) -> tuple[list[Tensor], int]:
        """Concatenates the rows of every rank's `tensors`; returns them and the index of this rank's first row. Collective.

        Args:
            tensors: tensors with the same number of rows; ranks may differ in the number.
            counts: the number of rows of each rank, if known; otherwise it is gathered first.
        """
        if self.size == 1:
            return list(tensors), 0
        num_rows = len(tensors[0])
        if counts is None:
            counts = self.all_gather(torch.tensor([num_rows], device=self.device)).flatten().tolist()
        if max(counts) == 0:
            return list(tensors), 0
        rows = []
        for tensor in tensors:
            padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
            padded[:num_rows] = tensor
            rows.append(torch.cat([rows_of_rank[:count] for rows_of_rank, count in zip(self.all_gather(padded), counts, strict=True)]))
        return rows, sum(counts[: self.rank])

    def send(self, content: bytes, *, to: int) -> None:
        """Sends bytes to rank `to`, which must call `receive`. For a communicator of all processes only."""
        assert self.process_group is dist.group.WORLD, "a rank is counted among all processes"
        self.traffic.subgroup_calls += 1
        payload = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(self.device)
        dist.send(torch.tensor([len(content)], device=self.device), to)
        dist.send(payload, to)

    def receive(self, *, source: int) -> bytes:
        """Returns the bytes that rank `source` sends. For a communicator of all processes only."""
        assert self.process_group is dist.group.WORLD, "a rank is counted among all processes"
        self.traffic.subgroup_calls += 1
        length = torch.zeros(1, dtype=torch.int64, device=self.device)
        dist.recv(length, source)
        content = torch.empty(int(length.item()), dtype=torch.uint8, device=self.device)
        dist.recv(content, source)
        return bytes(content.cpu().numpy())

    def all_gather_bytes(self, content: bytes) -> list[bytes]:
        """Returns the bytes of every rank. Collective."""
        if self.size == 1:
            return [content]
        payload = torch.frombuffer(bytearray(content) or bytearray(1), dtype=torch.uint8)[: len(content)].to(self.device)
        counts = self.all_gather(torch.tensor([len(content)], device=self.device)).flatten().tolist()
        padded = payload.new_zeros(max(counts))
        padded[: len(payload)] = payload
        return [bytes(rows_of_rank[:count].cpu().numpy()) for rows_of_rank, count in zip(self.all_gather(padded), counts, strict=True)]

    def broadcast_bytes(self, content: bytes | None, *, source: int = 0) -> bytes:
        """Returns `content` of rank `source`; the others pass None. Collective, for all processes only."""
        if self.size == 1:
            return content or b""
        assert self.process_group is dist.group.WORLD, "a source is counted among all processes"
        assert (self.rank == source) == (content is not None), "one gives, the others take"
        self._count()
        length = torch.tensor([0 if content is None else len(content)], device=self.device)
        dist.broadcast(length, source)
        payload = torch.empty(int(length.item()), dtype=torch.uint8, device=self.device)
        if content:
            payload.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        dist.broadcast(payload, source)
        return bytes(payload.cpu().numpy())

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Overwrites `tensors` by those of rank 0, which have the same shapes and dtypes. Collective."""
        if self.size == 1:
            return
        assert self.process_group is not None, "several ranks have one"
        source = dist.get_process_group_ranks(self.process_group)[0]
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            of_dtype = [tensor for tensor in tensors if tensor.dtype == dtype]
            self._count()
            vector = flatten(of_dtype)
            dist.broadcast(vector, source, group=self.process_group)
            unflatten_(of_dtype, vector)

    def all_gather_json(self, value: object) -> list[Any]:
        """Returns the JSON value of every rank. Collective."""
        return [json.loads(content) for content in self.all_gather_bytes(json.dumps(value).encode())]

    @contextmanager
    def raise_together(self, *, names_rank: bool = False) -> Iterator[None]:
        """Raises an error of one process on all of them: without it the others would wait in their next collective.

        Collective: all ranks must enter it, and no rank communicates within it. Where several fail, the error of the lowest rank is raised.

        Args:
            names_rank: a rank that fails raises its own error, the others OtherRankError, so that what is printed names the rank. For what
                several ranks try and some of them may fail at by themselves.

        Raises:
            InputError: it was raised within, on some rank; a RecipeError stays one.
            OSError: likewise, with its number and path.

        Example:
            >>> comm = Communicator(rank=0, size=1, device=torch.device("cpu"))
            >>> with comm.raise_together():
            ...     num_threads = torch.get_num_threads()  # what may raise InputError or OSError on some ranks
        """
        error = None
        try:
            yield
        except (InputError, OSError) as raised:
            error = raised
        for rank, fault in enumerate(self.all_gather_json(None if error is None else describe_error(error))):
            if fault is not None:
                if error is not None and (names_rank or rank == self.rank):
                    raise error
                if names_rank:
                    raise OtherRankError(f"rank {rank} of {self.size} has failed: {restore_error(fault)}")
                raise restore_error(fault) from error

    def all_to_all(self, outgoing: Tensor, sent: Sequence[int], received: Sequence[int]) -> AllToAllWork:
        """Starts sending `sent[r]` elements of `outgoing` `[sum(sent)]` to each rank r and receiving `received[r]` of it. Collective."""
        self._count()
        incoming = outgoing.new_empty(sum(received))
        work = dist.all_to_all_single(incoming, outgoing, list(received), list(sent), group=self.process_group, async_op=True)
        assert work is not None
        return AllToAllWork(work, outgoing, incoming)

    def average_buffers(self, modules: Iterable[nn.Module], *, leave_out: Container[int] = ()) -> None:
        """Sets floating-point buffers (BatchNorm statistics) to their mean over the processes. Collective.

        Those whose ids are in `leave_out` are the same on all and stay as they are, as a mean of three need not be what each of them is.
        """
        buffers = float_buffers(modules, leave_out=leave_out)
        if self.size == 1 or not buffers:
            return
        mean = self.all_reduce_sum(flatten(buffers)) / self.size
        unflatten_(buffers, mean)

    def store(self, name: str) -> Store | None:
        """Returns a key-value store of all processes for the keys of `name`, for use by any thread; None if there is one process."""
        if self.size == 1:
            return None
        own = launch_store(f"{os.environ.get(JOB, '')}/{name}", timeout=60)
        return PrefixStore(f"mutual/{name}", _get_default_store()) if own is None else own

    def barrier(self) -> None:
        """Waits until all processes have called it. Collective."""
        if self.size > 1:
            self._count()
            dist.barrier(group=self.process_group)

    def stop_poll(self) -> StopPoll:
        """Returns a poll with which all processes stop at the same update. Collective."""
        group = dist.new_group(backend="gloo", timeout=self.timeout) if self.size > 1 else None
        assert not isinstance(group, int), "every process is in the group"
        return StopPoll(group, self._count)

    def _reduce(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size == 1:
            return tensor
        self._count()
        result = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(result, operation, group=self.process_group)
        return result

    def _count(self) -> None:
        """Counts a collective that this process has entered."""
        if self.process_group is dist.group.WORLD:
            self.traffic.global_calls += 1
            self.traffic.subgroup_calls = 0
        else:
            self.traffic.subgroup_calls += 1


@dataclass(frozen=True)
class AllToAllWork:
    """An all-to-all under way; it keeps the outgoing tensor alive."""

    work: dist.Work
    outgoing: Tensor
    incoming: Tensor

    def wait(self) -> Tensor:
        """Waits, and returns the received elements in the order of the ranks."""
        self.work.wait()
        return self.incoming
