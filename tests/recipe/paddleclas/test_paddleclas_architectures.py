"""The models of whole configs as peers, field by field, and what is said of them."""

import re
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from arch_configs import PLAIN, converted, distilled, fault_of, said
from data_configs import CONFIGS
from hypothesis import given
from hypothesis import strategies as st

from mutual.recipe import RecipeError
from mutual.recipe.paddleclas.architectures import convert_models
from mutual.recipe.paddleclas.section import Notes, Section

BATCHNORM = ("*.bn",)


def config_of(name):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    return converted(config["Arch"], {"pretrained_model": config["Global"]["pretrained_model"]})


def test_two_scales_of_pplcnet():
    models, notes = config_of("arch_pplcnet_scales")
    assert list(models) == ["Teacher", "Student"]
    assert models["Teacher"].document == {"model": "pplcnet_x0_5", "args": {"strides": [1, 2, 2, 2, 2]}}
    assert models["Teacher"].outputs == {name: name for name in ("logits", "blocks2", "blocks3", "blocks4", "blocks5", "blocks6")}
    student = models["Student"]
    assert student.document == {"model": "pplcnet_x0_25", "args": {"strides": [1, 2, 2, 2, 2], "dropout": 0.0, "class_expand": 512}}
    paths = {"logits": "logits", "blocks4": "blocks4", "blocks5[2].dw_conv": "blocks5.2.dw_conv", "avg_pool": "last_conv:input"}
    assert student.outputs == paths
    assert {(model.num_classes, model.undecayed, model.lr_scales, model.synchronized) for model in models.values()} == {
        (10, BATCHNORM, (), False)
    }
    assert notes.left_out == []
    assert notes.unneeded == ["Arch.models.1.Student.use_ssld"], "it chooses between published weights, and there are none"
    assert [line.partition(": ")[0] for line in notes.remarks] == ["Arch.infer_model_name", "Arch.models.0.Teacher.dropout_prob"]
    assert "--peer Student" in notes.remarks[0]


def test_a_plain_mobilenet_v3():
    models, notes = config_of("arch_mobilenet_v3_plain")
    (model,) = models.values()
    assert model.name == "model"
    args = {"dropout_prob": 0.1, "use_ssld": True}
    assert model.document == {"model": "paddleclas/MobileNetV3_small_x0_35", "args": args, "weights": "pretrained"}
    assert model.outputs == {"logits": "logits", "blocks[2]": "blocks.2", "blocks[10]": "blocks.10"}
    assert (model.num_classes, model.undecayed) == (10, BATCHNORM)
    assert notes.left_out == []
    assert said(notes.remarks, "Arch.return_stages") == ["there are the stages 0 to 3; [9] are ignored, as there"]
    assert notes.unneeded == ["Arch.infer_add_softmax"]


def test_a_resnet_d_with_rates_of_its_stages():
    models, notes = config_of("arch_resnet_vd_rates")
    assert models["Teacher"].document == {"model": "paddleclas/ResNet34_vd", "weights": "weights/teacher.pdparams", "frozen": True}
    assert models["Teacher"].outputs == {"logits": "logits", "blocks[12]": "blocks.12"}
    student = models["Student"]
    assert student.document == {"model": "paddleclas/ResNet18_vd", "args": {"stride_list": [1, 2, 2, 2, 2]}}
    assert student.outputs == {"logits": "logits", "blocks[5]": "blocks.5"}
    slow = ["blocks.0", "blocks.1", "blocks.2", "blocks.3"]
    assert student.lr_scales == ({"modules": ["stem"], "lr_scale": 0.0}, {"modules": slow, "lr_scale": 0.5})
    assert {model.undecayed for model in models.values()} == {()}
    assert notes.left_out == []
    keys = ["data_format", "freeze_befor", "input_image_channel", "lr_mult_list"]
    assert [key for key in keys if said(notes.remarks, f"Arch.models.1.Student.{key}")] == keys
    assert any("eval mode for good" in line for line in said(notes.remarks, "Arch.models.0.Teacher"))


def test_an_attention_model():
    models, notes = config_of("arch_attention")
    assert {name: model.document for name, model in models.items()} == {
        "Teacher": {"model": "paddleclas/ResNet34", "weights": "weights/teacher.pdparams", "frozen": True},
        "Student": {"model": "paddleclas/ResNet18"},
    }
    teacher, student = (models[name].attention for name in ("Teacher", "Student"))
    assert teacher == {"qk_dim": 16, "paths": ["blocks.2", "blocks.15"]}
    assert student == {"qk_dim": 16, "paths": ["blocks.1", "blocks.3", "blocks.7"]}
    assert notes.left_out == []


