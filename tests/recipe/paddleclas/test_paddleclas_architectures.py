"""The models of whole configs as peers, field by field, and what is said of them."""

import copy
import re
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from data_configs import CONFIGS
from hypothesis import given
from hypothesis import strategies as st

from mutual.models import create_model
from mutual.recipe import PeerSpec, RecipeError, check_section
from mutual.recipe.paddleclas.architectures import convert_models
from mutual.recipe.paddleclas.conversion import _read_as_theirs
from mutual.recipe.paddleclas.section import Notes, Section

BATCHNORM = ("*.bn",)
PLAIN = {"name": "PPLCNet_x0_25", "class_num": 10}


def converted(arch, settings=None):
    """The models of a section Arch by name, and the notes."""
    notes = Notes()
    sections = Section(copy.deepcopy(arch), "Arch", notes), Section(settings or {}, "Global", notes)
    models = convert_models(*sections)
    for section in sections:
        section.name_untaken()
    for model in models:
        check_section(PeerSpec, model.document)
    return {model.name: model for model in models}, notes


def config_of(name):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    return converted(config["Arch"], {"pretrained_model": config["Global"]["pretrained_model"]})


def distilled(*models, **entries):
    """Two models or more, called A, B, ..., and other entries of Arch."""
    return converted(
        {"name": "DistillationModel", "models": [{name: model} for name, model in zip("ABCD", models, strict=False)], **entries}
    )


def fault_of(arch, settings=None):
    with pytest.raises(RecipeError) as caught:
        converted(arch, settings)
    (line,) = str(caught.value).splitlines()
    return line


def said(lines, start):
    """Those lines that begin so, without it."""
    return [line.removeprefix(f"{start}: ") for line in lines if line.startswith(f"{start}: ")]


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


@pytest.mark.parametrize(
    ("pretrained", "weights"),
    [
        (False, None),
        (None, None),
        (True, "pretrained"),
        ("output/PPLCNet/best_model", {"file": "output/PPLCNet/best_model.pdparams", "head": "auto"}),
        ("a.v2/best.pdparams", {"file": "a.v2/best.pdparams", "head": "auto"}),
        ("mine.safetensors", {"file": "mine.safetensors", "head": "auto"}),
        ("https://example.org/files/mine.pdparams", {"file": "mine.pdparams", "head": "auto"}),
    ],
)
def test_pretrained_names_weights(pretrained, weights):
    """Theirs passes over a classifier of another width, with a warning."""
    models, _ = converted({**PLAIN, "pretrained": pretrained})
    assert models["model"].document.get("weights") == weights


def test_distilled_weights_are_an_argument_of_ours():
    models, _ = converted({**PLAIN, "pretrained": True, "use_ssld": True})
    assert models["model"].document["args"] == {"use_ssld": True}


def test_a_file_for_the_whole_is_divided_by_the_models_names():
    models, notes = converted(
        {"name": "DistillationModel", "models": [{"A": {**PLAIN, "pretrained": True}}, {"B": PLAIN}]}, {"pretrained_model": "output/latest"}
    )
    assert {name: model.document["weights"] for name, model in models.items()} == {
        name: {"file": "output/latest.pdparams", "prefix": f"{name}.", "head": "auto"} for name in "AB"
    }
    assert said(notes.remarks, "Arch.models.0.A.pretrained") == ["output/latest.pdparams is loaded behind it, and replaces it"]


