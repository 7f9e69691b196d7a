"""Invariant 6: order, augmentation and mixing depend on (seed, epoch, sample) alone: not on ranks, batches, workers or cuts."""

from itertools import pairwise

import pytest
import torch
from support import inputs_of
from torch import Tensor

from mutual.data import build_data
from mutual.data.loading.batch import mixed
from mutual.data.loading.plan import EpochPlan
from mutual.recipe import Data, RecipeError, parse_recipe

AUGMENT = [{"name": "random_crop", "padding": 2}, {"name": "rotation", "degrees": 10}, {"name": "random_erasing", "value": "random"}]
DIGITS = {"dataset": "digits", "subset": 203, "batch_size": 8}


def module(*, seed=0, views=1, **fields):
    return build_data(Data(**{**DIGITS, **fields}), seed=seed, num_views=views)


def windows(data, epoch=0, *, start=0, world_size=1, accumulate=1):
    """All ranks' windows of an epoch, by window and rank."""
    ranks = [
        list(data.train_windows(epoch, start=start, world_size=world_size, shard=(rank, world_size), accumulate=accumulate))
        for rank in range(world_size)
    ]
    return list(zip(*ranks, strict=True))


def real_samples(data, **plan):
    """By window, the real images and labels that the peers see, of all ranks in the order of the epoch."""
    found = []
    for ranks in windows(data, **plan):
        cells = [
            (*inputs_of(rank.batches[index], data.info), rank.batches[index].num_valid)
            for index in range(len(ranks[0].batches))
            for rank in ranks
        ]
        images, labels = (torch.cat([cell[part][: cell[2]] for cell in cells]) for part in (0, 1))
        assert {rank.num_samples for rank in ranks} == {len(images)}
        found.append((images, labels))
    return found


def assert_same(found, expected):
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
@pytest.mark.parametrize(("batch_size", "world_size", "accumulate"), [(8, 2, 1), (4, 2, 2), (2, 4, 2), (1, 4, 4), (5, 3, 1)])
def test_windows_hold_the_same_inputs_however_they_are_cut(mixing, batch_size, world_size, accumulate):
    whole = batch_size * world_size * accumulate
    expected = real_samples(module(augment=AUGMENT, batch_size=whole, **mixing), epoch=3)
    found = real_samples(module(augment=AUGMENT, batch_size=batch_size, **mixing), epoch=3, world_size=world_size, accumulate=accumulate)
    assert_same(found, expected)


@pytest.mark.parametrize("num_samples", [1, 2, 3, 31, 32, 33, 64, 65])
def test_a_plan_gives_every_sample_once_and_every_rank_the_same_number_of_micro_batches(num_samples):
    plan = EpochPlan(num_samples, batch_size=4, world_size=4, accumulate=2, seed=0)
    seen = []
    for window in range(plan.num_windows):
        cells = [plan.micro_batches(window, (rank, 4)) for rank in range(4)]
        assert len({len(rank) for rank in cells}) == 1
        sizes = [cell.end - cell.begin for rank in cells for cell in rank]
        assert sum(sizes) == plan.size(window)
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= 4
        for parts in (1, 2, 3):
            pieces = [plan.micro_batches(window, (part, parts)) for part in range(parts)]
            for index, size in enumerate(plan.micro_sizes(window)):
                assert pieces[0][index].begin == cells[0][index].begin, "a micro-batch is the same images however it is cut"
                assert pieces[-1][index].end == cells[-1][index].end == cells[0][index].begin + size
                assert all(a[index].end == b[index].begin for a, b in pairwise(pieces))
        seen += [position for rank in cells for cell in rank for position in range(cell.begin, cell.end)]
    assert sorted(seen) == list(range(num_samples))
    assert sorted(plan.order(5)) == list(range(num_samples))


def test_each_epoch_and_seed_has_an_order_of_its_own():
    plan, other = EpochPlan(50, 4, 1, 1, seed=0), EpochPlan(50, 4, 1, 1, seed=1)
    assert plan.order(0) == plan.order(0)
    assert plan.order(0) != plan.order(1)
    assert plan.order(0) != other.order(0)


