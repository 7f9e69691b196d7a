"""Configs with each form of model, trained for two updates as they are, but for their weights and the images' size."""

import pytest
from data_configs import CONFIGS, write_images

import mutual
from mutual.recipe import load_recipe
from mutual.recipe.paddleclas.factory_arguments import module_path
from mutual.recipe.paddleclas.zoo_names import find_counterpart

WITH_WEIGHTS = {
    "arch_attention": ("Teacher",),
    "arch_mobilenet_v3_plain": ("model",),
    "arch_pplcnet_scales": (),
    "arch_recognition_classifier": ("model",),
    "arch_resnet_vd_rates": ("Teacher",),
    "arch_timm_teacher": ("Teacher", "Student"),
}


@pytest.fixture
def config(request, tmp_path, monkeypatch):
    """The config's file, in a folder with the images that it names."""
    root = tmp_path / "dataset" / "flowers"
    lines = write_images(root, [index % 4 for index in range(8)])
    for name in ("train", "eval"):
        (root / f"{name}.txt").write_text(lines)
    file = tmp_path / f"{request.param}.yaml"
    file.write_text((CONFIGS / file.name).read_text().replace("size: 64", "size: 32").replace("resize_short: 72", "resize_short: 36"))
    monkeypatch.chdir(tmp_path)
    return file


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("ResNet18", ["stem", "stem[0].conv", "max_pool", "blocks[7].conv1.bn", "blocks[0].short", "avg_pool", "flatten", "fc"]),
        ("ResNet50_vd", ["stem[2].bn", "blocks[15].conv2", "avg_pool"]),
        (
            "MobileNetV3_small_x0_35",
            ["conv", "blocks[10].mid_se.conv1", "last_second_conv", "avg_pool", "last_conv", "hardswish", "flatten"],
        ),
    ],
)
def test_what_they_call_a_layer_is_a_module_here(name, layers):
    model = mutual.create_model(find_counterpart(name).model, num_classes=10)
    for layer in layers:
        model.get_submodule(module_path(layer, {}))


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
@pytest.mark.filterwarnings("ignore:.*has modules of other names")
@pytest.mark.parametrize("config", WITH_WEIGHTS, indirect=True)
def test_a_config_trains(config):
    overrides = [
        "Global.epochs=1",
        "DataLoader.Train.sampler.batch_size=4",
        "DataLoader.Train.loader.num_workers=0",
        "train.progress=false",
        "train.pictures=false",
    ]
    overrides += [f"peers.{name}.weights=null" for name in WITH_WEIGHTS[config.stem]]
    overrides += ["peers.model.args.use_ssld=false"] if "plain" in config.stem else []
    recipe = load_recipe(config, overrides)
    result = mutual.fit(recipe)
    assert {path.stem for path in (result.folder / "last").iterdir()} == set(recipe.trainable)
