"""data.sampler: an epoch's order is a function of (seed, epoch) alone, in which images occur as often as the sampler says."""

import os
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from support import inputs_of, tiny_document
from test_data_counted import assert_same, real_samples

from mutual.data import build_data, data_changes
from mutual.data.loading.plan import EpochPlan, epoch_order
from mutual.data.loading.requests import OCCURRENCE_STRIDE, CountedViews
from mutual.data.loading.samplers import BalancedSampler, ShuffleSampler, WeightedSampler, occurrences
from mutual.recipe import Data, RecipeError, parse_recipe
from mutual.recipe.base import Epochs

LABELS = torch.tensor([2] * 50 + [0] * 7 + [5] * 3)
AUGMENT = [{"name": "random_crop", "padding": 2}, {"name": "random_erasing", "value": "random"}]
SAMPLERS = {
    "balanced": {"sampler": "balanced"},
    "repeated": {"sampler": {"repeated": 2}},
    "a longer epoch": {"epoch_size": 130},
    "a shorter epoch of balanced classes": {"sampler": "balanced", "epoch_size": 41},
}


def module(*, seed=0, views=None, num_views=1, **fields):
    spec = Data(**{"dataset": "digits", "subset": 61, "subset_seed": 0, "batch_size": 8, "augment": AUGMENT, **fields})
    return build_data(spec, seed=seed, num_views=num_views, counted_views=views)


def keys_of(data, epoch, **cut):
    whole = {"world_size": 1, "shard": (0, 1), "accumulate": 1, **cut}
    return [key for window in data.train_keys(epoch, **whole) for key in window]


def test_classes_are_equally_frequent_and_no_image_comes_again_before_all_of_its_class():
    sampler = BalancedSampler(LABELS, epoch_size=61, seed=0)
    seen = Counter()
    for epoch in range(9):
        order = sampler.order(epoch)
        assert len(order) == 61
        seen.update(order)
        for label in (0, 2, 5):
            times = [seen[image] for image in range(60) if LABELS[image] == label]
            assert max(times) - min(times) <= 1
            assert abs(sum(times) - 61 * (epoch + 1) / 3) < 1
    assert sampler.order(4) == BalancedSampler(LABELS, epoch_size=61, seed=0).order(4)
    assert len({tuple(each.order(epoch)) for each in (sampler, BalancedSampler(LABELS, epoch_size=61, seed=1)) for epoch in (0, 1)}) == 4


def test_balanced_classes_are_mixed_and_rounds_are_permutations_of_their_own():
    sampler = BalancedSampler(LABELS, epoch_size=60, seed=0)
    labels = LABELS[sampler.order(0)]
    assert 20 < (labels.diff() != 0).sum() < 55, "neither blocks of a class nor classes in turn"
    of_three = [image for epoch in range(6) for image in sampler.order(epoch) if image >= 57]
    assert set(Counter(of_three).values()) == {40}
    counts = Counter(image for image in sampler.order(0) if LABELS[image] == 2)
    assert set(counts.values()) == {1}, "20 of 50 images, each once"


