"""Paths in one array of bytes, and the split of files that holds them."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mutual.data.datasets.joined import JoinedSplit
from mutual.data.datasets.splits import FileSplit
from mutual.data.files import paths as paths_module
from mutual.data.files.listing import hidden_image_files, image_files
from mutual.data.files.paths import PathArray

PARTS = st.binary(min_size=1, max_size=6).filter(lambda part: b"/" not in part and b"\0" not in part and part not in (b".", b".."))
PATHS = st.lists(
    st.builds(lambda parts, top: Path(os.fsdecode(top + b"/".join(parts))), st.lists(PARTS, min_size=1), st.sampled_from([b"", b"/"]))
)


@given(PATHS)
def test_names_of_any_bytes_come_back_as_they_were(paths):
    array = PathArray.of(paths)
    assert len(array) == len(paths)
    assert list(array) == paths
    assert [array.text(index) for index in range(len(paths))] == [str(path) for path in paths]
    assert list(pickle.loads(pickle.dumps(array))) == paths


@given(PATHS, PATHS, st.data())
def test_arrays_are_selected_sliced_and_put_together_as_lists_are(first, second, data):
    both, array = first + second, PathArray.concatenate([PathArray.of(first), PathArray.of(second)])
    assert list(array) == both
    assert list(array[1::2]) == both[1::2]
    assert list(array[::-1]) == both[::-1]
    indices = data.draw(st.lists(st.integers(0, len(both) - 1), max_size=9)) if both else []
    selected = array.select(np.array(indices, np.int64))
    assert list(selected) == [both[index] for index in indices]
    assert list(PathArray.concatenate([selected, array])) == [both[index] for index in indices] + both


def test_an_index_that_is_not_there_is_an_error():
    with pytest.raises(IndexError):
        PathArray.of([Path("a")])[1]
    assert PathArray.of([Path("a"), Path("b")])[-1] == Path("b")
    assert list(PathArray.concatenate([])) == []


def test_chunks_change_nothing(monkeypatch):
    paths = [Path(f"/data/{'xy' * (index % 5)}/{index}.png") for index in range(50)]
    monkeypatch.setattr(paths_module, "_CHUNK", 7)
    array = PathArray.of(paths)
    assert list(array) == paths
    assert list(array[::-1]) == paths[::-1]


def test_a_path_takes_little_more_than_its_name():
    paths = [Path(f"/data/imagenet/train/n{index // 1000:08d}/n{index // 1000:08d}_{index}.JPEG") for index in range(20_000)]
    split = FileSplit(paths, [Path("/data/imagenet")] * len(paths), torch.zeros(len(paths)), 3)
    assert len(pickle.dumps(split.paths)) < 45 * len(paths)
    assert [path.name for path in split.paths[:3]] == [path.name for path in paths[:3]]


def test_files_are_listed_in_the_order_of_their_parts(tmp_path):
    names = ["a/b.png", "a-b/c.png", "a.png", "B/x.PNG", "b/.hidden/x.png", "._y.png", "z/note.txt", os.fsdecode(b"\xff/\xfe.jpg"), "é.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"")
    hidden = {"b/.hidden/x.png", "._y.png"}
    assert image_files(tmp_path) == sorted(tmp_path / name for name in names if name not in hidden and not name.endswith("txt"))
    assert hidden_image_files(tmp_path) == sorted(tmp_path / name for name in hidden)


@pytest.mark.parametrize("folder", [".", "data/..", "./data"])
def test_a_relative_folder_is_listed_as_paths_are_written(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/x.png").write_bytes(b"")
    found = image_files(Path(folder))
    assert found == [Path(folder, "x.png" if folder == "./data" else "data/x.png")]


def test_a_split_of_files_keeps_root_and_label_of_each():
    roots = [Path("/a"), Path("/a"), Path("b"), Path("/a")]
    paths = [Path("/a/x/1.png"), Path("/elsewhere/2.png"), Path("b/3.png"), Path("/a/4.png")]
    split = FileSplit(paths, roots, torch.arange(4), 3)
    assert list(split.portable_names()) == ["x/1.png", "2.png", "3.png", "4.png"]
    chosen = split.select(torch.tensor([3, 2, 0]))
    assert list(chosen.paths) == [paths[3], paths[2], paths[0]]
    assert list(chosen.portable_names()) == ["4.png", "3.png", "x/1.png"]
    assert chosen.labels.tolist() == [3, 2, 0]
    assert chosen.name(1) == "b/3.png"
    joined = JoinedSplit.of(split, chosen)
    assert list(joined.portable_names()) == [*split.portable_names(), *chosen.portable_names()]
    grey = chosen.decoded_as(1)
    assert (grey.channels, chosen.channels, list(grey.paths)) == (1, 3, list(chosen.paths))
