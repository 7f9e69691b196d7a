"""`hfds/NAME_OR_FOLDER`: data sets of Hugging Face `datasets` in every form and place, their splits, and what is refused as none."""

import errno
import pickle
import re
import shutil
from importlib import metadata
from itertools import chain
from types import SimpleNamespace

import datasets
import pyarrow as pa
import pytest
import torch
from support import run
from tables import data_of, encoded, plain, png, read, refusal, table, values, write_parquet

from mutual.data import build_data, check_present
from mutual.recipe import Data

pytestmark = pytest.mark.usefixtures("hub_cache")


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
        (["train", "train_extra", "test"], {"val": "train_extra"}, ("train", "train_extra", None)),
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


def test_hidden_files_are_passed_over_and_addresses_refused(tmp_path):
    write_parquet(tmp_path / "owls" / ".cache", number=3)
    write_parquet(tmp_path / "owls")
    assert len(read(tmp_path / "owls").train.labels) == 12
    (tmp_path / "owls").rename(tmp_path / "a::b")
    assert "datasets reads a name with `::` as an address; rename it" in refusal(tmp_path / "a::b")


def test_a_full_disk_is_no_fault_of_the_data_set(tmp_path, monkeypatch):
    def load(*_, **__):
        raise RuntimeError("could not be generated") from OSError(errno.ENOSPC, "No space left on device")

    write_parquet(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(OSError, match="No space left on device"):
        read(tmp_path)


def test_the_cache_needs_no_second_conversion(tmp_path, hub_cache):
    write_parquet(tmp_path / "owls")
    read(tmp_path / "owls")
    before = sorted((path, path.stat().st_mtime_ns) for path in hub_cache.rglob("*.arrow"))
    assert len(before) == 2
    read(tmp_path / "owls")
    assert sorted((path, path.stat().st_mtime_ns) for path in hub_cache.rglob("*.arrow")) == before


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
    folder = plain(tmp_path, image=[{"bytes": png(0), "path": "0.png"}, {"bytes": None, "path": "a.png"}], label=[0, 1])
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
    """With the real library, which reads the variable when it is imported."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{name: x, data: {dataset: hfds/owner/owls}, peers: {a: {model: small_cnn}}, objectives: [{loss: cross_entropy}]}")
    done = run("train_anew", recipe, f"output={tmp_path}", cwd=tmp_path, expect=2, HF_HUB_OFFLINE="1")
    line = done.stderr.strip().splitlines()[-1]
    assert "recipe.yaml: data: owner/owls is no folder or file here, and cannot be opened on the hub: " in line
    assert "ffline" in line, "the library has read the variable"
    assert "Traceback" not in done.stderr
