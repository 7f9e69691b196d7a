"""What a model reads of pixels is what its library makes of the image."""

import math

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torchvision.transforms import v2

from mutual.models import ModelInput, declared_input

TIMM = {
    "test_resnet.r160_in1k": {},
    "test_vit.r160_in1k": {},
    "mobilenetv3_small_050.lamb_in1k": {},
    "tinynet_e.in1k": {},
    "efficientvit_m0.r224_in1k": {},
    "resnet10t.c3_in1k": {},
    "lcnet_050.ra2_in1k": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    "vit_tiny_patch16_384.augreg_in21k_ft_in1k": {},  # statistics of 0.5, 384 pixels, bicubic, one size only
    "mobilevit_xxs.cvnets_in1k": {},  # pixels in 0 .. 1
    "test_efficientnet.r160_in1k": {"in_chans": 1, "mean": (0.45,), "std": (0.25,)},
}
TORCHVISION = ("mobilenet_v3_small", "shufflenet_v2_x0_5", "efficientnet_b1", "squeezenet1_1")


def picture(size, channels):
    """An image with edges and gradients, as Pillow has it and as pixels."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    shades = [(rows * 3 + columns * 2) % 256, (rows * columns // 7) % 256, np.where((rows // 9 + columns // 13) % 2, 220, 30)]
    array = np.stack(shades, axis=-1).astype(np.uint8)
    image = Image.fromarray(array)
    image = image if channels == 3 else image.convert("L")
    return image, torch.from_numpy(np.array(image)).reshape(*size, channels).permute(2, 0, 1)[None]


def timm_model(name):
    arguments = dict(TIMM[name])
    overlay = {key: arguments.pop(key) for key in ("mean", "std") if key in arguments}
    torch.manual_seed(0)
    return timm.create_model(name, pretrained_cfg_overlay=overlay, num_classes=7, **arguments).eval()


def declared(name, model, channels=3):
    return ModelInput(**declared_input(name, model, {}, pretrained=True, with_weights=True), channels=channels)


@torch.no_grad()
@pytest.mark.parametrize("name", TIMM)
def test_a_timm_models_outputs_are_those_of_its_librarys_own_transform(name):
    """Without resizing to 1e-5. With it Pillow rounds to whole values between its two passes, and cuts off what overshoots: half a value
    on average, up to six where black meets white."""
    model = timm_model(name)
    config = resolve_model_data_config(model)
    found = declared(f"timm/{name}", model, TIMM[name].get("in_chans", 3))
    assert found.size == tuple(config["input_size"][1:])
    image, pixels = picture(found.size, found.channels)
    transform = create_transform(**{**config, "crop_pct": 1.0}, is_training=False)
    torch.testing.assert_close(model(found(pixels)), model(transform(image)[None]), rtol=1e-5, atol=1e-5)
    image, pixels = picture((found.size[0] * 2 + 6, found.size[1] * 2 + 6), found.channels)
    expected = transform(image)[None]
    step = 1 / 255 / min(found.std)  # of a pixel's value
    assert (found(pixels) - expected).abs().max() <= 6 * step
    assert (found(pixels) - expected).abs().mean() <= 0.5 * step


@torch.no_grad()
@pytest.mark.parametrize("name", TORCHVISION)
def test_a_torchvision_models_outputs_are_those_of_its_weights_transforms(name):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, num_classes=7).eval()
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    found = declared(f"torchvision/{name}", model)
    assert found.size == (preset.crop_size[0],) * 2
    _, pixels = picture(found.size, 3)
    preset.resize_size = preset.crop_size  # it leaves an image of this size alone
    torch.testing.assert_close(model(found(pixels)), model(preset(pixels)), rtol=1e-5, atol=1e-5)
    _, pixels = picture((found.size[0] * 2 + 5,) * 2, 3)
    step = 1 / 255 / min(found.std)
    assert (found(pixels) - preset(pixels)).abs().max() <= 0.5 * step + 1e-5, "torchvision rounds to whole values"


def test_a_model_without_weights_says_nothing():
    model = timm_model("resnet10t.c3_in1k")
    assert declared_input("timm/resnet10t", model, {}, pretrained=False, with_weights=False) == {}
    resnet = torchvision.models.resnet18()
    assert declared_input("torchvision/resnet18", resnet, {}, pretrained=False, with_weights=True) == {}, "a file says it, or the recipe"


def test_a_timm_model_of_a_size_of_its_own_reads_that():
    found = declared_input("timm/vit", timm_model("test_vit.r160_in1k"), {"img_size": 96}, pretrained=False, with_weights=True)
    assert found["size"] == (96, 96)


def test_a_factorys_model_says_what_it_reads():
    model = torch.nn.Linear(1, 1)
    model.input = {"size": 48, "mean": [0.5], "std": [0.25]}
    found = declared_input("nets:mine", model, {}, pretrained=False, with_weights=False)
    assert found == {"size": (48, 48), "mean": (0.5,), "std": (0.25,)}
    model.input = {"size": (40, 48), "mean": (0.1, 0.2, 0.3), "channels": 3}
    assert declared_input("nets:mine", model, {}, pretrained=False, with_weights=False) == model.input
    out_of_range = [{"std": [0.0]}, {"mean": ["a"]}, {"mean": [math.nan]}, {"mean": 0.5}, {"size": -3}, {"size": 10**7}, {"size": 16.5}]
    other = [{"colour": 3}, {"channels": 2}, {"interpolation": "lanczos"}, {"mean": (0.1, 0.2)}, {"size": (1, 2, 3)}]
    for wrong in (*other, *out_of_range):
        model.input = wrong
        with pytest.raises(ValueError, match="the attribute `input` of nets:mine is no description of an input"):
            declared_input("nets:mine", model, {}, pretrained=False, with_weights=False)
    model.input = torch.nn.Identity()  # a layer of this name is none
    assert declared_input("nets:mine", model, {}, pretrained=False, with_weights=False) == {}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_channels_are_brought_to_the_models(dtype):
    pixels = torch.randint(0, 256, (2, 3, 5, 4), generator=torch.Generator().manual_seed(0)).to(dtype)
    grey = ModelInput((5, 4), (0.0,), (1 / 255,), channels=1)(pixels)
    torch.testing.assert_close(grey, v2.functional.rgb_to_grayscale(pixels).float(), rtol=1e-5, atol=1e-4)
    colour = ModelInput((5, 4), (0.0,), (1 / 255,), channels=3)(pixels[:, :1])
    torch.testing.assert_close(colour, pixels[:, :1].float().expand(2, 3, 5, 4))


def test_mixed_pixels_are_normalised_as_whole_ones():
    first, second = torch.randint(0, 256, (2, 4, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    model_input = ModelInput((6, 6), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    mixed = model_input(0.3 * first.float() + 0.7 * second.float())
    torch.testing.assert_close(mixed, 0.3 * model_input(first) + 0.7 * model_input(second))


def test_bicubic_interpolation_stays_within_the_range_of_pixels():
    board = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8).repeat(8, 8)[None, None]
    resized = ModelInput((37, 37), (0.0,), (1.0,), "bicubic", channels=1)(board)
    assert resized.min() == 0
    assert resized.max() == 1