def test_a_teacher_of_timms():
    models, notes = config_of("arch_timm_teacher")
    args = {"drop_rate": 0.2, "drop_path_rate": 0.1}
    assert models["Teacher"].document == {"model": "timm/tf_efficientnet_b0", "args": args, "weights": "pretrained", "frozen": True}
    assert models["Student"].document == {"model": "pplcnet_x0_25", "weights": {"file": "weights/student.pdparams", "head": "auto"}}
    scales = {(*group["modules"], group["lr_scale"]) for group in models["Student"].lr_scales}
    assert scales == {("conv1", "blocks2", 0.25), ("blocks3", "blocks4", 0.5), ("blocks5", 0.75)}
    (line,) = notes.left_out
    assert line.startswith("Arch.models.0.Teacher.return_patterns: ['blocks4']: timm/tf_efficientnet_b0 has modules of other names")
    assert any("their weights do not fit it, it takes timm's or your own" in line for line in notes.remarks)


def test_a_recognition_model_that_is_a_classifier():
    models, notes = config_of("arch_recognition_classifier")
    (model,) = models.values()
    weights = {"file": "weights/whole.pdparams", "prefix": "backbone.", "head": "new"}
    assert model.document == {"model": "pplcnet_x0_25", "weights": weights}
    assert model.num_classes == 10
    assert notes.left_out == []


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"Head": {"name": "ArcMargin"}, "Neck": {"name": "FC"}}, "RecModel with FC and ArcMargin learns a metric"),
        ({"Head": {"name": "CircleMargin"}}, "RecModel with CircleMargin learns a metric"),
        ({}, "RecModel with no head learns a metric"),
    ],
)
def test_metric_learning_is_one_line(parts, named):
    line = fault_of({"name": "RecModel", "Backbone": PLAIN, "BackboneStopLayer": {"name": "flatten"}, **parts})
    assert line.startswith(f"Arch.name: {named}")


def test_what_a_distillation_model_passes_over_is_remarked():
    arch = {"name": "DistillationModel", "use_ssld": True, "pretrained": True, "use_sync_bn": True, "models": [{"A": PLAIN}, {"B": PLAIN}]}
    models, notes = converted(arch)
    assert all("weights" not in model.document and model.synchronized for model in models.values())
    assert notes.left_out == []
    assert [line.split(":")[0] for line in notes.remarks if "a DistillationModel passes it over" in line] == [
        "Arch.use_ssld",
        "Arch.pretrained",
    ]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "[1, 2]", "PPLCNet_x0_25", "blocks4"]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(["name", "keys", "Student"]), inner, max_size=3),
    max_leaves=8,
)
KEYS = """\
class_num pretrained use_ssld stride_list lr_mult_list dropout_prob class_expand return_patterns return_stages models pretrained_list
freeze_params_list use_sync_bn stop_grad_layers data_format max_pool drop_rate qk_dim keys Head Backbone infer_model_name freeze_befor"""
NAMES = ["PPLCNet_x0_25", "ResNet18_vd", "MobileNetV3_small_x0_35", "VGG11", "DPN68", "DistillationModel", "AttentionModel", "RecModel"]
ENTRIES = st.dictionaries(st.sampled_from(KEYS.split()), VALUES, max_size=5)


@given(st.sampled_from(NAMES), ENTRIES, st.lists(st.tuples(st.sampled_from([*NAMES[:6], "LinearTransformTeacher"]), ENTRIES), max_size=3))
def test_whatever_is_wrong_is_a_line(name, entries, models):
    arch = {"name": name, **entries}
    if models:
        arch["models"] = [{f"M{index}": {"name": inner, **own}} for index, (inner, own) in enumerate(models)]
    notes = Notes()
    with suppress(RecipeError):
        convert_models(Section(arch, "Arch", notes), Section({}, "Global", notes))


def test_the_number_of_classes_may_stand_with_the_settings():
    models, _ = converted({"name": "ResNet18"}, {"class_num": 7})
    assert models["model"].num_classes == 7
    models, _ = converted({"name": "ResNet18", "class_num": 8}, {"class_num": 7})
    assert models["model"].num_classes == 8


