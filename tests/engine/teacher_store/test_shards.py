"""Files of records: appended, shared, cut, altered, locked, and on a full disk."""

import errno
import os

import numpy as np
import pytest

from mutual.engine.teacher_store import shards as module
from mutual.engine.teacher_store.shards import Shards


def opened(folder, **arguments):
    return Shards(folder, **{"num_bytes": 5, "num_images": 100, "num_views": 3, **arguments})


def keys(*pairs):
    return np.array(pairs, dtype=np.int64)


def content(*values):
    return np.array([[value] * 5 for value in values], dtype=np.uint8)


def held(shards, *pairs):
    """The first byte of each record, None where there is none."""
    records, is_there = shards.read(keys(*pairs))
    return [int(record[0]) if there else None for record, there in zip(records, is_there, strict=True)]


def test_what_was_appended_is_read_by_its_key(tmp_path):
    shards = opened(tmp_path)
    shards.append(keys((5, 0), (5, 2), (99, 1)), content(1, 2, 3))
    shards.append(keys((0, 0)), content(4))
    assert held(shards, (99, 1), (5, 2), (0, 0), (5, 0), (5, 1), (98, 1)) == [3, 2, 4, 1, None, None]
    assert shards.has(keys((99, 1), (5, 1))).tolist() == [True, False]
    assert held(opened(tmp_path), (99, 1), (5, 2), (0, 0), (5, 0)) == [3, 2, 4, 1]
    assert shards.keys().tolist() == [[0, 0], [5, 0], [99, 1], [5, 2]]


def test_ranks_write_files_of_their_own_and_see_each_others_after_a_refresh(tmp_path):
    first, second = (opened(tmp_path, rank=rank, size=2) for rank in (0, 1))
    first.append(keys((1, 0)), content(1))
    second.append(keys((2, 0)), content(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard_00000.bin", "shard_00001.bin"]
    assert held(first, (1, 0), (2, 0)) == [1, None]
    first.refresh()
    assert held(first, (1, 0), (2, 0)) == [1, 2]


def test_two_runs_never_write_into_one_file(tmp_path):
    first, other = opened(tmp_path), opened(tmp_path)
    for number, shards in enumerate((first, other, first, other)):
        shards.append(keys((number, 0)), content(number))
    assert len(list(tmp_path.iterdir())) == 2
    first.close()
    third = opened(tmp_path)
    third.append(keys((9, 0)), content(9))
    assert len(list(tmp_path.iterdir())) == 2, "a file that nobody writes to is gone on with"
    assert held(opened(tmp_path), *((number, 0) for number in (0, 1, 2, 3, 9))) == [0, 1, 2, 3, 9]


@pytest.mark.parametrize("cut", [1, 20, 21, 22, 41, 42, 62])
def test_of_a_write_that_was_cut_nothing_counts(tmp_path, cut):
    """Killed in the midst of a write of three records of 21 bytes, after one of two."""
    shards = opened(tmp_path)
    shards.append(keys((1, 0), (2, 0)), content(1, 2))
    shards.append(keys((3, 0), (4, 0), (5, 0)), content(3, 4, 5))
    shards.close()
    (path,) = tmp_path.iterdir()
    os.truncate(path, 2 * 21 + cut)
    again = opened(tmp_path)
    assert held(again, *((number, 0) for number in range(1, 6))) == [1, 2, None, None, None]
    again.append(keys((3, 0), (4, 0)), content(6, 7))
    assert path.stat().st_size == 4 * 21
    assert held(opened(tmp_path), *((number, 0) for number in range(1, 6))) == [1, 2, 6, 7, None]


@pytest.mark.parametrize("byte", range(21))
def test_a_record_of_which_any_byte_was_altered_is_none(tmp_path, byte):
    shards = opened(tmp_path)
    shards.append(keys((1, 0)), content(1))
    shards.append(keys((2, 0)), content(2))
    shards.append(keys((3, 0)), content(3))
    shards.close()
    (path,) = tmp_path.iterdir()
    damaged = bytearray(path.read_bytes())
    damaged[21 + byte] ^= 0x10
    path.write_bytes(damaged)
    again = opened(tmp_path)
    assert held(again, (1, 0), (2, 0), (3, 0)) == [1, None, 3]
    again.append(keys((2, 0)), content(8))
    for shards in (again, opened(tmp_path)):
        assert held(shards, (1, 0), (2, 0), (3, 0)) == [1, 8, 3], "a whole one takes the place of a damaged one, whichever comes first"


def test_zeros_that_a_lost_block_leaves_are_no_record(tmp_path):
    (tmp_path / "shard_00000.bin").write_bytes(bytes(10 * 21))
    assert held(opened(tmp_path), (0, 0)) == [None]


def test_a_damaged_record_does_not_hide_a_whole_one_in_an_earlier_file(tmp_path):
    for rank in (0, 1):
        opened(tmp_path, rank=rank, size=2).append(keys((1, 0)), content(rank + 1))
    path = tmp_path / "shard_00001.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert held(opened(tmp_path), (1, 0)) == [1]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    shards = opened(tmp_path)
    shards.append(keys((1, 0)), content(1))
    (path,) = tmp_path.iterdir()
    write, room = os.write, [30]

    def fill(descriptor, view):
        if room[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = view[: room[0]]
        room[0] -= len(part)
        return write(descriptor, part)

    monkeypatch.setattr(module.os, "write", fill)
    with pytest.raises(OSError, match="No space left") as error:
        shards.append(keys((2, 0), (3, 0)), content(2, 3))
    assert error.value.filename == str(path)
    assert path.stat().st_size == 21
    monkeypatch.undo()
    shards.append(keys((2, 0), (3, 0)), content(2, 3))
    assert held(opened(tmp_path), (1, 0), (2, 0), (3, 0)) == [1, 2, 3]


def test_a_write_larger_than_what_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_BYTES", 50)
    shards = opened(tmp_path)
    shards.append(keys(*((number, 1) for number in range(9))), content(*range(9)))
    shards.append(keys((50, 0)), content(50))
    assert held(opened(tmp_path), *((number, 1) for number in range(9)), (50, 0)) == [*range(9), 50]


def test_a_link_in_the_place_of_a_shard_is_not_followed(tmp_path):
    elsewhere = tmp_path / "precious"
    elsewhere.write_bytes(b"x" * 21)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "shard_00000.bin").symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic links"):
        opened(tmp_path / "store").append(keys((1, 0)), content(1))
    assert elsewhere.read_bytes() == b"x" * 21
