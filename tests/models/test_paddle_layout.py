"""Paddle's names and layouts become torch's, and back; models take what they need of its files."""

import pytest
import torch
from paddle_files import formula_state, paddle_shapes, write_pdparams
from torch import nn

from mutual.models import create_model, load_weights
from mutual.models.paddleclas.layout import from_paddle, to_paddle


def test_square_linear_weights_are_transposed_by_their_kind():
    model = nn.Sequential(nn.Linear(3, 3), nn.Conv2d(3, 3, 1), nn.Bilinear(3, 3, 3))
    tensors = {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    found = from_paddle(model, tensors)
    assert torch.equal(found["0.weight"], tensors["0.weight"].T)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items() if name != "0.weight")
    assert from_paddle(model, {"0.weight": torch.zeros(2, 3, 1, 1)})["0.weight"].shape == (2, 3, 1, 1), "its shape is told as it is"
    assert torch.equal(from_paddle(model[0], {"weight": tensors["0.weight"]})["weight"], tensors["0.weight"].T)


@pytest.mark.parametrize("name", ["pplcnet_x0_25", "paddleclas/MobileNetV3_small_x0_35", "paddleclas/ResNet18_vd"])
def test_there_and_back_is_exact(name):
    model = create_model(name, num_classes=7)
    theirs = {key: torch.from_numpy(value) for key, value in formula_state(paddle_shapes(model)).items()}
    renamed = {key.replace("._mean", ".running_mean").replace("._variance", ".running_var"): value for key, value in theirs.items()}
    back = to_paddle(model, from_paddle(model, renamed))
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[key], theirs[key]) for key in theirs)


def test_a_dropout_of_everything_or_nothing_scales_nothing():
    for dropout in (0.0, 1.0):
        model = create_model("pplcnet_x0_25", num_classes=2, dropout=dropout)
        state = model.state_dict()
        assert torch.equal(from_paddle(model, state)["fc.weight"], state["fc.weight"].T)
        assert from_paddle(model, state)["fc.weight"].dtype == torch.float32


def test_the_student_of_a_distillation(tmp_path):
    student, teacher = (create_model(name, num_classes=3) for name in ("pplcnet_x0_25", "pplcnet_x0_35"))
    states = {"Student.": formula_state(paddle_shapes(student)), "Teacher.": formula_state(paddle_shapes(teacher))}
    path = write_pdparams(
        tmp_path / "both.pdparams", {prefix + key: value for prefix, state in states.items() for key, value in state.items()}
    )
    load_weights(student, path, prefix="Student.")
    assert torch.equal(student.blocks6[1].dw_conv.bn.running_var, torch.from_numpy(states["Student."]["blocks6.1.dw_conv.bn._variance"]))
    with pytest.raises(ValueError, match=r"blocks2.0.dw_conv|other shapes: conv1|tensors have other shapes"):
        load_weights(create_model("pplcnet_x1_0", num_classes=3), path, prefix="Student.")
    load_weights(teacher, path)  # by its shapes
    assert torch.equal(teacher.fc.bias, torch.from_numpy(states["Teacher."]["fc.bias"]))
    twins = write_pdparams(
        tmp_path / "twins.pdparams", {prefix + key: value for prefix in states for key, value in states["Student."].items()}
    )
    with pytest.raises(ValueError, match=r"2 prefixes fit equally; say which in `prefix`: 'Student\.', 'Teacher\.'"):
        load_weights(student, twins)


def test_other_classes_and_no_classifier(tmp_path):
    whole = create_model("pplcnet_x0_25", num_classes=5)
    path = write_pdparams(tmp_path / "net.pdparams", formula_state(paddle_shapes(whole)))
    with pytest.raises(ValueError, match="class counts differ: the file has 5, the model 7"):
        create_model("pplcnet_x0_25", num_classes=7, weights=str(path))
    model = create_model("pplcnet_x0_25", num_classes=7)
    assert load_weights(model, path, head="new").initial == ("fc.weight", "fc.bias")
    assert create_model("pplcnet_x0_25", num_classes=0, weights=str(path))(torch.zeros(2, 3, 32, 32)).shape == (2, 1280)
    state = formula_state(paddle_shapes(whole))
    del state["conv1.bn._mean"]
    part = write_pdparams(tmp_path / "part.pdparams", state)
    with pytest.raises(ValueError, match=r"holds another model: 1 missing \(conv1.bn.running_mean\)"):
        load_weights(whole, part)
