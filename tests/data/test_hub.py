"""`hfds/NAME_OR_FOLDER`: what is read of a data set of Hugging Face `datasets`, wherever it lies, and what is refused of one."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from importlib import metadata
from itertools import chain
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from support import environment
from tables import FEATURES, encoded, png, table, write_parquet

from mutual.data import ImageError, build_data, check_present
from mutual.data.datasets.readers import read_splits
from mutual.recipe import Data, RecipeError, parse_recipe


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Where `datasets` keeps what it converts."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


def data_of(place, **fields):
    return Data(**{"dataset": f"hfds/{place}", "channels": 1, "image_size": 8, **fields})


def read(place, **fields):
    return read_splits(data_of(place, **fields))


def values(split):
    """The grey of each image."""
    return [int(split.image(index).unique()) for index in range(len(split.labels))]


def refusal(place, **fields):
    """What is told of a data set that is refused."""
    with pytest.raises(ValueError, match=r".") as caught:
        read(place, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def arrow(folder, **parts):
    folder.mkdir()
    for name, each in (parts or {"train": table(12), "validation": table(6, first=100)}).items():
        with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as file, pa.ipc.new_stream(file, each.data.table.schema) as writer:
            writer.write_table(each.data.table)


def shards(folder):
    (folder / "data").mkdir(parents=True)
    for part in range(3):
        table(4, first=4 * part).to_parquet(folder / "data" / f"train-0000{part}-of-00003.parquet")
    table(6, first=100).to_parquet(folder / "data" / "validation-00000-of-00001.parquet")


def folders(folder):
    for name, each in (("train", table(12)), ("val", table(6, first=100))):
        (folder / name).mkdir(parents=True)
        each.to_parquet(folder / name / "data-00000-of-00001.parquet")


FORMS = {
    "parquet": write_parquet,
    "shards": shards,
    "folders": folders,
    "arrow": arrow,
    "saved": lambda folder: datasets.DatasetDict(train=table(12), validation=table(6, first=100)).save_to_disk(str(folder)),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_data_set_is_read_from_any_form(form, tmp_path):
    FORMS[form](tmp_path / "owls")
    found = read((tmp_path / "owls").rename(tmp_path / "owls [2], x*"))
    assert found.class_names == ("cat", "dog", "owl")
    assert values(found.train) == list(range(12))
    assert found.train.labels.tolist() == [0, 1, 2] * 4
    assert values(found.val) == list(range(100, 106))
    assert found.test is None


def one_file(folder):
    table(12).to_parquet(folder)


def one_saved(folder):
    table(12).save_to_disk(str(folder))


@pytest.mark.parametrize(("name", "write"), [("owls.parquet", one_file), ("owls", one_saved)])
def test_a_single_split_is_that_of_training_whose_fractions_are_held_out(name, write, tmp_path):
    write(tmp_path / name)
    assert refusal(tmp_path / name).endswith("has no validation images; set data.val to a fraction of the training images, as 0.1")
    found = read(tmp_path / name, val=0.25, test=0.25)
    parts = [values(split) for split in (found.train, found.val, found.test)]
    assert list(map(len, parts)) == [6, 3, 3]
    assert sorted(chain(*parts)) == list(range(12))
    assert found.test.labels.tolist() == [value % 3 for value in parts[2]]


def test_a_relative_name_lies_below_the_root(tmp_path, monkeypatch):
    write_parquet(tmp_path / "a" / "owls")
    assert len(read("owls", root=str(tmp_path / "a")).train.labels) == 12
    monkeypatch.chdir(tmp_path)
    assert len(read("a/owls").train.labels) == 12


@pytest.mark.parametrize(
    ("splits", "fields", "expected"),
    [
        (["train", "validation", "test"], {}, ("train", "validation", None)),
        (["train", "validation", "test"], {"test": "test"}, ("train", "validation", "test")),
        (["train", "test"], {}, ("train", "test", None)),
        (["train", "val"], {}, ("train", "val", None)),
        (["train", "extra", "test"], {"train": "extra", "val": "train", "test": "test"}, ("extra", "train", "test")),
        (["only", "test"], {"train": "only"}, ("only", "test", None)),
    ],
)
def test_splits_are_found_by_their_names(splits, fields, expected, tmp_path):
    for number, name in enumerate(splits):
        table(3 + number).to_parquet(tmp_path / f"{name}-00000-of-00001.parquet")
    found = read(tmp_path, **fields)
    sizes = [None if split is None else len(split.labels) for split in (found.train, found.val, found.test)]
    assert sizes == [None if name is None else 3 + splits.index(name) for name in expected]


@pytest.mark.parametrize(
    ("splits", "fields", "line"),
    [
        (["train", "test"], {"test": "test"}, "has no validation images; set data.val to a fraction"),
        (["train", "test"], {"val": "tests"}, r"data.val: .* has no split 'tests'; did you mean 'test'\?"),
        (["train", "test"], {"val": "train", "train": "train"}, "data.train: the split 'train' is named twice"),
        (["train", "test"], {"val": "test", "test": "test"}, "data.val: the split 'test' is named twice"),
        (["one", "two"], {}, r"has no split train; name one in data.train; choose from one, two"),
    ],
)
def test_splits_that_are_not_there_are_refused(splits, fields, line, tmp_path):
    for name in splits:
        table(3).to_parquet(tmp_path / f"{name}-00000-of-00001.parquet")
    assert re.search(line, refusal(tmp_path, **fields))


def test_images_are_drawn_and_augmented_as_those_in_files_are(tmp_path):
    """The same contents in the same order give the same batches."""
    for value in range(12):
        place = tmp_path / "files" / "train" / "abc"[value // 4] / f"{value:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png(value))
    shutil.copytree(tmp_path / "files" / "train", tmp_path / "files" / "val")
    write_parquet(tmp_path / "table", label=[value // 4 for value in range(12)], num_val=12)
    fields = {"batch_size": 5, "channels": 1, "image_size": 8, "augment": ["random_resized_crop", {"name": "rotation", "degrees": 30}]}
    epochs = []
    for data in (Data(dataset="image_folder", root=str(tmp_path / "files"), **fields), data_of(tmp_path / "table", **fields)):
        module = build_data(data, seed=3)
        windows = module.train_windows(1, world_size=1, shard=(0, 1), accumulate=1)
        epochs.append([(batch.images, batch.labels) for window in windows for batch in window.batches])
    for (images, labels), (same_images, same_labels) in zip(*epochs, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)


def test_a_process_that_is_handed_a_split_maps_its_files_itself(tmp_path):
    write_parquet(tmp_path, number=60)
    split = read(tmp_path).train
    assert values(split) == list(range(60))
    content = pickle.dumps(split)
    assert len(content) < 4000 + 16 * 60, "names of files, rows and labels"
    assert values(pickle.loads(content)) == list(range(60))


def test_the_fingerprint_stays_where_data_are_moved_and_notices_others(tmp_path):
    def fingerprint(place):
        return build_data(data_of(place), seed=0).fingerprint

    expected = fingerprint(write_parquet(tmp_path / "a"))
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert fingerprint(tmp_path / "b") == expected
    FORMS["saved"](tmp_path / "saved")
    assert fingerprint(tmp_path / "saved") == expected
    other_pixels = encoded([*range(11), 50])
    for name, columns in {"pixels": {"image": other_pixels}, "labels": {"label": [0, 2, 1] * 4}}.items():
        FORMS["saved"](tmp_path / name)
        table(12, **columns).save_to_disk(str(tmp_path / name / "train"))
        changed = fingerprint(tmp_path / name)
        assert changed["train"]["digest"] != expected["train"]["digest"]
        assert changed["val"] == expected["val"]


PLAIN = {"image": [png(0), png(1), png(2)], "label": [0, 1, 2]}


def plain(folder, **columns):
    """A parquet file of three rows without what `datasets` knows of types."""
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({key: value for key, value in {**PLAIN, **columns}.items() if value is not None}), folder / "train.parquet")
    shutil.copy(folder / "train.parquet", folder / "test.parquet")
    return folder


@pytest.mark.parametrize(
    ("columns", "named", "class_names"),
    [
        ({}, None, "012"),
        ({"image": None, "picture": PLAIN["image"], "label": None, "kind": ["a", "c", "a"]}, None, "ac"),
        ({"image": [{"path": None, "bytes": content} for content in PLAIN["image"]]}, None, "012"),
        ({"image": None, "pixels": [[[value, value], [value, value]] for value in range(3)]}, None, "012"),
        ({"id": [5, 6, 7], "text": ["x", "y", "z"]}, None, "012"),
        ({"other": PLAIN["image"]}, {"image": "other"}, "012"),
        ({"coarse": ["q", "p", "p"]}, {"label": "coarse"}, "pq"),
    ],
)
def test_columns_are_found_by_their_types_or_named(columns, named, class_names, tmp_path):
    found = read(plain(tmp_path, **columns), columns=named)
    assert found.class_names == tuple(class_names)
    assert values(found.train) == [0, 1, 2]


@pytest.mark.parametrize(
    ("columns", "named", "line"),
    [
        ({"other": PLAIN["image"]}, None, r"the image may be in 'image' or 'other'; set data.columns: {image: image}"),
        ({"label": None, "a": [0, 1, 0], "b": ["x", "y", "x"]}, None, "the label may be in 'a' or 'b'; set data.columns"),
        ({"image": None}, None, r"has no column of type image \(.*\); it has 'label' \(int64\)"),
        ({"label": None, "score": [0.1, 0.2, 0.3]}, None, r"no column of type label \(.*\); it has 'image' \(binary\), 'score' \(double\)"),
        ({}, {"image": "img"}, r"data.columns.image: .* has no column 'img'; did you mean 'image'"),
        ({}, {"label": "lable"}, r"data.columns.label: .* has no column 'lable'; did you mean 'label'\?"),
        ({}, {"image": "label"}, "column 'label' of .* holds int64, which are no images"),
        ({}, {"label": "image"}, "column 'image' of .* holds binary; labels are a ClassLabel, whole numbers or texts"),
        ({"label": [[0], [1], [1]]}, {"label": "label"}, r"holds list<.*>; set data.multi_label: true"),
        ({"label": [0, None, 2]}, None, r"train in .* has no label for 1 images \(label\); take them out"),
        ({"label": [0, -1, -1]}, None, r"2 images have the label -1 \(not told\) in label; take them out, or name another split"),
        ({"label": [0, 1, 10**7]}, None, "label 10000000 in label is too large for a class"),
    ],
)
def test_columns_that_hold_no_images_or_labels_are_refused(columns, named, line, tmp_path):
    assert re.search(line, refusal(plain(tmp_path, **columns), columns=named))


def test_a_column_that_names_each_image_is_not_taken_for_labels(tmp_path):
    features = datasets.Features({"image": datasets.Image()})
    for name in ("train", "test"):
        table(12, features=features, id=list(range(12))).remove_columns("label").to_parquet(tmp_path / f"{name}.parquet")
    assert "each image has a label of its own in id; name the labels' column in data.columns" in refusal(tmp_path)
    assert len(read(tmp_path, columns={"label": "id"}).class_names) == 12


@pytest.mark.parametrize(
    ("label", "line"),
    [
        ([0, 1, 3], r"validation in .*: label 3 in label is no class; there are 3"),
        ([0, -1, -1], r"validation in .*: 2 images have the label -1"),
        (["cat", "dog", "emu"], r"validation in .* has the class 'emu', which no training image has"),
        ([0.5, 1.5, 0.5], r"validation in .* has no column 'label' of the training images' type and classes"),
    ],
)
def test_labels_of_other_splits_are_those_of_the_training_images(label, line, tmp_path):
    known = ["cat", "dog", "owl"] if isinstance(label[0], str) else [0, 1, 2]
    parts = {"train": {"image": PLAIN["image"], "label": known}, "validation": {"image": PLAIN["image"], "label": label}}
    datasets.DatasetDict({name: datasets.Dataset.from_dict(part) for name, part in parts.items()}).save_to_disk(str(tmp_path))
    assert re.search(line, refusal(tmp_path))


def test_class_labels_of_another_order_are_refused(tmp_path):
    turned = datasets.Features({**FEATURES, "label": datasets.ClassLabel(names=["dog", "cat", "owl"])})
    datasets.DatasetDict(train=table(6), test=table(6, features=turned)).save_to_disk(str(tmp_path))
    assert "has no column 'label' of the training images' type and classes" in refusal(tmp_path)


@pytest.mark.parametrize("kind", ["classes", "texts"])
def test_several_labels_an_image_are_lists_of_classes(kind, tmp_path):
    classes = datasets.ClassLabel(names=["day", "night", "rain"])
    tags = [[0], [], [2, 1, 2], [1]]
    if kind == "texts":
        classes, tags = datasets.Value("string"), [[classes.names[tag] for tag in each] for each in tags]
    features = datasets.Features({**FEATURES, "tags": datasets.List(classes)})
    datasets.DatasetDict(train=table(4, features=features, tags=tags), test=table(4, features=features, tags=tags)).save_to_disk(
        str(tmp_path)
    )
    found = read(tmp_path, multi_label=True)
    assert found.class_names == ("day", "night", "rain")
    assert found.train.labels.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 1], [0, 1, 0]]
    assert build_data(data_of(tmp_path, multi_label=True), seed=0).info.multi_label
    line = r"has no column of type label \(lists of ClassLabel or of texts\)"
    assert re.search(line, refusal(plain(tmp_path / "one"), multi_label=True))
    assert re.search(line, refusal(plain(tmp_path / "flags", label=[[0, 1], [1, 0], [1, 1]]), multi_label=True))


GENERATOR = np.random.default_rng(0)
GREY, COLOUR = (GENERATOR.integers(0, 256, size=(3, *shape), dtype=np.uint8) for shape in ((5, 7), (5, 7, 3)))


@pytest.mark.parametrize(
    ("arrays", "feature", "expected"),
    [
        (GREY, datasets.Array2D((5, 7), "uint8"), GREY[:, None]),
        (GREY[..., None], datasets.Array3D((5, 7, 1), "int64"), GREY[:, None]),
        (COLOUR, datasets.Array3D((5, 7, 3), "uint8"), COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR.transpose(0, 3, 1, 2), datasets.Array3D((3, 5, 7), "int32"), COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR, datasets.List(datasets.List(datasets.List(datasets.Value("uint8")))), COLOUR.transpose(0, 3, 1, 2)),
        (GREY > 99, datasets.List(datasets.List(datasets.Value("bool"))), 255 * (GREY[:, None] > 99)),
    ],
)
def test_arrays_become_the_pixels_that_they_are(arrays, feature, expected, tmp_path):
    features = datasets.Features({**FEATURES, "image": feature})
    each = table(3, features=features, image=list(arrays) if isinstance(feature, datasets.Array2D | datasets.Array3D) else arrays.tolist())
    datasets.DatasetDict(train=each, test=each).save_to_disk(str(tmp_path))
    found = read(tmp_path, channels=expected.shape[1])
    assert torch.equal(torch.stack([found.train.image(index) for index in range(3)]), torch.from_numpy(expected.astype(np.uint8)))
    assert build_data(data_of(tmp_path, channels=3), seed=0).fingerprint


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        ([[0.5, 1.0], [0.0, 0.2]], r"its pixels are float64 from 0 to 1; save whole numbers of 0 to 255"),
        ([[0, 300], [1, 2]], r"its pixels are int64 from 0 to 300; save"),
        ([[0, -1], [1, 2]], r"its pixels are int64 from -1 to 2; save"),
        ([[0, 1], [2]], r"it has no content, or rows of several lengths"),
        ([[[1, 2, 3]] * 4] * 3, r"its shape is \(3, 4, 3\): which of its sides are the channels is not clear"),
        ([[[1, 2, 3, 4]] * 5] * 5, r"its shape is \(5, 5, 4\): it has neither 1 nor 3 channels"),
        ([[[[1]]]], r"its shape is \(1, 1, 1, 1\); give height x width"),
        ([], "its shape is|it has no content"),
        (None, "it has no content"),
    ],
)
def test_arrays_that_are_no_pixels_are_refused(pixels, reason, tmp_path):
    sample = pixels or [[1, 2], [3, 4]]
    found = read(plain(tmp_path, image=[sample, pixels, sample]))
    with pytest.raises(ImageError, match=rf"^image 1 of train in hfds/.* is no image that can be read: {reason}"):
        found.train.image(1)


def paths(folder, *names):
    """A table of a content and of images that are files in its folder."""
    images = [{"bytes": png(0), "path": "/home/me/x.png"}, *({"bytes": None, "path": name} for name in names)]
    return plain(folder, image=images, label=[0] * len(images))


def test_files_in_the_folder_are_read(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1..2.png").write_bytes(png(7))
    folder = paths(tmp_path, "pictures/1..2.png", "pictures/none.png")
    split = read(folder).train
    assert [int(split.image(index).unique()) for index in (0, 1)] == [0, 7]
    with pytest.raises(ImageError, match=r"pictures/none.png is no image that can be read: there is no such file"):
        split.image(2)
    named = read(plain(tmp_path / "named", image=["a.png", "b.png", "c.png"]), columns={"image": "image"})
    (tmp_path / "named" / "b.png").write_bytes(png(9))
    assert int(named.train.image(1).unique()) == 9


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../secret.png",
        "a/../../secret.png",
        "https://example.com/x.png",
        "file:///etc/passwd",
        "~/x.png",
        "zip://a.png::b.zip",
        "..\\secret.png",
        "C:\\x.png",
        "\\\\host\\x.png",
        "a.png\0",
    ],
)
def test_files_elsewhere_are_never_read(name, tmp_path):
    folder = paths(tmp_path, "good.png", name)
    line = refusal(folder)
    assert line.startswith(f"train in hfds/{tmp_path}: 1 images are not in it: its file ")
    assert line.endswith(f"would lie outside {tmp_path}; name files by their paths in that folder")


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    (tmp_path / "secret.png").write_bytes(png(1))
    folder = paths(tmp_path / "data", "link.png", "inner.png", "circle.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "inner.png").symlink_to(folder / "real.png")
    (folder / "real.png").write_bytes(png(2))
    split = read(folder).train
    with pytest.raises(ImageError, match=r"its file 'link.png' is a link out of .*; it is not read"):
        split.image(1)
    assert int(split.image(2).unique()) == 2
    with pytest.raises(ImageError, match=r"circle.png is no image that can be read: Too many levels of symbolic links"):
        split.image(3)


@pytest.mark.parametrize("part", ["offsets", "text"])
def test_a_damaged_table_ends_no_process(part, tmp_path):
    """Positions beyond a column's end would be read from wherever they point to."""
    positions = np.array([0, 5, 10**9, 15] if part == "offsets" else [0, 5, 10, 15], dtype=np.int32)
    content = pa.py_buffer(b"12345" * 3 if part == "offsets" else b"\xff\xfe" * 8)
    kind = pa.binary() if part == "offsets" else pa.string()
    column = pa.Array.from_buffers(kind, 3, [None, pa.py_buffer(positions), content])
    datasets.DatasetDict(train=table(3), test=table(3)).save_to_disk(str(tmp_path))
    whole = pa.table({"image": column if part == "offsets" else PLAIN["image"], "label": [0, 1, 2] if part == "offsets" else column})
    for name in ("train", "test"):
        (file,) = (tmp_path / name).glob("*.arrow")
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, whole.schema) as writer:
            writer.write_table(whole)
        info = tmp_path / name / "dataset_info.json"
        info.write_text(json.dumps({"features": datasets.Features.from_arrow_schema(whole.schema).to_dict()}))
    assert re.search(r"train in hfds/.* is damaged: .+|can't decode|UTF", refusal(tmp_path))


