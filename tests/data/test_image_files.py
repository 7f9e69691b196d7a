"""Image files: what is none is told at once, whatever it is called, and a disk that fails is no bad image."""

import errno
import os
import socket
import time
from pathlib import Path

import pytest
from faults.damage import healthy_images

from mutual.data import ImageError, load_image

PNG = healthy_images()["colour.png"]


def test_what_is_no_file_is_reported_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "empty.jpg").touch()
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(2**31)
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(tmp_path)  # the names of sockets are short
        try:
            listening.bind("socket.jpg")
        finally:
            os.chdir(here)
        reasons = {
            "pipe": "a pipe",
            "folder": "a folder",
            "dangling": "a link to nothing",
            "circle": "symbolic links",
            "device": "a device",
        }
        reasons |= {"socket": "a socket", "empty": "it is empty", "large": "2,147,483,648 bytes", "missing": "there is no such file"}
        for name, reason in reasons.items():
            begun = time.perf_counter()
            with pytest.raises(ImageError, match=rf"{name}\.jpg is no image that can be read: .*{reason}"):
                load_image(tmp_path / f"{name}.jpg", 3)
            assert time.perf_counter() - begun < 1
    with pytest.raises(ImageError, match="a folder"):
        load_image(tmp_path, 3)
    with pytest.raises(ImageError, match="File name too long"):
        load_image(tmp_path / ("x" * 5000), 3)


def test_names_that_are_not_utf8_or_not_printable_are_read_and_reported_in_one_line(tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe\n\x1b[31m.png"))
    odd.write_bytes(PNG)
    assert load_image(odd, 3).shape == (3, 44, 60)
    odd.write_bytes(b"no image")
    with pytest.raises(ImageError) as caught:
        load_image(odd, 3)
    assert str(caught.value).isprintable() or "\udcff" in str(caught.value)
    assert not {"\n", "\x1b"} & set(str(caught.value))


def test_a_failing_disk_is_not_a_bad_image(tmp_path, monkeypatch):
    """Nothing is skipped for it: another process, or a second try, may read the image."""
    (tmp_path / "image.png").write_bytes(PNG)

    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        load_image(tmp_path / "image.png", 3)
    assert not isinstance(caught.value, ImageError)
