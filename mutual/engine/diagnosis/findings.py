"""Findings: what of the facts is broken, or slower than it need be, each in a line with what to set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from mutual.engine.diagnosis.devices import Device, Devices
from mutual.engine.diagnosis.launch import Launch
from mutual.engine.diagnosis.machine import Machine
from mutual.engine.diagnosis.ranks import Ranks, rank_names
from mutual.engine.diagnosis.run_disk import RunDisk
from mutual.engine.diagnosis.versions import Package, TorchBuild

Level = Literal["broken", "warning", "hint"]
"""The worst first."""
_GOOD_OPEN_FILES = 4096
_FEW_OPEN_FILES = 1024
_LITTLE_SHARED = 256 * 2**20
_LITTLE_MEMORY = 2 * 10**9
_LITTLE_SPACE = 10**9
_SLOW_DISK = 20e6
_SLOW_SAVE = 0.5
_TAKEN = 0.5
"""Fraction of a device's memory below which so much is free that others must be using it."""


@dataclass(frozen=True)
class Finding:
    """Something that a user may want to know.

    Attributes:
        level: broken: a training fails; warning: it may fail, or differ from what was meant; hint: it could be faster.
        what: what was found, a line.
        remedy: what to set or to run, or None.
    """

    level: Level
    what: str
    remedy: str | None = None


def package_findings(packages: Iterable[Package], build: TorchBuild, devices: Devices) -> Iterator[Finding]:
    """Yields what is wrong with versions."""
    for package in packages:
        if package.is_missing:
            yield Finding("broken", f"{package.name} is not installed", f"pip install '{package.name}{package.required}'")
        elif package.is_unfit:
            what = f"{package.name} is {package.version}, and mutual needs {package.required}"
            yield Finding("warning", what, f"pip install -U '{package.name}{package.required}'")
    if devices.driver is not None and devices.visible == 0:
        if build.cuda is None:
            what, remedy = "is built without CUDA", "pip install torch as https://pytorch.org/get-started/locally says for CUDA"
        else:
            what = f"is built for CUDA {build.cuda} and sees none"
            remedy = "unset CUDA_VISIBLE_DEVICES, or install a driver for this CUDA (or torch for this driver)"
        reason = "" if devices.reason is None else f": {devices.reason}"
        yield Finding("warning", f"there is an NVIDIA driver ({devices.driver}), but torch {what}{reason}", remedy)


def device_findings(devices: Devices, launch: Launch) -> Iterator[Finding]:
    """Yields what is wrong with the devices, and which precision they are made for."""
    if devices.error is not None:
        yield Finding("broken", f"no device can be used: {devices.error}")
    for device in devices.tested:
        for precision, line in device.errors.items():
            level: Level = "broken" if device.should_compute_in(precision) else "warning"
            yield Finding(level, f"{device.name}: a product in {precision} fails: {line}")
        if device.memory_bytes and device.free_bytes is not None and device.free_bytes < _TAKEN * device.memory_bytes:
            what = f"{device.name}: {device.free_bytes / 1e9:.1f} of {device.memory_bytes / 1e9:.1f} GB are free"
            yield Finding("warning", what, "nvidia-smi names the processes that have taken the rest; end them, or take another GPU")
    accelerated = [device for device in devices.tested if device.name != "cpu"]
    if accelerated:
        yield from _precision_findings(accelerated, launch)
    if devices.visible > 1 and launch.started == 1:
        what = f"{devices.visible} devices are visible and one process uses one of them"
        yield Finding("hint", what, f"accelerate launch --multi_gpu --num_processes {devices.visible} -m mutual.train RECIPE")


def _precision_findings(devices: list[Device], launch: Launch) -> Iterator[Finding]:
    if launch.precision == "bf16" and not all(device.has_bf16 for device in devices):
        yield Finding("warning", "the launcher asks for bf16, which this GPU only emulates", "train.precision: fp16")
    if launch.precision == "no" and all(device.has_bf16 for device in devices):
        yield Finding("hint", "the GPU computes in bf16, and the launcher chose full precision", "train.precision: bf16")
    elif launch.precision == "no" and all(device.capability is not None and float(device.capability) >= 7 for device in devices):
        yield Finding("hint", "the GPU computes in fp16, and the launcher chose full precision", "train.precision: fp16")


