"""data.crops_per_image: an epoch has several crops of each image, which share its decoding and are drawn by their numbers."""

import shutil
from collections import Counter

import pytest
import torch
from PIL import Image
from support import tiny_document

from mutual.data import build_data, mixed
from mutual.data.datasets.splits import FileSplit
from mutual.data.loading.plan import epoch_order
from mutual.data.loading.requests import OCCURRENCE_STRIDE, CountedViews
from mutual.recipe import Data, RecipeError, parse_recipe

NUM_IMAGES = 13
PIPELINES = {
    "drawn before decoding": ["random_resized_crop", "horizontal_flip"],
    "drawn one by one": [{"name": "random_crop", "padding": 2}, {"name": "color_jitter", "brightness": 0.3}],
    "drawn for a batch": [{"name": "random_resized_crop", "scale": [0.3, 1.0]}, "horizontal_flip", {"name": "rotation", "degrees": 9}],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    noise = torch.Generator().manual_seed(0)
    for side, number in (("train", NUM_IMAGES), ("val", 2)):
        for index in range(number):
            path = folder / side / f"class{index % 2}" / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(torch.randint(0, 256, (12, 14, 3), dtype=torch.uint8, generator=noise).numpy()).save(path)
    return folder


def of_files(root, **fields):
    defaults = {"image_size": 10, "batch_size": 6, "normalize": "none", "augment": PIPELINES["drawn before decoding"]}
    return build_data(Data(dataset="image_folder", root=str(root), **{**defaults, **fields}), seed=0)


def of_memory(**fields):
    defaults = {"subset": NUM_IMAGES, "batch_size": 6, "augment": [{"name": "random_crop", "padding": 1}, "horizontal_flip"]}
    return build_data(Data(dataset="digits", **{**defaults, **fields}), seed=0)


def rows_of(data, epoch=0, *, world_size=1, accumulate=1, start=0):
    """Key, label and pixels (of all views) of each sample of an epoch in its order."""
    ranks = [
        list(data.train_windows(epoch, start=start, world_size=world_size, shard=(rank, world_size), accumulate=accumulate))
        for rank in range(world_size)
    ]
    data.close()
    rows = []
    for windows in zip(*ranks, strict=True):
        for batches in zip(*(window.batches for window in windows), strict=True):
            for batch in (each.augmented() for each in batches):
                images = batch.images if batch.images.dim() == 5 else batch.images[None]
                keys = batch.keys_B2.tolist()
                rows += [(tuple(keys[row]), int(batch.labels[row]), images[:, row]) for row in range(batch.num_valid)]
    return rows


def assert_equal(found, expected):
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    assert all(torch.equal(one[2], other[2]) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_first_crop_is_what_the_image_is_alone_and_the_others_stand_behind_it(root, pipeline, epoch):
    alone = rows_of(of_files(root, augment=PIPELINES[pipeline]), epoch)
    crops = rows_of(of_files(root, augment=PIPELINES[pipeline], crops_per_image=3), epoch)
    assert_equal(crops[::3], alone)
    order = epoch_order(NUM_IMAGES, seed=0, epoch=epoch)
    assert [row[0] for row in crops] == [(index, epoch + OCCURRENCE_STRIDE * crop) for index in order for crop in range(3)]
    pixels = {row[2].numpy().tobytes() for row in crops}
    assert len(pixels) > 0.9 * len(crops), "each is drawn by itself"


def test_crops_of_images_in_memory_are_the_same():
    alone, crops = rows_of(of_memory(), 1), rows_of(of_memory(crops_per_image=4), 1)
    assert_equal(crops[::4], alone)
    assert len({row[2].numpy().tobytes() for row in crops}) > 2 * NUM_IMAGES


@pytest.mark.parametrize("views", ["shared", "per_peer"])
@pytest.mark.parametrize(("world_size", "batch_size", "accumulate"), [(2, 3, 1), (3, 1, 2), (1, 100, 1), (1, 4, 3)])
def test_crops_depend_on_neither_ranks_nor_batch_size(root, views, world_size, batch_size, accumulate):
    def module(size):
        data = of_files(root, crops_per_image=2, batch_size=size)
        if views == "per_peer":
            data.make_views(range(2))
        return data

    assert_equal(rows_of(module(batch_size), 2, world_size=world_size, accumulate=accumulate), rows_of(module(6), 2))


def test_crops_depend_on_neither_workers_nor_where_an_epoch_was_cut(root):
    whole = rows_of(of_files(root, crops_per_image=2, workers=0), 1)
    assert_equal(rows_of(of_files(root, crops_per_image=2, workers=2), 1), whole)
    assert_equal(rows_of(of_files(root, crops_per_image=2), 1, start=2), whole[12:])


def counted_decodings(monkeypatch):
    found, original = Counter(), FileSplit.source
    monkeypatch.setattr(FileSplit, "source", lambda self, index: found.update([index]) or original(self, index))
    return found


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize(("views", "crops"), [(1, 3), (2, 1), (2, 3)])
def test_an_image_is_read_once_for_its_crops_and_the_views_of_all_peers(root, pipeline, views, crops, monkeypatch):
    data = of_files(root, augment=PIPELINES[pipeline], crops_per_image=crops)
    data.make_views(range(views))
    found = counted_decodings(monkeypatch)
    rows = rows_of(data)
    assert len(rows) == crops * NUM_IMAGES
    assert all(row[2].shape[0] == views for row in rows)
    assert set(found.values()) == {1}, "batches of 6 hold all crops of their images"


@pytest.mark.parametrize("crops", [1, 2, 3])
@pytest.mark.parametrize("mixing", [{"mixup": 0.4}, {"cutmix": 1.0}])
def test_a_crop_is_mixed_with_the_same_crop_of_the_image_beside_it(mixing, crops):
    def epoch_of(size):
        data = of_memory(crops_per_image=crops, batch_size=size, **mixing)
        (*windows,) = data.train_windows(0, world_size=1, shard=(0, 1), accumulate=1)
        return [batch for window in windows for batch in window.batches]

    samples, lams = [], {}
    for batch in epoch_of(6):
        order = epoch_order(NUM_IMAGES, seed=0, epoch=0)
        for row in range(batch.num_valid):
            position = len(samples)
            samples.append(mixed(batch, num_classes=10)[0][row])
            image, crop = divmod(position, crops)
            partner = image ^ 1 if image ^ 1 < NUM_IMAGES else image
            own, other = batch.labels[row], batch.labels[batch.mix.partner_B[row]]
            key = tuple(batch.keys_B2[row].tolist())
            assert key == (order[image], OCCURRENCE_STRIDE * crop)
            assert {int(own), int(other)} == {int(of_memory()._train._images.labels[order[each]]) for each in (image, partner)}
            lams.setdefault((image // 2, crop), []).append(float(batch.mix.lam_B[row]))
    assert all(len(set(pair)) == 1 for pair in lams.values()), "both of a pair are mixed alike"
    if "mixup" in mixing:  # there are few boxes in images of 8 x 8
        assert len({pair[0] for pair in lams.values()}) == len(lams), "and each pair by itself"
    others = torch.cat([mixed(batch, num_classes=10)[0][: batch.num_valid] for batch in epoch_of(5)])
    assert torch.equal(torch.stack(samples), others)


def test_crops_of_counted_views_are_different_views(root):
    data = build_data(
        Data(dataset="image_folder", root=str(root), image_size=10, batch_size=6, crops_per_image=3, augment=["random_resized_crop"]),
        seed=0,
        counted_views=(5, 7),
    )
    for epoch in (0, 4):
        rows = rows_of(data, epoch)
        keys = [row[0] for row in rows]
        assert len(set(keys)) == len(keys) == 3 * NUM_IMAGES
        assert all(view < 5 for _, view in keys)
        for (index, view), _, pixels in rows[::4]:
            assert torch.equal(data.train_batch(index, view).images[0], pixels[0]), "a store computes it alone"


@pytest.mark.parametrize("number", [1, 2, 6, 50])
def test_occurrences_show_each_view_before_any_again(number):
    views = CountedViews(number, 0)
    assert sorted(views.of(3, 11, 0, occurrence) for occurrence in range(number)) == list(range(number))
    assert views.of(3, 11, 0, 0) == views.of(3, 11, 0)


def test_a_batch_of_one_crop_is_that_of_its_epoch(root):
    data = of_files(root, crops_per_image=2)
    for (index, number), _, pixels in rows_of(data, 5)[::5]:
        assert torch.equal(data.train_batch(index, number).images[0], pixels[0])


def test_all_crops_of_a_bad_image_have_one_substitute_which_is_that_of_the_image_alone(root, tmp_path):
    shutil.copytree(root, tmp_path / "data")
    (tmp_path / "data/train/class0/04.png").write_bytes(b"none")
    alone = of_files(tmp_path / "data", on_bad_image="skip", augment=PIPELINES["drawn before decoding"])
    crops = of_files(tmp_path / "data", on_bad_image="skip", augment=PIPELINES["drawn before decoding"], crops_per_image=2)
    assert_equal(rows_of(crops)[::2], rows_of(alone))
    assert [row[1] for row in rows_of(crops)[::2]] == [row[1] for row in rows_of(crops)[1::2]]
    assert len(crops.take_bad_images()["train"]) == 1


def test_stores_take_as_many_counted_views_as_an_epoch_shows():
    def recipe(views, **data):
        document = tiny_document()
        document["peers"] = {
            "a": {"model": "small_cnn"},
            "t": {"model": "small_cnn", "frozen": True, "store": {"folder": "stores/t", "views": views}},
        }
        document["objectives"] = [{"loss": "kd", "learners": ["a"], "sources": ["t"]}]
        document["data"] |= data
        return parse_recipe(document)

    recipe(2, crops_per_image=2)
    recipe("epoch", crops_per_image=1)
    with pytest.raises(RecipeError, match=r"peers\.t\.store\.views: 'epoch' is for images that occur once"):
        recipe("epoch", crops_per_image=2)
    with pytest.raises(RecipeError, match=r"peers\.t\.store\.views: 2 views of an image, of which an epoch shows 3"):
        recipe(2, crops_per_image=3)
