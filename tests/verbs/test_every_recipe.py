"""Each recipe of ours builds and trains."""

import json

import pytest
import timm
import torch
from support import ROOT

import mutual

RECIPES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").rglob("*.yaml"))
NARROW = {"channels": [128] * 4}
SMALLER = {
    "timm/coatnet_2_rw_224": {"depths": [1, 1, 1, 1], "embed_dim": [32, 32, 32, 32], "img_size": 32},
    "timm/resnetv2_50x1_bit": NARROW,
    "timm/resnetv2_152x2_bit.goog_teacher_in21k_ft_in1k": NARROW,
    "timm/vit_small_patch16_224.dino": {"depth": 1, "img_size": 32},
}
"""Arguments of the large models of recipes with which they have the same kinds of layers, but fewer or narrower ones."""


@pytest.mark.skipif(not hasattr(timm.layers, "calculate_drop_path_rates"), reason="an older timm reads numbers of what it builds")
@pytest.mark.parametrize("path", [path for path in RECIPES if any(name in (ROOT / path).read_text() for name in SMALLER)])
def test_large_models_of_recipes_take_images_of_their_recipes_size(path):
    """At their real size, and without a number computed."""
    recipe = mutual.load_recipe(ROOT / path)
    size = recipe.data.height_width
    for peer in (peer for peer in recipe.peers.values() if peer.model in SMALLER):
        with torch.device("meta"):
            model = timm.create_model(peer.model.removeprefix("timm/"), num_classes=7, **peer.args)
            assert model(torch.empty(2, 3, *size)).shape == (2, 7)


@pytest.mark.parametrize("path", RECIPES)
def test_every_recipe_builds_and_trains(path, tmp_path):
    """Each recipe as it is, but for one update, on small made-up images and without its teacher's weights.

    In full precision, as CPUs are slow at others, and the largest models with fewer or narrower layers.
    """
    recipe = mutual.load_recipe(ROOT / path)
    data = {
        "dataset": "fake",
        "num_train": 4,
        "num_val": 4,
        "image_size": min(recipe.data.height_width[0], 32),
        "channels": 1 if recipe.data.dataset in ("digits", "mnist", "fashion_mnist") else 3,
        "batch_size": 4,
        "num_classes": 1000 if "imagenet" in path else recipe.data.num_classes or 10,
        "multi_label": recipe.data.multi_label,
    }
    overrides = [f"output={tmp_path}", f"data={json.dumps(data)}", "train.epochs=1", "train.pictures=false", "train.precision=null"]
    overrides += [f"peers.{name}.weights=null" for name, peer in recipe.peers.items() if peer.weights]
    overrides += [
        f"peers.{name}.args={json.dumps({**peer.args, **SMALLER[peer.model]})}"
        for name, peer in recipe.peers.items()
        if peer.model in SMALLER
    ]
    if recipe.exchange.kind == "stale":
        overrides += [f"exchange.folder={tmp_path}", f"exchange.trains={json.dumps(list(recipe.trainable))}"]
    result = mutual.fit(mutual.load_recipe(ROOT / path, overrides))
    assert set(result.metrics) >= set(recipe.classifiers)
    lines = (ROOT / path).read_text().splitlines()
    assert lines[0].startswith("# yaml-language-server: $schema=")
    assert len(lines) < 40
