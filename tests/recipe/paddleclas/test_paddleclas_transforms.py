"""PaddleClas' transforms as a recipe's: what is equal is shown on images, and what differs, or is not there, is named."""

import numpy as np
import pytest
import torch
from data_configs import IMAGENET, augment_of, config_of, converted, paths_of, with_transforms
from PIL import Image

from mutual.data import build_data
from mutual.models import ModelInput
from mutual.recipe import Data

SIZED = {"size": 192}
RESIZED = {"name": "resize", "size": [200, 300], "interpolation": "bilinear"}


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ({"ResizeImage": {"size": [300, 200]}}, RESIZED),  # width first
        ({"Resize": {"size": [200, 300]}}, RESIZED),  # height first
        ({"Resize": {"size": 200}}, {"name": "resize", "size": 200, "mode": "shorter", "interpolation": "bilinear"}),
        ({"ResizeImage": {"size": 200, "backend": "pil"}}, {"name": "resize", "size": 200, "interpolation": "bicubic"}),
        ({"ResizeImage": {"size": 200, "interpolation": 2}}, {"name": "resize", "size": 200, "interpolation": "bicubic"}),
        (
            {"ResizeImage": {"size": 200, "interpolation": 2, "backend": "pil"}},
            {"name": "resize", "size": 200, "interpolation": "bilinear"},
        ),
        ({"ResizeImage": {"size": 200, "interpolation": "lanczos"}}, {"name": "resize", "size": 200, "interpolation": "bicubic"}),
        ({"ResizeImage": {"size": 200, "interpolation": "area"}}, {"name": "resize", "size": 200, "interpolation": "bilinear"}),
        ({"CenterCrop": {"size": [200, 300]}}, {"name": "center_crop", "size": [200, 300]}),
        ({"CropImage": {"size": [300, 200]}}, {"name": "center_crop", "size": [200, 300]}),
        (
            {"RandomResizedCrop": {"size": [200, 300], "scale": [0.5, 1]}},
            {"name": "random_resized_crop", "size": [200, 300], "scale": [0.5, 1.0], "ratio": [3 / 4, 4 / 3], "interpolation": "bilinear"},
        ),
        ({"RandomCrop": {"size": 200, "padding": 4}}, {"name": "random_crop", "size": 200, "padding": 4, "padding_mode": "constant"}),
        ({"RandFlipImage": None}, "horizontal_flip"),
        ({"RandFlipImage": {"flip_code": 0}}, "vertical_flip"),
        ({"RandFlipImage": {"flip_code": -1}}, "half_turn"),
        ({"RandomHorizontalFlip": {"prob": 0.3}}, {"name": "horizontal_flip", "p": 0.3}),
        ({"AutoAugment": None}, "auto_augment"),
        ({"RandAugmentV3": {"magnitude": 3}}, {"name": "rand_augment", "num_ops": 2, "magnitude": 9}),
        (
            {"RandAugmentV2": {"num_layers": 3, "magnitude": 12}},
            {"name": "timm_augment", "config": "rand-m12-n3-p1-mmax12", "interpolation": "bilinear", "fill": [128] * 3},
        ),
        (
            "TimmAutoAugment",
            {"name": "timm_augment", "config": "rand-m9-mstd0.5-inc1", "interpolation": "bicubic"},
        ),
        (
            {"TimmAutoAugment": {"config_str": "augmix-m5-w4-d2", "interpolation": "random", "mean": [0, 0.5, 1]}},
            {"name": "timm_augment", "config": "augmix-m5-w4-d2-mstd0", "interpolation": "random", "fill": [0, 128, 255]},
        ),
        (
            {"TimmAutoAugment": {"config_str": "rand-m7-inc0", "interpolation": "hamming"}},
            {"name": "timm_augment", "config": "rand-m7-inc1", "interpolation": "bilinear"},
        ),
        ({"AugMix": None}, {"name": "timm_augment", "config": "augmix-m1-w3-d1-a0.1-mstd0", "fill": [128] * 3, "p": 0.5}),
        ({"ColorJitter": {"hue": [-0.1, 0.1], "saturation": 0.3}}, {"name": "color_jitter", "saturation": 0.3, "hue": 0.1}),
        ({"RandomRotation": {"degrees": 15}}, {"name": "rotation", "degrees": 15.0, "interpolation": "nearest"}),
        ({"GaussianBlur": {"p": 1}}, {"name": "gaussian_blur", "kernel_size": 13, "sigma": [0.1, 2.0]}),
        (
            {"RandomErasing": {"EPSILON": 0.3, "attempt": 200}},  # before images are normalised
            {"name": "random_erasing", "p": 0.3, "scale": [0.02, 0.4], "ratio": [0.3, 3.33333333], "value": "zero"}
            | {"attempts": 100, "log_ratio": False},
        ),
    ],
)
def test_a_transform_is_one_of_ours(transform, expected):
    found, notes = augment_of(transform)
    assert found == [expected]
    assert notes.left_out == []


