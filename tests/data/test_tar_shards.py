"""Shards: the same batches, bit for bit, as of the same images in a folder, and one read for each image."""

import errno
import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from shard_files import folder_and_shards, image_bytes, samples, write_shard
from support import digests, run, run_and_kill, tiny_document

import mutual.data.datasets.shards.reader as shards_module
from mutual.data import ImageError, build_data, check_present
from mutual.data.check import main as check
from mutual.data.datasets.readers import read_splits, with_unlabelled
from mutual.data.datasets.shards.reader import ShardSplit
from mutual.recipe import Data, RecipeError, parse_recipe

AUGMENT = [{"name": "random_resized_crop", "scale": [0.3, 1.0]}, "horizontal_flip", {"name": "rotation", "degrees": 9}]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    patterns = folder_and_shards(folder)
    assert patterns == {"train": "shards/train-{0..3}.tar", "val": "shards/val-{0..1}.tar"}
    return folder


def of_folder(root, **fields):
    return build_data(Data(dataset="image_folder", root=str(root), image_size=16, batch_size=4, augment=AUGMENT, **fields), seed=3)


def of_shards(root, **fields):
    fields = {"dataset": "wds/shards/train-{0..3}.tar", "val": "shards/val-{0..1}.tar", **fields}
    return build_data(Data(root=str(root), image_size=16, batch_size=4, augment=AUGMENT, **fields), seed=3)


def batches(data, epoch, *, start=0, world_size=1):
    found = [
        batch
        for rank in range(world_size)
        for window in data.train_windows(epoch, start=start, world_size=world_size, shard=(rank, world_size), accumulate=1)
        for batch in window.batches
    ]
    data.close()
    return found


def assert_same(found, expected):
    assert len(found) == len(expected) > 0
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine.images, theirs.images)
        assert torch.equal(mine.labels, theirs.labels)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(("epoch", "start"), [(0, 0), (2, 1)])
def test_shards_give_the_batches_of_the_same_images_in_a_folder(root, world_size, epoch, start):
    folder, shards = of_folder(root, workers=0), of_shards(root, workers=0)
    assert shards.info.num_train == folder.info.num_train == 15
    at = {"start": start, "world_size": world_size}
    assert_same(batches(shards, epoch, **at), batches(folder, epoch, **at))
    evaluated = [list(data.eval_batches(world_size=1, shard=(0, 1))) for data in (shards, folder)]
    assert_same(*evaluated)


@pytest.mark.slow
def test_workers_read_what_the_training_process_reads(root):
    for start in (0, 2):
        assert_same(batches(of_shards(root, workers=2), 1, start=start), batches(of_folder(root, workers=0), 1, start=start))


def test_shards_are_named_by_wildcards_and_absolute_paths_too(root, monkeypatch):
    expected = of_shards(root).fingerprint
    assert of_shards(root, dataset="wds/shards/train-*.tar", val="shards/val-[01].tar").fingerprint == expected
    assert of_shards(root / "nowhere", dataset=f"wds/{root}/shards/train-*.tar", val=f"{root}/shards/val-?.tar").fingerprint == expected
    monkeypatch.chdir(root / "shards")
    assert build_data(Data(dataset="wds/train-{0..3}.tar", val="val-{0,1}.tar", image_size=16), seed=0).fingerprint == expected


def test_fractions_and_subsets_of_shards_are_those_of_the_folder(root):
    spec = {"val": 0.2, "subset": 6, "unlabelled": str(root / "val")}
    shards = of_shards(root, dataset="wds/shards/*-*.tar", **spec)
    assert (shards.info.num_train, shards.info.num_val) == (6 + 6, 4)
    labels = torch.cat([batch.labels for batch in batches(shards, 0)])
    assert sorted(labels.tolist()) == [-1] * 6 + [0, 0, 1, 1, 2, 2]


def test_a_test_split_is_read(root):
    splits = read_splits(Data(dataset="wds/shards/train-{0..2}.tar", val="shards/val-0.tar", test="shards/val-1.tar", root=str(root)))
    assert [len(split.labels) for split in (splits.train, splits.val, splits.test)] == [12, 4, 2]


def test_unlabelled_images_may_lie_in_shards_or_in_files_beside_either(root):
    more = "wds/shards/val-{0..1}.tar"
    for data in (
        of_folder(root, unlabelled=more),
        of_shards(root, unlabelled=more, val="shards/train-0.tar", dataset="wds/shards/train-{1..3}.tar"),
    ):
        found = batches(data, 0)
        assert sum(int((batch.labels == -1).sum()) for batch in found) == 6
    assert_same(batches(of_folder(root, unlabelled=more), 1), batches(of_shards(root, unlabelled=str(root / "val")), 1))


