"""Labels of shards become class numbers or flags, by the classes of the training images; what is none is one line that names the image."""

import pytest
import torch
from shard_files import samples, write_shard

from mutual.data.datasets.readers import read_splits
from mutual.data.datasets.shards import labels as shard_labels
from mutual.recipe import Data


def read(folder, train, val=None, *, label="cls", classes=None, **fields):
    """The splits of two training shards and one validation shard with these labels."""
    half = len(train) // 2
    write_shard(folder / "0.tar", samples(train[:half], label=label))
    write_shard(folder / "1.tar", samples(train[half:], label=label))
    if val is not None:
        write_shard(folder / "val.tar", samples(val, label=label))
        fields = {"val": "val.tar", **fields}
    if classes is not None:
        (folder / "classes.txt").write_text(classes, encoding="utf-8")
    return read_splits(Data(dataset="wds/{0,1}.tar", root=str(folder), **fields))


def named(values):
    return [{"label": value} for value in values]


def test_numbers_are_class_numbers(tmp_path):
    splits = read(tmp_path, [3, 0, 0, 1, 3], [1, 1, 3])
    assert splits.train.labels.tolist() == [3, 0, 0, 1, 3]
    assert splits.val.labels.tolist() == [1, 1, 3]
    assert splits.train.labels.dtype == torch.int64
    assert splits.class_names == ("0", "1", "2", "3")


def test_names_are_classes_in_their_order(tmp_path):
    splits = read(tmp_path, named(["fox", "cat", "cat", "gnu"]), named(["gnu", "cat"]), label="json")
    assert splits.class_names == ("cat", "fox", "gnu")
    assert splits.train.labels.tolist() == [1, 0, 0, 2]
    assert splits.val.labels.tolist() == [2, 0]


def test_a_file_beside_the_shards_names_the_classes(tmp_path):
    classes = "gnu\nfox\n  Köln \r\n\n"
    assert read(tmp_path / "numbers", [0, 1, 1], [2], classes=classes).class_names == ("gnu", "fox", "Köln")
    splits = read(tmp_path / "names", named(["fox", "gnu"]), named(["Köln"]), label="json", classes=classes)
    assert (splits.class_names, splits.train.labels.tolist(), splits.val.labels.tolist()) == (("gnu", "fox", "Köln"), [1, 0], [2])


def test_more_classes_than_the_training_images_have_are_told_by_num_classes(tmp_path):
    assert read(tmp_path, [0, 1], [5], num_classes=6).val.labels.tolist() == [5]


def test_lists_are_several_labels(tmp_path):
    splits = read(tmp_path / "numbers", named([[0, 2], [], [1], [2]]), named([[1, 2]]), label="json", multi_label=True)
    assert splits.train.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert splits.train.labels.dtype == torch.float32
    splits = read(tmp_path / "names", named([["b", "a"], ["c"]]), named([["c", "a"]]), label="json", multi_label=True)
    assert (splits.class_names, splits.val.labels.tolist()) == (("a", "b", "c"), [[1, 0, 1]])


@pytest.mark.parametrize(
    ("train", "val", "fields", "reason"),
    [
        (named([0, None]), named([0]), {}, r"1\.tar/0000\.png has no label: its sample has no \.cls, and no \.json with label, cls, class"),
        (named([0, 1]), named([0]), {"label_field": "y"}, r"0\.tar/0000\.png has no label: its sample has no \.json with y"),
        (named([0, 1.5]), named([0]), {}, r"1\.tar/0000\.png has no valid label: label of its \.json is 1\.5"),
        (named([0, [1]]), named([0]), {}, r"1\.tar/0000\.png has the label \[1\]; set data\.multi_label"),
        (named([[0], 1]), named([[0]]), {"multi_label": True}, r"has the label 1; data\.multi_label needs a list"),
        (named([0, "a"]), named([0]), {}, "has the label 0, other images have names"),
        (named([[0, "a"], ["a"]]), named([[0]]), {"multi_label": True}, "has the label 0, other images have names"),
        (named(["a", "b"]), named([0]), {}, r"val\.tar/0000\.png has the label 0; the training images have names of classes"),
        (named([0, 1]), named(["a"]), {}, r"val\.tar/0000\.png has the label 'a'; the training images have class numbers"),
        (named(["cat", "dog"]), named(["dog", "dgo"]), {}, r"0001\.png has the label 'dgo', which no training .* did you mean 'dog'"),
        (named(["cat", "dog"]), named(["dgo"]), {"classes": "cat\ndog"}, r"'dgo', which .*classes\.txt does not name"),
        (named([0, 1]), named([2]), {}, "has the label 2, which no training image has .this one is of val.: they go up to 1"),
        (named([0, 2]), named([0]), {"classes": "a\nb"}, r"has the label 2, which .*classes\.txt does not name"),
        (named([0, 2]), named([0]), {"num_classes": 2}, "label 2 is no class; data.num_classes is 2, and they are numbered from 0"),
        (named([0, 10_000]), named([0]), {}, "label 10000 among 2 images; if there are so many classes, set data.num_classes"),
        (named([0, 10**15]), named([0]), {"num_classes": 9}, "there may be 1,000,000 classes"),
        (named([0, 1]), named([0]), {"classes": "a\n\nb"}, "classes.txt, line 2: it is empty"),
        (named([0, 1]), named([0]), {"classes": "a\nb\na"}, "classes.txt, line 3: a is there twice"),
    ],
)
def test_a_label_that_is_wrong_is_one_line_that_names_its_image(tmp_path, train, val, fields, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        read(tmp_path, train, val, label="json", **fields)
    assert "\n" not in str(caught.value)


def test_flags_beyond_any_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_labels, "_MAX_FLAGS", 19)
    with pytest.raises(ValueError, match="2 images with 10 flags each are beyond any memory"):
        read(tmp_path, named([[9], [0]]), named([[0]]), label="json", multi_label=True)


def test_names_of_classes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is no text in UTF-8"):
        read(tmp_path, [0, 1], [0])
