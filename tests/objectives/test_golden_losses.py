"""Every loss agrees with the reference implementation, in value and in gradient."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mutual.objectives import build_loss

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = {case["name"]: case for case in json.loads((GOLDEN / "index.json").read_text())}
RENAMED = {"act": None}  # the reference's arguments that say what is always so here
TRAINED = ("mgd", "pefd", "afd")
ADAPTER_NAMES = [  # the reference's names of an adapter's weights, and ours
    (r"^param\.", ""),
    (r"projectors\.(\d)\.conv", r"projectors.\1"),
    (r"teacher_transform\.query_layer", "query"),
    (r"student_transform\.key_layer", "key"),
    (r"student_transform\.bilinear", "bilinear"),
    (r"attention\.attention\.p_t", "place_T"),
    (r"attention\.attention\.p_s", "place_S"),
    (r"\._mean$", ".running_mean"),
    (r"\._variance$", ".running_var"),
]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def tolerances(name: str) -> tuple[float, float]:
    """Relative tolerance of the value and of the gradient, as the golden numbers' own precision allows."""
    if name == "dml_4x1000":  # the reference adds 1e-12 inside its logarithms, which caps saturated terms
        return 1e-4, 1e-3
    return (1e-4, 1e-4) if name.endswith("1000") or name.startswith("rkd_distance") else (1e-5, 1e-5)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["loss"] not in TRAINED])
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


def outputs_of(tensors, end):
    """The outputs of one end in a case's arrays: one tensor, or a list of layers."""
    layers = [tensors[key] for key in sorted(tensors) if key.startswith(f"{end}.")]
    return layers or tensors[end]


def adapter_state(tensors):
    """The reference's weights under our names; its linear layers are `[in, out]`."""
    state = {}
    for name, value in tensors.items():
        if name.startswith("param."):
            linear = value.dim() == 2 and name.endswith("weight")
            for pattern, ours in ADAPTER_NAMES:
                name = re.sub(pattern, ours, name)
            state[name] = value.T if linear else value
    return state


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["loss"] in TRAINED])
def test_losses_with_adapters_agree_with_the_reference(name, monkeypatch):
    case, arrays = CASES[name], np.load(GOLDEN / f"{name}.npz")
    tensors = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    student, teacher = outputs_of(tensors, "student"), outputs_of(tensors, "teacher")
    leaves = student if isinstance(student, list) else [student]
    shapes = [[each.shape[1:] for each in end] if isinstance(end, list) else end.shape[1:] for end in (student, teacher)]
    loss = build_loss(case["loss"], learner_shape=shapes[0], source_shape=shapes[1], **case["kwargs"])
    assert set(adapter_state(tensors)) == {key for key in loss.adapter.state_dict() if not key.endswith("num_batches_tracked")}
    loss.adapter.load_state_dict(adapter_state(tensors), strict=False)
    if "uniform" in tensors:
        monkeypatch.setattr(torch, "rand", lambda *shape, device: tensors["uniform"])
    for leaf in leaves:
        leaf.requires_grad_()

    value = loss(student, teacher)
    value.backward()

    assert value.item() == pytest.approx(float(arrays["loss"]), rel=1e-5)
    expected = outputs_of(tensors, "grad_student")
    for leaf, gradient in zip(leaves, expected if isinstance(expected, list) else [expected], strict=True):
        assert relative(leaf.grad, gradient) < 1e-5


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["loss"] in ("dml", "l1", "l2", "smooth_l1")])
def test_a_symmetric_loss_is_two_directed_edges(name):
    """The reference lets its gradient flow into both ends; the mirrored edge gives the other end's."""
    case, arrays = CASES[name], np.load(GOLDEN / f"{name}.npz")
    loss = build_loss(case["loss"])
    teacher = torch.from_numpy(arrays["teacher"]).requires_grad_()
    loss(teacher, torch.from_numpy(arrays["student"])).backward()
    assert relative(teacher.grad, torch.from_numpy(arrays["grad_teacher"])) < tolerances(name)[1]