@pytest.mark.parametrize("transform", [{"TimmAutoAugment": {"prob": 0.0}}, {"RandomErasing": {"EPSILON": 0.0}}, "ToCHWImage"])
def test_what_changes_no_image_is_not_there(transform):
    found, notes = augment_of(transform)
    assert found == []
    assert notes.left_out == []


@pytest.mark.parametrize(
    "transform",
    [
        "HideAndSeek",
        "RandomGrayscale",
        {"GridMask": {"d1": 96}},
        {"Cutout": {"length": 8}},
        {"Pad": {"padding": 4}},
        {"Padv2": {"size": 300}},
        {"TimmAutoAugment": {"config_str": "rand-m9-w0"}},
    ],
)
def test_a_transform_without_a_counterpart_is_named(transform):
    found, notes = augment_of(transform)
    assert found == []
    assert len(notes.left_out) == 1
    assert notes.left_out[0].startswith("DataLoader.Train.dataset")


ALL_OPERATIONS = ["AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize"]
ALL_OPERATIONS += ["ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing"]
ALL_OPERATIONS += ["ShearX", "ShearY", "TranslateXRel", "TranslateYRel"]


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ("RandAugment", {"config": "rand-m5-n2-p1", "ops": ALL_OPERATIONS}),
        ({"RandAugment": {"magnitude": 10, "num_layers": 1}}, {"config": "rand-m10-n1-p1", "ops": ALL_OPERATIONS}),
        ({"RandAugment": {"magnitude": 0, "fillcolor": [1, 2, 3]}}, {"config": "rand-m0-n2-p1", "ops": ALL_OPERATIONS, "fill": [1, 2, 3]}),
        ({"RandAugmentV2": {"progress_magnitude": None}}, {"config": "rand-m5-n2-p1", "interpolation": "bilinear"}),
        ({"AugMix": {"mixture_depth": -1, "prob": 1}}, {"config": "augmix-m1-w3-a0.1-mstd0", "fill": [128] * 3, "interpolation": None}),
        ({"TimmAutoAugment": {"config_str": "rand-m9-n2", "mean": [1.2, 0, 0]}}, {"config": "rand-m9-n2", "fill": [255, 0, 0]}),
        ({"TimmAutoAugment": {"config_str": "augmix-m3-mstd1-b0"}}, {"config": "augmix-m3-mstd1-b1", "fill": None}),
        ({"TimmAutoAugment": {"config_str": "v0r"}}, {"config": "v0r", "fill": None}),
    ],
)
def test_strings_of_timm_and_their_arguments(transform, expected):
    (found,), notes = augment_of(transform)
    expected = {"name": "timm_augment", "interpolation": "bicubic", "fill": [128] * 3} | expected
    assert found == {key: value for key, value in expected.items() if value is not None}
    assert ("inc0 and b0" in "".join(notes.remarks)) == ("b1" in expected["config"])


