"""Augmentation of whole batches: each image becomes what it becomes alone, and draws are fair."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from torchvision.transforms import v2

from mutual.data import build_data
from mutual.data.transforms.augmentation import CountedTransforms
from mutual.data.transforms.draws import derive_keys, random_bytes, uniforms
from mutual.data.transforms.pipelines import train_transforms
from mutual.recipe import Data

ERASING = [{"name": "random_erasing", "p": 0.7, "value": value} for value in ("zero", "random")]
CROPS = [{"name": "random_crop", "padding": 3, "padding_mode": mode} for mode in ("constant", "edge", "reflect", "symmetric")]
NORMAL = [{"name": "random_erasing", "p": 0.7, "value": value, "attempts": 100, "log_ratio": False} for value in ("normal", "normal_color")]
LISTS = [
    *([crop] for crop in CROPS),
    ["horizontal_flip"],
    ["vertical_flip"],
    *([erasing] for erasing in ERASING),
    [CROPS[2], "horizontal_flip", CROPS[0], "vertical_flip"],
    [CROPS[0], ERASING[0], "horizontal_flip", CROPS[1], ERASING[1], ERASING[0]],
    [{"name": "random_crop", "size": [5, 9], "padding": 0}, "vertical_flip", {"name": "random_crop", "size": [12, 7], "padding": 4}],
    ["half_turn"],
    *([erasing] for erasing in NORMAL),
    [CROPS[0], NORMAL[0], "half_turn", {"name": "random_erasing", "value": [7]}],
]


def counted(augment, image_size=(12, 10)):
    (stage,) = train_transforms(Data(dataset="digits", augment=augment), image_size).stages
    assert isinstance(stage, CountedTransforms)
    return stage


def images_of(number, channels=3, size=(12, 10)):
    return torch.randint(0, 256, (number, channels, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))


def keys_of(number, seed=0):
    return derive_keys(np.array([seed], dtype=np.uint64), range(number))


def module(**fields):
    return build_data(Data(**{"dataset": "digits", "subset": 50, "batch_size": 8, **fields}), seed=0)


def first_batch(data):
    return next(data.train_windows(1, world_size=1, shard=(0, 1), accumulate=1)).batches[0]


@pytest.mark.parametrize("augment", LISTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_becomes_the_same_alone_as_in_a_batch(augment, channels):
    stage, images, keys = counted(augment), images_of(37, channels), keys_of(37)
    together = stage(images, keys)
    alone = torch.cat([stage(images[row : row + 1], keys[row : row + 1]) for row in range(37)])
    assert together.dtype == torch.uint8
    assert torch.equal(together, alone)
    assert torch.equal(stage(images.flip(0), keys[::-1].copy()), together.flip(0))
    assert len(together.unique(dim=0)) > 30 or augment[0] in ("horizontal_flip", "vertical_flip", "half_turn", ERASING[0])
    assert not torch.equal(stage(images, keys_of(37, seed=1)), together)


@pytest.mark.parametrize("crop", CROPS)
def test_a_crop_is_one_of_the_padded_image_and_every_place_is_as_likely(crop):
    image = images_of(1)
    number = 6_400
    found = counted([crop])(image.expand(number, -1, -1, -1), keys_of(number))
    padded = TF.pad(image, [3] * 4, padding_mode=crop["padding_mode"])
    windows = padded.unfold(2, 12, 1).unfold(3, 10, 1)[0].permute(1, 2, 0, 3, 4).reshape(49, 3, 12, 10)
    counts = (found[:, None] == windows).flatten(2).all(dim=2).sum(dim=0)
    assert counts.sum() == number, "each is one of the 49"
    chi_square = float(((counts - number / 49) ** 2 / (number / 49)).sum())
    assert chi_square < 84, "48 degrees of freedom: less in all but one of a thousand"


@pytest.mark.parametrize(
    ("name", "dims", "p"),
    [("horizontal_flip", [2], 0.5), ("vertical_flip", [1], 0.2), ("vertical_flip", [1], 1.0), ("half_turn", [1, 2], 0.4)],
)
def test_flips_mirror_as_often_as_they_should(name, dims, p):
    images = images_of(4_000, size=(4, 6))
    found = counted([{"name": name, "p": p}], (4, 6))(images, keys_of(4_000))
    is_flipped = (found == images.flip([dim + 1 for dim in dims])).flatten(1).all(dim=1)
    is_same = (found == images).flatten(1).all(dim=1)
    assert (is_flipped | is_same).all()
    assert abs(float(is_flipped.float().mean()) - p) < 4 * (p * (1 - p) / 4_000) ** 0.5 + 1e-3


@pytest.mark.parametrize("augment", [*LISTS[8:11], LISTS[-1]])
def test_several_transforms_are_one_after_the_other(augment):
    images, keys = images_of(20), keys_of(20)
    expected = images
    for position in range(len(augment)):
        (spec,) = Data(dataset="digits", augment=augment[position : position + 1]).filled_augment
        expected = CountedTransforms([spec], position, (12, 10))(expected, keys)
    assert torch.equal(counted(augment)(images, keys), expected)


def test_transforms_of_one_list_draw_independently():
    images = images_of(4_000, size=(3, 3))
    found = counted(["horizontal_flip", "vertical_flip"], (3, 3))(images, keys_of(4_000))
    for dims in ([], [2], [3], [2, 3]):
        share = (found == images.flip(dims)).flatten(1).all(dim=1).double().mean()
        assert abs(float(share) - 0.25) < 0.03, dims


@pytest.mark.parametrize("value", ["zero", "random"])
def test_erased_rectangles_have_the_shares_and_ratios_that_were_asked_for(value):
    number, side = 3_000, 32
    stage = counted([{"name": "random_erasing", "p": 0.6, "scale": [0.1, 0.3], "ratio": [0.5, 2.0], "value": value}], (side, side))
    (erasure,) = stage.draw(keys_of(number), (side, side)).steps
    top, left, bottom, right = erasure.box_B4.T.double()
    height, width = bottom - top, right - left
    is_erased = height > 0
    assert abs(float(is_erased.float().mean()) - 0.6) < 0.04
    area, ratio = (height * width / side**2)[is_erased], (height / width)[is_erased]
    assert area.min() > 0.08
    assert area.max() < 0.32
    assert abs(float(area.mean()) - 0.2) < 0.01
    assert ratio.min() > 0.42
    assert ratio.max() < 2.4
    assert abs(float(ratio.log().mean())) < 0.05
    for first, length in ((top, height), (left, width)):
        assert abs(float((first / (side - length))[is_erased].mean()) - 0.5) < 0.03
    assert min(top.min(), left.min()) >= 0
    assert max(bottom.max(), right.max()) <= side
    images = torch.full((number, 3, side, side), 7, dtype=torch.uint8)
    changed = erasure(images) != 7
    expected = torch.zeros_like(changed[:, 0])
    for row, (first, second, third, fourth) in enumerate(erasure.box_B4.tolist()):
        expected[row, first:third, second:fourth] = True
    if value == "zero":
        assert torch.equal(changed, expected[:, None].expand_as(changed))
    else:
        assert not (changed & ~expected[:, None]).any()
        noise = erasure(images)[expected[:, None].expand_as(changed)].double()
        assert abs(float(noise.mean()) - 127.5) < 0.5
        assert len(noise.unique()) == 256


def test_normal_noise_has_the_moments_of_normalised_images():
    """After normalising, an erased rectangle is noise of mean 0 and deviation 1, as far as pixels can hold it."""
    mean, std = (0.5, 0.45, 0.4), (0.1, 0.12, 0.08)
    augment = [{"name": "random_erasing", "p": 1.0, "value": "normal", "scale": [0.5, 0.5], "ratio": [1.0, 1.0]}]
    data = Data(dataset="digits", augment=augment, normalize={"mean": mean, "std": std}, channels=3)
    (stage,) = train_transforms(data, (20, 20)).stages
    images = torch.zeros(400, 3, 20, 20, dtype=torch.uint8)
    erased = stage(images, keys_of(400))
    for channel in range(3):
        pixels = erased[:, channel][erased[:, channel] > 0].double() / 255
        normalised = (pixels - mean[channel]) / std[channel]
        assert abs(float(normalised.mean())) < 0.02
        assert abs(float(normalised.std()) - 1) < 0.02
    pairs = torch.corrcoef(erased[0].flatten(1)[:, erased[0].flatten(1).amin(dim=0) > 0].double())
    assert (pairs - torch.eye(3)).abs().max() < 0.3, "channels are drawn by themselves"


def test_a_normal_color_and_a_fixed_one_fill_the_whole_rectangle():
    images = torch.full((50, 3, 12, 10), 255, dtype=torch.uint8)
    erasing = {"name": "random_erasing", "p": 1.0, "scale": [0.2, 0.3]}
    for row in counted([{**erasing, "value": "normal_color", "mean": [0.4], "std": [0.1]}])(images, keys_of(50)):
        assert len(row.flatten(1).unique(dim=1).T) == 2
    data = Data(dataset="digits", augment=[{**erasing, "value": [1, 2, 3]}], channels=3)
    (stage,) = train_transforms(data, (12, 10)).stages
    assert stage(images, keys_of(50)).amin(dim=(2, 3)).unique(dim=0).tolist() == [[1, 2, 3]]


def test_ratios_that_are_drawn_evenly_are_more_often_above_one():
    """Of 0.25 .. 4, drawn evenly, four fifths are above 1, and half of them where the logarithm is drawn evenly."""
    images = torch.full((4_000, 1, 60, 60), 255, dtype=torch.uint8)
    for log_ratio, expected in ((True, 0.5), (False, 0.8)):
        erasing = {"name": "random_erasing", "p": 1.0, "scale": [0.1, 0.1], "ratio": [0.25, 4.0], "log_ratio": log_ratio}
        erased = counted([erasing], (60, 60))(images, keys_of(4_000))[:, 0] == 0
        is_tall = erased.any(dim=2).sum(dim=1) > erased.any(dim=1).sum(dim=1)
        assert abs(float(is_tall.double().mean()) - expected) < 0.04


def test_the_generator_is_splitmix64_with_the_same_bits_in_numpy_and_in_torch():
    key = np.array([1234567], dtype=np.uint64)
    known = np.array([6457827717110365317, 3203168211198807973, 9817491932198370423], dtype=np.uint64)  # of its authors' program
    assert np.array_equal(uniforms(key, 3)[0], (known >> np.uint64(11)) * 2.0**-53)
    assert random_bytes(torch.from_numpy(key.view(np.int64)), 21)[0].tolist() == known.view(np.uint8)[:21].tolist()


def test_draws_are_uniform_and_neighbours_are_independent():
    keys = np.concatenate([derive_keys(derive_keys(np.array([5], dtype=np.uint64), number), range(2_000)) for number in range(4)])
    drawn = uniforms(keys, 6)
    assert len(np.unique(drawn)) == drawn.size
    assert drawn.min() >= 0
    assert drawn.max() < 1
    for column in drawn.T:
        counts = np.histogram(column, bins=50, range=(0, 1))[0]
        assert ((counts - 160) ** 2 / 160).sum() < 94, "49 degrees of freedom: less in all but one of ten thousand"
    table = np.concatenate(
        [drawn.reshape(4, 2_000, 6).transpose(1, 0, 2).reshape(2_000, 24), drawn[:2_000].take(range(1, 2_001), 0, mode="wrap")], axis=1
    )
    correlations = np.corrcoef(table.T) - np.eye(30)
    assert abs(correlations).max() < 4.5 / 2_000**0.5, "between draws, epochs and neighbours"


@pytest.mark.parametrize(
    "augment", [LISTS[0], LISTS[9], [*LISTS[9], "rand_augment", "horizontal_flip", {"name": "rotation", "degrees": 9}]]
)
@pytest.mark.parametrize("views", [1, 2])
def test_what_is_left_to_the_device_is_what_is_done_on_the_host(augment, views, monkeypatch):
    fields = {"augment": augment, "mixup": 0.3, "image_size": [12, 10]}
    expected = first_batch(build_data(Data(dataset="digits", subset=50, batch_size=8, **fields), seed=0, num_views=views))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    data = build_data(Data(dataset="digits", subset=50, batch_size=8, **fields), seed=0, num_views=views)
    monkeypatch.undo()
    found = first_batch(data)
    is_counted = "rand_augment" not in augment
    assert bool(found.augmentations) == is_counted
    assert len(found.augmentations) == (views if is_counted else 0)
    assert torch.equal(found.images, expected.images) is not is_counted
    moved = found.to(torch.device("cpu"))
    assert not moved.augmentations
    assert torch.equal(moved.images, expected.images)
    assert torch.equal(moved.labels, expected.labels)


def test_transforms_for_one_image_between_others_are_the_same_in_every_batch():
    augment = [{"name": "rotation", "degrees": 90}, "horizontal_flip", {"name": "color_jitter", "brightness": 0.9}]
    stages = train_transforms(Data(dataset="digits", augment=augment), (8, 8)).stages
    assert [type(stage).__name__ for stage in stages] == ["Sequential", "CountedTransforms", "Sequential"]
    expected, found = (
        torch.cat([window.batches[0].images for window in data.train_windows(3, world_size=1, shard=(0, 1), accumulate=1)])
        for data in (module(augment=augment, batch_size=size) for size in (50, 10))
    )
    assert torch.equal(found, expected)


def test_each_stage_of_transforms_for_one_image_has_a_seed_of_its_own(monkeypatch):
    data = module(augment=[{"name": "rotation", "degrees": 90}, "horizontal_flip", {"name": "rotation", "degrees": 90}], batch_size=2)
    drawn, make_params = [], v2.RandomRotation.make_params

    def noted(self, inputs):
        drawn.append(make_params(self, inputs)["angle"])
        return {"angle": drawn[-1]}

    monkeypatch.setattr(v2.RandomRotation, "make_params", noted)
    first_batch(data)
    assert len(drawn) == len(set(drawn)) == 4


@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        (
            {"name": "random_crop", "size": 40, "padding": 2},
            r"Required crop size \(40, 40\) is larger than padded input image size \(12, 12\)",
        ),
        ({"name": "random_crop", "padding": 8, "padding_mode": "reflect"}, "Padding size should be less than"),
        ({"name": "random_crop", "padding": 9, "padding_mode": "symmetric"}, "Padding size should be less than"),
    ],
)
def test_a_crop_that_does_not_fit_is_one_line(transform, reason):
    with pytest.raises(ValueError, match=f"augment cannot be applied to the first image: image 0: .* 8 x 8 pixels: {reason}"):
        module(augment=[transform])


def test_padding_by_the_whole_image_can_be_symmetric():
    assert first_batch(module(augment=[{"name": "random_crop", "padding": 8, "padding_mode": "symmetric"}])).images.shape == (8, 1, 8, 8)