def test_images_that_are_missing_are_named(tmp_path):
    split = read(plain(tmp_path, image=[{"bytes": png(0), "path": "0.png"}, None, {"bytes": None, "path": None}])).train
    for index in (1, 2):
        with pytest.raises(ImageError, match=rf"image {index} of train in .*: it has no content"):
            split.image(index)
    assert len(list(split.portable_names())) == 3


def test_sound_is_no_image(tmp_path):
    features = datasets.Features(
        {"label": FEATURES["label"], "sound": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
    )
    each = datasets.Dataset.from_dict({"label": [0, 1], "sound": encoded([1, 2])}, features=features)
    each = datasets.Dataset(each.data, info=datasets.DatasetInfo(features=datasets.Features({**features, "sound": datasets.Audio()})))
    each.save_to_disk(str(tmp_path))
    assert "has no column of type image" in refusal(tmp_path, val=0.5)


def test_nothing_that_a_data_set_says_is_run_or_followed(tmp_path):
    """A loading script, and a README that names other files, are passed over."""
    write_parquet(tmp_path / "data")
    (tmp_path / "data" / "data.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    table(3).to_parquet(tmp_path / "other.parquet")
    (tmp_path / "data" / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: ../other.parquet\n---\n")
    assert len(read(tmp_path / "data").train.labels) == 12
    assert not (tmp_path / "executed").exists()


def test_a_saved_data_set_cannot_name_files_elsewhere(tmp_path):
    FORMS["saved"](tmp_path / "saved")
    table(3).save_to_disk(str(tmp_path / "other"))
    state = tmp_path / "saved" / "train" / "state.json"
    state.write_text(state.read_text().replace("data-00000", "../../other/data-00000"))
    assert "which lies elsewhere; it is not read" in refusal(tmp_path / "saved")
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["../other"]}')
    assert "has a split called '../other', which is no name" in refusal(tmp_path / "saved")


def empty(folder):
    folder.mkdir()


def images(folder):
    folder.mkdir()
    (folder / "a.png").write_bytes(png(0))


def both(folder):
    arrow(folder)
    table(3).to_parquet(folder / "train.parquet")


def configurations(folder):
    for name in ("big", "small"):
        write_parquet(folder / name)


def unsorted(folder):
    write_parquet(folder)
    table(3).to_parquet(folder / "more.parquet")


def damaged(folder):
    write_parquet(folder)
    (folder / "train-00000-of-00001.parquet").write_bytes(b"PAR1 nothing PAR1")


def without_rows(folder):
    arrow(folder, train=table(3), test=table(0))


@pytest.mark.parametrize(
    ("write", "line"),
    [
        (empty, "owls holds no .parquet or .arrow file; give a folder of parquet or arrow files, one such file, what save_to_disk wrote"),
        (images, "owls holds no .parquet or .arrow file; for a folder of images set data.dataset: image_folder"),
        (both, "owls holds both .parquet and .arrow files"),
        (configurations, r"owls/big/train-.*parquet and .*/owls/small/train-.*parquet are the same part of train; name the folder of one"),
        (unsorted, "owls/more.parquet belongs to no split, as others in .* do; name it after one, as train.parquet"),
        (damaged, r"hfds/.*owls cannot be opened: .+"),
        (without_rows, "hfds/.*owls cannot be opened: .*test"),
        (png, "owls is no .parquet or .arrow file"),
    ],
)
def test_a_place_that_holds_no_tables_is_refused(write, line, tmp_path):
    if write is png:
        (tmp_path / "owls").write_bytes(png(0))
    else:
        write(tmp_path / "owls")
    assert re.search(line, refusal(tmp_path / "owls"))


def test_a_file_that_is_missing_is_told_before_anything_is_read(tmp_path):
    for name in ("none.parquet", "a/b/c"):
        with pytest.raises(ValueError, match=rf"no folder or file {tmp_path}/{name}; give a folder of parquet"):
            check_present(data_of(name, root=str(tmp_path)))


@pytest.mark.parametrize("version", [None, "3.6.0"])
def test_without_a_datasets_that_runs_no_scripts_one_line_says_how_to_install_it(version, tmp_path, monkeypatch):
    def installed(name):
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    write_parquet(tmp_path)
    monkeypatch.setattr(metadata, "version", installed)
    assert refusal(tmp_path) == f"hfds/{tmp_path} needs Hugging Face datasets, version 4 or later: pip install 'mutual[hf]'"


def test_the_cache_needs_no_second_conversion(tmp_path, cache):
    write_parquet(tmp_path / "owls")
    read(tmp_path / "owls")
    before = sorted((path, path.stat().st_mtime_ns) for path in cache.rglob("*.arrow"))
    assert len(before) == 2
    read(tmp_path / "owls")
    assert sorted((path, path.stat().st_mtime_ns) for path in cache.rglob("*.arrow")) == before


class Builder:
    """What stands for a data set on the hub."""

    def __init__(self, name="parquet", files=("hf://datasets/owner/owls@0/train.parquet",)):
        self.name = name
        self.config = SimpleNamespace(data_files={"train": list(files)})

    def download_and_prepare(self):
        pass

    def as_dataset(self):
        return datasets.DatasetDict(train=table(6), test=table(3))


@pytest.mark.parametrize(
    ("name", "asked_for"),
    [
        ("owner/owls", {"path": "owner/owls", "revision": None, "name": None}),
        ("owls:big", {"path": "owls", "revision": None, "name": "big"}),
        ("owner/owls@refs/convert/parquet:big.1", {"path": "owner/owls", "revision": "refs/convert/parquet", "name": "big.1"}),
    ],
)
def test_other_names_are_looked_for_on_the_hub(name, asked_for, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda **arguments: asked.append(arguments) or Builder())
    monkeypatch.chdir(tmp_path)
    check_present(data_of(name))
    assert values(read(name).train) == list(range(6))
    assert asked == [asked_for]


@pytest.mark.parametrize(
    ("builder", "line"),
    [
        (Builder("imagefolder"), "hfds/owner/owls is stored as imagefolder on the hub; its parquet form may be at @refs/convert/parquet"),
        (Builder("webdataset"), "hfds/owner/owls is stored as webdataset on the hub"),
        (Builder(files=["/etc/shadow"]), "hfds/owner/owls names files outside the hub, as '/etc/shadow'"),
        (
            ConnectionError("Couldn't reach 'owner/owls' on the Hub\nretry"),
            "no folder or file here, and cannot be opened on the hub: Couldn't",
        ),
        (ValueError("BuilderConfig 'x' not found"), "cannot be opened on the hub: BuilderConfig 'x' not found"),
    ],
)
def test_what_the_hub_has_not_or_not_as_tables_is_refused(builder, line, monkeypatch):
    def load(**_):
        if isinstance(builder, Exception):
            raise builder
        return builder

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    assert line in refusal("owner/owls")


def test_a_data_set_on_the_hub_names_no_files(tmp_path, monkeypatch):
    folder = paths(tmp_path, "a.png")
    builder = Builder()
    builder.as_dataset = lambda: datasets.load_dataset("parquet", data_files={"train": str(folder / "train.parquet")})
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda **_: builder)
    assert "train in hfds/owner/owls: 1 images are not in it: its file 'a.png' is not part of the data set on the hub" in refusal(
        "owner/owls", val=0.5
    )


def test_a_split_without_images_is_refused(monkeypatch):
    builder = Builder()
    builder.as_dataset = lambda: datasets.DatasetDict(train=table(6), test=table(0))
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda **_: builder)
    assert refusal("owner/owls").startswith("test in hfds/owner/owls holds no image; name another split")


