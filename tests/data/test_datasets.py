"""Data sets: what is read, what is drawn from them, and what is told when they are missing or wrong."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mutual.data import build_data, load_image
from mutual.data.datasets.readers import READERS, read_splits
from mutual.data.datasets.stratified import stratified_subset
from mutual.recipe import DATASET_FORMS, DATASETS, Data, RecipeError, parse_recipe

FASHION = Path("/usr/share/datasets/fashion-mnist")


def build(**fields):
    return build_data(Data(**fields), seed=0)


def first_images(data):
    return next(data.train_windows(0, world_size=1, shard=(0, 1), accumulate=1)).batches[0].images


def test_every_data_set_that_a_recipe_may_name_has_a_reader():
    assert READERS.keys() == (DATASETS | DATASET_FORMS).keys()


def faulty_paths(document):
    try:
        parse_recipe(document)
    except RecipeError as error:
        return {fault.path for fault in error.faults}
    return set()


@pytest.mark.parametrize("name", DATASETS)
def test_a_recipe_that_is_accepted_without_a_folder_needs_none(name, tmp_path, monkeypatch):
    """What the recipe says a data set needs is what its reader needs."""
    monkeypatch.chdir(tmp_path)
    document = {"name": "test", "peers": {"a": {"model": "small_cnn"}}, "objectives": [{"loss": "cross_entropy"}]}
    lists = dict.fromkeys(("train_list", "val_list"), "list.txt") if name == "image_list" else {}
    wrong_fields = faulty_paths({**document, "data": {"dataset": name, **lists}})
    if wrong_fields:
        assert wrong_fields == {"data.root"}
        (tmp_path / "list.txt").write_text("a.png 0\n")
        with pytest.raises(ValueError, match=r".+"):
            read_splits(Data(dataset=name, **lists))
    else:
        assert len(read_splits(Data(dataset=name)).train.labels) > 0


@pytest.mark.parametrize("name", DATASETS)
def test_what_a_recipe_may_say_of_a_data_set_depends_on_its_kind(name):
    kind = DATASETS[name]
    peers = {"peers": {"a": {"model": "small_cnn"}}}
    lists = {"train_list": "train.txt", "val_list": "val.txt"}

    def wrong_fields(loss, **fields):
        data = {"dataset": name, "root": "data", **fields}
        return faulty_paths({"name": "test", **peers, "objectives": [{"loss": loss}], "data": data})

    assert wrong_fields("cross_entropy") == ({"data.train_list", "data.val_list"} if name == "image_list" else set())
    assert wrong_fields("bce", multi_label=True, **lists) == (set() if name in ("image_list", "fake") else {"data.multi_label"})
    in_files = name in ("image_folder", "image_list")
    assert wrong_fields("cross_entropy", unlabelled="more", **lists) == (set() if in_files else {"data.unlabelled"})
    assert (kind.needs_lists, kind.in_files) == (name == "image_list", in_files)


def test_digits_are_there_without_a_download():
    data = build(dataset="digits")
    info = data.info
    assert (info.num_train, info.num_val, info.num_classes, info.channels, info.image_size) == (1442, 355, 10, 1, (8, 8))
    labels = torch.cat([batch.labels for batch in data.eval_batches(world_size=1, shard=(0, 1))])
    assert labels.bincount().min() >= 34


def test_the_statistics_of_digits_are_those_of_its_training_images():
    data = build(dataset="digits", batch_size=2000)
    pixels = first_images(data).double() / 255
    assert data.info.mean[0] == pytest.approx(pixels.mean().item(), abs=1e-4)
    assert data.info.std[0] == pytest.approx(pixels.std().item(), abs=1e-4)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize(("dataset", "place"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_no_file_of_cifar_is_unpickled_that_is_not_the_published_one(tmp_path, dataset, place):
    (tmp_path / place).mkdir()
    batches = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta", "train", "test", "meta"]
    for name in batches:
        (tmp_path / place / name).write_bytes(pickle.dumps(Trap(tmp_path / "executed")))
    with pytest.raises(ValueError, match="holds no whole CIFAR"):
        build(dataset=dataset, root=str(tmp_path))
    assert not (tmp_path / "executed").exists()
    pickle.loads((tmp_path / place / "train").read_bytes())
    assert (tmp_path / "executed").exists(), "the trap works"


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_as_debian_installs_it():
    data = build(dataset="fashion_mnist", root=str(FASHION), subset=1000, image_size=14, batch_size=1000)
    assert (data.info.num_train, data.info.num_val, data.info.image_size) == (1000, 10_000, (14, 14))
    window = next(data.train_windows(0, world_size=1, shard=(0, 1), accumulate=1))
    assert window.batches[0].labels.bincount().tolist() == [100] * 10


def image_folder(root, classes=("cat", "dog"), parts=("train", "val"), number=3):
    for part in parts:
        for index, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for copy in range(number):
                pixels = np.full((20 + copy, 30, 3), 40 * index + copy, dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{copy}.{['png', 'jpg', 'bmp'][copy % 3]}")
    return root


def test_image_folder(tmp_path):
    data = build(dataset="image_folder", root=str(image_folder(tmp_path)), image_size=16, batch_size=6)
    assert data.info.class_names == ("cat", "dog")
    images = first_images(data)
    assert images.shape == (6, 3, 16, 16)
    assert build(dataset="image_folder", root=str(tmp_path), image_size=16, channels=1).info.channels == 1


def test_image_list(tmp_path):
    image_folder(tmp_path)
    for part in ("train", "val"):
        lines = [f"{path.relative_to(tmp_path)} {path.parent.name == 'dog':d}" for path in sorted((tmp_path / part).rglob("*.*"))]
        (tmp_path / f"{part}.txt").write_text("\n".join(lines) + "\n")
    lists = {"train_list": str(tmp_path / "train.txt"), "val_list": str(tmp_path / "val.txt")}
    data = build(dataset="image_list", root=str(tmp_path), image_size=(12, 16), batch_size=6, **lists)
    assert first_images(data).shape == (6, 3, 12, 16)
    (tmp_path / "val.txt").write_text("val/cat/0.png cat\n")
    with pytest.raises(ValueError, match=r"val.txt, line 1: 'val/cat/0.png cat' is not `path label`"):
        build(dataset="image_list", root=str(tmp_path), **lists)
    (tmp_path / "val.txt").write_text("val/cat/0.png 0\nval/cat/no.png 0\n")
    with pytest.raises(ValueError, match=r"val.txt, line 2: no file .*no.png"):
        build(dataset="image_list", root=str(tmp_path), **lists)
    (tmp_path / "val.txt").write_text("val/cat/0.png 7\n")
    with pytest.raises(ValueError, match=r"label 7, the largest in .*train.txt is 1; the classes differ"):
        build(dataset="image_list", root=str(tmp_path), **lists)
    (tmp_path / "val.txt").write_text("")
    with pytest.raises(ValueError, match="names no image"):
        build(dataset="image_list", root=str(tmp_path), **lists)


def test_hidden_files_and_folders_are_no_images_and_no_classes(tmp_path):
    expected = build(dataset="image_folder", root=str(image_folder(tmp_path)), image_size=8).info
    for part in ("train", "val"):
        (tmp_path / part / "cat" / "._0.png").write_bytes(b"AppleDouble")
        (tmp_path / part / "cat" / ".cache").mkdir()
        (tmp_path / part / "cat" / ".cache" / "0.png").write_bytes(b"")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "val" / "dog" / "more.jpg").mkdir()
    assert build(dataset="image_folder", root=str(tmp_path), image_size=8).info == expected


def test_names_in_lists_and_folders_need_not_be_utf8(tmp_path):
    odd = os.fsdecode(b"\xff\xfe")
    image_folder(tmp_path, classes=("cat", odd))
    assert build(dataset="image_folder", root=str(tmp_path), image_size=8).info.class_names == ("cat", odd)
    line = os.fsencode(f"train/{odd}/0.png 0\r\ntrain/cat/0.png 1\n")
    (tmp_path / "list.txt").write_bytes("\ufeff".encode() + line)
    data = build(
        dataset="image_list", root=str(tmp_path), image_size=8, train_list=str(tmp_path / "list.txt"), val_list=str(tmp_path / "list.txt")
    )
    assert (data.info.num_train, data.info.num_classes) == (2, 2)
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "binary.txt").write_bytes(bytes(100))
    for name, message in (
        ("pipe.txt", "is no file"),
        ("binary.txt", "is no text file"),
        ("missing.txt", "is no file"),
        (".", "is no file"),
    ):
        with pytest.raises(ValueError, match=message):
            build(dataset="image_list", root=str(tmp_path), train_list=str(tmp_path / name), val_list=str(tmp_path / "list.txt"))


@pytest.mark.parametrize(
    ("label", "num_classes", "message"),
    [
        ("1000000000", None, r"train.txt, line 2: 'train/cat/0.png 1000000000' is not `path label` with a class number"),
        ("999999999", None, r"train.txt, line 2: label 999999999 is too large; there may be 1,000,000 classes, numbered from 0"),
        ("10000", None, r"train.txt, line 2: label 10000 in a list of 3 images; if there are so many classes, set data.num_classes"),
        ("2", 2, r"train.txt, line 2: label 2 is no class; data.num_classes is 2, and they are numbered from 0"),
        ("\u0663", None, r"train.txt, line 2: 'train/cat/0.png \u0663' is not `path label` with a class number"),
    ],
)
def test_an_absurd_label_is_reported_with_its_line(tmp_path, label, num_classes, message):
    image_folder(tmp_path)
    (tmp_path / "train.txt").write_text(f"train/cat/0.png 0\ntrain/cat/0.png {label}\ntrain/cat/0.png 1\n", encoding="utf-8")
    (tmp_path / "val.txt").write_text("val/cat/0.png 0\n")
    lists = {"train_list": str(tmp_path / "train.txt"), "val_list": str(tmp_path / "val.txt")}
    with pytest.raises(ValueError, match=message):
        build(dataset="image_list", root=str(tmp_path), num_classes=num_classes, **lists)


def test_many_classes_may_be_meant(tmp_path):
    image_folder(tmp_path)
    (tmp_path / "train.txt").write_text("train/cat/0.png 0\ntrain/cat/0.png 19999\n")
    (tmp_path / "val.txt").write_text("val/cat/0.png 19999\n")
    lists = {"train_list": str(tmp_path / "train.txt"), "val_list": str(tmp_path / "val.txt")}
    data = build(dataset="image_list", root=str(tmp_path), num_classes=20_000, **lists)
    assert data.info.num_classes == 20_000
    assert torch.cat([batch.labels for batch in data.eval_batches(world_size=1, shard=(0, 1))]).tolist() == [19_999]


def test_what_is_wrong_with_a_folder_is_reported_at_the_start(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*train; image_folder needs ROOT/train/CLASS"):
        build(dataset="image_folder", root=str(tmp_path / "nowhere"))
    image_folder(tmp_path, parts=("train",))
    with pytest.raises(ValueError, match=r"no folder .*val"):
        build(dataset="image_folder", root=str(tmp_path))
    (tmp_path / "val").mkdir()
    with pytest.raises(ValueError, match=r"val holds no folder of a class"):
        build(dataset="image_folder", root=str(tmp_path))
    image_folder(tmp_path / "other", classes=("cat", "bird"), parts=("val",))
    (tmp_path / "val").rmdir()
    (tmp_path / "other" / "val").rename(tmp_path / "val")
    with pytest.raises(ValueError, match="not have the same classes; only in one of them: bird, dog"):
        build(dataset="image_folder", root=str(tmp_path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dataset": "mnist", "root": "nowhere"}, r"no train-images-idx3-ubyte .*data.root .*data.download: true"),
        ({"dataset": "cifar10", "root": "nowhere"}, r"nowhere holds no whole CIFAR10 .*data.download: true"),
        ({"dataset": "digits", "subset": 5000}, "subset: 5000 images wanted, the training split has 1442"),
        ({"dataset": "digits", "num_classes": 7}, "class counts differ: num_classes is 7, the labels of digits go up to 9"),
        ({"dataset": "digits", "normalize": {"mean": [0, 0], "std": [1, 1]}}, "normalize.mean has 2 values, the images have 1"),
        ({"dataset": "digits", "preprocess": ["horizontal_flip"]}, "preprocess names a random transform"),
        ({"dataset": "digits", "augment": [{"name": "random_crop", "size": 5}]}, r"augment gives images of \(1, 5, 5\)"),
        (
            {"dataset": "digits", "augment": [{"name": "random_crop", "padding": 30, "padding_mode": "reflect"}]},
            "augment cannot be applied to the first image: .*[Pp]adding size should be less than",
        ),
        (
            {"dataset": "digits", "augment": [{"name": "gaussian_blur", "kernel_size": 99}]},
            "augment cannot be applied to the first image: .*[Pp]adding size should be less than",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(fields, message):
    with pytest.raises(ValueError, match=message):
        build(**fields)


def test_an_unreadable_image_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken.jpg is no image"):
        load_image(tmp_path / "broken.jpg", 3)


def test_images_are_upright_and_eight_bits_deep(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg", 3).shape == (3, 20, 10)
    Image.fromarray(np.full((4, 4), 65535, np.uint16)).save(tmp_path / "deep.png")
    deep = load_image(tmp_path / "deep.png", 1)
    assert deep.dtype == torch.uint8
    assert deep.max() == 255


def test_grey_images_become_colour_and_colour_grey():
    grey, colour = (first_images(build(dataset="digits", channels=channels)) for channels in (1, 3))
    assert torch.equal(colour, grey.expand(-1, 3, -1, -1))
    assert build(dataset="digits", channels=3).info.mean == build(dataset="digits").info.mean * 3
    assert first_images(build(dataset="fake", channels=3)).shape[1] == 3


def test_a_subset_keeps_the_shares_of_the_classes():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    chosen = stratified_subset(labels, 25, seed=0)
    assert labels[chosen].bincount().tolist() in ([15, 8, 2], [15, 7, 3])
    assert len(chosen.unique()) == 25
    assert torch.equal(chosen, stratified_subset(labels, 25, seed=0))
    assert not torch.equal(chosen, stratified_subset(labels, 25, seed=1))