@pytest.mark.parametrize(
    ("num_classes", "group_size", "num_groups"), [(10, 4, 8), (4, 2, 4), (3, 5, 2), (12, 2, 9), (16, 3, 12), (10, 2, 10)]
)
def test_a_batch_holds_so_many_classes_with_k_different_images_each(num_classes, group_size, num_groups):
    labels = torch.arange(40 * num_classes) % num_classes
    size = group_size * num_groups
    sampler = BalancedSampler(labels, epoch_size=len(labels) // size * size, seed=0, group_size=group_size)
    classes = set()
    for epoch in (0, 3):
        batches = torch.tensor(sampler.order(epoch)).split(size)
        turns = len(batches) * num_groups // num_classes * num_classes // num_groups  # batches of whole turns of the classes
        for batch in batches[:turns]:
            groups = batch.view(num_groups, group_size)
            assert (labels[groups] == labels[groups[:, :1]]).all()
            assert len(labels[groups[:, 0]].unique()) == num_groups
            assert all(len(group.unique()) == group_size for group in groups)
            classes.add(tuple(labels[groups[:, 0]].tolist()))
    assert len(classes) > 1, "an epoch has an order of its own"


def test_groups_of_a_small_class_hold_images_twice_and_every_image_is_used():
    sampler = BalancedSampler(LABELS, epoch_size=48, seed=0, group_size=4)
    order = torch.tensor(sampler.order(0)).view(-1, 4)
    of_three = order[LABELS[order[:, 0]] == 5]
    assert len(of_three) == 4
    assert all(len(group.unique()) == 3 for group in of_three)
    of_seven = order[LABELS[order[:, 0]] == 0]
    assert len(of_seven[:2].unique()) == len(of_seven[2:].unique()) == 7, "two groups are a round of seven images"


def test_weights_say_how_often_an_image_is_drawn():
    weights = torch.tensor([0.0, 1.0, 2.5, 0.5, 0.0], dtype=torch.float64)
    sampler = WeightedSampler(weights, epoch_size=10, seed=0)
    total = Counter()
    for epoch in range(200):
        order = sampler.order(epoch)
        times = Counter(order)
        assert len(order) == 10
        assert times[2] in (6, 7)
        assert times[1] in (2, 3)
        assert times[3] in (1, 2)
        total.update(order)
    assert total.keys() == {1, 2, 3}
    assert total[2] == pytest.approx(1250, rel=0.03)
    assert total[3] == pytest.approx(250, rel=0.1)
    assert sampler.order(0) != sampler.order(1) != WeightedSampler(weights, epoch_size=10, seed=1).order(1)


def test_a_shuffle_of_another_length_goes_through_all_images_before_any_comes_again():
    sampler = ShuffleSampler(10, 4, seed=0)
    images = [image for epoch in range(5) for image in sampler.order(epoch)]
    assert images == epoch_order(10, seed=0, epoch=0) + epoch_order(10, seed=0, epoch=1)
    assert ShuffleSampler(10, 10, seed=3).order(7) == epoch_order(10, seed=3, epoch=7)
    assert Counter(ShuffleSampler(10, 25, seed=0).order(0)).keys() == set(range(10))


def test_occurrences_count_what_came_before():
    order = torch.randint(0, 9, (100,), generator=torch.Generator().manual_seed(0)).tolist()
    seen, expected = Counter(), []
    for image in order:
        expected.append(seen[image])
        seen[image] += 1
    assert occurrences(order) == expected


@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.4}, {"cutmix": 1.0}])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("batch_size", "world_size", "accumulate"), [(4, 2, 2), (2, 4, 2), (8, 2, 1)])
def test_windows_hold_the_same_inputs_however_they_are_cut(sampler, mixing, batch_size, world_size, accumulate):
    fields = {**SAMPLERS[sampler], **mixing}
    expected = real_samples(module(batch_size=16, **fields), epoch=3)
    found = real_samples(module(batch_size=batch_size, **fields), epoch=3, world_size=world_size, accumulate=accumulate)
    assert_same(found, expected)
    assert_same(real_samples(module(batch_size=16, **fields), epoch=3, start=2), expected[2:])


@pytest.mark.slow
def test_workers_change_nothing():
    fields = {"sampler": "balanced", "mixup": 0.2}
    data = module(workers=2, **fields)
    assert_same(real_samples(data, epoch=1), real_samples(module(**fields), epoch=1))
    data.close()


def test_a_repeated_image_is_augmented_anew_and_its_first_occurrence_as_ever():
    plain, data = module(augment=AUGMENT[:1]), module(augment=AUGMENT[:1], epoch_size=130)

    def by_key(data):
        found = {}
        for window in data.train_windows(2, world_size=1, shard=(0, 1), accumulate=1):
            for batch in window.batches:
                found |= {tuple(key): image for key, image in zip(batch.keys_B2.tolist(), inputs_of(batch, data.info)[0], strict=True)}
        return found

    found, expected = by_key(data), by_key(plain)
    assert len(found) == 130
    for image in range(61):
        numbers = sorted(number for index, number in found if index == image)
        assert numbers == [2 + OCCURRENCE_STRIDE * occurrence for occurrence in range(len(numbers))]
        assert torch.equal(found[image, 2], expected[image, 2])
    twice = [image for image, number in found if number == 2 + OCCURRENCE_STRIDE]
    assert sum(not torch.equal(found[image, 2], found[image, 2 + OCCURRENCE_STRIDE]) for image in twice) > 0.8 * len(twice) > 20


def test_no_epoch_has_the_number_of_anothers_occurrence():
    with pytest.raises(ValidationError, match="less than or equal"):
        TypeAdapter(Epochs).validate_python(OCCURRENCE_STRIDE + 1)


def test_both_images_of_a_pair_are_mixed_alike_whichever_occurrences_they_are():
    plain, data = (module(epoch_size=100, mixup=mixup, augment=[]) for mixup in (0.0, 0.7))
    images, labels = (torch.cat(parts) for parts in zip(*real_samples(data), strict=True))
    own, classes = (torch.cat(parts) for parts in zip(*real_samples(plain), strict=True))
    numbers = np.array(keys_of(data, 0))
    assert len(set(numbers[:, 1])) > 1
    for row in range(0, 100, 2):
        if classes[row] != classes[row + 1]:
            lam = labels[row, classes[row]]
            torch.testing.assert_close(labels[row + 1, classes[row + 1]], lam)
            torch.testing.assert_close(images[row], lam * own[row] + (1 - lam) * own[row + 1], rtol=1e-4, atol=1e-5)