@pytest.mark.slow
def test_offline_one_line_says_that_the_hub_was_not_asked(tmp_path):
    """With the real library, in a process of its own: it reads the variable when it is imported."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{name: x, data: {dataset: hfds/owner/owls}, peers: {a: {model: small_cnn}}, objectives: [{loss: cross_entropy}]}")
    command = [sys.executable, "-m", "mutual.train", str(recipe), f"output={tmp_path}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(HF_HUB_OFFLINE="1"), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert "recipe.yaml: data: owner/owls is no folder or file here, and cannot be opened on the hub: " in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_is_named_or_has_a_substitute(workers, tmp_path):
    broken = encoded(range(12))
    broken[4] = {"bytes": broken[4]["bytes"][:40], "path": None}
    broken[7] = {"bytes": b"", "path": None}
    write_parquet(tmp_path, num_val=12, image=broken)
    fields = {"batch_size": 4, "workers": workers, "val": 0.2}
    with pytest.raises(ImageError, match=rf"image [47] of train in hfds/{tmp_path} is no image .*data.on_bad_image: skip"):
        list(build_data(data_of(tmp_path, **fields), seed=0).train_windows(0, world_size=1, shard=(0, 1), accumulate=1))
    data = build_data(data_of(tmp_path, **{**fields, "on_bad_image": "skip"}), seed=0)
    list(data.train_windows(0, world_size=1, shard=(0, 1), accumulate=1))
    data.close()
    assert set(data.take_bad_images()["train"]) <= {f"image {row} of train in hfds/{tmp_path}" for row in (4, 7)}


def test_only_tables_have_columns_and_they_may_have_several_labels():
    def faults(**data):
        document = {"name": "x", "data": data, "peers": {"a": {"model": "small_cnn"}}, "objectives": [{"loss": "bce"}]}
        try:
            parse_recipe(document)
        except RecipeError as error:
            return {fault.path: fault.message for fault in error.faults}
        return {}

    assert faults(dataset="hfds/owls", multi_label=True, columns={"image": "img"}) == {}
    assert faults(dataset="fake", multi_label=True, columns={"image": "img"}) == {
        "data.columns": "names columns of a table (hfds/NAME_OR_FOLDER); fake has none"
    }
    assert "data.columns.images" in faults(dataset="hfds/owls", columns={"images": "img"})


def test_a_table_of_jpegs_is_decoded_with_the_channels_that_are_asked_for(tmp_path):
    Image.new("RGB", (8, 8), (200, 10, 10)).save(tmp_path / "red.jpg")
    plain(tmp_path, image=[(tmp_path / "red.jpg").read_bytes()] * 3)
    assert read(tmp_path, channels=3).train.image(0).shape == (3, 8, 8)
    assert read(tmp_path, channels=1).train.decoded_as(3).image(0)[0, 0, 0] > 190