def test_an_epoch_that_was_cut_goes_on_as_it_was():
    data = module(augment=AUGMENT, mixup=0.2)
    assert_same(real_samples(data, epoch=1, start=17), real_samples(module(augment=AUGMENT, mixup=0.2), epoch=1)[17:])
    assert windows(data, epoch=1, start=data.num_windows(world_size=1, accumulate=1)) == []


@pytest.mark.slow
def test_workers_change_nothing():
    data = module(augment=AUGMENT, mixup=0.2, workers=2)
    expected = module(augment=AUGMENT, mixup=0.2)
    for epoch, start in ((0, 0), (1, 3)):
        assert_same(real_samples(data, epoch=epoch, start=start), real_samples(expected, epoch=epoch, start=start))
    data.close()


def test_augmentation_changes_with_the_epoch_and_leaves_the_global_generator_alone():
    data = module(augment=AUGMENT)
    state = torch.get_rng_state()

    def by_label_and_content(epoch) -> Tensor:
        return torch.cat([images for images, _ in real_samples(data, epoch=epoch)]).sum()

    assert by_label_and_content(0) != by_label_and_content(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_first_of_many_views_is_the_shared_one():
    shared, views = module(augment=AUGMENT), module(augment=AUGMENT, views=3)
    one, three = (next(data.train_windows(0, world_size=1, shard=(0, 1), accumulate=1)).batches[0] for data in (shared, views))
    assert three.images.shape == (3, *one.images.shape)
    assert torch.equal(three.images[0], one.images)
    assert not torch.equal(three.images[1], one.images)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 400])
def test_evaluation_counts_every_image_once(world_size):
    data = module()
    for parts in (world_size, 1, 2):
        of_part = [list(data.eval_batches(world_size=world_size, shard=(part, parts))) for part in range(parts)]
        rounds = list(zip(*of_part, strict=True))  # equally many for every part
        assert all(len(batch.labels) == len(batch.images) == max(batch.num_valid, 1) for batches in rounds for batch in batches)
        alone = list(module(batch_size=1000).eval_batches(world_size=1, shard=(0, 1)))
        seen = torch.cat([batch.images[: batch.num_valid] for batches in rounds for batch in batches])
        assert torch.equal(seen, alone[0].images)
        assert len(seen) == data.info.num_val == 355


def test_batchnorm_never_sees_a_single_image():
    data = module(subset=33, batch_size=16)
    for ranks in windows(data, world_size=2):
        for rank in ranks:
            assert all(len(batch.labels) >= 2 for batch in rank.batches)
    last = windows(data, world_size=2)[-1]
    assert [rank.batches[0].num_valid for rank in last] == [1, 0]
    assert torch.equal(last[1].batches[0].images[0], last[0].batches[0].images[0])


def test_mixup_blends_neighbours_and_their_labels():
    plain, data = module(), module(mixup=1.0)
    expected = real_samples(plain)[0]
    images, labels = real_samples(data)[0]
    own = labels[torch.arange(8), expected[1]]
    for index in range(8):
        partner = index ^ 1
        share = own[index] if expected[1][index] != expected[1][partner] else None
        if share is not None:
            torch.testing.assert_close(images[index], share * expected[0][index] + (1 - share) * expected[0][partner])
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(8))


def test_cutmix_labels_are_the_area_that_stays():
    expected, (images, labels) = real_samples(module(normalize="none"))[0], real_samples(module(normalize="none", cutmix=1.0))[0]
    for index in range(8):
        kept = images[index] == expected[0][index]
        pasted = images[index] == expected[0][index ^ 1]
        assert (kept | pasted).all()
        if expected[1][index] != expected[1][index ^ 1]:
            surely_pasted = (~kept).float().mean()
            assert 1 - labels[index, expected[1][index]] >= surely_pasted - 1e-6


def sample(data, size, world_size):
    """The images and labels of all shards, in their order within each round."""
    shards = [list(data.sample_batches(size, world_size=world_size, shard=(rank, world_size))) for rank in range(world_size)]
    rows = [(batch.images[: batch.num_valid], batch.labels[: batch.num_valid]) for each in zip(*shards, strict=True) for batch in each]
    return tuple(torch.cat(parts) for parts in zip(*rows, strict=True))


