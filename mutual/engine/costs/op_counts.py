"""count_ops: the kernels and the host synchronisations of whatever runs in a context.

What is counted. On a CPU each operator that is dispatched below autograd (forward, backward and optimizer) is one kernel, except those
that compute nothing: views, allocations and metadata. An operator may launch several kernels, and `_foreach_` and fused ones count once.
On CUDA the kernels that the profiler saw on the device are counted. What torch.compile has compiled would run eagerly while operators are
counted: say that it is compiled, and only the device's kernels and warnings are.

A host synchronisation is where the host would wait for an accelerator: `item`, `bool`, `nonzero` and boolean indexing, operators with
shapes that depend on values, blocking copies between host and device. On a CPU they are told by their operators, or, where no operator
runs (`tolist`, `numpy`, `cpu`, `torch.tensor(..., device=...)`), by the call; `.to(device)` on a CPU says nothing, and what torch's
optimizers read are their counters of steps, which are on the host everywhere. On CUDA `torch.cuda.set_sync_debug_mode` tells further ones.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

_NO_WORK = {"_local_scalar_dense", "_unsafe_view", "lift_fresh", "resize_", "set_"}
_NO_WORK_PREFIXES = ("empty", "new_empty", "sym_")
_NO_WORK_NAMESPACES = {"prim", "profiler"}
_SYNCHRONISING = {
    "_linalg_check_errors",
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "masked_select",
    "multinomial",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
"""Operators whose result the host waits for."""
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
_HOST_READS = {Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__}
_HOST_WRITES = {torch.tensor, torch.as_tensor}
_WARNING = "called a synchronizing CUDA operation"
_TORCH_FOLDER, _OPTIMIZERS = str(Path(torch.__file__).parent), torch.optim.__path__[0]


@dataclass(frozen=True)
class HostSync:
    """A host synchronisation: the operator or method, and the line outside of torch that called it, as `file:line`."""

    operator: str
    line: str

    def __str__(self) -> str:
        """Returns both."""
        return f"{self.operator} at {self.line}"


@dataclass
class OpCounts:
    """What ran.

    Attributes:
        operators: by name how often each operator that computes something was dispatched.
        host_syncs: in their order.
        launches: kernels on the device, where it is CUDA.
    """

    operators: Counter[str] = field(default_factory=Counter)
    host_syncs: list[HostSync] = field(default_factory=list)
    launches: int | None = None

    @property
    def kernels(self) -> int:
        """Number of kernels."""
        return self.operators.total() if self.launches is None else self.launches


@contextmanager
def count_ops(device: torch.device | None = None, *, is_compiled: bool = False) -> Iterator[OpCounts]:
    """Counts what runs in this context; read the result behind it.

    Args:
        device: where the kernels run; the CPU by default.
        is_compiled: torch.compile's code is among it, so that operators are not counted.

    Example:
        >>> weight = torch.ones(3, requires_grad=True)
        >>> with count_ops() as counts:
        ...     loss = (2 * weight).sum()
        ...     loss.backward()
        ...     value = loss.item()
        >>> sorted(counts.operators), len(counts.host_syncs), counts.host_syncs[0].operator
        (['mul', 'ones_like', 'sum'], 1, '_local_scalar_dense')
        >>> counts.kernels
        4
    """
    counts = OpCounts()
    is_cuda = device is not None and device.type == "cuda"
    with ExitStack() as stack:
        warned = stack.enter_context(_sync_warnings()) if is_cuda else []
        profiler = stack.enter_context(profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])) if is_cuda else None
        if not is_compiled:
            stack.enter_context(_CallCounter(counts))
            stack.enter_context(_OperatorCounter(counts, warned, is_cuda=is_cuda))
        yield counts
        if is_cuda:
            torch.cuda.synchronize(device)
    counts.host_syncs += [HostSync("outside of an operator", line) for line in warned]
    if profiler is not None:
        counts.launches = sum(_is_kernel(event) for event in profiler.events() or ())


class _OperatorCounter(TorchDispatchMode):
    """Counts operators as they are dispatched."""

    def __init__(self, counts: OpCounts, warned: list[str], *, is_cuda: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counts = counts
        self._warned = warned
        self._is_cuda = is_cuda

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs and counts an operator; one that is only made of others, as in inference mode, is replaced by those."""
        kwargs = kwargs or {}
        with self:
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        name = func.overloadpacket.__name__
        if _works(func, name):
            self._counts.operators[name] += 1
        synchronises = _synchronises(name, args, kwargs) and not self._is_on_host(name, args)
        result = func(*args, **kwargs)
        if synchronises or self._warned:
            self._warned.clear()
            self._counts.host_syncs.append(HostSync(name, _calling_line()))
        return result

    def _is_on_host(self, name: str, args: Sequence[Any]) -> bool:
        """Returns whether what an operator reads is in the host's memory, with an accelerator too."""
        if self._is_cuda:
            return all(each.device.type == "cpu" for each in args if isinstance(each, Tensor))
        return name == "_local_scalar_dense" and _is_within_optimizer()


