"""The index of a shard: WebDataset's convention, labels, and where it is kept, found again, made anew and never waited for in vain."""

import fcntl
import json
import os
import re
import threading
import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from shard_files import image_bytes, samples, write_shard

from mutual.data.datasets.shards import index_files, shard_index
from mutual.data.datasets.shards.index_files import FOLDER, load_indices
from mutual.data.datasets.shards.shard_index import ShardIndex, _digest, make_index
from mutual.data.files import writing

PNG = image_bytes(0)


def labels_of(index):
    return [None if number < 0 else index.labels[number] for number in index.label_ids]


def made(folder, members, label_key=None):
    index = make_index(write_shard(folder / "x.tar", members), label_key)
    return [index.name(each).removeprefix(f"{folder}/x.tar/") for each in range(len(index.offsets))], labels_of(index)


def test_files_are_a_sample_whose_names_are_equal_up_to_the_first_dot_of_the_last_part(tmp_path):
    members = [
        ("README", b"no part of a sample"),
        ("__meta__/x.txt", b"nor this"),
        ("a.b/0.cls", b"7\n"),
        ("a.b/0.JPG", PNG),
        ("a.b/0.seg.png", b"another image of the sample"),
        ("a.b/._0.jpg", b"of a Mac"),
        ("a.b/.jpg", b"hidden"),
        ("a.c/0.webp", PNG),
        ("a.c/0.cls", b"0"),
        ("a.c/0.json", {"label": 3}),
        ("1.json", {"cls": 2, "class": 5, "label": None}),
        ("1.bmp", PNG),
        ("2.tiff", PNG),
    ]
    assert made(tmp_path, members) == (["a.b/0.JPG", "a.c/0.webp", "1.bmp", "2.tiff"], [7, 0, 2, None])
    assert made(tmp_path, members, "class") == (["a.b/0.JPG", "a.c/0.webp", "1.bmp", "2.tiff"], [None, None, 5, None])


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("0.jpg", PNG), ("0.png", PNG)], r"x.tar: the sample 0 has two images, 0\.jpg and 0\.png"),
        ([("0.jpg", PNG), ("0.jpg", PNG)], r"the sample 0 has two images"),
        ([("0.jpg", PNG), ("0.cls", 1), ("0.cls", 1)], r"the sample 0 has two files \.cls"),
        ([("0.jpg", PNG), ("1.jpg", PNG), ("0.cls", 1)], "the sample 0 comes twice, or its files do not follow one another"),
        ([("0.heic", PNG), ("0.cls", 1)], r"the sample 0 has a label and no image .*jpg.*, but \.heic"),
        ([("0.txt", b"")], "it holds no image"),
        ([], "it holds no image"),
    ],
)
def test_what_is_no_sample_is_one_line(tmp_path, members, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        made(tmp_path, members)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("0.cls", b"cat", "its .cls holds 'cat', which is no class number"),
        ("0.cls", b"", "its .cls holds '', which is no class number"),
        ("0.cls", b"-1", "'-1'"),
        ("0.cls", b"1.5", r"'1\.5'"),
        ("0.cls", b"9" * 19, "no class number"),
        ("0.cls", b"1" * 100, "no class number"),
        ("0.cls", "٣".encode(), "no class number"),
        ("0.json", b"{", "its .json is no JSON"),
        ("0.json", b"\xff", "no JSON"),
        ("0.json", b"[" * 100_000, "no JSON"),
        ("0.json", b"5", "its .json holds no object"),
        ("0.json", b" " * (2**20 + 1), "its .json has 1,048,577 bytes"),
        ("0.json", b'{"label": ' + b"9" * 100_000 + b"}", "label of its .json is inf, neither a class number nor a name"),
        ("0.json", {"label": 1.5}, r"is 1\.5"),
        ("0.json", {"label": True}, "is true"),
        ("0.json", {"label": -1}, "is -1"),
        ("0.json", {"label": ""}, "is ''"),
        ("0.json", {"label": {"a": 1}}, "neither"),
        ("0.json", {"label": [[1]]}, "neither"),
        ("0.json", {"label": [1, 2.5]}, "neither"),
        ("0.json", b'{"label": "\\ud800"}', "neither"),
        ("0.json", {"label": "x" * 70_000}, "neither"),
    ],
)
def test_a_label_that_is_none_is_kept_as_the_reason(tmp_path, name, content, reason):
    _, (label,) = made(tmp_path, [("0.png", PNG), (name, content)])
    assert re.search(reason, label["bad"])
    assert len(label["bad"]) < 200


