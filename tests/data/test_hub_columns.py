"""`hfds/...`: which columns of a table are read, labels of every kind, and arrays as the pixels that they are."""

import re

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tables import FEATURES, PLAIN, data_of, plain, read, refusal, table, values

from mutual.data import ImageError, build_data
from mutual.recipe import RecipeError, parse_recipe

pytestmark = pytest.mark.usefixtures("hub_cache")


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


def test_images_of_other_splits_are_in_the_same_column(tmp_path):
    datasets.DatasetDict(train=table(3), test=table(3).rename_column("image", "img")).save_to_disk(str(tmp_path))
    assert "test in" in refusal(tmp_path)
    assert "has no column 'image', which holds the training images" in refusal(tmp_path)


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


def test_a_table_of_jpegs_is_decoded_with_the_channels_that_are_asked_for(tmp_path):
    Image.new("RGB", (8, 8), (200, 10, 10)).save(tmp_path / "red.jpg")
    plain(tmp_path, image=[(tmp_path / "red.jpg").read_bytes()] * 3)
    assert read(tmp_path, channels=3).train.image(0).shape == (3, 8, 8)
    assert read(tmp_path, channels=1).train.decoded_as(3).image(0)[0, 0, 0] > 190


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