def test_counted_views_of_a_repeated_image_are_different_ones():
    views = CountedViews(number=8, seed=0)
    for epoch in (0, 5, 11):
        assert len({views.of(3, epoch, 0, occurrence) for occurrence in range(8)}) == 8
    assert [CountedViews(1, 0).of(3, epoch, 0, 4) for epoch in range(3)] == [0, 0, 0]
    assert views.of(3, 5, 0) == views.of(3, 5, 0, 0)
    keys = keys_of(module(sampler="balanced", views=(8, 0)), 4)
    assert {number for _, number in keys} <= set(range(8))
    by_image = Counter(index for index, _ in keys)
    assert all(len({number for index, number in keys if index == image}) == times for image, times in by_image.items())


def test_an_image_alone_is_what_it_was_in_its_epoch():
    data = module(epoch_size=130, mixup=0.3)
    expected = {}
    for window in data.train_windows(1, world_size=1, shard=(0, 1), accumulate=1):
        for batch in window.batches:
            expected |= {tuple(key): image for key, image in zip(batch.keys_B2.tolist(), inputs_of(batch, data.info)[0], strict=True)}
    for index, number in (keys_of(data, 1)[0], keys_of(data, 1)[100]):
        batch = data.train_batch(index, number)
        assert batch.keys_B2.tolist() == [[index, number]]
        assert torch.equal(inputs_of(batch, data.info)[0][0], expected[index, number])