def test_labels_are_numbers_names_and_lists_of_them(tmp_path):
    values = [0, 10**18 - 1, "größe", [], [1, 2], ["a", "b"], [1, 2]]
    assert made(tmp_path, samples([{"x y": value} for value in values], label="json"), "x y")[1] == values


@pytest.fixture
def shard(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_shard(tmp_path / "data" / "x.tar", samples([0, 1, 1]))


@pytest.fixture
def made_paths(monkeypatch):
    """The shards of which indices are made."""
    paths = []
    monkeypatch.setattr(index_files, "make_index", lambda path, key: paths.append(path.name) or make_index(path, key))
    return paths


def loaded(shard, key=None):
    (index,) = load_indices([shard], key)
    return labels_of(index)


def test_an_index_is_made_once_for_each_label_and_anew_when_the_shard_has_changed(shard, made_paths):
    assert [loaded(shard), loaded(shard)] == [[0, 1, 1]] * 2
    assert made_paths == ["x.tar"]
    assert [loaded(shard, "x"), loaded(shard, "x"), loaded(shard)] == [[None] * 3] * 2 + [[0, 1, 1]]
    assert made_paths == ["x.tar"] * 2
    write_shard(shard, samples([1, 0, 0]))  # as large as before
    assert loaded(shard) == [1, 0, 0]
    os.utime(shard, ns=(1, 1))
    assert loaded(shard) == [1, 0, 0]
    assert made_paths == ["x.tar"] * 4


def test_only_what_is_missing_is_made(shard, made_paths):
    loaded(shard)
    others = [write_shard(shard.with_name(f"{number}.tar"), samples([number])) for number in range(3)]
    assert [labels_of(index) for index in load_indices([others[2], shard, *others[:2]], None)] == [[2], [0, 1, 1], [0], [1]]
    assert made_paths[0] == "x.tar"
    assert sorted(made_paths[1:]) == ["0.tar", "1.tar", "2.tar"]


def test_where_nothing_can_be_written_beside_the_shards_the_cache_folder_is_taken(shard, made_paths, tmp_path):
    (shard.parent / FOLDER).touch()  # in place of a folder that may not be written to
    assert [loaded(shard), loaded(shard)] == [[0, 1, 1]] * 2
    assert len(list(tmp_path.glob("cache/mutual/shards/*/x.tar.index"))) == len(made_paths) == 1


def test_where_nothing_can_be_written_at_all_it_is_made_each_time(shard, made_paths, tmp_path):
    (shard.parent / FOLDER).touch()
    (tmp_path / "cache").touch()
    for _ in range(2):
        with pytest.warns(UserWarning, match="nothing can be written in .*; the index of shards is made anew at each start"):
            assert loaded(shard) == [0, 1, 1]
    assert len(made_paths) == 2


def test_a_full_disk_is_no_error(shard, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "open_no_follow", fail)
    with pytest.warns(UserWarning, match=r"x\.tar\.index: No space left on device; the index"):
        assert loaded(shard) == [0, 1, 1]


def index_file(shard):
    return shard.parent / FOLDER / "x.tar.index"


def forged(file, **changes):
    """An index with a right digest and other content, as anybody may leave it there."""
    arrays = load(file.read_bytes())
    about = json.loads(arrays["about"].tobytes())
    for key, value in changes.items():
        if key in about:
            about[key] = value
        else:
            arrays[key] = value
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    arrays["digest"] = _digest(arrays)
    return save(arrays)


@pytest.mark.parametrize(
    "changes",
    [
        {"offsets": np.array([0, 512, 512])},
        {"offsets": np.array([512, 512, 2**40])},
        {"offsets": np.array([512, 512, 10_240])},
        {"sizes": np.array([1, -1, 1])},
        {"sizes": np.array([1, 2**62, 1])},
        {"sizes": np.array([1, 2])},
        {"sizes": np.array([1.0, 2.0, 3.0])},
        {"sizes": np.array([[1, 2, 3]])},
        {"label_ids": np.array([0, 1, 2], np.int32)},
        {"label_ids": np.array([0, 1, -2], np.int32)},
        {"name_ends": np.array([8, 4, 24])},
        {"name_ends": np.array([8, 16, 2**60])},
        {"labels": [0, {"__import__": "os"}]},
        {"labels": 5},
        {"format": 2},
        {"size": 1},
    ],
)
def test_an_index_that_points_beyond_its_shard_is_made_anew(shard, made_paths, changes):
    loaded(shard)
    index_file(shard).write_bytes(forged(index_file(shard), **changes))
    assert [loaded(shard), loaded(shard)] == [[0, 1, 1]] * 2
    assert len(made_paths) == 2


def test_an_index_that_is_as_it_was_is_taken(shard, made_paths):
    loaded(shard)
    index_file(shard).write_bytes(forged(index_file(shard), labels=[4, 5]))
    assert loaded(shard) == [4, 5, 5], "the shard is not read again"
    assert len(made_paths) == 1


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_a_damaged_index_is_known(tmp_path_factory, data):
    shard = write_shard(tmp_path_factory.mktemp("damaged") / "x.tar", samples([0, 1, 1]))
    content = bytearray(make_index(shard, None).to_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    index = ShardIndex.from_bytes(bytes(content), shard, shard.stat())
    assert index is None or labels_of(index) == [0, 1, 1]


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 8 + b"{}", b"x" * 2**21, b"\x80\x04\x95"])
def test_a_file_that_is_no_index_is_replaced(shard, made_paths, content):
    loaded(shard)
    index_file(shard).write_bytes(content)
    assert [loaded(shard), loaded(shard)] == [[0, 1, 1]] * 2
    assert len(made_paths) == 2