class _CallCounter(TorchFunctionMode):
    """Counts calls that read or write values of tensors on a CPU without an operator; on an accelerator they are copies."""

    def __init__(self, counts: OpCounts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs and counts a call."""
        kwargs = kwargs or {}
        reads = func in _HOST_READS and args[0].device.type == "cpu"
        device = kwargs.get("device")  # who writes "cpu" means the host, on every machine
        writes = func in _HOST_WRITES and isinstance(device, torch.device) and device.type == "cpu"
        if reads or (writes and not isinstance(args[0], Tensor)):
            self._counts.host_syncs.append(HostSync(func.__name__, _calling_line()))
        return func(*args, **kwargs)


def _works(func: Any, name: str) -> bool:
    """Returns whether an operator computes something."""
    is_metadata = func.is_view or torch.Tag.inplace_view in func.tags or func.namespace in _NO_WORK_NAMESPACES
    return not (is_metadata or name in _NO_WORK or name.startswith(_NO_WORK_PREFIXES))


def _synchronises(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Returns whether the host waits for an operator's result, as it would on an accelerator."""
    if name in _SYNCHRONISING:
        return True
    if name in _INDEXING:
        return _reads_mask(name, args)
    if name == "repeat_interleave":  # the sum of the repeats is the length of the result
        return kwargs.get("output_size") is None
    if name == "normal":  # of a tensor of deviations, which are checked
        return isinstance(args[-1], Tensor)
    if name in {"_to_copy", "copy_"}:
        target = kwargs.get("device") if name == "_to_copy" else args[0].device
        source = args[0] if name == "_to_copy" else args[1]
        moves = target is not None and torch.device(target).type != source.device.type
        return moves and not kwargs.get("non_blocking", name == "copy_" and len(args) > 2 and args[2])
    return False


def _reads_mask(name: str, args: Sequence[Any]) -> bool:
    """Returns whether the positions of a boolean index must be known; writing one value there takes the mask itself."""
    masks = [index for index in args[1] if index is not None and index.dtype in {torch.bool, torch.uint8}]
    writes_one_value = "put" in name and args[2].numel() == 1 and len(masks) == sum(index is not None for index in args[1])
    return bool(masks) and not writes_one_value


def _calling_line() -> str:
    """Returns the innermost line that is neither torch's nor of this file; of backward, the line that started it."""
    *_, frame = _torch_frames()
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _is_within_optimizer() -> bool:
    """Returns whether one of torch's optimizers asked."""
    return any(frame.f_code.co_filename.startswith(_OPTIMIZERS) for frame in _torch_frames())


def _torch_frames() -> Iterator[FrameType]:
    """Yields the frames of this file and of torch, the innermost first, and at last the one that called them."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        if not frame.f_code.co_filename.startswith((__file__, _TORCH_FOLDER)):
            return
        frame = frame.f_back


@contextmanager
def _sync_warnings() -> Iterator[list[str]]:
    """Yields a list in which CUDA's synchronisations appear, as `file:line`; other warnings are shown as usual."""
    synchronised: list[str] = []
    show = warnings.showwarning

    def record(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
        if _WARNING in str(message):
            synchronised.append(f"{filename}:{lineno}")
        else:
            show(message, category, filename, lineno, *rest)

    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=f".*{_WARNING}")
        warnings.showwarning = record  # type: ignore[assignment]
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield synchronised
        finally:
            torch.cuda.set_sync_debug_mode(mode)


def _is_kernel(event: Any) -> bool:
    """Returns whether a profiler's event is a kernel on the device, and neither a copy nor a span."""
    is_on_device = event.device_type.name == "CUDA"
    return is_on_device and not event.is_user_annotation and not event.name.startswith(("Memcpy", "Memset", "ProfilerStep"))
