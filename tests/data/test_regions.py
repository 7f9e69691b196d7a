"""Regions: taken of a file before it is decoded, they are what is taken of the decoded image; JPEGs are decoded no larger than needed."""

import io
from collections import Counter

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image
from torchvision.transforms import v2

from mutual.data import build_data, build_preprocess, resolved_preprocess
from mutual.data.files.decoding import ImageSource, decode
from mutual.data.transforms.regions import NUM_DRAWS, Region, RegionPlan
from mutual.recipe import Data
from mutual.recipe.transforms import RandomResizedCrop, Resize

AUGMENT = ["random_resized_crop", "horizontal_flip"]


def photo(width, height, mode="RGB", *, seed=0, detail=24):
    """An image with smooth areas and edges, of `detail` pixels, as a photograph has them."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (height // detail + 2, width // detail + 2, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image, form="JPEG", orientation=None, **options):
    file = io.BytesIO()
    exif = Image.Exif()
    if orientation is not None:
        exif[274] = orientation
        options["exif"] = exif
    image.save(file, form, **options)
    return file.getvalue()


def source_of(content, channels=3):
    return ImageSource(content, channels, path="image")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("form", "mode", "orientation"),
    [
        *[("JPEG", "RGB", orientation) for orientation in (None, 1, 2, 3, 4, 5, 6, 7, 8)],
        ("JPEG", "L", None),
        ("JPEG", "CMYK", 6),
        ("PNG", "RGB", 5),
        ("PNG", "RGBA", None),
        ("PNG", "P", None),
        ("PNG", "I;16", None),
        ("PNG", "1", None),
        ("WEBP", "RGB", 8),
        ("GIF", "P", None),
    ],
)
def test_at_its_whole_size_a_region_is_what_torchvision_makes_of_the_decoded_image(form, mode, orientation, interpolation, channels):
    image = photo(61, 47, "I" if mode == "I;16" else mode)
    image = Image.fromarray((np.asarray(image) * 251).astype(np.uint16)) if mode == "I;16" else image
    content = encoded(image, form, orientation)
    whole = decode(content, channels, path="image")
    height, width = source_of(content, channels).size
    assert (height, width) == whole.shape[1:]
    for top, left, rows, columns, size in (
        (0, 0, height, width, (20, 30)),
        (3, 9, 31, 17, (24, 24)),
        (0, 0, height, width, (height, width)),
    ):
        found = Region(top, left, rows, columns, size, interpolation).read(source_of(content, channels))
        part = whole[:, top : top + rows, left : left + columns]
        if not (form == "JPEG" and interpolation != "nearest" and rows >= 2 * size[0] and columns >= 2 * size[1]):
            assert torch.equal(found, TF.resize(part, list(size), v2.InterpolationMode(interpolation))), (top, size)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize(
    ("mode", "channels", "orientation"),
    [*[("RGB", 3, orientation) for orientation in (None, 2, 3, 4, 5, 6, 7, 8)], ("RGB", 1, None), ("L", 1, 6), ("L", 3, 3), ("CMYK", 3, 5)],
)
def test_a_jpeg_decoded_at_a_fraction_of_its_size_gives_nearly_the_same(interpolation, scale, mode, channels, orientation):
    """Within 1.5 of 255 in the mean and 10 in all but one of a thousand pixels; a shift by one pixel would be ten times that."""
    content = encoded(photo(45 * scale + 3, 37 * scale + 5, mode, detail=6 * scale), orientation=orientation, quality=95)
    whole = decode(content, channels, path="image")
    height, width = whole.shape[1:]
    top, left, rows, columns = scale + 1, 2 * scale + 3, height - 3 * scale, width - 4 * scale
    size = (rows // scale, columns // scale)
    region = Region(top, left, rows, columns, size, interpolation)
    source = source_of(content, channels)
    found = region.read(source)
    assert list(source._decoded) == [scale]
    part = whole[:, top : top + rows, left : left + columns]
    expected = TF.resize(part, list(size), v2.InterpolationMode(interpolation))
    assert found.shape == expected.shape
    difference = (found.double() - expected.double()).abs()
    shifted = (expected[:, 1:].double() - expected[:, :-1].double()).abs().mean()
    assert difference.mean() < min(1.5, shifted / 8)
    assert difference.flatten().quantile(0.999) <= 10


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 80), 1), ((51, 40), 1), ((50, 41), 1), ((50, 40), 2), ((25, 20), 4), ((12, 10), 8), ((13, 10), 4), ((1, 1), 8)],
)
def test_the_smallest_size_is_decoded_at_which_nothing_has_to_be_enlarged(size, expected):
    content = encoded(photo(90, 110))
    for form, scale in ((content, expected), (encoded(photo(90, 110), "PNG"), 1)):
        source = source_of(form)
        Region(5, 5, 100, 80, size, "bilinear").read(source)
        assert list(source._decoded) == [scale]
    source = source_of(content)
    Region(5, 5, 100, 80, size, "nearest").read(source)
    assert list(source._decoded) == [1]


@pytest.mark.parametrize(("height", "width"), [(400, 500), (10, 300), (300, 10)])
@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"scale": (0.5, 0.6), "ratio": (1.0, 1.0)},
        {"scale": (0.1, 0.3), "ratio": (1.5, 4.0)},
        {"scale": (1.0, 1.0), "ratio": (2.0, 3.0)},
    ],
)
def test_random_rectangles_are_drawn_as_torchvision_draws_them(height, width, spec):
    plan = RegionPlan(RandomResizedCrop(name="random_resized_crop", **spec), (8, 8))
    reference = v2.RandomResizedCrop(8, **spec)
    draws = np.random.default_rng(0).random((1_500, NUM_DRAWS)).tolist()
    found = np.array([(r.top, r.left, r.height, r.width) for r in (plan(height, width, each) for each in draws)], dtype=float)
    torch.manual_seed(0)
    image = torch.empty(1, height, width, device="meta")
    expected = np.array([[reference.make_params([image])[key] for key in ("top", "left", "height", "width")] for _ in range(1_500)])
    assert (found[:, :2] >= 0).all()
    assert (found[:, 2:] >= 1).all()
    assert (found[:, :2] + found[:, 2:] <= (height, width)).all()
    for mine, theirs in zip(found.T, expected.T, strict=True):
        deviation = max(theirs.std(), 1e-9)
        assert abs(mine.mean() - theirs.mean()) <= 5 * deviation * (2 / 1_500) ** 0.5 + 1e-6
        assert mine.std() == pytest.approx(theirs.std(), rel=0.15, abs=0.05)


def test_the_shorter_side_is_brought_to_a_size_as_torchvision_brings_it():
    plan = RegionPlan(Resize(name="resize", size=256, mode="shorter"), (8, 8))
    for height, width in ((400, 500), (500, 333), (257, 900), (256, 256), (3, 1000)):
        assert plan(height, width).size == TF.resize(torch.zeros(1, height, width), [256]).shape[1:]


@pytest.fixture
def root(tmp_path):
    for part, number in (("train", 14), ("val", 6)):
        for index in range(number):
            place = tmp_path / part / "ab"[index % 2] / f"{index:02}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(
                encoded(photo(40 + 5 * index, 150 - 4 * index, "L" if index == 3 else "RGB", seed=index), orientation=1 + index % 8)
            )
    return tmp_path


def module(root, *, views=1, **fields):
    data = {"dataset": "image_folder", "root": str(root), "image_size": 16, "batch_size": 4, "workers": 0, "augment": AUGMENT, **fields}
    return build_data(Data(**data), seed=0, num_views=views)


def images_of(data, epoch=1, **plan):
    """By image, what each view holds; the ranks together."""
    found = {}
    world_size = plan.get("world_size", 1)
    for rank in range(world_size):
        windows = data.train_windows(epoch, world_size=world_size, shard=(rank, world_size), accumulate=1, start=plan.get("start", 0))
        for batch in (batch for window in windows for batch in window.batches):
            images = batch.images if batch.images.dim() == 5 else batch.images[None]
            for row in range(batch.num_valid):
                found[int(batch.keys_B2[row, 0])] = images[:, row]
    data.close()
    return found


def assert_same(found, expected):
    assert found.keys() <= expected.keys()
    assert all(torch.equal(images, expected[index]) for index, images in found.items())


@pytest.mark.parametrize("cut", [{"world_size": 2}, {"world_size": 3}, {"start": 2}])
@pytest.mark.parametrize("augment", [AUGMENT, [*AUGMENT, "trivial_augment", {"name": "random_erasing", "value": "random"}]])
def test_a_file_becomes_the_same_however_an_epoch_is_cut(root, cut, augment):
    expected = images_of(module(root, augment=augment))
    assert len(expected) == 14
    found = images_of(module(root, augment=augment, batch_size=3), **cut)
    assert len(found) == (14 if "world_size" in cut else 8)
    assert_same(found, expected)
    assert not torch.equal(images_of(module(root, augment=augment), epoch=2)[0], expected[0])


@pytest.mark.slow
def test_workers_change_nothing_of_files(root):
    assert_same(images_of(module(root, workers=2, views=2)), images_of(module(root, workers=0, views=2)))


def test_each_view_is_the_same_whichever_others_are_made(root, monkeypatch):
    opened = Counter()
    load = ImageSource._at
    monkeypatch.setattr(ImageSource, "_at", lambda self, scale: opened.update([(self._path, scale in self._decoded)]) or load(self, scale))
    three, one = images_of(module(root, views=3)), images_of(module(root))
    assert_same({index: images[:1] for index, images in three.items()}, one)
    assert any(not torch.equal(images[1], images[0]) for images in three.values())
    assert any(is_decoded for _, is_decoded in opened), "views of one scale share a decoding"
    data = module(root, views=3)
    data.make_views([2, 1])
    assert_same(images_of(data), {index: images[[2, 1]] for index, images in three.items()})


@pytest.mark.parametrize("broken", [None, 5])
def test_a_substitute_is_cropped_by_the_draws_of_the_place_that_it_takes(root, broken):
    if broken is not None:
        path = sorted(root.glob("train/*/*.jpg"))[broken]
        path.write_bytes(path.read_bytes()[:200])
    expected = images_of(module(root, on_bad_image="skip"))
    assert_same(images_of(module(root, on_bad_image="skip", batch_size=2), world_size=2), expected)
    if broken is not None:
        assert not any(torch.equal(images, expected[broken]) for index, images in expected.items() if index != broken)


def test_what_is_left_of_files_to_the_device_is_what_is_done_on_the_host(root, monkeypatch):
    expected = images_of(module(root, views=2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    data = module(root, views=2)
    monkeypatch.undo()
    (window, *_) = data.train_windows(1, world_size=1, shard=(0, 1), accumulate=1)
    (batch,) = window.batches
    moved = batch.to(torch.device("cpu"))
    assert len(batch.augmentations) == 2
    assert not torch.equal(moved.images, batch.images)
    assert all(torch.equal(moved.images[:, row], expected[int(index)]) for row, index in enumerate(batch.keys_B2[:, 0]))


@pytest.mark.parametrize("channels", [1, 3])
def test_prediction_reads_files_as_evaluation_does(root, channels):
    data = module(root, channels=channels, image_size=14)
    images = torch.cat([batch.images for batch in data.eval_batches(world_size=1, shard=(0, 1))])
    preprocess = build_preprocess(data._spec.preprocess or _default(data), channels=channels, image_size=(14, 14))
    paths = sorted(root.glob("val/*/*.jpg"))
    assert torch.equal(torch.stack([preprocess.read(path) for path in paths]), images)
    whole = torch.stack([preprocess(decode(path.read_bytes(), channels, path=path)) for path in paths])
    assert not torch.equal(whole, images), "some are decoded at a fraction of their size"
    assert (whole.double() - images.double()).abs().mean() < 1


def _default(data):
    from mutual.models import read_preprocess

    return read_preprocess(resolved_preprocess(data._spec, (14, 14)))