def test_torchvisions_operations_stand_for_the_third_rand_augment():
    assert augment_of("RandAugmentV3")[0] == [{"name": "rand_augment", "num_ops": 2, "magnitude": 9}]
    assert augment_of({"RandAugmentV3": {"magnitude": 0}})[0][0]["magnitude"] == 0


@pytest.mark.parametrize(
    ("arguments", "is_before", "value"),
    [
        ({"mode": "const"}, False, [124, 116, 104]),
        ({"mode": "const", "mean": [1.0]}, False, [182, 173, 161]),
        ({"mode": "const", "mean": [9.0, -9.0, 0.0]}, False, [255, 0, 104]),
        ({"mode": "const", "mean": [0, 0, 7]}, True, [0, 0, 7]),
        ({"mode": "const"}, True, "zero"),
        ({"mode": "pixel"}, False, "normal"),
        ({"mode": "rand"}, False, "normal_color"),
        ({"mode": "rand"}, True, "zero"),
    ],
)
def test_an_erased_rectangle_holds_what_it_holds_there_when_images_are_normalised(arguments, is_before, value):
    erasing, normalize = {"RandomErasing": arguments}, "NormalizeImage"
    config = with_transforms({"CropImage": SIZED}, *((erasing, normalize) if is_before else (normalize, erasing)))
    data, notes = converted(config)
    assert data["augment"][-1]["value"] == value
    assert ("next to black" in "".join(notes.remarks)) == (is_before and arguments["mode"] == "rand")


def test_statistics_of_bgr_images_are_put_in_the_order_of_ours():
    decode, normalize = {"DecodeImage": {"to_rgb": False}}, {"NormalizeImage": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}
    transforms = [decode, {"CropImage": SIZED}, normalize]
    data, _ = converted(with_transforms(*transforms, {"RandomErasing": {}}, evaluation=transforms))
    assert data["normalize"] == {"mean": [0.3, 0.2, 0.1], "std": [0.6, 0.5, 0.4]}
    assert data["augment"][-1]["value"] == [76, 51, 26]  # of the mean


def test_entries_that_change_nothing_are_no_words():
    keys = {"keys": ["image"]}
    train = [
        {"DecodeImage": {"to_np": False, "channel_first": False, "backend": "cv2"}},
        {"RandomResizedCrop": {"size": 192, **keys}},
        {"RandomCrop": {"size": 192, "pad_if_needed": False, "fill": 0, **keys}},
        {"RandomHorizontalFlip": keys},
        {"RandomRotation": {"degrees": [-9, 9], "center": None, "expand": False, "fill": 0, "prob": 1, **keys}},
        {"ColorJitter": {"hue": 0.1, **keys}},
        {"TimmAutoAugment": {"img_size": 192}},
        "ToTensor",
        {"Normalize": {"data_format": "CHW", "to_rgb": False, **keys}},
    ]
    evaluation = [
        {"Resize": {"size": 224, **keys}},
        {"CenterCrop": {"size": 192, **keys}},
        {"ToTensor": {"data_format": "CHW", **keys}},
        {"Normalize": {"data_format": "CHW"}},
        {"ToCHWImage": None},
    ]
    data, notes = converted(with_transforms(*train, evaluation=evaluation))
    assert notes.left_out == []
    assert data["normalize"] == IMAGENET
    assert not any("RandomRotation" in line for line in notes.remarks)
    _, notes = converted(with_transforms({"CropImage": SIZED}, {"NormalizeImage": {"order": "chw", "output_fp16": True, "channel_num": 4}}))
    assert notes.left_out == []
    assert any("fourth channel" in line for line in notes.remarks)
    assert "each image is rotated" in augment_of({"RandomRotation": {"angle": 9, "prob": 0.5}})[1].remarks[0]


