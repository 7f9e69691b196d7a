"""Two ranks on two GPUs, over NCCL."""

import pytest
import torch
from support import run_launched

TWO = pytest.mark.skipif(torch.cuda.is_available() and torch.cuda.device_count() < 2, reason="needs two GPUs")
pytestmark = [TWO, pytest.mark.cuda_only]


def test_collectives_over_nccl():
    done = run_launched("gpu_rank_checks", processes=2, PYTHONPATH=_path())
    assert "rank checks hold" in done.stdout


def test_parallel_equals_replicated_over_nccl(tmp_path):
    """Every case of tests/placement_checks.py: what travels between GPUs, in float64."""
    done = run_launched("placement_checks", 2, tmp_path, processes=2)
    assert done.stdout.count("equal: ") >= 9


def _path():
    import os
    from pathlib import Path

    here = Path(__file__).parent
    return os.pathsep.join(map(str, (here, here.parent, here.parents[1])))
