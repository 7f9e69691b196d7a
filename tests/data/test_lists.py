"""Lists of images: what stands between path and label, folders of their own, other numbers of classes, and the classes' names."""

import time

import pytest
import torch
from PIL import Image

from mutual.data import build_data
from mutual.data.datasets.class_names import read_class_names
from mutual.recipe import Data, RecipeError, parse_recipe


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with some images below `images` and `more`, in which the test runs."""
    for folder in ("images", "more"):
        (tmp_path / folder).mkdir()
        for number in range(6):
            Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(tmp_path / folder / f"{number} x.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lists(folder, *, train, val, **fields):
    (folder / "train.txt").write_text("\n".join(train))
    (folder / "val.txt").write_text("\n".join(val))
    defaults = {"root": "images", "train_list": "train.txt", "val_list": "val.txt", "image_size": 8, "normalize": "none", "batch_size": 6}
    return build_data(Data(**{"dataset": "image_list", **defaults, **fields}), seed=0)


def labels_of(data):
    (batch,) = data.eval_batches(world_size=1, shard=(0, 1))
    return batch.labels[: batch.num_valid].tolist()


@pytest.mark.parametrize(("between", "fields"), [(" ", {}), ("\t", {}), (" , ", {"delimiter": ","}), ("::", {"delimiter": "::"})])
def test_path_and_label_stand_on_both_sides_of_the_delimiter(here, between, fields):
    if between == " , ":
        (here / "images/0 x.png ").write_bytes((here / "images/0 x.png").read_bytes())
    entries = [f"0 x.png{between}0", f"1 x.png{between}1"] if between != " , " else ["0 x.png , 0", "1 x.png,1"]
    assert labels_of(lists(here, train=entries, val=entries, **fields)) == [0, 1]


@pytest.mark.parametrize("fields", [{}, {"delimiter": " "}, {"delimiter": "\t"}, {"multi_label": True}])
def test_a_line_of_blanks_takes_no_time(here, fields):
    """Looking for a label behind each of them would take hours."""
    for blank in " \t":
        began = time.process_time()
        with pytest.raises(ValueError, match=r"train.txt, line 1: '0.{70,}' is not `path label`"):
            lists(here, train=[f"0{blank * 200_000}x"], val=["0 x.png 0"], **fields)
        assert time.process_time() - began < 2


def test_several_labels_behind_a_tab(here):
    entries = ["0 x.png\t1,0,1", "1 x.png\t0,0,1"]
    data = lists(here, train=entries, val=entries, multi_label=True)
    assert labels_of(data) == [[1, 0, 1], [0, 0, 1]]


def test_a_line_without_the_delimiter_is_named(here):
    with pytest.raises(ValueError, match=r"train.txt, line 1: '0 x.png 0' is not `path label` with a class number, ';' between them"):
        lists(here, train=["0 x.png 0"], val=["0 x.png;0"], delimiter=";")


def test_lists_have_folders_of_their_own(here):
    for number in (2, 3):
        (here / f"images/{number} x.png").unlink()
    (here / "unlabelled.txt").write_text("4;\n5;0")
    for number in (4, 5):
        (here / f"more/{number} x.png").rename(here / f"more/{number}")
    fields = {"val_root": "more", "unlabelled": "unlabelled.txt", "unlabelled_root": "more", "delimiter": ";"}
    data = lists(here, train=["0 x.png;0", "1 x.png;1"], val=["2 x.png;0", "3 x.png;1"], **fields)
    assert (data.info.num_train, data.info.num_val) == (4, 2)
    (batch,) = data.eval_batches(world_size=1, shard=(0, 1))
    assert batch.images[:, 0, 0, 0].tolist() == [80, 120]
    assert next(data.train_windows(0, world_size=1, shard=(0, 1), accumulate=1)).batches[0].labels.sort().values.tolist() == [-1, -1, 0, 1]


@pytest.mark.parametrize("blank", [" ", "\t"])
def test_what_stands_behind_the_path_of_an_unlabelled_image_is_left_out(here, blank):
    (here / "images/4 x.png").rename(here / "images/4")
    (here / "unlabelled.txt").write_text(f"4{blank}3\n4")
    entries = ["0 x.png 0", "1 x.png 1"]
    assert lists(here, train=entries, val=entries, unlabelled="unlabelled.txt").info.num_train == 4


def test_classes_are_numbered_anew_in_the_order_of_their_numbers(here):
    train = ["0 x.png 70", "1 x.png 7", "2 x.png 900000", "3 x.png 7"]
    data = lists(here, train=train, val=["4 x.png 900000", "5 x.png 7"], relabel=True)
    assert labels_of(data) == [2, 0]
    assert data.class_counts == [2, 1, 1]
    assert data.info.class_names == ("7", "70", "900000")
    assert lists(here, train=train, val=["4 x.png 7"], relabel=True, num_classes=5).info.class_names[3:] == ("unused 3", "unused 4")
    with pytest.raises(ValueError, match=r"val.txt has the label 8, which no image in train.txt has; the classes differ"):
        lists(here, train=train, val=["4 x.png 8"], relabel=True)


def test_validation_images_may_be_of_classes_that_only_the_recipe_or_the_names_count(here):
    train, val = ["0 x.png 0", "1 x.png 1"], ["2 x.png 2"]
    with pytest.raises(ValueError, match="the classes differ"):
        lists(here, train=train, val=val)
    assert lists(here, train=train, val=val, num_classes=3).info.class_names == ("0", "1", "2")
    (here / "names.txt").write_text("a\nb\nc\nd")
    assert lists(here, train=train, val=val, class_names="names.txt").info.class_names == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat\ndog, hound\n\n", ("cat", "dog, hound")),
        ("1 dog\n0 cat\n2 great white shark, man-eater\n", ("cat", "dog", "great white shark, man-eater")),
        ("0\tcat\n1\tdog\n", ("cat", "dog")),
        ("1 cat\n2 dog\n", ("1 cat", "2 dog")),  # not numbers from 0 on: part of the names
        ("0 cat\ndog\n", ("0 cat", "dog")),
        ("0\n1\n", ("0", "1")),
        ("0 crane\n1 cat\n2 crane\n", ("crane (0)", "cat", "crane (2)")),
        ("\ufeffcat\r\ndog\r\n", ("cat", "dog")),
    ],
)
def test_classes_are_named_by_lines_or_by_their_numbers(tmp_path, text, names):
    (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    assert read_class_names(str(tmp_path / "names.txt")) == names


def test_what_names_no_classes_is_one_line(here):
    entries = ["0 x.png 0", "1 x.png 1", "2 x.png 2"]
    (here / "names.txt").write_text("a\nb")
    (here / "empty.txt").write_text("\n")
    for file, message in {
        "names.txt": "names.txt names 2 classes, train.txt has 3",
        "empty.txt": "data.class_names: empty.txt names no class",
        "none.txt": "data.class_names: none.txt is no file",
        "images": "data.class_names: images is no file",
    }.items():
        with pytest.raises(ValueError, match=message):
            lists(here, train=entries, val=entries, class_names=file)


def test_a_teacher_by_the_same_names_is_matched(here):
    """Two classes of one name would be the end of it: ImageNet has two cranes."""
    (here / "names.txt").write_text("0 crane\n1 crane")
    data = lists(here, train=["0 x.png 0", "1 x.png 1"], val=["2 x.png 0"], class_names="names.txt")
    assert len(set(data.info.class_names)) == 2


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"dataset": "digits", "class_names": "n.txt"}, "data.class_names"),
        ({"dataset": "digits", "val_root": "x"}, "data.val_root"),
        ({"relabel": True, "class_names": "n.txt"}, "data.class_names"),
        ({"relabel": True, "multi_label": True}, "data.relabel"),
        ({"unlabelled_root": "x"}, "data.unlabelled_root"),
    ],
)
def test_fields_that_do_not_belong_together_are_one_line(fields, path):
    objective = {"loss": "bce" if fields.get("multi_label") else "cross_entropy"}
    data = {"dataset": "image_list", "root": "r", "train_list": "t", "val_list": "v"} | fields
    data = {key: value for key, value in data.items() if key == "dataset" or data["dataset"] == "image_list" or key in fields}
    with pytest.raises(RecipeError) as caught:
        parse_recipe({"name": "t", "peers": {"a": {"model": "small_cnn"}}, "objectives": [objective], "data": data})
    (line,) = str(caught.value).splitlines()
    assert path in line


def test_labels_are_whole_numbers_of_one_type(here):
    data = lists(here, train=["0 x.png 5", "1 x.png 3"], val=["2 x.png 5"], relabel=True)
    (batch,) = data.eval_batches(world_size=1, shard=(0, 1))
    assert batch.labels.dtype == torch.int64


def test_names_that_number_others_stay_apart(here):
    (here / "names.txt").write_text("a\na\na (1)\na (0)\nb")
    names = read_class_names("names.txt")
    assert len(set(names)) == 5
    assert names[4] == "b"
