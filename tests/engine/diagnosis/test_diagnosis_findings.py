"""Each finding is there with the fact that triggers it, and absent without."""

import re
from dataclasses import replace

import pytest

from mutual.engine.diagnosis.devices import Device, Devices
from mutual.engine.diagnosis.findings import (
    device_findings,
    disk_findings,
    launch_findings,
    machine_findings,
    package_findings,
    rank_findings,
    thread_findings,
)
from mutual.engine.diagnosis.launch import Launch, launcher_name, shown_variables
from mutual.engine.diagnosis.machine import Machine
from mutual.engine.diagnosis.ranks import Links, RankFacts, Ranks
from mutual.engine.diagnosis.run_disk import RunDisk
from mutual.engine.diagnosis.versions import Package, TorchBuild
from mutual.recipe import parse_recipe

GIGABYTE = 10**9
PACKAGE = Package("torch", "2.7", ">=2.6")
BUILD = TorchBuild(cuda="12.8")
MACHINE = Machine(
    system="Linux 6 x86_64",
    libc="glibc 2.36",
    python="3.11.7 CPython",
    processor="CPU",
    logical_cores=16,
    affine_cores=16,
    cpu_quota=None,
    usable_cores=8,
    processes=1,
    load=0.5,
    memory_bytes=64 * GIGABYTE,
    available_bytes=60 * GIGABYTE,
    memory_limit_bytes=None,
    shared_bytes=32 * GIGABYTE,
    shared_free_bytes=32 * GIGABYTE,
    open_files=1024,
    most_open_files=4096,
)
CPU = Devices(0, None, (Device("cpu", "", products=("fp32",)),))
GPU = Device("cuda:0", "GPU", "9.0", has_bf16=True, has_tf32=True, memory_bytes=80 * GIGABYTE, free_bytes=79 * GIGABYTE, products=("fp32",))
GPUS = Devices(1, "550.1", (GPU,))
OLD = replace(GPUS, tested=(replace(GPU, capability="7.5", has_bf16=False, has_tf32=False),))
ANCIENT = replace(GPUS, tested=(replace(GPU, capability="6.1", has_bf16=False, has_tf32=False),))
LAUNCH = Launch("torchrun", 1, joined=1, precision="bf16", threads=8)
PLAIN, LATE = replace(LAUNCH, precision="no"), replace(LAUNCH, precision=None)
ON_CPU = replace(LAUNCH, variables={"ACCELERATE_USE_CPU": "True"})
DISK = RunDisk(
    "runs",
    ".",
    "ext4",
    500 * GIGABYTE,
    400 * GIGABYTE,
    64 * 10**6,
    bytes_per_second=1e9,
    save_seconds=1e-3,
    lock_seconds=1e-3,
    locks_hold=True,
)
RANKS = Ranks(2, "gloo", tuple(RankFacts(rank, 0, "cpu", "", 4) for rank in (0, 1)), links=Links(1e-4, 1e9, is_right=True))
FAILED = RankFacts(1, 0, "cuda:1", "GPU", 4, ("cuda:1: CUDA error",))

