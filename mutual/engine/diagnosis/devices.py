"""Devices: each with its properties, and whether it multiplies two small matrices in each precision."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from mutual.data import local_processes
from mutual.engine.diagnosis.machine import driver_version
from mutual.engine.diagnosis.redaction import redact, redact_error

_PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_SIZE = 64


@dataclass(frozen=True)
class Device:
    """A device that this process may compute on; bytes, and None for what is not known.

    Attributes:
        name: torch's, such as cuda:0.
        model: what its maker calls it.
        capability: CUDA's compute capability.
        has_bf16: whether it computes in bf16 by itself.
        has_tf32: whether it has TF32.
        memory_bytes: of the device.
        free_bytes: of these, what no process has taken.
        products: precisions in which it multiplied two small matrices.
        errors: by precision what went wrong instead.
    """

    name: str
    model: str
    capability: str | None = None
    has_bf16: bool = False
    has_tf32: bool = False
    memory_bytes: int | None = None
    free_bytes: int | None = None
    products: tuple[str, ...] = ()
    errors: dict[str, str] = field(default_factory=dict)

    def should_compute_in(self, precision: str) -> bool:
        """Returns whether a device of this kind that works computes in `precision`."""
        return precision == "fp32" or (self.name != "cpu" and (precision == "fp16" or self.has_bf16))


@dataclass(frozen=True)
class Devices:
    """The devices of this process.

    Attributes:
        visible: number of accelerators that torch sees.
        driver: version of the NVIDIA driver, or None where there is none.
        tested: those that this process has looked at: all, or where several processes were started its own.
        reason: why torch sees none, where it says so.
        error: why none of those that it sees can be used.
    """

    visible: int
    driver: str | None
    tested: tuple[Device, ...]
    reason: str | None = None
    error: str | None = None


def read_devices(local_rank: int, root: Path = Path("/")) -> Devices:
    """Returns the devices of the process with this rank on its machine, the CPU where there is no accelerator."""
    driver = driver_version(root)
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        is_available = torch.accelerator.is_available()
    accelerator = torch.accelerator.current_accelerator() if is_available else None
    if accelerator is None:
        reason = redact(str(recorded[0].message).partition("\n")[0]) if recorded else None
        return Devices(0, driver, (_with_products(Device("cpu", "")),), reason)
    try:
        kind = accelerator.type
        visible = torch.accelerator.device_count()
        indices = range(visible) if local_processes() == 1 else [local_rank % visible]  # as Accelerate chooses it
        return Devices(visible, driver, tuple(_read_device(kind, index) for index in indices))
    except RuntimeError as error:  # a driver that does not fit, a device that has fallen off the bus
        return Devices(0, driver, (), error=redact_error(error))


def device_identity(device: torch.device) -> str | None:
    """Returns what tells a device from all others of its machine, or None for a CPU."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_properties(device).uuid)
    return None if device.type == "cpu" else str(device)


def _read_device(kind: str, index: int) -> Device:
    name = f"{kind}:{index}"
    if kind != "cuda":
        return _with_products(Device(name, kind))
    properties = torch.cuda.get_device_properties(index)
    try:
        free_bytes: int | None = torch.cuda.mem_get_info(index)[0]
    except RuntimeError:  # as the products, which then say why
        free_bytes = None
    device = Device(
        name=name,
        model=properties.name,
        capability=f"{properties.major}.{properties.minor}",
        has_bf16=properties.major >= 8 or torch.version.hip is not None,
        has_tf32=properties.major >= 8 and torch.version.hip is None,
        memory_bytes=properties.total_memory,
        free_bytes=free_bytes,
    )
    return _with_products(device)


def _with_products(device: Device) -> Device:
    errors = {precision: line for precision, dtype in _PRECISIONS.items() if (line := _product_error(device.name, dtype)) is not None}
    return replace(device, products=tuple(precision for precision in _PRECISIONS if precision not in errors), errors=errors)


def _product_error(name: str, dtype: torch.dtype) -> str | None:
    """Returns what goes wrong where a device multiplies two matrices of ones, or None."""
    try:
        ones = torch.ones(_SIZE, _SIZE, dtype=dtype, device=name)
        product = (ones @ ones).float().cpu()
    except (RuntimeError, TypeError) as error:  # as where a device does not know the type
        return redact_error(error)
    wrong = int((product != _SIZE).sum())
    return f"{wrong} of {product.numel()} numbers of a product are wrong" if wrong else None
