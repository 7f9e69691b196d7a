"""The fingerprint: it stays where data are moved to another folder, and changes where they are others."""

from pathlib import Path

import pytest
from PIL import Image

import mutual.data.module
from mutual.data import build_data, data_changes
from mutual.recipe import Data


def images(folder, *names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(folder / name)
    return folder


def labelled(folder, *, second="1.png"):
    for part in ("train", "val"):
        images(folder / part, "cat/0.png", f"cat/{second}", "dog/0.png")
    return folder


def fingerprint(root, **fields):
    fields = {"dataset": "image_folder", "image_size": 8, "channels": 1, "root": str(root), **fields}
    return build_data(Data(**{key: str(value) if isinstance(value, Path) else value for key, value in fields.items()}), seed=0).fingerprint


def test_a_relative_root_and_unlabelled_images_elsewhere_go_together(tmp_path, monkeypatch):
    root, more = labelled(tmp_path / "here" / "data"), images(tmp_path / "more", "a.png", "b/c.png")
    expected = fingerprint(root, unlabelled=more)
    monkeypatch.chdir(tmp_path / "here")
    assert fingerprint("data", unlabelled=more) == expected
    monkeypatch.chdir(root)
    assert fingerprint(".", unlabelled="../../more") == expected


@pytest.mark.parametrize("moved", ["root", "more"])
def test_data_that_were_moved_are_the_same_and_renamed_ones_are_not(tmp_path, moved):
    places = {"root": labelled(tmp_path / "a" / "data"), "more": images(tmp_path / "b" / "more", "x.png", "y/z.png")}
    before = fingerprint(places["root"], unlabelled=places["more"])
    there = tmp_path / "quite" / "elsewhere"
    there.parent.mkdir()
    places[moved] = places[moved].rename(there)
    assert fingerprint(places["root"], unlabelled=places["more"]) == before
    (there / ("train/cat/1.png" if moved == "root" else "x.png")).rename(there / ("train/cat/2.png" if moved == "root" else "w.png"))
    renamed = fingerprint(places["root"], unlabelled=places["more"])
    assert data_changes(before, renamed) == "other train images or labels, as many of each class"


def test_a_list_with_absolute_names_is_the_same_beside_a_moved_root(tmp_path):
    def written(folder, far):
        root = labelled(folder)
        names = {
            "train": [f"{root}/train/cat/1.png 0", "train/dog/0.png 1", f"{far}/q.png 1"],
            "val": ["val/cat/0.png 0", "val/dog/0.png 1"],
        }
        for part, lines in names.items():
            (root / f"{part}.txt").write_text("\n".join(lines))
        (root / "more.txt").write_text(f"train/cat/0.png\n{far}/q.png\n")
        return {"train_list": root / "train.txt", "val_list": root / "val.txt", "unlabelled": root / "more.txt", "dataset": "image_list"}

    before, after = (images(tmp_path / name, "q.png") for name in ("far", "farther"))
    first = written(tmp_path / "one", before)
    second = written(tmp_path / "two" / "deeper", after)
    assert fingerprint(tmp_path / "one", **first) == fingerprint(tmp_path / "two" / "deeper", **second)


def test_a_subset_of_files_has_the_fingerprint_of_its_own_files(tmp_path):
    root = labelled(tmp_path / "data")
    parts = [fingerprint(root, subset=2, subset_seed=seed)["train"]["digest"] for seed in range(8)]
    assert len(set(parts)) == 2, "of the two cats the one or the other"


def test_nothing_is_hashed_until_it_is_asked_for(monkeypatch):
    calls = []
    monkeypatch.setattr(mutual.data.module, "fingerprint", lambda *arguments: calls.append(arguments) or {"of": len(calls)})
    data = build_data(Data(dataset="digits"), seed=0)
    assert calls == []
    assert data.fingerprint is data.fingerprint
    assert len(calls) == 1


def test_images_in_memory_are_taken_as_they_were_read(tmp_path):
    plain, scaled = (build_data(Data(dataset="digits", image_size=size), seed=0).fingerprint for size in (8, 16))
    assert plain["train"] == scaled["train"]
