"""Copies of a GPU's state: in pinned memory, of the moment at which they were asked for, and nothing waits for them."""

import pytest
import torch

from mutual.engine.training.host_buffers import HostBuffers

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]


def test_a_copy_from_a_gpu_is_of_this_moment():
    device = torch.device("cuda")
    buffers = HostBuffers(device)
    source = {"weight": torch.ones(2**26, device=device), "step": torch.tensor(1.0)}
    buffers.reservation("a", source)()
    for number in range(1, 4):
        copied = buffers.copy("a", source)
        source["weight"] += 1  # on the same stream, behind the copy
        source["step"] += 1
        buffers.wait()
        assert copied["weight"].is_pinned()
        assert copied["weight"].device.type == "cpu"
        assert bool((copied["weight"] == number).all())
        assert copied["step"].item() == number


def test_nothing_waits_for_a_copy():
    device = torch.device("cuda")
    buffers, source = HostBuffers(device), {"weight": torch.ones(2**20, device=device)}
    buffers.copy("a", source)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        buffers.copy("a", source)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    buffers.wait()
