"""Three splits: which images are training, validation and test images, by folders, lists, and fractions that are held out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mutual.data import build_data, data_changes
from mutual.data.datasets.presence import check_present
from mutual.data.datasets.readers import read_splits
from mutual.data.datasets.splits import FileSplit, MemorySplit
from mutual.data.datasets.stratified import held_out, small_classes
from mutual.recipe import Data, RecipeError, parse_recipe

FASHION = Path("/usr/share/datasets/fashion-mnist")
BOTH = {"test": 0.2, "val": 0.1}


def in_memory(labels):
    return MemorySplit(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels)


def in_files(names, labels, root="data"):
    return FileSplit([Path(root, name) for name in names], [Path(root)] * len(names), torch.tensor(labels), 3)


def names(split, indices):
    return [split.name(int(index)) for index in indices]


def write_images(folder, classes, number):
    for index, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for copy in range(number):
            Image.fromarray(np.full((9, 9, 3), 40 * index + copy, dtype=np.uint8)).save(folder / name / f"{copy:02}.png")


def folder_data(root, **fields):
    return Data(dataset="image_folder", root=str(root), image_size=8, **fields)


def list_data(root, lines, **fields):
    for name, text in lines.items():
        (root / f"{name}.txt").write_text("\n".join(text) + "\n")
    lists = {"train_list": str(root / "train.txt"), **({"val_list": str(root / "val.txt")} if "val" in lines else {})}
    return Data(dataset="image_list", root=str(root), image_size=8, **lists, **fields)


def test_parts_are_apart_whole_and_stratified():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    parts = held_out(in_memory(labels), BOTH, seed=0)
    assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(100))
    assert {name: labels[indices].bincount().tolist() for name, indices in parts.items()} == {
        "test": [12, 6, 2],
        "val": [6, 3, 1],
        "train": [42, 21, 7],
    }
    assert all(torch.equal(indices, indices.sort().values) for indices in parts.values())
    again, other = (held_out(in_memory(labels), BOTH, seed=seed) for seed in (0, 1))
    assert all(torch.equal(parts[name], again[name]) for name in parts)
    assert not torch.equal(parts["test"], other["test"])


def test_a_test_split_stays_when_the_validation_split_grows():
    split = in_memory(torch.arange(200) % 4)
    parts = [held_out(split, {"test": 0.2, "val": val}, seed=0) for val in (0.1, 0.3)]
    assert torch.equal(parts[0]["test"], parts[1]["test"])
    assert set(parts[0]["val"].tolist()) < set(parts[1]["val"].tolist())


def test_which_images_are_held_out_does_not_depend_on_their_order_or_place():
    files = [(f"{label}/{number:03}.jpg", label) for label in range(3) for number in range(30)]
    found = in_files(*zip(*files, strict=True))
    parts = held_out(found, BOTH, seed=0)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(1)).tolist()
    moved = in_files([files[index][0] for index in order], [files[index][1] for index in order], root="/elsewhere/data")
    for name, indices in held_out(moved, BOTH, seed=0).items():
        assert {Path(each).relative_to("/elsewhere/data") for each in names(moved, indices)} == {
            Path(each).relative_to("data") for each in names(found, parts[name])
        }


def test_a_file_in_several_lines_is_in_one_part_and_files_of_equal_names_are_not_one():
    repeated = in_files([f"{number % 20}.jpg" for number in range(100)], [0] * 100)
    parts = {name: set(names(repeated, indices)) for name, indices in held_out(repeated, BOTH, seed=0).items()}
    assert [len(parts[name]) for name in ("test", "val", "train")] == [4, 2, 14]
    assert not parts["test"] & parts["val"] | parts["test"] & parts["train"] | parts["val"] & parts["train"]
    outside = [f"/elsewhere/{label}/{number}.jpg" for label in range(5) for number in range(10)]
    split = FileSplit([Path(path) for path in outside], [Path("data")] * 50, torch.arange(50) // 10, 3)
    chosen = held_out(split, {"val": 0.1}, seed=0)["val"]
    assert split.labels[chosen].tolist() == [0, 1, 2, 3, 4]
    assert len({Path(name).name for name in names(split, chosen)}) > 1, "each class is drawn from by itself"


def test_each_part_has_an_image_of_each_class_where_there_are_enough():
    counts = [1, 2, 3, 4, 500]
    labels = torch.arange(5).repeat_interleave(torch.tensor(counts))
    parts = held_out(in_memory(labels), BOTH, seed=0)
    found = {name: labels[indices].bincount(minlength=5).tolist() for name, indices in parts.items()}
    assert {name: counts[:3] for name, counts in found.items()} == {"test": [0, 0, 1], "val": [0, 1, 1], "train": [1, 1, 1]}
    assert (sum(found["test"]), sum(found["val"])) == (102, 51), "the sizes stay what the fractions say"
    assert small_classes(labels, parts, ("a", "b", "c", "d", "e")) == [
        "test has no image of 2 of 5 classes, which have too few: a (1), b (2)",
        "val has no image of 1 of 5 classes, which have too few: a (1)",
    ]
    single = torch.tensor([*range(5), *[5] * 20])
    assert small_classes(single, held_out(in_memory(single), BOTH, seed=0), tuple("abcdef")) == [
        "test and val have no image of 5 of 6 classes, which have too few: a (1), b (1), c (1), ..."
    ]
    many = torch.arange(200).repeat_interleave(4)
    assert many[held_out(in_memory(many), {"val": 0.1}, seed=0)["val"]].bincount().tolist() == [1] * 200
    with pytest.raises(ValueError, match=r"data.val: no class has images enough that 0.1 of them could be held out"):
        held_out(in_memory(torch.arange(10)), {"val": 0.1}, seed=0)


@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    fractions=st.sampled_from([{"val": 0.1}, {"val": 0.5}, BOTH, {"test": 0.05, "val": 0.3}, {"test": 0.4, "val": 0.5}]),
)
def test_parts_are_as_large_as_they_can_be(counts, fractions):
    counts = [*counts, 40]
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    parts = held_out(in_memory(labels), fractions, seed=0)
    found = {name: labels[indices].bincount(minlength=len(counts)).tolist() for name, indices in parts.items()}
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(len(labels)))
    assert min(found["train"]) >= 1
    for name, fraction in fractions.items():
        others = len(fractions) if name == "test" or len(fractions) == 1 else 1
        can = [count > others for count in counts]
        assert all((number > 0) == each for number, each in zip(found[name], can, strict=True)) or name == "val"
        assert sum(found[name]) <= max(round(fraction * len(labels)), sum(can))
        if all(count * fraction >= 1 for count in counts) and sum(fractions.values()) < 0.7:
            assert all(abs(number - count * fraction) < 1 for number, count in zip(found[name], counts, strict=True))
            assert sum(found[name]) == round(fraction * len(labels))


def test_several_labels_are_stratified_by_combination_and_where_these_are_rare_by_label():
    frequent = torch.tensor([[1.0, 0, 0], [0, 1, 1]]).repeat_interleave(torch.tensor([60, 40]), dim=0)
    parts = held_out(in_memory(frequent), BOTH, seed=0)
    assert {name: frequent[indices, 0].long().bincount().tolist() for name, indices in parts.items()} == {
        "test": [8, 12],
        "val": [4, 6],
        "train": [28, 42],
    }
    rare = (torch.rand(600, 12, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    rare[:, 11] = 0
    rare[:6, 11] = 1
    assert rare.unique(dim=0).shape[0] > 300, "most combinations are there once"
    parts = held_out(in_memory(rare), BOTH, seed=0)
    assert len(parts["test"]) == pytest.approx(120, abs=3)
    assert len(parts["val"]) == pytest.approx(60, abs=3)
    for indices in parts.values():
        assert (rare[indices].sum(dim=0) > 0).all()
        assert (rare[indices, :11].mean(dim=0) - rare[:, :11].mean(dim=0)).abs().max() < 0.16
    nothing = torch.zeros(40, 3)
    assert len(held_out(in_memory(nothing), {"val": 0.1}, seed=0)["val"]) == 4
    first = torch.cat([torch.ones(8, 1), torch.eye(8)], dim=1)  # each alone with its labels, of which the first is the rarest
    flags = torch.cat([first, torch.zeros(4, 9), torch.tensor([0.0] + [1.0] * 8).repeat(60, 1)])
    for seed in range(10):
        chosen = held_out(in_memory(flags), {"val": 0.2}, seed=seed)["val"]
        numbers = [((chosen >= start) & (chosen < end)).sum().item() for start, end in ((0, 8), (8, 12), (12, 72))]
        assert numbers == [1, 1, 12], "images without a label are a stratum of their own"
    flags = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).repeat_interleave(torch.tensor([20, 1]), dim=0)
    assert small_classes(flags, held_out(in_memory(flags), {"val": 0.1}, seed=0), ("a", "b", "c")) == [
        "val has no image of 1 of 3 classes, which have too few: b (1)"
    ]


def test_three_folders(tmp_path):
    for part, number in (("train", 6), ("val", 2), ("test", 3)):
        write_images(tmp_path / part, ("cat", "dog"), number)
    data = build_data(folder_data(tmp_path, test="test"), seed=0)
    assert (data.info.num_train, data.info.num_val, data.info.num_test) == (12, 4, 6)
    assert data.info.sizes == "12 training, 4 validation and 6 test images"
    batches = list(data.eval_batches(world_size=1, shard=(0, 1), split="test"))
    assert torch.cat([batch.labels for batch in batches]).tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(batches[0].images[:, 0, 0, 0], torch.tensor([0, 1, 2, 40, 41, 42], dtype=torch.uint8))
    assert data.notes == ()
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "eel")
    with pytest.raises(ValueError, match="train and test do not have the same classes; only in one of them: dog, eel"):
        build_data(folder_data(tmp_path, test="test"), seed=0)


def test_a_test_folder_that_is_not_named_is_told_of_and_not_read(tmp_path):
    for part in ("train", "val", "test"):
        write_images(tmp_path / part, ("cat", "dog"), 2)
    data = build_data(folder_data(tmp_path), seed=0)
    assert data.info.num_test is None
    assert data.notes == (f"{tmp_path / 'test'} is there and is not read; data.test: test scores it once, at the end",)
    for fields in ({"test": "test"}, {"test": 0.5}, {"val": "test"}):
        assert build_data(folder_data(tmp_path, **fields), seed=0).notes == ()


def test_a_test_folder_that_is_none_is_not_told_of(tmp_path):
    for part in ("train", "val"):
        write_images(tmp_path / part, ("cat", "dog"), 2)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "0.png").write_bytes(b"an image without a label")
    assert read_splits(folder_data(tmp_path)).notes == ()
    write_images(tmp_path / "all", ("cat", "dog"), 10)
    write_images(tmp_path / "all" / "test", ("nested",), 10)
    assert read_splits(folder_data(tmp_path / "all", train=".", val=0.2)).notes == (), "it is a class"


def test_an_unsplit_folder_of_classes(tmp_path):
    write_images(tmp_path, ("cat", "dog", "test"), 10)
    data = build_data(folder_data(tmp_path, train=".", val=0.2, test=0.1, batch_size=50), seed=3)
    assert (data.info.num_train, data.info.num_val, data.info.num_test) == (21, 6, 3)
    assert data.info.class_names == ("cat", "dog", "test")
    assert data.notes == ()
    same, other = (
        build_data(folder_data(tmp_path, train=".", val=0.2, test=0.1, split_seed=split_seed), seed=7).fingerprint for split_seed in (3, 7)
    )
    assert same == data.fingerprint
    assert data_changes(data.fingerprint, other) == "; ".join(
        f"other {split} images or labels, as many of each class" for split in ("train", "val", "test")
    )
    subset = build_data(folder_data(tmp_path, train=".", val=0.2, test=0.1, subset=9), seed=3)
    assert (subset.info.num_train, subset.info.num_val, subset.info.num_test) == (9, 6, 3)
    assert {split: subset.fingerprint[split] for split in ("val", "test")} == {split: data.fingerprint[split] for split in ("val", "test")}


def test_validation_images_may_lie_elsewhere(tmp_path):
    write_images(tmp_path / "all", ("cat", "dog"), 4)
    write_images(tmp_path / "more", ("cat", "dog"), 3)
    splits = read_splits(folder_data(tmp_path / "all", train=".", val=str(tmp_path / "more")))
    assert list(splits.val.portable_names()) == [f"{name}/{number:02}.png" for name in ("cat", "dog") for number in range(3)]
    with pytest.raises(ValueError, match=r"more is both data.val and data.test; give another folder"):
        read_splits(folder_data(tmp_path / "all", train=".", val=str(tmp_path / "more"), test="../more"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train": ".", "val": "val"}, r"val, data.val, lies in .*, data.train, and would be one of its classes"),
        ({"train": "val", "test": "train/cat"}, "train/cat holds no folder of a class"),
        ({"test": "train/cat"}, r"cat, data.test, lies in .*train, data.train, and would be"),
        ({"test": "no"}, r"no folder .*no; image_folder needs"),
        ({"train": ".", "val": 0.1}, "holds the folders train, val, which are splits and no classes; name them in data.train and data.val"),
        ({"root": "train"}, r"no folder .*train/train; .*; where .*train is a folder of classes that are not split, set data.train: \."),
    ],
)
def test_folders_that_cannot_be_splits_are_told_of_before_torch_is_there(tmp_path, fields, message):
    for part in ("train", "val"):
        write_images(tmp_path / part, ("cat", "dog"), 1)
    if fields == {"train": "val", "test": "train/cat"}:
        fields = {**fields, "val": 0.5}
    spec = folder_data(**{"root": tmp_path, **fields, **({"root": tmp_path / fields["root"]} if "root" in fields else {})})
    for check in (check_present, read_splits):
        with pytest.raises(ValueError, match=message):
            check(spec)


def test_lists(tmp_path):
    write_images(tmp_path, ("cat", "dog"), 10)
    lines = [f"{name}/{number:02}.png {label}" for label, name in enumerate(("cat", "dog")) for number in range(10)]
    whole = build_data(list_data(tmp_path, {"train": lines[:8] + lines[10:18], "val": lines[8:9], "test": lines[9:10]}), seed=0)
    assert whole.info.num_test is None
    spec = list_data(tmp_path, {"train": lines[:8] + lines[10:18], "val": lines[8:9]}, test=str(tmp_path / "test.txt"))
    assert (build_data(spec, seed=0).info.num_val, build_data(spec, seed=0).info.num_test) == (1, 1)
    held = build_data(list_data(tmp_path, {"train": lines}, val=0.2, test=str(tmp_path / "test.txt")), seed=0)
    assert (held.info.num_train, held.info.num_val, held.info.num_test) == (16, 4, 1)
    (tmp_path / "test.txt").write_text("cat/00.png 2\n")
    with pytest.raises(ValueError, match=r"test.txt has the label 2, the largest in .*train.txt is 1; the classes differ"):
        build_data(spec, seed=0)
    (tmp_path / "test.txt").unlink()
    for check in (check_present, read_splits):
        with pytest.raises(ValueError, match=r"test.txt is no file; it should be a text file"):
            check(spec)


def test_lists_of_several_labels(tmp_path):
    write_images(tmp_path, ("all",), 30)
    lines = [f"all/{number:02}.png {number % 2},{1 - number % 2}" for number in range(30)]
    data = build_data(list_data(tmp_path, {"train": lines}, val=0.2, test=0.2, multi_label=True), seed=0)
    assert [data.fingerprint[split]["per_class"] for split in ("train", "val", "test")] == [[9, 9], [3, 3], [3, 3]]
    (tmp_path / "more.txt").write_text("all/00.png 1,1,1\n")
    spec = list_data(tmp_path, {"train": lines}, val=0.2, test=str(tmp_path / "more.txt"), multi_label=True)
    with pytest.raises(ValueError, match=r"more.txt has 3 flags a line, .*train.txt has 2; the classes differ"):
        build_data(spec, seed=0)


def test_images_without_labels_come_to_those_that_are_trained_alone(tmp_path):
    write_images(tmp_path / "all", ("cat", "dog"), 10)
    write_images(tmp_path / "more", ("unknown",), 5)
    data = build_data(folder_data(tmp_path / "all", train=".", val=0.2, test=0.2, unlabelled=str(tmp_path / "more")), seed=0)
    assert (data.info.num_train, data.info.num_val, data.info.num_test) == (17, 4, 4)


def test_what_a_data_set_holds_out_itself_is_the_test_split_beside_a_fraction():
    plain, fraction, tested = (build_data(Data(dataset="digits", **fields), seed=0) for fields in ({}, {"val": 0.1}, {"test": 0.1}))
    assert (plain.info.num_train, plain.info.num_val, plain.info.num_test) == (1442, 355, None)
    assert (fraction.info.num_train, fraction.info.num_val, fraction.info.num_test) == (1298, 144, 355)
    assert fraction.fingerprint["test"] == plain.fingerprint["val"] == tested.fingerprint["val"]
    assert (tested.info.num_train, tested.info.num_test) == (1298, 144)
    assert "test" not in plain.fingerprint
    assert "num_test" not in plain.fingerprint, "so that checkpoints of earlier versions are of the same data"
    assert data_changes(plain.fingerprint, tested.fingerprint) == (
        "number of training images: 1442 then, 1298 now; number of test images: null then, 144 now; "
        "train images of each class, number 0: 143 then, 129 now"
    )


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_three_splits_of_fashion_mnist():
    splits = read_splits(Data(dataset="fashion_mnist", root=str(FASHION), val=0.1))
    assert [split.labels.bincount().tolist() for split in (splits.train, splits.val, splits.test)] == [[5400] * 10, [600] * 10, [1000] * 10]
    assert splits.test.labels[:5].tolist() == [9, 2, 1, 1, 6], "the first of its own test images"


@pytest.mark.parametrize(
    "fields",
    [
        {"dataset": "digits", "val": 0.1},
        {"dataset": "digits", "test": 0.1},
        {"dataset": "image_folder", "root": "r", "train": ".", "val": 0.1, "test": "../more"},
        {"dataset": "image_folder", "root": "r", "train": ".", "val": "../more"},
        {"dataset": "image_folder", "root": "r", "train": "images", "test": "test"},
        {"dataset": "image_folder", "root": "r", "val": 0.5, "test": 0.4},
        {"dataset": "image_list", "root": "r", "train_list": "t", "val": 0.1, "test": "l"},
        {"dataset": "image_list", "root": "r", "train_list": "t", "val_list": "v", "test": 0.1},
        {"dataset": "hfds/beans", "train": "train", "val": "validation", "test": "test"},
        {"dataset": "wds/{0..3}.tar", "val": "val.tar", "test": 0.1},
    ],
)
def test_splits_that_mean_something_are_taken(fields):
    document = {"name": "t", "peers": {"a": {"model": "small_cnn"}}, "objectives": [{"loss": "cross_entropy"}], "data": fields}
    data = parse_recipe(document).resolved().data
    assert (data.split_seed is None) == (not any(isinstance(fields.get(split), float) for split in ("val", "test")))


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ({"dataset": "digits", "train": "x"}, "data.train", "digits has training images of its own; leave data.train out"),
        ({"dataset": "digits", "val": "val"}, "data.val", "digits has no splits by name; give a fraction of the training images, as 0.1"),
        ({"dataset": "digits", "val": 0.1, "test": 0.1}, "data.test", "the images that digits holds out itself are the test split"),
        ({"dataset": "digits", "val": 1}, "data.val", "must be less than 1"),
        ({"dataset": "image_folder", "root": "r", "train": "./"}, "data.val", "the whole of data.root is the training images"),
        ({"dataset": "image_folder", "root": "r", "test": "val/"}, "data.test", "is the folder of data.val; give another one"),
        ({"dataset": "image_folder", "root": "r", "val": 0.5, "test": 0.6}, "data.test", "with data.val, 110% of the training images are"),
        ({"dataset": "image_folder", "root": "r", "val": 0.5, "test": 0.5}, "data.test", "with data.val, 100% of the training images are"),
        ({"dataset": "image_list", "root": "r", "train_list": "t", "val_list": "v", "val": 0.1}, "data.val", "leave one of the two out"),
        ({"dataset": "image_list", "root": "r", "train_list": "t", "val_list": "v", "train": "t"}, "data.train", "data.train_list"),
        ({"dataset": "wds/{0..3}.tar", "train": "x"}, "data.train", "the shards of training images stand in data.dataset"),
    ],
)
def test_splits_that_mean_nothing_are_one_line(fields, path, message):
    document = {"name": "t", "peers": {"a": {"model": "small_cnn"}}, "objectives": [{"loss": "cross_entropy"}], "data": fields}
    with pytest.raises(RecipeError) as raised:
        parse_recipe(document)
    (fault,) = raised.value.faults
    assert fault.path == path
    assert message in str(raised.value)