@pytest.mark.parametrize(("probabilities", "expected"), [({"mixup_p": 0.2, "cutmix_p": 0.3}, (0.2, 0.3)), ({"cutmix_p": 0.9}, (0.1, 0.9))])
def test_pairs_are_mixed_as_often_as_they_should_be(probabilities, expected):
    data = build_data(Data(dataset="fake", num_train=4_000, image_size=8, batch_size=4_000, mixup=1.0, cutmix=1.0, **probabilities), seed=0)
    (batch,) = next(data.train_windows(0, world_size=1, shard=(0, 1), accumulate=1)).batches
    has_box = batch.mix.box_B4.any(dim=1)
    is_whole = ~has_box & (batch.mix.lam_B == 1)
    assert abs(float(has_box.float().mean()) - expected[1]) < 0.04, "a box may be empty"
    assert abs(float(is_whole.float().mean()) - (1 - sum(expected))) < 0.04
    pixels, labels = mixed(batch, num_classes=10)
    assert torch.equal(pixels[is_whole], batch.images[:4_000][is_whole].float())
    assert torch.equal(labels[is_whole], torch.nn.functional.one_hot(batch.labels[:4_000][is_whole], 10).float())


@pytest.mark.parametrize(
    ("fields", "path"),
    [({"mixup_p": 0.5}, "data.mixup_p"), ({"mixup": 1.0, "cutmix": 1.0, "mixup_p": 0.7, "cutmix_p": 0.7}, "data.cutmix_p")],
)
def test_probabilities_that_cannot_be_are_one_line(fields, path):
    document = {"name": "t", "peers": {"a": {"model": "small_cnn"}}, "objectives": [{"loss": "cross_entropy"}], "data": fields}
    with pytest.raises(RecipeError, match=path):
        parse_recipe(document)


@pytest.mark.parametrize(("batch_size", "world_size", "workers"), [(8, 1, 0), (4, 2, 0), (5, 3, 0), (8, 2, 1)])
def test_a_sample_holds_the_same_images_however_it_is_cut(batch_size, world_size, workers):
    """They are neither augmented nor mixed, and as of the validation images each is there once."""
    data = module(augment=AUGMENT, mixup=0.4, batch_size=batch_size, workers=workers)
    images, labels = sample(data, 101, world_size)
    expected_images, expected_labels = sample(module(batch_size=101), 101, 1)
    data.close()
    assert len(labels) == 101
    assert torch.equal(images, expected_images)
    assert torch.equal(labels, expected_labels)
    assert len(images.flatten(1).unique(dim=0)) == 101


def test_a_sample_is_as_the_seed_draws_it_and_has_each_class_as_often():
    _, labels = sample(module(subset=None), 500, 1)
    every = torch.cat([batch.labels[: batch.num_valid] for (window,) in windows(module(subset=None)) for batch in window.batches])
    expected = every.bincount() * 500 / len(every)
    assert ((labels.bincount() - expected).abs() < 1).all()
    assert not torch.equal(sample(module(seed=1), 50, 1)[0], sample(module(), 50, 1)[0])
    assert len(sample(module(), 1_000, 1)[1]) == 203, "all, where there are fewer"


def test_selected_images_are_those_of_the_split_in_its_order_with_their_names():
    data = module(augment=AUGMENT)
    whole = torch.cat([batch.images[: batch.num_valid] for batch in data.eval_batches(world_size=1, shard=(0, 1))])
    every, some = data.select_images("val"), data.select_images("val", 4)
    assert torch.equal(torch.cat([batch.images for batch in data.prepared_batches(every, world_size=1, shard=(0, 1))]), whole)
    num_images = data.info.num_val
    assert some.indices.tolist() == [num_images * part // 4 for part in range(4)]
    (batch,) = data.prepared_batches(some, world_size=1, shard=(0, 1))
    assert torch.equal(batch.images, whole[some.indices])
    assert [some.name(position) for position in range(4)] == [f"image {index}" for index in some.indices.tolist()]
    assert torch.equal(some.pixels(2), batch.images[2])
