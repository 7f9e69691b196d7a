"""Tests that need a GPU, all of them marked `gpu`; elsewhere they are skipped. `launch/gpu_check.sh` runs them.

MUTUAL_GPU_TESTS_ON=cpu runs on a CPU those that a CPU can run, to try the tests themselves.
"""

import os
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "objectives"))  # `example` of test_losses
IS_AVAILABLE = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if IS_AVAILABLE else torch.device("cpu")
if IS_AVAILABLE:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts; deterministic runs need it
IS_TRIED = not IS_AVAILABLE and os.environ.get("MUTUAL_GPU_TESTS_ON") == "cpu"


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.gpu)
        if not IS_AVAILABLE and not IS_TRIED:
            item.add_marker(pytest.mark.skip(reason="needs a GPU: torch.cuda.is_available() is false"))
        elif not IS_AVAILABLE and item.get_closest_marker("cuda_only"):
            item.add_marker(pytest.mark.skip(reason="measures what only CUDA has"))


@pytest.fixture
def device():
    """The first GPU."""
    return DEVICE


@pytest.fixture(autouse=True)
def full_float32():
    """Products and convolutions in float32 and not in TF32, as CPUs compute them; all switches are put back."""
    switches = {torch.backends.cuda.matmul: False, torch.backends.cudnn: False}
    before = {backend: backend.allow_tf32 for backend in switches}
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    for backend, value in switches.items():
        backend.allow_tf32 = value
    yield
    for backend, value in before.items():
        backend.allow_tf32 = value
    torch.use_deterministic_algorithms(is_deterministic)