@pytest.mark.parametrize(
    ("frozen", "size", "mean", "read"),
    [
        (True, 224, 0.485, None),
        (True, 32, 0.485, {"size": 32}),
        (True, [80, 160], 0.485, {"size": [80, 160]}),
        (False, 32, 0.485, None),  # it reads the data's size by itself
        (False, 32, 0.5, {"mean": [0.5, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}),
    ],
)
def test_published_weights_read_the_images_of_the_config(frozen, size, mean, read):
    """Theirs resizes nothing for a teacher, and normalises all alike; ours would read what weights were made for."""
    data = {"image_size": size, "normalize": {"mean": [mean, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}
    peers = [{"model": name, "weights": "pretrained", **({"frozen": True} if frozen else {})} for name in ("pplcnet_x1_0", "timm/dpn68")]
    for peer in peers:
        _read_as_theirs(peer, data)
    assert [peer.get("input") for peer in peers] == [read, None]
    peer = {"model": "pplcnet_x1_0", "weights": "own.pdparams", "frozen": True}
    _read_as_theirs(peer, data)
    assert "input" not in peer


def test_what_a_distillation_model_passes_over_is_remarked():
    arch = {"name": "DistillationModel", "use_ssld": True, "pretrained": True, "use_sync_bn": True, "models": [{"A": PLAIN}, {"B": PLAIN}]}
    models, notes = converted(arch)
    assert all("weights" not in model.document and model.synchronized for model in models.values())
    assert notes.left_out == []
    assert [line.split(":")[0] for line in notes.remarks if "a DistillationModel passes it over" in line] == [
        "Arch.use_ssld",
        "Arch.pretrained",
    ]


def test_scales_of_a_convnext_are_arguments_of_timms():
    models, notes = converted({"name": "ConvNeXt_tiny", "layer_scale_init_value": "1e-6", "head_init_scale": 1.0, "drop_path_rate": 0.1})
    assert models["model"].document["args"] == {"ls_init_value": 1e-6, "head_init_scale": 1.0, "drop_path_rate": 0.1}
    assert notes.left_out == []


def test_weights_of_theirs_do_not_fit_a_model_of_timms():
    models, notes = converted({"name": "DPN68", "pretrained": "output/best"})
    assert "weights" not in models["model"].document
    assert notes.left_out == [
        "Arch.pretrained: 'output/best.pdparams': weights of PaddleClas do not fit timm/dpn68; it begins with initial weights"
    ]
    models, notes = converted({"name": "DPN68", "pretrained": "mine.pth"})
    assert (models["model"].document["weights"], notes.left_out) == ({"file": "mine.pth", "head": "auto"}, [])


def test_an_architecture_that_arguments_make_has_no_weights():
    models, notes = converted({"name": "DenseNet264", "pretrained": True})
    assert models["model"].document == {"model": "timm/densenet121", "args": {"block_config": [6, 12, 64, 48]}}
    assert notes.left_out == ["Arch.pretrained: true: there are no weights that fit timm/densenet121; it begins with initial weights"]


@pytest.mark.parametrize(
    ("teacher", "why"),
    [
        ({"name": "Res2Net200_vd_26w_4s", "pretrained": True, "use_ssld": True}, "there are no weights that fit timm/res2net101d"),
        ({"name": "DPN68", "pretrained": "output/best"}, "weights of PaddleClas do not fit timm/dpn68"),
    ],
)
def test_a_teacher_without_its_weights_is_one_line(teacher, why):
    arch = {"name": "DistillationModel", "models": [{"A": teacher}, {"B": PLAIN}], "freeze_params_list": [True, False]}
    assert fault_of(arch).startswith(f"Arch.models.0.A.pretrained: {why}, and a frozen model has nothing to teach without; give a file")
    arch["models"][0]["A"]["pretrained"] = "mine.pth"
    models, _ = converted(arch)
    assert models["A"].document["weights"] == "mine.pth"


def test_a_teacher_that_names_no_weights_is_as_there():
    models, notes = distilled(PLAIN, PLAIN, freeze_params_list=[True, False])
    assert models["A"].document == {"model": "pplcnet_x0_25", "frozen": True}
    assert "name a file here" in said(notes.remarks, "Arch.models.0.A.pretrained")[0]


def test_an_architecture_that_differs_is_left_out_by_name():
    models, notes = converted({"name": "VGG11", "class_num": 10, "stop_grad_layers": 3})
    assert models["model"].document == {"model": "torchvision/vgg11", "freeze": ["features.0", "features.3", "features.6", "features.8"]}
    (line,) = notes.left_out
    assert line.startswith("Arch.name: 'VGG11': torchvision/vgg11 takes its place, and differs: its convolutions have biases")
    with torch.device("meta"):
        modules = dict(torchvision.models.vgg11().named_modules())
    assert {type(modules[path]) for path in models["model"].document["freeze"]} == {torch.nn.Conv2d}


def test_arguments_that_are_defaults_say_nothing():
    defaults = {"stride_list": [2] * 5, "dropout_prob": 0.2, "class_expand": 1280, "use_last_conv": True, "act": "hardswish"}
    models, notes = converted({**PLAIN, **defaults, "lr_mult_list": [1.0] * 6, "return_stages": False})
    assert (models["model"].document, models["model"].lr_scales, notes.left_out) == ({"model": "pplcnet_x0_25"}, (), [])
    defaults = {"max_pool": True, "use_first_short_conv": True, "stem_act": "relu", "layer_type": "ConvBNLayer", "data_format": "NCHW"}
    models, notes = converted({"name": "ResNet18", **defaults, "stride_list": [2] * 5, "lr_mult_list": [1.0] * 5})
    assert (models["model"].document, notes.left_out, notes.remarks) == ({"model": "paddleclas/ResNet18"}, [], [])


def test_what_no_model_here_takes_is_left_out():
    _, notes = converted({**PLAIN, "use_last_conv": False, "act": "relu", "use_ml_decoder": True})
    assert sorted(notes.left_out) == [
        "Arch.act: 'relu': there is 'hardswish' alone here",
        "Arch.use_last_conv: false: there is true alone here",
        "Arch.use_ml_decoder: true: has no counterpart",
    ]


def test_null_is_a_value_where_theirs_takes_it_as_one():
    models, notes = converted({"name": "MobileNetV3_small_x0_35", "dropout_prob": None})
    assert (models["model"].document["args"], notes.remarks) == ({"dropout_prob": 0.0}, [])
    models, notes = converted({"name": "ResNet18", "stem_act": None})
    assert (models["model"].document["args"], notes.left_out) == ({"stem_act": None}, [])


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


def test_strides_may_differ_by_direction():
    strides = [2, [2, 1], [2, 1], [2, 1], [2, 1]]
    models, _ = converted({**PLAIN, "stride_list": strides})
    model = create_model("pplcnet_x0_25", num_classes=10, **models["model"].document["args"])
    assert model.blocks5(torch.zeros(1, 32, 8, 8)).shape[2:] == (4, 8)


def test_a_resnets_odd_number_of_rates_is_ignored_as_there():
    models, notes = converted({"name": "ResNet50", "lr_mult_list": [0.1, 1.0]})
    assert models["model"].lr_scales == ()
    assert said(notes.remarks, "Arch.lr_mult_list") == ["2 factors for 5 parts are ignored in PaddleClas, too"]


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152, 200])
def test_the_stages_of_a_resnet_are_all_its_blocks(depth):
    models, _ = converted({"name": f"ResNet{depth}_vd", "lr_mult_list": [0.1, 0.2, 0.3, 0.4, 0.5], "return_stages": True})
    stem, *stages = (group["modules"] for group in models["model"].lr_scales)
    number = {18: 8, 34: 16, 50: 16, 101: 33, 152: 50, 200: 66}[depth]
    assert (stem, [path for stage in stages for path in stage]) == (["stem"], [f"blocks.{index}" for index in range(number)])
    assert list(models["model"].outputs.values()) == ["logits", *(stage[-1] for stage in stages)]


def test_patterns_come_before_stages():
    models, _ = converted({**PLAIN, "return_patterns": "blocks4", "return_stages": True})
    assert list(models["model"].outputs) == ["logits", "blocks4"]


def test_the_smallest_large_mobilenet_v3_has_the_small_ones_stages():
    outputs = {}
    for name in ("large_x0_35", "large_x0_5"):
        models, _ = converted({"name": f"MobileNetV3_{name}", "return_stages": True})
        outputs[name] = [key for key in models["model"].outputs if key != "logits"]
    assert [len(keys) for keys in outputs.values()] == [4, 5]


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


def test_each_output_is_a_module_of_the_model():
    for name, layers in (("PPLCNet_x0_25", ["conv1", "blocks6[1].pw_conv", "avg_pool", "last_conv", "act", "flatten", "fc"]),):
        models, _ = converted({"name": name, "return_patterns": layers})
        model = create_model(models["model"].document["model"], num_classes=10)
        for path in list(models["model"].outputs.values())[1:]:
            model.get_submodule(path.removesuffix(":input"))


def test_the_test_set_is_all_here():
    text = Path(__file__).read_text()
    assert {path.stem for path in CONFIGS.glob("arch_*.yaml")} == set(re.findall(r'"(arch_\w+)"', text))
