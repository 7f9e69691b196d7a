"""Transforms: what draws does, and keeps the form; and any image becomes what evaluation reads."""

import pytest
import torch

from mutual.data import build_data, build_preprocess, resolved_preprocess
from mutual.models import read_preprocess
from mutual.recipe import Data


def first_images(**fields):
    data = build_data(Data(dataset="digits", **fields), seed=0)
    return next(data.train_windows(0, world_size=1, shard=(0, 1), accumulate=1)).batches[0].images


ALL_TRANSFORMS = [
    "random_resized_crop",
    {"name": "random_crop", "padding": 3, "padding_mode": "reflect"},
    "horizontal_flip",
    "vertical_flip",
    {"name": "rotation", "degrees": 20},
    "gaussian_blur",
    {"name": "color_jitter", "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1},
    "trivial_augment",
    "rand_augment",
    {"name": "auto_augment", "policy": "cifar10"},
    {"name": "random_erasing", "p": 1.0, "value": "random"},
]


@pytest.mark.parametrize("transform", ALL_TRANSFORMS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_transform_draws_and_keeps_the_form(transform, channels):
    form = {"image_size": 24, "channels": channels, "batch_size": 32}
    images, untouched = first_images(**form, augment=[transform]), first_images(**form)
    assert images.shape == (32, channels, 24, 24)
    assert images.dtype == torch.uint8
    assert not torch.equal(images, untouched)


def test_any_image_is_brought_to_what_evaluation_reads():
    spec = Data(dataset="digits", image_size=12)
    steps = read_preprocess(resolved_preprocess(spec, (12, 12)))
    image = torch.randint(0, 256, (3, 50, 40), dtype=torch.uint8)
    assert build_preprocess(steps, channels=1, image_size=(12, 12))(image).shape == (1, 12, 12)
