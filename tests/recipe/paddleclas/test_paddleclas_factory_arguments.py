"""What the factories of PaddleClas' architectures are called with: arguments, rates and outputs of the models here."""

import pytest
import torch
import torchvision
from arch_configs import PLAIN, converted, said

from mutual.models import create_model


def test_scales_of_a_convnext_are_arguments_of_timms():
    models, notes = converted({"name": "ConvNeXt_tiny", "layer_scale_init_value": "1e-6", "head_init_scale": 1.0, "drop_path_rate": 0.1})
    assert models["model"].document["args"] == {"ls_init_value": 1e-6, "head_init_scale": 1.0, "drop_path_rate": 0.1}
    assert notes.left_out == []


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


def test_each_output_is_a_module_of_the_model():
    layers = ["conv1", "blocks6[1].pw_conv", "avg_pool", "last_conv", "act", "flatten", "fc"]
    models, _ = converted({**PLAIN, "return_patterns": layers})
    model = create_model(models["model"].document["model"], num_classes=10)
    for path in list(models["model"].outputs.values())[1:]:
        model.get_submodule(path.removesuffix(":input"))
