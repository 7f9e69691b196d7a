"""Environment: the launcher's processes, device, precision and trackers; launchers that cannot train a group are refused."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from mutual.commandline import launched_rank
from mutual.engine.runtime.allocator import keep_freed_memory, return_freed_memory
from mutual.group import Communicator
from mutual.recipe import InputError, Precision, Recipe, Train

if TYPE_CHECKING:
    from accelerate import Accelerator

_ONE_MODEL_BACKENDS = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_CUDNN: Any = torch.backends.cudnn
_HAS_FP32_PRECISION = hasattr(torch.backends.cuda.matmul, "fp32_precision")
"""Torch has further names for the precision of products and convolutions beside `allow_tf32` (2.9 on)."""
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Environment:
    """What the launcher gives a run.

    Attributes:
        accelerator: Accelerate's state; trackers belong to it.
        comm: the ranks of the run, and this rank's device.
        precision: mixed precision, or `no`.
    """

    accelerator: Accelerator
    comm: Communicator
    precision: Precision

    def autocast(self, precision: Precision | None = None, /) -> AbstractContextManager[object]:
        """Returns the context in which peers run, mixed precision or none; the run's, if `precision` is None."""
        precision = precision or self.precision
        if precision == "no":
            return nullcontext()
        return torch.autocast(self.comm.device.type, dtype=_DTYPES[precision])

    def scaler(self) -> torch.amp.GradScaler:
        """Returns a new loss scaler, the identity in other precisions than fp16."""
        return torch.amp.GradScaler(self.comm.device.type, enabled=self.precision == "fp16")


def init_environment(recipe: Recipe) -> Environment:
    """Starts Accelerate for `recipe`, and applies the recipe's numerical switches; see `restore_switches`.

    Raises:
        InputError: the launcher's backend holds one model only, or the device does not support what the recipe asks for.
    """
    from accelerate import Accelerator  # not every command that imports this room starts an environment
    from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration

    for variable, backend in _ONE_MODEL_BACKENDS.items():
        if os.environ.get(variable, "false").lower() in ("true", "1"):
            raise recipe.error(
                "train", f"{backend} holds one model for each engine and cannot train a group; choose DDP in `accelerate config`"
            )
    _check_rank()
    project = ProjectConfiguration(project_dir=recipe.output, logging_dir=recipe.output)
    on_cpu = not torch.accelerator.is_available()  # otherwise Accelerate does not join torchrun's processes on CPUs
    timeout = timedelta(seconds=recipe.train.timeout_seconds)
    options = InitProcessGroupKwargs(timeout=timeout)
    try:
        accelerator = Accelerator(cpu=on_cpu, mixed_precision="no", project_config=project, kwargs_handlers=[options])
    except ValueError as error:
        raise InputError(f"Accelerate cannot start: {error}") from error
    comm = Communicator(accelerator.process_index, accelerator.num_processes, accelerator.device, timeout=timeout)
    _check_device(recipe, comm)
    _check_processes(comm)
    if comm.device.type == "cpu":
        keep_freed_memory()
    _apply_switches(recipe.train)
    return Environment(accelerator, comm, recipe.train.precision or launched_precision(recipe))


@contextmanager
def restore_switches() -> Iterator[None]:
    """Restores the numerical switches of the process, which `init_environment` may set, and returns the memory that it had kept.

    Example:
        >>> with restore_switches():
        ...     torch.use_deterministic_algorithms(True)
        >>> torch.are_deterministic_algorithms_enabled()
        False
    """
    deterministic, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, workspace = torch.backends.cudnn.benchmark, os.environ.get(_WORKSPACE)
    tf32 = _tf32_state()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        _restore_tf32(tf32)
        if workspace is None:
            os.environ.pop(_WORKSPACE, None)
        else:
            os.environ[_WORKSPACE] = workspace
        return_freed_memory()


def _apply_switches(train: Train) -> None:
    if train.deterministic:
        os.environ.setdefault(_WORKSPACE, ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = train.cudnn_benchmark
    _allow_tf32(products=train.tf32 is True, convolutions=train.tf32 is not False)


def _allow_tf32(*, products: bool, convolutions: bool) -> None:
    """Sets what CUDA computes in TF32, by the switches that all versions of torch have.

    Those that torch 2.9 brings beside them leave the older ones behind, and whoever reads these then, as torch.compile does, raises.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Please use the new API settings to control TF32 behavior")  # torch 2.9
        torch.backends.cuda.matmul.allow_tf32 = products
        torch.backends.cudnn.allow_tf32 = convolutions


def _tf32_state() -> tuple[bool | str, bool | str]:
    """Returns what is computed in TF32, products and convolutions, as `_restore_tf32` takes it."""
    if _HAS_FP32_PRECISION:
        return torch.backends.cuda.matmul.fp32_precision, _CUDNN.conv.fp32_precision
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def _restore_tf32(state: tuple[bool | str, bool | str]) -> None:
    products, convolutions = state
    _allow_tf32(products=products in (True, "tf32"), convolutions=convolutions in (True, "tf32"))
    if _HAS_FP32_PRECISION:
        torch.backends.cuda.matmul.fp32_precision, _CUDNN.conv.fp32_precision = products, convolutions


def launched_precision(recipe: Recipe) -> Precision:
    """Returns the precision that was given to `accelerate launch`, or else `no`.

    Raises:
        RecipeError: peers cannot be trained in it.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if launched == "fp16":
        return "fp16"
    if launched == "bf16":
        return "bf16"
    if launched == "no":
        return "no"
    raise recipe.error("train.precision", f"the launcher's mixed precision {launched!r} is not one of no, fp16, bf16")


def _check_rank() -> None:
    """Refuses a rank beyond the world size: the process would wait for the others without end."""
    rank, size = launched_rank()
    if rank >= max(size, 1):
        raise InputError(
            f"the environment says RANK={rank} and WORLD_SIZE={size}, and ranks count from 0; start through torchrun or accelerate "
            "launch, or unset both"
        )


def is_lone_process() -> bool:
    """Returns True where a launcher was asked for several processes and has started this one alone.

    `accelerate launch --cpu --num_processes 2` sets a rendezvous address, and then starts one process that has no rank.
    """
    return "MASTER_ADDR" in os.environ and "RANK" not in os.environ


def _check_processes(comm: Communicator) -> None:
    """Refuses processes that would each train alone in the same run folder; warns of one process where several were asked for."""
    _, started = launched_rank()
    if started > comm.size:
        raise InputError(
            f"the launcher started {started} processes, but Accelerate joins {comm.size}; start them with torchrun or accelerate launch"
        )
    if is_lone_process():
        warnings.warn(
            "the launcher was asked for several processes, but this run is 1; on CPUs start them with "
            "`torchrun --nproc_per_node N -m mutual.train ...`",
            stacklevel=3,
        )


def _check_device(recipe: Recipe, comm: Communicator) -> None:
    if recipe.train.sync_batchnorm and comm.device.type != "cuda":
        raise recipe.error("train.sync_batchnorm", f"needs GPUs, this run is on {comm.device.type}; set it to false")
    if recipe.train.accumulate == 1 and int(os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS") or "1") > 1:
        raise recipe.error("train.accumulate", "the launcher asks for gradient accumulation; say it in the recipe: train.accumulate=N")
