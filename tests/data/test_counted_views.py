"""A fixed number of views of each image: a key (image, view) stands for the same pixels and labels in any epoch, rank, batch and worker."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from support import inputs_of

from mutual.data import build_data
from mutual.data.loading.plan import epoch_order
from mutual.data.loading.requests import CountedViews
from mutual.recipe import Data, derive_seed

AUGMENT = [{"name": "random_crop", "padding": 2}, {"name": "random_erasing", "value": "random"}]
VIEWS = 4
MIXING = [{}, {"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}]


def module(*, seed=0, views_seed=0, views=VIEWS, num_views=1, **fields):
    spec = Data(**{"dataset": "digits", "subset": 37, "batch_size": 5, "augment": AUGMENT, "subset_seed": 0, **fields})
    return build_data(spec, seed=seed, num_views=num_views, counted_views=None if views is None else (views, views_seed))


def seen(data, epochs, *, world_size=1, accumulate=1, start=0):
    """By key the pixels and the label of each image of some epochs, and how often it was seen; all sightings must agree."""
    found, times = {}, Counter()
    for epoch in epochs:
        for rank in range(world_size):
            shard = {"world_size": world_size, "shard": (rank, world_size), "accumulate": accumulate}
            for window in data.train_windows(epoch, start=start, **shard):
                for batch in window.batches:
                    images, labels = inputs_of(batch, data.info)
                    images = images if images.dim() == 4 else images.transpose(0, 1)
                    assert len(batch.keys_B2) == len(images) == len(labels)
                    for row, key in enumerate(map(tuple, batch.keys_B2.tolist())):
                        one = found.setdefault(key, (images[row], labels[row]))
                        assert all(torch.equal(a, b) for a, b in zip(one, (images[row], labels[row]), strict=True)), key
                        times[key] += row < batch.num_valid
    data.close()
    return found, times


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, one in found.items():
        assert all(torch.equal(a, b) for a, b in zip(one, expected[key], strict=True)), key


@pytest.mark.parametrize("mixing", MIXING)
def test_so_many_epochs_show_each_view_of_each_image_once(mixing):
    data = module(**mixing)
    first, times = seen(data, range(VIEWS))
    assert set(times.values()) == {1}
    assert len(times) == 37 * VIEWS
    second, times = seen(data, range(VIEWS, 2 * VIEWS))
    assert set(times.values()) == {1}
    assert_same(second, first)


@pytest.mark.parametrize("mixing", MIXING)
@pytest.mark.parametrize("cut", [{"world_size": 2}, {"world_size": 3, "accumulate": 2}, {"start": 2}])
def test_a_key_stands_for_the_same_pixels_however_an_epoch_is_cut(mixing, cut):
    expected, _ = seen(module(**mixing), [2])
    found, times = seen(module(batch_size=3, **mixing), [2], **cut)
    assert_same(found, {key: expected[key] for key in found})
    assert "start" in cut or times.total() == 37


@pytest.mark.slow
def test_workers_and_views_of_peers_change_nothing():
    fields = {"mixup": 0.4, "num_views": 3}
    assert_same(*(seen(module(workers=workers, **fields), range(2))[0] for workers in (0, 2)))


def test_views_depend_on_their_seed_and_the_order_on_the_recipes():
    """Runs of other seeds that share a store see the same views, in another order."""
    fields = {"cutmix": 1.0, "views_seed": 7}
    one, other = (module(seed=seed, **fields) for seed in (1, 2))
    assert_same(seen(one, range(VIEWS))[0], seen(other, range(VIEWS))[0])
    keys = [[key for window in data.train_keys(0, world_size=1, shard=(0, 1), accumulate=1) for key in window] for data in (one, other)]
    assert keys[0] != keys[1]
    assert sorted(index for index, _ in keys[0]) == list(range(37))
    third = seen(module(seed=1, cutmix=1.0, views_seed=8), range(VIEWS))[0]
    assert any(not torch.equal(third[key][0], image) for key, (image, _) in seen(one, range(VIEWS))[0].items())


def test_views_of_an_image_differ_and_are_what_their_number_says():
    data = module(augment=AUGMENT[:1])
    found, _ = seen(data, range(VIEWS))
    plain, _ = seen(module(augment=AUGMENT[:1], views=None), range(VIEWS))
    assert_same(found, plain)  # view number v is what epoch v makes of an image without counted views
    assert any(not torch.equal(found[5, 0][0], found[5, view][0]) for view in range(1, VIEWS))


def test_the_mix_is_the_written_out_one():
    data = module(mixup=0.4, augment=[])
    found, _ = seen(data, range(VIEWS))
    plain, _ = seen(module(augment=[]), range(VIEWS))
    for (index, view), (image, label) in found.items():
        partner = derive_seed(0, "partner", view, index) % 37
        lam = np.float32(np.random.default_rng(derive_seed(0, "mix", view, index)).beta(0.4, 0.4))
        expected = lam * plain[index, view][0] + (1 - lam) * plain[partner, view][0]
        torch.testing.assert_close(image, expected, rtol=1e-5, atol=1e-5)
        assert float(label.sum()) == pytest.approx(1)


def test_keys_without_counted_views_are_those_of_the_epoch():
    data = module(views=None, mixup=0.2)
    order = epoch_order(37, seed=0, epoch=3)
    keys = [key for window in data.train_keys(3, world_size=1, shard=(0, 1), accumulate=1) for key in window]
    assert keys == [(index, 3) for index in order] + [(order[35], 3)] * (len(keys) - 37)


@pytest.mark.parametrize("views", [None, VIEWS])
@pytest.mark.parametrize("mixing", MIXING)
def test_one_view_of_one_image_is_that_of_its_epoch(views, mixing):
    data = module(views=views, **mixing)
    for (index, view), expected in list(seen(data, range(2))[0].items())[::9]:
        batch = data.train_batch(index, view)
        assert batch.keys_B2.tolist() == [[index, view]]
        assert all(torch.equal(a[0], b) for a, b in zip(inputs_of(batch, data.info), expected, strict=True))


def test_the_views_of_an_image_come_in_blocks_of_so_many_epochs():
    views = CountedViews(number=5, seed=3)
    for index in range(20):
        by_epoch = [views.of(index, epoch, seed=0) for epoch in range(15)]
        assert all(sorted(by_epoch[begin : begin + 5]) == list(range(5)) for begin in (0, 5, 10))
    assert len({tuple(views.of(index, epoch, 0) for epoch in range(5)) for index in range(20)}) > 1


def test_a_substitute_is_the_same_in_each_epoch_that_shows_a_view(tmp_path):
    for side, count in (("train", 8), ("val", 2)):
        (tmp_path / side / "a").mkdir(parents=True)
        for number in range(count):
            Image.new("L", (8, 8), number * 20).save(tmp_path / side / "a" / f"{number}.png")
    (tmp_path / "train" / "a" / "3.png").write_bytes(b"no image")
    spec = Data(dataset="image_folder", root=str(tmp_path), image_size=8, channels=1, batch_size=4, on_bad_image="skip", augment=[])
    seen(build_data(spec, seed=0, counted_views=(VIEWS, 0)), range(3 * VIEWS))
