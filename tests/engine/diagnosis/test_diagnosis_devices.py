"""Devices, by what a pretended torch.cuda answers."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from mutual.engine.diagnosis import devices as module
from mutual.engine.diagnosis.devices import device_identity, read_devices

GIGABYTE = 10**9


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs of which the products are computed on the CPU."""
    properties = [
        SimpleNamespace(name="Old GPU", major=7, minor=5, total_memory=16 * GIGABYTE, uuid="GPU-old"),
        SimpleNamespace(name="New GPU", major=9, minor=0, total_memory=80 * GIGABYTE, uuid="GPU-new"),
    ]
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda each: properties[each if isinstance(each, int) else each.index])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (10 * GIGABYTE, properties[index].total_memory))
    real = torch.ones
    monkeypatch.setattr(module.torch, "ones", lambda *size, dtype, device: real(*size, dtype=dtype))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    return properties


def test_one_process_looks_at_all_gpus(gpus, tmp_path):
    devices = read_devices(0, tmp_path)
    old, new = devices.tested
    assert (devices.visible, devices.driver, devices.error) == (2, None, None)
    assert (old.name, old.model, old.capability, old.has_bf16, old.has_tf32) == ("cuda:0", "Old GPU", "7.5", False, False)
    assert (new.name, new.model, new.capability, new.has_bf16, new.has_tf32) == ("cuda:1", "New GPU", "9.0", True, True)
    assert (new.memory_bytes, new.free_bytes) == (80 * GIGABYTE, 10 * GIGABYTE)
    assert new.products == ("fp32", "fp16", "bf16")
    assert new.errors == {}


@pytest.mark.parametrize(("local_rank", "name"), [(0, "cuda:0"), (1, "cuda:1"), (2, "cuda:0")])
def test_one_of_several_processes_looks_at_its_own_gpu(gpus, tmp_path, monkeypatch, local_rank, name):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert [device.name for device in read_devices(local_rank, tmp_path).tested] == [name]


def test_a_precision_that_fails_is_a_line(gpus, tmp_path, monkeypatch):
    def ones(*size, dtype, device):
        if dtype == torch.bfloat16:
            raise RuntimeError("CUDA error: no kernel image is available\nCUDA kernel errors might be ...")
        return torch.full(size, 1.0, dtype=dtype)

    monkeypatch.setattr(module.torch, "ones", ones)
    device = read_devices(0, tmp_path).tested[0]
    assert device.products == ("fp32", "fp16")
    assert device.errors == {"bf16": "CUDA error: no kernel image is available"}


def test_numbers_that_are_wrong_are_a_line(gpus, tmp_path, monkeypatch):
    real = torch.zeros
    monkeypatch.setattr(module.torch, "ones", lambda *size, dtype, device: real(*size, dtype=dtype))
    assert read_devices(0, tmp_path).tested[0].errors["fp32"] == "4096 of 4096 numbers of a product are wrong"


def test_a_device_whose_memory_cannot_be_asked_for_is_there_nevertheless(gpus, tmp_path, monkeypatch):
    def fail(index):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "mem_get_info", fail)
    assert read_devices(0, tmp_path).tested[0].free_bytes is None


def test_devices_that_cannot_be_listed_are_an_error(gpus, tmp_path, monkeypatch):
    def fail(device):
        raise RuntimeError("CUDA unknown error")

    monkeypatch.setattr(torch.cuda, "get_device_properties", fail)
    devices = read_devices(0, tmp_path)
    assert (devices.tested, devices.error) == ((), "CUDA unknown error")


def test_why_torch_sees_no_gpu_is_kept(tmp_path, monkeypatch):
    def is_available():
        warnings.warn("CUDA initialization: The driver is too old (found version 11040).\nPlease update", stacklevel=1)
        return False

    monkeypatch.setattr(torch.accelerator, "is_available", is_available)
    devices = read_devices(0, tmp_path)
    assert devices.reason == "CUDA initialization: The driver is too old (found version 11040)."
    assert [device.name for device in devices.tested] == ["cpu"]
    assert devices.tested[0].products == ("fp32", "fp16", "bf16")


def test_another_accelerator_is_named_by_its_kind(gpus, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    (device,) = read_devices(0, tmp_path).tested
    assert (device.name, device.model, device.capability) == ("mps:0", "mps", None)


def test_a_gpu_is_told_from_others_and_a_cpu_is_not(gpus):
    assert device_identity(torch.device("cuda", 1)) == "GPU-new"
    assert device_identity(torch.device("cpu")) is None