def machine_findings(machine: Machine) -> Iterator[Finding]:
    """Yields what the machine has too little of."""
    if machine.shared_free_bytes is not None and machine.shared_free_bytes < _LITTLE_SHARED:
        what = f"/dev/shm has {machine.shared_free_bytes / 1e6:.0f} MB free, through which loader processes give their batches"
        yield Finding("warning", what, "data.workers: 0 (in a container: docker run --shm-size=8g)")
    if machine.open_files < _FEW_OPEN_FILES:
        wanted = min(_GOOD_OPEN_FILES, machine.most_open_files or _GOOD_OPEN_FILES)
        yield Finding("warning", f"this process may have {machine.open_files} files open", f"ulimit -n {wanted}")
    memory = min(machine.available_bytes, machine.memory_limit_bytes or machine.available_bytes)
    if memory < _LITTLE_MEMORY:
        what = f"{memory / 1e9:.1f} GB of memory are available"
        yield Finding("warning", what, "data.workers: 0, and a smaller data.batch_size")


def thread_findings(machine: Machine, launch: Launch, devices: Devices) -> Iterator[Finding]:
    """Yields numbers of threads that do not go with the cores."""
    if launch.threads is None:
        return
    share = max(machine.usable_cores // machine.processes, 1)
    if launch.threads > share:
        what = f"{machine.processes} x {launch.threads} threads share {machine.usable_cores} cores"
        yield Finding("warning", what, f"export OMP_NUM_THREADS={share}")
    elif launch.threads < share and devices.visible == 0:
        what = f"a process computes with {launch.threads} of the {share} cores that it could have"
        yield Finding("hint", what, f"export OMP_NUM_THREADS={share}")
    if machine.load > 1.5 * machine.logical_cores and devices.visible == 0 and launch.threads > 1:
        what = f"other processes compute here: the load is {machine.load:.1f} on {machine.logical_cores} cores"
        yield Finding("hint", what, "train.threads: 1")


def launch_findings(launch: Launch, devices: Devices) -> Iterator[Finding]:
    """Yields what the launcher did otherwise than it was asked."""
    if launch.error is not None:
        yield Finding("broken", f"a training would not begin: {launch.error}")
    if launch.is_lone:
        what = "the launcher was asked for several processes, and has started one"
        yield Finding("warning", what, "torchrun --nproc_per_node N -m mutual.train RECIPE")
    uses_cpu = launch.variables.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
    if uses_cpu and devices.visible > 0:
        what = f"the launcher chose the CPU, and torch sees {devices.visible} devices"
        yield Finding("warning", what, "accelerate launch without --cpu (use_cpu: false in its configuration)")


def disk_findings(disk: RunDisk) -> Iterator[Finding]:
    """Yields what is wrong with the disk of the run folder."""
    if disk.error is not None:
        yield Finding(
            "broken",
            f"{disk.measured}: nothing can be written there: {disk.error}",
            "output: a folder that can be written, with space for checkpoints",
        )
        return
    if disk.free_bytes is not None and disk.free_bytes < _LITTLE_SPACE:
        yield Finding("warning", f"{disk.measured}: {disk.free_bytes / 1e6:.0f} MB are free", "output: a folder on a disk with space")
    slow = disk.bytes_per_second is not None and disk.bytes_per_second < _SLOW_DISK
    if slow or (disk.save_seconds is not None and disk.save_seconds > _SLOW_SAVE):
        speed, save = (disk.bytes_per_second or 0) / 1e6, 1e3 * (disk.save_seconds or 0)
        what = f"{disk.measured}: {speed:.0f} MB/s, and {save:.0f} ms until a small file is safe"
        yield Finding("hint", what, "output: a folder on a local disk, or a larger checkpoint.every_steps")
    if disk.locks_hold is False:
        what = f"{disk.measured}: locks do not hold on this file system, so that two trainings in one folder would not notice"
        yield Finding("warning", what, "name: another one for each training")


def rank_findings(ranks: Ranks) -> Iterator[Finding]:
    """Yields what is wrong between the processes."""
    if ranks.missing:
        what = f"{rank_names(ranks.missing)} of {ranks.size} did not come"
        yield Finding("broken", what, "look at what these print; MASTER_ADDR and MASTER_PORT must be reached from their machines")
    if ranks.error is not None:
        remedy = "export NCCL_SOCKET_IFNAME=... GLOO_SOCKET_IFNAME=... (the network that joins the machines), and open its ports"
        yield Finding("broken", f"the processes do not see each other: {ranks.error}", remedy)
    if ranks.links is not None and not ranks.links.is_right:
        yield Finding("broken", "a sum over the processes is wrong", "export NCCL_P2P_DISABLE=1")
    for rank in ranks.arrived:
        for line in rank.errors if rank.rank != ranks.arrived[0].rank else ():  # of the first, its devices say it
            yield Finding("broken", f"rank {rank.rank}: {line}")
    for shared in ranks.shared_devices:
        yield Finding("warning", f"{rank_names(shared)} compute on one device", "--nproc_per_node: at most the number of GPUs of a machine")
    for line in ranks.differences:
        yield Finding("warning", line, "the same versions, devices and cores for all ranks")