def test_a_shorter_side_keeps_its_size_where_it_is_the_images():
    evaluation = [{"ResizeImage": {"resize_short": 192}}, {"CropImage": SIZED}, "NormalizeImage"]
    data, _ = converted(with_transforms({"CropImage": SIZED}, "NormalizeImage", evaluation=evaluation))
    assert data["preprocess"][0]["size"] == 192


def test_evaluation_of_one_size_is_scaled_to_the_trainings():
    evaluation = [{"ResizeImage": {"size": [400, 300]}}, {"CropImage": {"size": [384, 256]}}, "NormalizeImage"]
    data, notes = converted(with_transforms({"CropImage": {"size": [192, 128]}}, "NormalizeImage", evaluation=evaluation))
    assert data["image_size"] == [128, 192]
    assert data["preprocess"] == [{"name": "resize", "size": [150, 200], "interpolation": "bilinear"}, {"name": "center_crop"}]
    assert paths_of(notes.left_out) == ["Eval.dataset.transform_ops"]


def test_images_that_evaluation_does_not_resize_are_as_large_as_they_are():
    data, notes = converted(with_transforms({"CropImage": SIZED}, "NormalizeImage", evaluation=["NormalizeImage"]))
    assert "preprocess" not in data
    assert notes.left_out == []


def test_padding_is_taken_by_the_next_random_crop_alone():
    config = with_transforms(
        {"Resize": {"size": [64, 64]}}, {"Pad": {"padding": 3, "fill": 9}}, "RandFlipImage", {"RandomCropImage": {"size": 60}}
    )
    data, notes = converted(config)
    assert data["augment"][2] == {"name": "random_crop", "padding": 3, "padding_mode": "constant"}
    assert data["image_size"] == 60
    assert "padded by zeros" in "".join(notes.remarks)


AROUND = {"size": [70, 66], "pad_mode": 1}


@pytest.mark.parametrize(
    ("transform", "padding", "is_named"),
    [
        ("Pad", 0, False),
        ({"Pad": {"padding": 2, "padding_mode": "edge"}}, 2, False),
        ({"Padv2": AROUND}, 3, True),
        ({"Padv2": {**AROUND, "fill_value": [0, 0, 0]}}, 3, False),
        ({"Padv2": {**AROUND, "fill_value": 0}}, 3, False),
    ],
)
def test_padding_by_what_is_no_zero_is_named(transform, padding, is_named):
    config = with_transforms({"Resize": {"size": [60, 64]}}, transform, {"RandomCropImage": {"size": [64, 60]}})
    data, notes = converted(config)
    assert data["augment"][1]["padding"] == padding
    assert any("padded by zeros" in line for line in notes.remarks) == is_named


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric"])
def test_a_crop_takes_the_mode_of_paddles_padding(mode):
    padding = {"Pad_paddle_vision": {"padding": 4, "padding_mode": mode}}
    data, notes = converted(with_transforms({"Resize": {"size": [64, 64]}}, padding, {"RandCropImageV2": {"size": [60, 60]}}))
    assert data["augment"][1] == {"name": "random_crop", "padding": 4, "padding_mode": mode}
    assert not any("Pad_paddle_vision" in line for line in notes.left_out)