def test_images_of_two_kinds_are_one_split(root):
    spec = {"root": str(root), "image_size": 16, "dataset": "wds/shards/train-{0..1}.tar", "val": "shards/val-0.tar"}
    train = read_splits(Data(**spec)).train
    joined = with_unlabelled(train, Data(**spec, unlabelled=str(root / "val")))
    assert [joined.name(index).removeprefix(f"{root}/") for index in (0, 7, 8, 13)] == [
        "shards/train-0.tar/class0/0.png",
        "shards/train-1.tar/class1/2.png",
        "val/class0/0.png",
        "val/class2/1.jpg",
    ]
    some = joined.select(torch.tensor([13, 1, 8, 0])).select(torch.tensor([0, 2, 1]))
    assert list(some.portable_names()) == ["class2/1.jpg", "class0/0.png", "train-0.tar/class0/1.jpg"]
    assert [some.content(index) for index in range(3)] == [
        (root / "val" / name).read_bytes() for name in ("class2/1.jpg", "class0/0.png")
    ] + [train.content(1)]
    for split in (train, joined, some):
        grey = split.decoded_as(1)
        assert (split.channels, grey.channels) == (3, 1)
        assert [each.image(0).shape[0] for each in (split, grey)] == [3, 1]
    assert torch.equal(some.labels, torch.tensor([-1, -1, 0]))


def num_open():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_more_files_are_open_than_may_be_and_none_is_sent_to_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "MAX_OPEN", 3)
    for number in range(8):
        write_shard(tmp_path / f"{number}.tar", samples([number, number], first=10 * number))
    split = read_splits(Data(dataset="wds/{0..7}.tar", val=0.2, root=str(tmp_path))).train
    assert isinstance(split, ShardSplit)
    before = num_open()
    contents = [split.content(index) for index in range(len(split.labels)) for _ in range(2)]
    assert num_open() == before + 3
    again = pickle.loads(pickle.dumps(split))
    assert num_open() == before + 3
    assert [again.content(index) for index in range(len(split.labels)) for _ in range(2)] == contents
    del again, split
    assert num_open() == before


def test_an_image_is_one_read(root, monkeypatch):
    split = read_splits(Data(dataset="wds/shards/train-{0..3}.tar", val=0.2, root=str(root))).train
    split.content(0)
    reads = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *arguments: reads.append(arguments) or pread(*arguments))
    split.source(1)
    assert len(reads) == 1


def test_a_drive_that_gives_less_than_it_is_asked_for_is_asked_again(root, monkeypatch):
    split = read_splits(Data(dataset="wds/shards/train-0.tar", val=0.2, root=str(root))).train
    whole, pread = split.content(0), os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, size, offset: pread(descriptor, min(size, 100), offset))
    assert split.content(0) == whole


def test_a_shard_that_has_changed_under_a_training_ends_it_and_is_no_bad_image(tmp_path):
    shard = write_shard(tmp_path / "0.tar", samples([0, 1, 0, 1]))
    split = read_splits(Data(dataset="wds/0.tar", val=0.25, root=str(tmp_path))).train
    content = shard.read_bytes()
    for changed in (content[:600], b"x" * len(content), content[512:] + content[:512]):
        shard.write_bytes(changed)
        with pytest.raises(OSError, match="has changed since its index was made") as caught:
            split.content(1)
        assert (caught.value.errno, caught.value.filename) == (errno.ESTALE, str(shard))
        assert not isinstance(caught.value, ImageError)


def test_an_empty_image_is_a_bad_one(tmp_path):
    write_shard(tmp_path / "0.tar", [("0.png", b""), ("0.cls", 0), *samples([1, 0], first=1)])
    split = read_splits(Data(dataset="wds/0.tar", val=0.3, root=str(tmp_path))).train
    index = [split.name(each) for each in range(2)].index(f"{tmp_path}/0.tar/0.png")
    with pytest.raises(ImageError, match=r"0\.tar/0\.png is no image that can be read: it is empty"):
        split.content(index)


