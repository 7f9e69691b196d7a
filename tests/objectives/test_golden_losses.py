"""Every loss agrees with the reference implementation, in value and in gradient."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mutual.objectives import build_loss

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = {case["name"]: case for case in json.loads((GOLDEN / "index.json").read_text())}
RENAMED = {"act": None}  # the reference's arguments that say what is always so here


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def tolerances(name: str) -> tuple[float, float]:
    """Relative tolerance of the value and of the gradient, as the golden numbers' own precision allows."""
    if name == "dml_4x1000":  # the reference adds 1e-12 inside its logarithms, which caps saturated terms
        return 1e-4, 1e-3
    return (1e-4, 1e-4) if name.endswith("1000") or name.startswith("rkd_distance") else (1e-5, 1e-5)


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_agree_with_the_reference(name):
    case, arrays = CASES[name], np.load(GOLDEN / f"{name}.npz")
    arguments = {key: value for key, value in case["kwargs"].items() if key not in RENAMED}
    loss = build_loss(case["loss"], **arguments)
    tensors = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    student = tensors["student"].requires_grad_()

    value = loss(student, tensors.get("teacher"), tensors.get("labels"))
    value.backward()

    value_tolerance, gradient_tolerance = tolerances(name)
    assert value.item() == pytest.approx(float(arrays["loss"]), rel=value_tolerance)
    assert relative(student.grad, tensors["grad_student"]) < gradient_tolerance


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["loss"] in ("dml", "l1", "l2", "smooth_l1")])
def test_a_symmetric_loss_is_two_directed_edges(name):
    """The reference lets its gradient flow into both ends; the mirrored edge gives the other end's."""
    case, arrays = CASES[name], np.load(GOLDEN / f"{name}.npz")
    loss = build_loss(case["loss"])
    teacher = torch.from_numpy(arrays["teacher"]).requires_grad_()
    loss(teacher, torch.from_numpy(arrays["student"])).backward()
    assert relative(teacher.grad, torch.from_numpy(arrays["grad_teacher"])) < tolerances(name)[1]