def test_padding_to_a_size_by_zeros_needs_no_remark():
    padding = {"Padv2": {"size": [212, 276], "pad_mode": 1, "fill_value": 0}}
    data, notes = converted(with_transforms({"ResizeImage": {"size": [192, 256]}}, padding, {"RandomCropImage": {"size": [192, 256]}}))
    assert data["augment"][1] == {"name": "random_crop", "padding": 10, "padding_mode": "constant"}
    assert "padded by zeros" not in "".join(notes.remarks)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, IMAGENET),
        ({"scale": 1, "mean": [127.5] * 3, "std": [51.0] * 3}, {"mean": [0.5] * 3, "std": [0.2] * 3}),
        ({"scale": "1.0/255.0", "mean": [0, 0.1, 0.2], "std": [1, 2, 3]}, {"mean": [0.0, 0.1, 0.2], "std": [1.0, 2.0, 3.0]}),
        ({"scale": 0.5, "mean": [0] * 3, "std": [1] * 3}, {"mean": [0.0] * 3, "std": [round(1 / 127.5, 11)] * 3}),
    ],
)
def test_normalised_images_are_those_of_the_formula(arguments, expected):
    transforms = {"CropImage": SIZED}, {"NormalizeImage": {**arguments, "order": ""}}
    data, _ = converted(with_transforms(*transforms, evaluation=transforms))
    for key in ("mean", "std"):
        assert data["normalize"][key] == pytest.approx(expected[key], rel=1e-8)
    pixels = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    found = ModelInput((5, 5), channels=3, **{key: tuple(data["normalize"][key]) for key in ("mean", "std")})(pixels)
    scale = {"1.0/255.0": 1 / 255}.get(arguments.get("scale", 1 / 255), arguments.get("scale", 1 / 255))
    mean, std = (np.float32(arguments.get(key, IMAGENET[key])).reshape(3, 1, 1) for key in ("mean", "std"))
    theirs = (pixels.numpy().astype(np.float32) * np.float32(scale) - mean) / std
    np.testing.assert_allclose(found.numpy(), theirs, rtol=2e-6, atol=2e-6)


def test_images_without_a_normalisation_stay_in_0_to_255():
    data, _ = converted(with_transforms({"CropImage": SIZED}, evaluation=[{"CropImage": SIZED}]))
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    found = ModelInput((4, 4), channels=3, **{key: tuple(data["normalize"][key]) for key in ("mean", "std")})(pixels)
    torch.testing.assert_close(found, pixels.float())


def test_other_statistics_in_evaluation_are_named():
    other = {"NormalizeImage": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    data, notes = converted(with_transforms({"CropImage": SIZED}, "NormalizeImage", evaluation=[{"CropImage": SIZED}, other]))
    assert data["normalize"] == IMAGENET
    assert paths_of(notes.left_out) == ["Eval.dataset.transform_ops"]


def test_lists_sizes_crops_and_normalisation_are_theirs_on_images(tmp_path, monkeypatch):
    """Where nothing is resampled, evaluation images equal, bit by bit of their pixels, what PaddleClas' few lines make of them."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "dataset/flowers"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    sizes = [(220, 300), (220, 220), (252, 220), (220, 227)]  # width and height
    for number, (width, height) in enumerate(sizes):
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    for part, labels in (("train", [0, 1, 2, 3]), ("val", [3, 0, 1, 2])):
        (folder / f"{part}.txt").write_text("".join(f"{number}.png {label}\n" for number, label in enumerate(labels)))
    data, _ = converted(config_of("data_heavy"))
    module = build_data(Data(**{**data, "workers": 0}), seed=0)
    (batch,) = module.eval_batches(world_size=1, shard=(0, 1))
    lines = [line.strip().split(" ") for line in (folder / "val.txt").read_text().splitlines()]
    assert batch.labels.tolist() == [int(label) for _, label in lines]
    for row, (name, _) in enumerate(lines):
        image = np.asarray(Image.open(folder / name))  # RGB, as with to_rgb
        top, left = ((side - 192) // 2 for side in image.shape[:2])
        expected = image[top : top + 192, left : left + 192].transpose(2, 0, 1)
        candidates = [expected] if all((side - 192) % 2 == 0 for side in image.shape[:2]) else _shifted(image)
        assert any(np.array_equal(batch.images[row].numpy(), each) for each in candidates)


def _shifted(image):
    """Crops whose middle is half a pixel to either side: what the remark says of the place of a crop."""
    tops, lefts = ({(side - 192) // 2, -(-(side - 192) // 2)} for side in image.shape[:2])
    return [image[top : top + 192, left : left + 192].transpose(2, 0, 1) for top in tops for left in lefts]