CASES = [
    (package_findings, ([PACKAGE], BUILD, CPU), ([replace(PACKAGE, version="2.5")], BUILD, CPU), "warning", "pip install -U 'torch>=2.6'"),
    (package_findings, ([PACKAGE], BUILD, CPU), ([replace(PACKAGE, version=None)], BUILD, CPU), "broken", "pip install 'torch>=2.6'"),
    (
        package_findings,
        ([replace(PACKAGE, version=None, extra="hf")], BUILD, CPU),
        ([replace(PACKAGE, version="1", extra="hf")], BUILD, CPU),
        "warning",
        "pip install -U",
    ),
    (package_findings, ([], BUILD, GPUS), ([], BUILD, replace(CPU, driver="550.1")), "warning", "unset CUDA_VISIBLE_DEVICES"),
    (package_findings, ([], TorchBuild(), CPU), ([], TorchBuild(), replace(CPU, driver="550.1")), "warning", "pytorch.org"),
    (device_findings, (CPU, LAUNCH), (replace(CPU, error="fell off the bus"), LAUNCH), "broken", None),
    (device_findings, (CPU, LAUNCH), (replace(CPU, tested=(Device("cpu", "", errors={"fp32": "x"}),)), LAUNCH), "broken", None),
    (device_findings, (CPU, LAUNCH), (replace(CPU, tested=(Device("cpu", "", errors={"bf16": "x"}),)), LAUNCH), "warning", None),
    (device_findings, (GPUS, LAUNCH), (replace(GPUS, tested=(replace(GPU, errors={"bf16": "x"}),)), LAUNCH), "broken", None),
    (
        device_findings,
        (ANCIENT, LATE),
        (replace(ANCIENT, tested=(replace(ANCIENT.tested[0], errors={"bf16": "x"}),)), LATE),
        "warning",
        None,
    ),
    (device_findings, (GPUS, LAUNCH), (replace(GPUS, tested=(replace(GPU, free_bytes=3 * GIGABYTE),)), LAUNCH), "warning", "nvidia-smi"),
    (device_findings, (GPUS, LAUNCH), (OLD, LAUNCH), "warning", "train.precision: fp16"),
    (device_findings, (GPUS, LAUNCH), (GPUS, PLAIN), "hint", "train.precision: bf16"),
    (device_findings, (ANCIENT, PLAIN), (OLD, PLAIN), "hint", "train.precision: fp16"),
    (device_findings, (GPUS, LAUNCH), (replace(GPUS, visible=4), LAUNCH), "hint", "accelerate launch --multi_gpu --num_processes 4"),
    (
        device_findings,
        (replace(GPUS, visible=4), replace(LAUNCH, started=4)),
        (replace(GPUS, visible=4), LAUNCH),
        "hint",
        "accelerate launch",
    ),
    (machine_findings, (MACHINE,), (replace(MACHINE, shared_free_bytes=64 * 10**6),), "warning", "data.workers: 0"),
    (machine_findings, (replace(MACHINE, shared_free_bytes=None),), (replace(MACHINE, shared_free_bytes=0),), "warning", "data.workers: 0"),
    (machine_findings, (MACHINE,), (replace(MACHINE, open_files=256),), "warning", "ulimit -n 4096"),
    (machine_findings, (MACHINE,), (replace(MACHINE, open_files=256, most_open_files=512),), "warning", "ulimit -n 512"),
    (machine_findings, (MACHINE,), (replace(MACHINE, open_files=256, most_open_files=None),), "warning", "ulimit -n 4096"),
    (machine_findings, (MACHINE,), (replace(MACHINE, available_bytes=GIGABYTE),), "warning", "data.batch_size"),
    (machine_findings, (MACHINE,), (replace(MACHINE, memory_limit_bytes=GIGABYTE),), "warning", "data.batch_size"),
    (thread_findings, (MACHINE, LAUNCH, CPU), (MACHINE, replace(LAUNCH, threads=9), CPU), "warning", "export OMP_NUM_THREADS=8"),
    (thread_findings, (MACHINE, LAUNCH, CPU), (replace(MACHINE, processes=2), LAUNCH, CPU), "warning", "export OMP_NUM_THREADS=4"),
    (thread_findings, (MACHINE, LAUNCH, CPU), (MACHINE, replace(LAUNCH, threads=1), CPU), "hint", "export OMP_NUM_THREADS=8"),
    (thread_findings, (MACHINE, replace(LAUNCH, threads=1), GPUS), (MACHINE, replace(LAUNCH, threads=1), CPU), "hint", "OMP_NUM_THREADS"),
    (thread_findings, (MACHINE, LAUNCH, CPU), (replace(MACHINE, load=30.0), LAUNCH, CPU), "hint", "train.threads: 1"),
    (launch_findings, (LAUNCH, CPU), (replace(LAUNCH, error="train: DeepSpeed"), CPU), "broken", None),
    (launch_findings, (LAUNCH, CPU), (replace(LAUNCH, is_lone=True), CPU), "warning", "torchrun --nproc_per_node N -m mutual.train RECIPE"),
    (launch_findings, (ON_CPU, CPU), (ON_CPU, GPUS), "warning", "accelerate launch without --cpu"),
    (disk_findings, (DISK,), (replace(DISK, error="Read-only file system"),), "broken", "output: a folder that can be written"),
    (disk_findings, (DISK,), (replace(DISK, free_bytes=10**8),), "warning", "output: a folder on a disk with space"),
    (disk_findings, (DISK,), (replace(DISK, bytes_per_second=5e6),), "hint", "output: a folder on a local disk"),
    (disk_findings, (DISK,), (replace(DISK, save_seconds=2.0),), "hint", "checkpoint.every_steps"),
    (disk_findings, (DISK,), (replace(DISK, locks_hold=False),), "warning", "name: another one"),
    (rank_findings, (RANKS,), (replace(RANKS, missing=(1,)),), "broken", "MASTER_ADDR"),
    (rank_findings, (RANKS,), (replace(RANKS, error="rank 1: no answer within 30 s"),), "broken", "NCCL_SOCKET_IFNAME"),
    (rank_findings, (RANKS,), (replace(RANKS, links=Links(1e-4, 1e9, is_right=False)),), "broken", "NCCL_P2P_DISABLE"),
    (rank_findings, (RANKS,), (replace(RANKS, arrived=(RANKS.arrived[0], FAILED)),), "broken", None),
    (rank_findings, (RANKS,), (replace(RANKS, shared_devices=((0, 1),)),), "warning", "--nproc_per_node"),
    (rank_findings, (RANKS,), (replace(RANKS, differences=("torch is 2.6 on rank 0 and 2.7 on rank 1",)),), "warning", "same versions"),
]