def test_models_of_a_group_have_their_own_number_of_classes():
    models, notes = distilled(PLAIN, {"name": "ResNet18"}, class_num=10)
    assert [model.num_classes for model in models.values()] == [10, 1000]
    assert said(notes.remarks, "Arch.class_num") == ["10 classes there say nothing: each of the models has its own class_num, or 1000"]


def test_statistics_of_all_processes_are_said_of_each_model():
    models, _ = distilled(PLAIN, PLAIN, use_sync_bn=True)
    assert [model.synchronized for model in models.values()] == [True, True]


@pytest.mark.parametrize(
    ("arch", "line"),
    [
        ({}, "Arch.name: is missing; name an architecture, such as PPLCNet_x1_0"),
        (
            {"name": "PPLCNet_x1_1"},
            "Arch.name: 'PPLCNet_x1_1' is no architecture of PaddleClas' zoo; did you mean 'PPLCNet_x1_5' or 'PPLCNet_x1_0'",
        ),
        ({"name": "HarDNet68"}, "Arch.name: 'HarDNet68' of PaddleClas is neither in timm nor in torchvision; name another one of theirs"),
        ({**PLAIN, "class_num": 0}, "Arch.class_num: 0 is no number of classes"),
        ({**PLAIN, "stride_list": [2, 2]}, "Arch.stride_list: [2, 2] is no list of 5"),
        ({**PLAIN, "stride_list": "[2, "}, "Arch.stride_list: '[2, ' is no list"),
        ({**PLAIN, "lr_mult_list": [1, 1, 1, 1, 1, -1]}, "Arch.lr_mult_list: [1, 1, 1, 1, 1, -1] are no factors of a learning rate"),
        ({**PLAIN, "return_patterns": [3]}, "Arch.return_patterns: [3] are no names of layers"),
        ({**PLAIN, "return_stages": "all"}, "Arch.return_stages: 'all' is neither true nor a list of numbers of stages"),
        ({**PLAIN, "pretrained": 3}, "Arch.pretrained: 3 is no path of a weights file"),
        ({"name": "DistillationModel", "models": []}, "Arch.models: is empty; list the models that are trained together"),
        ({"name": "DistillationModel", "models": [{"all": PLAIN}]}, "Arch.models.0.all: 'all' cannot name a peer; take letters"),
        (
            {"name": "DistillationModel", "models": [{"A": PLAIN}, {"A": PLAIN}]},
            "Arch.models.1.A: two models are called 'A'; give each a name of its own",
        ),
        (
            {"name": "DistillationModel", "models": [{"A": PLAIN}], "freeze_params_list": [True, False]},
            "Arch.freeze_params_list: has 2 entries for 1 models; give one for each, or null",
        ),
        (
            {"name": "DistillationModel", "models": [{"A": PLAIN}], "freeze_params_list": ["yes"]},
            "Arch.freeze_params_list: ['yes'] are not all true or false",
        ),
        (
            {"name": "DistillationModel", "models": [{"A": {"name": "RecModel"}}]},
            "Arch.models.0.A.name: RecModel inside a DistillationModel; name an architecture, such as PPLCNet_x1_0",
        ),
        (
            {"name": "AttentionModel", "models": [{"A": PLAIN}, {"B": PLAIN}]},
            "Arch.models: PPLCNet_x0_25 and PPLCNet_x0_25; an AttentionModel here is an architecture, and LinearTransformTeacher or",
        ),
        (
            {
                "name": "AttentionModel",
                "models": [{"A": PLAIN}, {"B": {"name": "LinearTransformStudent", "qk_dim": 8, "keys": ["blocks3"]}}],
            },
            "Arch.models.1.B.keys: 'blocks3' is not among the return_patterns of the architecture before",
        ),
        (
            {"name": "AttentionModel", "models": [{"A": PLAIN}, {"B": {"name": "LinearTransformStudent"}}]},
            "Arch.models.1.B.qk_dim: is missing; it is the width of queries and keys",
        ),
    ],
)
def test_a_mistake_is_one_line_that_says_where(arch, line):
    assert fault_of(arch).startswith(line)


def test_the_test_set_is_all_here():
    text = Path(__file__).read_text()
    assert {path.stem for path in CONFIGS.glob("arch_*.yaml")} == set(re.findall(r'"(arch_\w+)"', text))