def test_a_link_in_place_of_an_unfinished_index_is_not_followed(shard, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (shard.parent / FOLDER).mkdir()
    (shard.parent / FOLDER / ".unfinished-x.tar.index").symlink_to(precious)
    with pytest.warns(UserWarning, match="made anew at each start"):
        assert loaded(shard) == [0, 1, 1]
    assert precious.read_text() == "precious"


def test_a_shard_that_is_being_written_is_refused(shard, monkeypatch):
    end = shard_index._Samples.end

    def touch(samples):
        os.utime(shard, ns=(1, 1))
        end(samples)

    monkeypatch.setattr(shard_index._Samples, "end", touch)
    with pytest.raises(ValueError, match="it is being written"):
        make_index(shard, None)


def test_a_pipe_in_place_of_a_shard_is_refused(tmp_path):
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(ValueError, match="it is no file"):
        make_index(tmp_path / "x.tar", None)


def test_of_several_bad_shards_the_first_is_told_and_what_is_whole_is_kept(shard, made_paths):
    paths = [shard, *(shard.with_name(f"{number}.tar") for number in (3, 2, 1))]
    for path in paths[1:]:
        path.write_bytes(b"no archive" * 100)
    with pytest.raises(ValueError, match=r"3\.tar: it is no tar archive"):
        load_indices(paths, None)
    made_paths.clear()
    assert loaded(shard) == [0, 1, 1]
    assert made_paths == []


@pytest.fixture
def other_process(shard):
    """A process that holds the lock until it is told to end."""
    (shard.parent / FOLDER).mkdir()
    ready, told = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told[1])
        descriptor = os.open(shard.parent / FOLDER / "lock", os.O_RDWR | os.O_CREAT)
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        os.write(ready[1], b"x")
        os.read(told[0], 1)
        index = make_index(shard, None)
        index_file(shard).write_bytes(index.to_bytes())
        os._exit(0)
    os.read(ready[0], 1)
    yield lambda: os.write(told[1], b"x")
    os.close(told[1])
    os.waitpid(child, 0)
    for descriptor in (*ready, told[0]):
        os.close(descriptor)


def test_who_waits_for_the_one_that_makes_an_index_reads_it(shard, made_paths, other_process, monkeypatch):
    sleep = time.sleep
    monkeypatch.setattr(index_files.time, "sleep", lambda seconds: other_process() and sleep(seconds))
    assert loaded(shard) == [0, 1, 1]
    assert made_paths == []


def test_nobody_waits_for_a_process_that_makes_nothing(shard, made_paths, other_process, monkeypatch):
    monkeypatch.setattr(index_files, "_PATIENCE", 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert loaded(shard) == [0, 1, 1]
    assert made_paths == ["x.tar"]


def test_a_file_system_without_locks_is_no_matter(shard, monkeypatch):
    def fail(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", fail)
    assert loaded(shard) == [0, 1, 1]


@pytest.mark.parametrize("name", ["x.tar.index", ".unfinished-x.tar.index"])
def test_pipes_in_the_folder_of_indices_are_not_waited_for(shard, name):
    (shard.parent / FOLDER).mkdir()
    os.mkfifo(shard.parent / FOLDER / name)
    found = []
    reader = threading.Thread(target=lambda: found.append(labels_of(*load_indices([shard], None))), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader.start()
        reader.join(10)
    assert found == [[0, 1, 1]]