@pytest.mark.parametrize("num_samples", [32, 36, 40, 44])
def test_micro_batches_keep_groups_together(num_samples):
    labels = torch.arange(60) % 5
    sampler = BalancedSampler(labels, epoch_size=num_samples, seed=0, group_size=4)
    for batch_size, world_size, accumulate in ((8, 2, 2), (4, 1, 3), (8, 1, 3)):
        plan = EpochPlan(num_samples, batch_size, world_size, accumulate, 0, sampler)
        sizes = [size for window in range(plan.num_windows) for size in plan.micro_sizes(window)]
        assert all(size % 4 == 0 and size <= batch_size * world_size for size in sizes)
        assert sum(sizes) == num_samples
        for window in range(plan.num_windows):
            for rank in range(world_size):
                for part in plan.micro_batches(window, (rank, world_size)):
                    assert part.begin % 4 == 0 or part.global_batch_size % (4 * world_size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 training images of two classes, of which 4 are of the second; three are damaged."""
    root = tmp_path_factory.mktemp("data")
    for part, number in (("train", 24), ("val", 6)):
        for index in range(number):
            path = root / part / ("rare" if index % 6 == 5 else "usual") / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), index * 5).save(path)
            if part == "train" and index in (5, 6, 7):
                path.write_bytes(b"")
    return root


def of_folder(root, **fields):
    sizes = {"image_size": 8, "channels": 1, "batch_size": 4, "normalize": "none"}
    return build_data(Data(dataset="image_folder", root=str(root), on_bad_image="skip", **{**sizes, **fields}), seed=0)


@pytest.mark.parametrize("sampler", ["balanced", {"repeated": 2}])
def test_an_unreadable_image_has_a_substitute_of_its_class(folder, sampler):
    for epoch in (0, 1):
        data = of_folder(folder, sampler=sampler)
        ((images, labels),) = [tuple(torch.cat(parts) for parts in zip(*real_samples(data, epoch=epoch, world_size=2), strict=True))]
        values = (images.mean(dim=(1, 2, 3)) * 51).round().long()
        assert not set(values.tolist()) & {5, 6, 7}
        assert labels.bincount().tolist() == [12, 12]
        assert ((values % 6 == 5) == (labels == 0)).all()
        whole = of_folder(folder, sampler=sampler, batch_size=8)
        assert_same(real_samples(whole, epoch=epoch), real_samples(data, epoch=epoch, world_size=2))


def weights_file(folder, *lines):
    path = folder / "weights.txt"
    path.write_text("\n".join(map(str, lines)) + "\n")
    return {"sampler": {"weights": str(path)}}


def test_weights_are_read_for_each_image_or_each_class_and_follow_a_subset(tmp_path):
    images = Data(dataset="fake", num_train=40, num_val=8, num_classes=4, image_size=8, channels=1)
    labels = build_data(images, seed=0)._splits["train"].labels

    def drawn(lines, **fields):
        data = build_data(images.model_copy(update={"sampler": parsed(weights_file(tmp_path, *lines)), **fields}), seed=0)
        return data, [index for index, _ in keys_of(data, 0)]

    _, order = drawn([0, 1, 0, 3])
    times = labels[order].bincount(minlength=4)
    assert times[[0, 2]].tolist() == [0, 0]
    sizes = labels.bincount(minlength=4)
    assert times[3] == pytest.approx(40 * 3 * sizes[3].item() / (sizes[1] + 3 * sizes[3]).item(), abs=8)
    data, order = drawn([int(index == 13) for index in range(40)], epoch_size=5)
    assert order == [13] * 5
    other, _ = drawn([int(index in (13, 14)) for index in range(40)], epoch_size=5)
    assert data_changes(data.fingerprint, other.fingerprint) == "other weights of the training images (data.sampler)"
    assert data_changes(data.fingerprint, data.fingerprint) == ""
    data, order = drawn([int(label == 2) for label in labels], subset=20)
    assert set(data._splits["train"].labels[order].tolist()) == {2}


def parsed(fields):
    return Data(**fields).sampler


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([1, 2, 3], "has 3 weights for 61 training images or 10 classes"),
        ([1] * 9 + ["two"], "line 10: 'two' is no finite number from 0"),
        ([1] * 9 + [-1], "line 10: '-1' is no finite number"),
        ([1] * 9 + ["inf"], "line 10: 'inf' is no finite number"),
        ([1] * 9 + ["nan"], "line 10: 'nan' is no finite number"),
        ([0] * 10, "gives every training image the weight 0"),
        (["\x00\xff"], "is no finite number"),
    ],
)
def test_a_wrong_file_of_weights_is_one_line(tmp_path, lines, message):
    images = {"dataset": "fake", "num_train": 61, "num_classes": 10}
    with pytest.raises(ValueError, match=message) as caught:
        build_data(Data(**images, **weights_file(tmp_path, *lines)), seed=0)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_file_of_weights_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"none\.txt cannot be read: No such file"):
        build_data(Data(sampler={"weights": str(tmp_path / "none.txt")}), seed=0)
    (tmp_path / "image.txt").write_bytes(b"\xff\xfe\x00")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is no file"):
        build_data(Data(sampler={"weights": str(tmp_path / "pipe")}), seed=0)
    with pytest.raises(ValueError, match=r"image\.txt cannot be read"):
        build_data(Data(sampler={"weights": str(tmp_path / "image.txt")}), seed=0)


STORED = {"model": "support:tiny", "frozen": True, "store": {"folder": "x", "views": "epoch"}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampler": "balance"}, "data.sampler: 'balance' is no valid sampler; did you mean 'balanced'"),
        ({"sampler": {"repeat": 4}}, "data.sampler.repeat: unknown key 'repeat'; did you mean 'repeated'"),
        ({"sampler": {"repeated": 1}}, "data.sampler.repeated: 1 must be at least 2"),
        ({"sampler": {}}, "data.sampler: takes one of weights"),
        ({"sampler": {"weights": "a", "repeated": 2}}, "data.sampler: takes one of weights"),
        ({"sampler": {"repeated": 3}}, "data.batch_size: 8 is no multiple of the 3 images"),
        ({"sampler": {"repeated": 2}, "crops_per_image": 2, "batch_size": 9}, "data.batch_size: 9 is no multiple of the 2 .* 2 crops"),
        ({"sampler": {"repeated": 4}, "epoch_size": 42}, "data.epoch_size: 42 is no multiple of the 4 images"),
        ({"epoch_size": 0}, "data.epoch_size: 0 must be greater than 0"),
        ({"sampler": "balanced", "multi_label": True}, "data.sampler: balanced draws by class"),
        (
            {"sampler": {"weights": "a"}, "dataset": "image_folder", "root": ".", "unlabelled": "more"},
            "data.unlabelled adds images without class or weight",
        ),
    ],
)
def test_what_cannot_go_together_is_one_line(fields, message):
    document = tiny_document(objectives=[{"loss": "bce" if "multi_label" in fields else "cross_entropy"}])
    document["data"] = {**({} if "dataset" in fields else document["data"]), **fields}
    with pytest.raises(RecipeError, match=message) as caught:
        parse_recipe(document)
    assert len(caught.value.faults) == 1


def test_a_store_of_an_epochs_own_views_needs_each_image_once():
    document = tiny_document(peers={"a": {"model": "support:tiny"}, "t": STORED}, objectives=[{"loss": "kd", "sources": ["t"]}])
    parse_recipe(document)
    for fields in ({"sampler": "balanced"}, {"epoch_size": 10}):
        with pytest.raises(RecipeError, match=r"peers\.t\.store\.views: 'epoch' is for images that occur once"):
            parse_recipe({**document, "data": {**document["data"], **fields}})