def test_a_shard_in_two_splits_or_missing_is_told_at_once(root):
    for fields, message in (
        ({"val": "shards/train-1.tar"}, "is a shard of train and of val"),
        ({"val": "shards/val-0.tar", "test": "shards/../shards/val-0.tar"}, "is a shard of val and of test"),
        ({"val": "shards/val-{0..9}.tar"}, r"data.val: no shard .*val-2.tar and 7 others, 2 of 10 are there"),
        ({"val": "shards/vall-{0..1}.tar"}, r"data.val: no shard .*vall-0.tar, nor the 1 others"),
        ({"val": 0.1, "dataset": "wds/shards/nothing-*.tar"}, "data.dataset: no file is named as shards/nothing"),
        ({"val": 0.1, "dataset": "wds/shards/train-{0..3.tar"}, "without its other half"),
        ({"val": 0.1, "dataset": "wds/shards/train-{3..0}.tar"}, "ends before it begins"),
        ({"val": 0.1, "dataset": "wds/shards/train-{0...3}.tar"}, "neither a range of numbers"),
        ({"val": 0.1, "dataset": "wds/shards/train-{{0,1},2}.tar"}, "braces in braces"),
        ({"val": 0.1, "dataset": "wds/shards/train-{0,0}.tar"}, "is named twice"),
        ({"val": 0.1, "dataset": "wds/shards/train-{0..999999999}.tar"}, "more than 100,000 shards"),
        ({}, "set data.val to a fraction"),
    ):
        spec = Data(root=str(root), **{"dataset": "wds/shards/train-{0..3}.tar", **fields})
        with pytest.raises(ValueError, match=message) as caught:
            read_splits(spec)
        assert "\n" not in str(caught.value)
        if "no shard" in message or "brace" in message:
            with pytest.raises(ValueError, match=message):
                check_present(spec)


def test_what_is_for_shards_alone_is_refused_elsewhere():
    parse_recipe(tiny_document(data={"dataset": "wds/x.tar", "label_field": "x"}))
    with pytest.raises(RecipeError) as caught:
        parse_recipe(tiny_document(data={"dataset": "digits", "label_field": "x"}))
    assert [fault.path for fault in caught.value.faults] == ["data.label_field"]


def test_shards_are_checked_as_files_are(tmp_path, capsys):
    same = image_bytes(1)
    write_shard(tmp_path / "train.tar", [*samples([0, 1, 2]), ("9.jpg", b"no image"), ("9.cls", 0)])
    write_shard(tmp_path / "val.tar", [*samples([0], first=20), ("copy.png", same), ("copy.cls", 1)])
    write_shard(tmp_path / "test.tar", [("copy.png", same), ("copy.cls", 1)])
    write_shard(tmp_path / "more.tar", [("x.png", b"")])
    fields = {"dataset": "wds/train.tar", "val": "val.tar", "test": "test.tar", "root": str(tmp_path), "unlabelled": "wds/more.tar"}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_document(data={**fields, "image_size": 8})))
    assert check([str(recipe), "--workers", "2"]) == 1
    assert capsys.readouterr().out.replace(f"{tmp_path}/", "").splitlines() == [
        "more.tar/x.png is no image that can be read: it is empty",
        "train.tar/9.jpg is no image that can be read: it begins as none of JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM",
        "val.tar/copy.png has the content of train.tar/0001.png",
        "test.tar/copy.png has the content of train.tar/0001.png",
        "class 2 is in train only",
        "8 images: 2 bad, 1 of val that are in train too, 1 of test that are in train or val too; 1 classes of one side only, 0 empty",
    ]


def document(root, output, **data):
    fields = {"root": str(root), "image_size": 8, "batch_size": 2, "workers": 2, "augment": AUGMENT, **data}
    return tiny_document(data=fields, output=str(output), checkpoint={"every_steps": 1}, train={"epochs": 3, "progress": False})


@pytest.mark.slow
def test_two_ranks_train_on_shards_as_on_a_folder_and_resume_where_they_were_killed(root, tmp_path):
    """No index is there when both ranks begin."""
    copied = tmp_path / "data"
    shutil.copytree(root, copied, ignore=shutil.ignore_patterns(".mutual-index"))
    shards = {"dataset": "wds/shards/train-{0..3}.tar", "val": "shards/val-*.tar"}
    for name, fields in (("folder", {"dataset": "image_folder"}), ("whole", shards), ("cut", shards)):
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(document(copied, tmp_path / name, **fields)))
        if name == "cut":
            run_and_kill("mutual.train", recipe, processes=2, when=lambda: len(list(tmp_path.glob("cut/tiny/checkpoints/step_*"))) > 1)
        run("mutual.train", recipe, "--resume", processes=2)
    expected = digests(tmp_path / "folder" / "tiny")
    assert digests(tmp_path / "whole" / "tiny") == expected
    assert digests(tmp_path / "cut" / "tiny") == expected
    assert len(list((copied / "shards" / ".mutual-index").glob("*.index"))) == 6


def _train_labels(spec, queue):
    queue.put(read_splits(spec).train.labels.tolist())


@pytest.mark.slow
def test_processes_that_begin_together_find_the_same(root, tmp_path):
    shutil.copytree(root / "shards", tmp_path / "shards", ignore=shutil.ignore_patterns(".mutual-index"))
    spec = Data(dataset="wds/shards/train-*.tar", val=0.2, root=str(tmp_path))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_train_labels, args=(spec, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert found == [read_splits(spec).train.labels.tolist()] * 4
