"""Configs of PaddleClas whose DataLoader is converted by itself."""

import copy
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from mutual.recipe import Data, check_section
from mutual.recipe.paddleclas.architectures import Model
from mutual.recipe.paddleclas.data import convert_data
from mutual.recipe.paddleclas.section import Notes, Section

CONFIGS = Path(__file__).parent / "configs"
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def write_images(folder, labels, *, name="", between=" "):
    """Writes small images of noise into `folder`, one for each label, and returns the lines of a list of them."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, label in enumerate(labels):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}{index}.png")
        lines.append(f"{name}{index}.png{between}{label}\n")
    return "".join(lines)


def config_of(name):
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def converted(config):
    """The data of a config, which a recipe takes, and the notes."""
    notes = Notes()
    config = copy.deepcopy(config)
    loaders, settings = Section(config["DataLoader"], "DataLoader", notes), Section(config["Global"], "Global", notes)
    models = [Model(name, {}, config["Arch"]["class_num"]) for name in ("Teacher", "Student")]
    data = convert_data(loaders, settings, models)
    loaders.name_untaken()
    check_section(Data, data)
    return data, notes


def with_transforms(*train, evaluation=None, **dataset):
    """A config of a list of images with these transforms."""
    config = config_of("data_heavy")
    parts = config["DataLoader"]["Train"]["dataset"], config["DataLoader"]["Eval"]["dataset"]
    parts[0].pop("batch_transform_ops")
    parts[0]["transform_ops"] = list(train)
    parts[0].update(dataset)
    if evaluation is not None:
        parts[1]["transform_ops"] = list(evaluation)
    return config


def augment_of(*transforms):
    """What transforms become that stand before a crop to 192, and what there is to say of them."""
    data, notes = converted(with_transforms(*transforms, {"CropImage": {"size": 192}}, "NormalizeImage"))
    assert data["augment"][-1] == "center_crop"
    return data["augment"][:-1], notes


def paths_of(lines):
    return [line.split(": ")[0].removeprefix("DataLoader.") for line in lines]


def changed(path, value, name="data_heavy"):
    """A config with another value at a path of its DataLoader; None: without it."""
    config = config_of(name)
    *parents, last = path.split(".")
    node = config["DataLoader"]
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return config
