"""diagnosis_text: a diagnosis in aligned lines, to be pasted into a bug report."""

from __future__ import annotations

from collections.abc import Iterator

from mutual.engine.diagnosis.devices import Device
from mutual.engine.diagnosis.diagnosis import Diagnosis
from mutual.engine.diagnosis.launch import Launch
from mutual.engine.diagnosis.machine import Machine
from mutual.engine.diagnosis.ranks import Ranks
from mutual.engine.diagnosis.run_disk import RunDisk

_Row = tuple[str, str]


def diagnosis_text(diagnosis: Diagnosis) -> str:
    """Returns the facts, the findings and what to set."""
    sections: dict[str, list[_Row]] = {
        "versions": list(_version_rows(diagnosis)),
        "machine": list(_machine_rows(diagnosis.machine)),
        "devices": list(_device_rows(diagnosis)),
        "launch": list(_launch_rows(diagnosis.launch)),
        "run folder": list(_disk_rows(diagnosis.disk)),
        "ranks": list(_rank_rows(diagnosis.ranks)),
        "findings": [(finding.level, finding.what) for finding in diagnosis.findings] or [("none", "")],
    }
    width = max(len(label) for rows in sections.values() for label, _ in rows)
    lines = []
    for title, rows in sections.items():
        lines += [title, *(f"  {label:{width}}  {value}".rstrip() for label, value in rows), ""]
    remedies = dict.fromkeys(finding.remedy for finding in diagnosis.findings if finding.remedy is not None)
    is_broken = any(finding.level == "broken" for finding in diagnosis.findings)
    nothing = "what is broken says what would be right" if is_broken else "nothing to set"
    return "\n".join([*lines, "what to set", *(f"  {remedy}" for remedy in remedies or [nothing])])


def _version_rows(diagnosis: Diagnosis) -> Iterator[_Row]:
    for package in diagnosis.packages:
        build = _build_text(diagnosis) if package.name == "torch" else ""
        fault = f"  needs {package.required}" if package.is_unfit or package.is_missing else ""
        extra = f"  (extra {package.extra})" if package.extra is not None else ""
        yield package.name, f"{package.version or 'not installed'}{build}{fault}{extra}"


def _build_text(diagnosis: Diagnosis) -> str:
    build = diagnosis.torch_build
    named = {"CUDA": build.cuda, "ROCm": build.rocm, "cuDNN": build.cudnn, "NCCL": build.nccl}
    words = [f"{name} {value}" for name, value in named.items() if value is not None]
    return f"  ({', '.join(words) or 'CPU build'})"


def _machine_rows(machine: Machine) -> Iterator[_Row]:
    yield "Python", machine.python
    yield "system", f"{machine.system}, {machine.libc}"
    yield "processor", machine.processor
    quota = "" if machine.cpu_quota is None else f", cgroup limit {machine.cpu_quota:g}"
    cores = f"{machine.logical_cores} logical, {machine.affine_cores} of them for this process{quota}: {machine.usable_cores} physical"
    yield "cores", f"{cores}; load {machine.load:.1f}"
    limit = "" if machine.memory_limit_bytes is None else f", cgroup limit {_size(machine.memory_limit_bytes)}"
    yield "memory", f"{_size(machine.memory_bytes)}, {_size(machine.available_bytes)} available{limit}"
    if machine.shared_bytes is not None and machine.shared_free_bytes is not None:
        yield "/dev/shm", f"{_size(machine.shared_bytes)}, {_size(machine.shared_free_bytes)} free"
    most = "any number" if machine.most_open_files is None else machine.most_open_files
    yield "open files", f"{machine.open_files}, up to {most} with ulimit -n"


def _device_rows(diagnosis: Diagnosis) -> Iterator[_Row]:
    devices = diagnosis.devices
    driver = "" if devices.driver is None else f", NVIDIA driver {devices.driver}"
    yield "accelerators", f"{devices.visible} visible{driver}"
    for device in devices.tested:
        yield device.name, _device_text(device)


def _device_text(device: Device) -> str:
    words = [device.model] if device.model else []
    if device.memory_bytes is not None:
        free = "" if device.free_bytes is None else f", {_size(device.free_bytes)} free"
        words.append(f"{_size(device.memory_bytes)}{free}")
    if device.capability is not None:
        formats = [name for name, has in (("bf16", device.has_bf16), ("TF32", device.has_tf32)) if has]
        words.append(f"capability {device.capability} ({', '.join(formats) or 'neither bf16 nor TF32'})")
    failed = f", failed in {', '.join(device.errors)}" if device.errors else ""
    words.append(f"products in {', '.join(device.products) or 'no precision'} are right{failed}")
    return ", ".join(words)


def _launch_rows(launch: Launch) -> Iterator[_Row]:
    joined = "they do not join" if launch.joined is None else f"{launch.joined} joined"
    yield "launcher", f"{launch.launcher}, {launch.started} started, {joined}"
    yield "precision", launch.precision or "unknown"
    yield "threads", "unknown" if launch.threads is None else f"{launch.threads} in a training"
    if launch.variables:
        yield "environment", ", ".join(f"{name}={value}" for name, value in launch.variables.items())


def _disk_rows(disk: RunDisk) -> Iterator[_Row]:
    yield "folder", disk.folder if disk.measured == disk.folder else f"{disk.folder}, not there yet; measured in {disk.measured}"
    yield "file system", disk.file_system
    if disk.free_bytes is not None and disk.total_bytes is not None:
        yield "space", f"{_size(disk.total_bytes)}, {_size(disk.free_bytes)} free"
    if disk.error is not None:
        yield "error", disk.error
    if disk.bytes_per_second is not None and disk.written_bytes is not None:
        yield "write", f"{disk.bytes_per_second / 1e6:.0f} MB/s ({disk.written_bytes / 1e6:.0f} MB, synchronised)"
    if disk.save_seconds is not None and disk.lock_seconds is not None:
        locks = "locks hold" if disk.locks_hold else "locks do not hold"
        yield "small file", f"safe after {1e3 * disk.save_seconds:.1f} ms; a lock takes {1e3 * disk.lock_seconds:.1f} ms, {locks}"


def _rank_rows(ranks: Ranks) -> Iterator[_Row]:
    if ranks.size == 1:
        yield "processes", "1"
        return
    yield "processes", f"{ranks.size}, {ranks.backend or 'not joined'}"
    for rank in ranks.arrived:
        threads = "" if rank.threads is None else f", threads {rank.threads}"
        failed = f", {len(rank.errors)} errors" if rank.errors else ""
        device = f"{rank.device or 'no device'} {rank.model}".rstrip()
        yield f"rank {rank.rank}", f"machine {rank.host}, {device}{threads}{failed}"
    for missing in ranks.missing[:8]:
        yield f"rank {missing}", "missing"
    if ranks.links is not None:
        links = ranks.links
        yield (
            "collectives",
            f"all-gather {1e6 * links.latency_seconds:.0f} us, all-reduce of 16 MiB {links.bytes_per_second / 1e6:.0f} MB/s",
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
