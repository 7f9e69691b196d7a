"""The table of architectures: each builds, has as many parameters as PaddleClas', and the patterns of its parameters are there."""

import json
from fnmatch import fnmatchcase
from pathlib import Path
from unittest import mock

import pytest
import timm
import torch
from torch import nn

from mutual.models import create_model
from mutual.recipe.paddleclas.zoo_names import COUNTERPARTS, find_counterpart

NUM_PARAMETERS = json.loads((Path(__file__).parent / "num_parameters.json").read_text())
"""Of models of PaddleClas 2.6 with 1,000 classes, counted with Paddle 3.3, without BatchNorm's statistics."""
OF_LIBRARIES = {name: counterpart for name, counterpart in COUNTERPARTS.items() if counterpart.library}
_KNOWN = sorted(OF_LIBRARIES.keys() & NUM_PARAMETERS.keys())
MEASURED = [
    name for index, name in enumerate(_KNOWN) if index % 6 == 0 or not OF_LIBRARIES[name].has_weights or OF_LIBRARIES[name].undecayed
]
"""A part of them, which takes seconds."""
IS_NEWEST = tuple(map(int, timm.__version__.split(".")[:3])) >= (1, 0, 31)


def in_timm(counterpart):
    """Whether the installed timm, which may be an old one, has the architecture."""
    return counterpart.library != "timm" or timm.is_model(counterpart.model.removeprefix("timm/"))


INITIALISERS = [name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")]


def built(counterpart):
    """The model without its values, but where its initialisation reads some."""
    try:
        with torch.device("meta"), mock.patch.multiple(nn.init, **dict.fromkeys(INITIALISERS, lambda tensor, *_, **__: tensor)):
            return create_unchecked(counterpart)
    except NotImplementedError:
        return create_unchecked(counterpart)


def create_unchecked(counterpart):
    """The model on the current device, also on the meta device, where create_model refuses it."""
    import torchvision

    library, _, name = counterpart.model.partition("/")
    create = timm.create_model if library == "timm" else torchvision.models.get_model
    return create(name, num_classes=1000, **counterpart.args)


def test_timm_and_torchvision_have_every_name():
    import torchvision

    known = {f"torchvision/{name}" for name in torchvision.models.list_models(module=torchvision.models)}
    known |= {f"timm/{name}" for name in timm.list_models()}
    missing = {counterpart.model for counterpart in OF_LIBRARIES.values()} - known
    assert not missing or not IS_NEWEST, "a name is timm's or torchvision's"
    assert len(missing) < 40, "an old timm has most of them"


def test_weights_are_where_the_table_says():
    for name, counterpart in OF_LIBRARIES.items():
        if IS_NEWEST and counterpart.library == "timm" and counterpart.has_weights:
            assert timm.is_model_pretrained(counterpart.model.removeprefix("timm/")), name


@pytest.mark.slow
def test_the_parameters_are_as_many_as_theirs():
    different = {}
    for name in MEASURED:
        counterpart = OF_LIBRARIES[name]
        if not in_timm(counterpart):
            continue
        model = built(counterpart)
        number = sum(parameter.numel() for parameter in model.parameters())
        if number != NUM_PARAMETERS[name]:
            different[name] = number
        for pattern in counterpart.undecayed:
            assert any(fits(path, pattern) for path, _ in model.named_parameters()), (name, pattern)
    assert all(OF_LIBRARIES[name].difference for name in different), "what differs says so"


def fits(path, pattern):
    parts = path.split(".")
    return any(fnmatchcase(".".join(parts[:length]), pattern) for length in range(1, len(parts) + 1))


@pytest.mark.parametrize("name", ["PPHGNet_tiny", "PPHGNetV2_B0", "MobileNetV4_conv_small", "PPLCNet_x0_25", "GhostNet_x1_0", "ResNeSt50"])
def test_the_undecayed_are_the_parameters_of_batchnorm(name):
    counterpart = find_counterpart(name)
    if not in_timm(counterpart):
        pytest.skip("timm is too old")
    model = built(counterpart) if counterpart.library else create_model(counterpart.model, num_classes=10)
    norms = {
        f"{path}.{kind}" for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d) for kind in ("weight", "bias")
    }
    found = {path for path, _ in model.named_parameters() if any(fits(path, pattern) for pattern in counterpart.undecayed)}
    assert found == norms


@pytest.mark.parametrize("name", ["MobileNetV1", "EfficientNetB0", "MobileNetV2", "ShuffleNetV2_x0_5", "LeViT_128S", "SE_ResNet50_vd"])
def test_a_recipes_model_is_built_with_the_arguments(name):
    counterpart = find_counterpart(name)
    model = create_model(counterpart.model, num_classes=3, **counterpart.args).eval()
    assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 3)


def test_a_name_of_a_librarys_stands_for_itself():
    assert find_counterpart("timm/dpn68").model == "timm/dpn68"
    assert find_counterpart("torchvision/resnet18").library == "torchvision"


def test_theirs_have_their_names_here():
    assert find_counterpart("ResNet200_vd").model == "paddleclas/ResNet200_vd"
    assert find_counterpart("MobileNetV3_large_x1_25").model == "paddleclas/MobileNetV3_large_x1_25"
    assert find_counterpart("PPLCNet_x2_5").model == "pplcnet_x2_5"
    assert not any(find_counterpart(name).library for name in ("ResNet18", "PPLCNet_x0_35", "MobileNetV3_small_x0_75"))


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'ResNet50'"):
        find_counterpart("ResNet_50")