@pytest.mark.parametrize(("find", "sound", "faulty", "level", "remedy"), CASES)
def test_a_finding_is_there_with_its_fact_and_absent_without(find, sound, faulty, level, remedy):
    assert list(find(*sound)) == []
    (finding,) = find(*faulty)
    assert finding.level == level
    assert finding.what
    assert "\n" not in finding.what
    assert (finding.remedy is None) if remedy is None else (remedy in finding.remedy)


def test_what_torch_says_of_the_driver_is_in_the_finding():
    devices = replace(CPU, driver="450.1", reason="the driver is too old")
    (finding,) = package_findings([], BUILD, devices)
    assert finding.what == "there is an NVIDIA driver (450.1), but torch is built for CUDA 12.8 and sees none: the driver is too old"


def test_of_a_training_that_would_not_begin_no_threads_are_judged():
    assert list(thread_findings(MACHINE, replace(LAUNCH, threads=None), CPU)) == []


def test_errors_of_the_first_process_are_those_of_its_devices():
    first = replace(RANKS.arrived[0], errors=("cuda:0: CUDA error",))
    assert list(rank_findings(replace(RANKS, arrived=(first, RANKS.arrived[1])))) == []


def test_a_remedy_names_fields_that_recipes_have():
    recipe = parse_recipe({"name": "n", "peers": {"a": {"model": "small_cnn"}}, "objectives": [{"loss": "cross_entropy"}]})
    remedies = [finding.remedy or "" for find, _, faulty, _, _ in CASES for finding in find(*faulty)]
    named = {name for remedy in remedies for name in re.findall(r"\b((?:train|data|checkpoint)\.\w+)", remedy)}
    assert {"train.precision", "train.threads", "data.workers", "data.batch_size", "checkpoint.every_steps"} == named
    for section, field in (name.split(".") for name in named):
        assert field in type(getattr(recipe, section)).model_fields
    assert {"output", "name"} <= type(recipe).model_fields.keys()


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "none"),
        ({"TORCHELASTIC_RUN_ID": "x", "RANK": "0"}, "torchrun"),
        ({"TORCHELASTIC_RUN_ID": "x", "ACCELERATE_MIXED_PRECISION": "no"}, "accelerate launch"),
        ({"RANK": "0"}, "another one"),
        ({"MASTER_ADDR": "there"}, "another one"),
    ],
)
def test_the_launcher_is_known_by_its_variables(monkeypatch, variables, name):
    for each in ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION", "RANK", "MASTER_ADDR"):
        monkeypatch.delenv(each, raising=False)
    for each, value in variables.items():
        monkeypatch.setenv(each, value)
    assert launcher_name() == name


def test_only_harmless_variables_are_shown(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    shown = shown_variables()
    assert shown["OMP_NUM_THREADS"] == "3"
    assert shown["NCCL_SOCKET_IFNAME"] == "eth0"
    assert "secret" not in str(shown)
