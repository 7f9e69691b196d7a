"""Tar archives: what tarfile writes is found where it lies, and what is damaged, cut, hostile or no plain file is one line."""

import io
import os
import re
import tarfile
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mutual.data.datasets.shards.tar import BLOCK, TarReader

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def archive(members, *, form=tarfile.PAX_FORMAT, **fields):
    """The bytes of an archive of (name, content)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in fields.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def header(name=b"0.jpg", *, size=b"00000000000\0", kind=b"0", magic=b"ustar\x0000"):
    """A header with a right checksum."""
    fields = [name.ljust(100, b"\0"), b"0000644\0" + b"0000000\0" * 2, size.ljust(12, b"\0"), b"00000000000\0", b" " * 8, kind]
    block = bytearray(b"".join(fields).ljust(257, b"\0") + magic).ljust(BLOCK, b"\0")
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content):
    return content.ljust(-(-len(content) // BLOCK) * BLOCK, b"\0")


def extended(content, kind=b"x"):
    return header(b"extended", size=b"%011o\0" % len(content), kind=kind) + padded(content)


def record(key, value):
    length = len(key) + len(value) + 3
    length += len(str(length + len(str(length))))
    return b"%d %s=%s\n" % (length, key, value)


END = bytes(2 * BLOCK)


def read(folder, content):
    path = folder / "x.tar"
    path.write_bytes(content)
    with path.open("rb") as file:
        return [
            (os.fsdecode(each.name), content[each.offset : each.offset + each.size]) for each in TarReader(file.fileno(), path).members()
        ]


@pytest.mark.parametrize("form", FORMATS)
def test_what_tarfile_writes_is_found_where_it_lies(tmp_path, form):
    long = "/".join(["folder" * 8] * (4 if form == "ustar" else 9)) + "/x.jpg"
    members = [("a/0.jpg", b"one"), ("a/0.cls", b""), ("b.json", b"2" * 512), (long, b"3" * 513), ("größe.png", b"4" * 5000)]
    assert read(tmp_path, archive(members, form=FORMATS[form])) == members


def test_folders_labels_and_names_that_are_not_utf8_are_no_matter(tmp_path):
    odd = os.fsdecode(b"\xff\xfe.jpg")
    content = header(b"label", kind=b"V") + header(b"a/", kind=b"5") + header(b"old/", kind=b"\0")
    content += header(b"\xff\xfe.jpg", size=b"%011o " % 3, kind=b"\0", magic=b"") + padded(b"abc")  # as V7 had it
    content += extended(record(b"path", b"new.jpg") + record(b"size", b"2") + record(b"mtime", b"1.5")) + header() + padded(b"xy")
    content += extended(record(b"comment", b"of git"), kind=b"g") + header(b"last.jpg", kind=b"7")
    assert read(tmp_path, content + END + b"garbage") == [(odd, b"abc"), ("new.jpg", b"xy"), ("last.jpg", b"")]


def test_a_prefix_is_read_where_there_is_one_and_gnu_has_times_there(tmp_path):
    block = bytearray(header(b"x.jpg"))
    block[345:350] = b"a/b\0c"
    for magic, name in ((b"ustar\x0000", "a/b/x.jpg"), (b"ustar  \0", "x.jpg")):
        block[257:265], block[148:156] = magic, b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        assert read(tmp_path, bytes(block) + END) == [(name, b"")]


def test_a_size_may_be_in_base_256(tmp_path):
    assert read(tmp_path, header(size=b"\x80" + bytes(10) + b"\x05") + padded(b"abcde") + END) == [("0.jpg", b"abcde")]


HUGE = b"\x80" + b"\xff" * 11
REFUSED = {
    "empty": (b"", "it is empty"),
    "text": (b"no archive at all" * 100, "it is no tar archive"),
    "short": (b"x", "no end"),
    "gzip": (b"\x1f\x8b" + bytes(600), "compressed .gzip.*gunzip"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(600), "compressed .zstd.*unzstd"),
    "without an end": (header(), "no end .zeros. behind its 512 bytes"),
    "cut in a header": (header() + header()[:100], "no end .zeros."),
    "cut in a content": (header(size=b"%011o\0" % 600) + bytes(512), r"0\.jpg should have 600 bytes, behind its header are 512"),
    "cut in the padding": (header(size=b"%011o\0" % 600) + bytes(600), "no end"),
    "damaged": (header() + b"x" * BLOCK + END, "damaged at byte 512"),
    "huge": (header(size=HUGE) + END, "should have [0-9,]{20,} bytes, behind its header are 1,024"),
    "huge in octal": (header(size=b"777777777777") + END, "should have 68,719,476,735 bytes"),
    "negative": (header(size=b"\xff" * 12) + END, "says no valid size"),
    "negative in octal": (header(size=b"-0000000001\0") + END, "says no valid size"),
    "no number": (header(size=b"12x\0") + END, "says no valid size"),
    "hard link": (header(kind=b"1") + END, "0.jpg is a hard link; put plain files into shards"),
    "symbolic link": (header(kind=b"2") + END, "a symbolic link"),
    "pipe": (header(kind=b"6") + END, "a pipe"),
    "device": (header(kind=b"3") + END, "a device"),
    "sparse": (header(kind=b"S") + END, "a sparse file"),
    "sparse in pax": (extended(record(b"GNU.sparse.major", b"1")) + header() + END, "a sparse file"),
    "volumes": (header(kind=b"M") + END, "another volume"),
    "unknown": (header(kind=b"Z") + END, "an unknown type .Z."),
    "huge extension": (header(size=b"%011o\0" % 2**31, kind=b"x") + END, "extended header at byte 512 should have 2,147,483,648"),
    "large extension": (extended(bytes(2**20 + 1)) + END, "at most 1,048,576 are read"),
    "size of an extension": (extended(record(b"size", b"9" * 18)) + header() + END, "should have 999,999,999,999,999,999"),
    "negative size of an extension": (extended(record(b"size", b"-1")) + header() + END, "says no valid size"),
    "damaged extension": (extended(b"9999999 path=x\n") + header() + END, "extended header at byte 512 is damaged"),
    "short record": (extended(b"4 a=") + header() + END, "is damaged"),
    "one name for all": (extended(record(b"path", b"x"), kind=b"g") + header() + END, "one name or size"),
    "extension of nothing": (extended(record(b"path", b"x")) + END, "ends behind an extended header"),
    "long name of nothing": (extended(b"x.jpg\0", kind=b"L") + END, "ends behind an extended header"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_whole_archive_of_plain_files_is_one_line(tmp_path, case):
    content, reason = REFUSED[case]
    with pytest.raises(ValueError, match=reason) as caught:
        read(tmp_path, content)
    assert str(caught.value).startswith(f"{tmp_path}/x.tar: ")
    assert "\n" not in str(caught.value)


@given(cut=st.integers(0, 10_239))
@settings(max_examples=60, deadline=None)
def test_a_cut_archive_never_passes_for_a_whole_one(tmp_path_factory, cut):
    """As a kill while it is written leaves it; only zeros may be missing at the end."""
    whole = archive([(f"{index}.jpg", bytes([index + 1]) * 300 * index) for index in range(5)])
    needed = len(whole.rstrip(b"\0")) // BLOCK * BLOCK + 2 * BLOCK
    assert needed < len(whole) == 10_240
    if cut < needed:
        with pytest.raises(ValueError, match=r"cut|empty|no end"):
            read(tmp_path_factory.mktemp("cut"), whole[:cut])
    else:
        assert len(read(tmp_path_factory.mktemp("cut"), whole[:cut])) == 5


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_damage_is_a_line_or_no_matter(tmp_path_factory, data):
    whole = bytearray(archive([("a" * 120 + f"{index}.jpg", b"content") for index in range(3)]))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        read(tmp_path_factory.mktemp("damaged"), bytes(whole))
    except ValueError as error:
        assert re.match(r".*x\.tar: [^\n]+$", str(error), re.DOTALL)  # noqa: PT017, either is right


def test_small_files_and_their_headers_are_read_together(tmp_path, monkeypatch):
    path = tmp_path / "x.tar"
    path.write_bytes(archive([(f"{index}.cls", b"1") for index in range(100)]))
    reads = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *arguments: reads.append(arguments) or pread(*arguments))
    with path.open("rb") as file:
        reader = TarReader(file.fileno(), path)
        assert [reader.read(each.offset, each.size) for each in reader.members()] == [b"1"] * 100
    assert len(reads) < 30


def test_thousands_of_extended_headers_take_no_memory_and_little_time(tmp_path: Path):
    name = b"x" * 60_000 + b"\0"
    content = extended(name, kind=b"L") * 400 + extended(record(b"comment", b"y" * 60_000)) * 400 + header() + END
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    begun = time.perf_counter()
    tracemalloc.start()
    with path.open("rb") as file:
        (member,) = TarReader(file.fileno(), path).members()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(member.name) == 60_000
    assert peak < 2**20
    assert time.perf_counter() - begun < 10
