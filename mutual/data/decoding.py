"""Decoding: an image file as uint8 pixels; the one way by which training, evaluation, prediction and data.check read images.

Pillow decodes every format. What each kind of pixel becomes stands in this folder's README; what has no stated conversion is refused.
"""

from __future__ import annotations

import errno
import io
import stat
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mutual.recipe import InputError, printable

MAX_PIXELS = 2**27
"""Larger images are refused before they are decoded: 11,585 pixels squared, for which a process needs up to 2 GB."""
MAX_FILE_BYTES = 2**30
_MAX_SLOW_PIXELS = 2**22
"""The same for the kinds of PPM that Pillow decodes number by number, a few million in a second."""

WRONG_PATHS = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR})
"""Numbers of the OSErrors that the user can fix: a path is wrong, or closed to this user."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_MODES = frozenset({"1", "L", "P", "PA", "LA", "RGB", "RGBA", "CMYK", "YCbCr"})
_DEEP_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_REMEDY = "save it with 8 or 16 bits a channel, grey or RGB"
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _ORIENTATION = 258, 262, 339, 274  # tags of TIFF and EXIF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(InputError):
    """A file is no image that can be read; `str(error)` is one line that names the file and the reason."""

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(printable(self._describe()))

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        """Lets it be sent by a worker process."""
        return type(self), (self.path, self.reason)

    def _describe(self) -> str:
        return f"{self.path} is no image that can be read: {self.reason}"


def load_image(path: Path, channels: int) -> Tensor:
    """Returns an image file as uint8 `[channels, H, W]`, upright as its EXIF says; of several frames the first.

    Raises:
        ImageError: the file is no image that can be read.
        OSError: the disk or the machine failed.
    """
    return decode(read_file(path), channels, path=path)


def read_file(path: Path) -> bytes:
    """Returns the content of a regular file; nothing else is opened, so that no pipe or device can make the caller wait.

    Raises:
        ImageError: it is not a regular file, is empty or too large, or may not be read.
        OSError: the disk or the machine failed.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(path, f"it is {_kind(status.st_mode)}")
        if status.st_size == 0:
            raise ImageError(path, "it is empty")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageError(path, f"it has {status.st_size:,} bytes, at most {MAX_FILE_BYTES:,} are read")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError(path, "it is a link to nothing" if path.is_symlink() else "there is no such file") from error
    except OSError as error:
        if error.errno in WRONG_PATHS:
            raise ImageError(path, str(error.strerror)) from error
        raise


def decode(content: bytes, channels: int, *, path: str | Path) -> Tensor:
    """Returns the image that a file at `path` with this content holds, as uint8 `[channels, H, W]`.

    Raises:
        ImageError: it holds none that can be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata and of sizes that are within the bounds here
            return _decode(content, channels, path)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(path, f"it begins as none of {', '.join(_FORMATS)}") from error
    except MemoryError as error:
        raise OSError(errno.ENOMEM, "not enough memory to decode the image", str(path)) from error
    except Exception as error:  # whatever Pillow's parsers of other people's bytes run into: seen were eight types, struct.error among them
        raise ImageError(path, f"{error}" if str(error) else type(error).__name__) from error


def _decode(content: bytes, channels: int, path: str | Path) -> Tensor:
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        refused = _refusal(image)
        if refused:
            raise ImageError(path, refused)
        if channels == 1 and image.format in ("JPEG", "MPO"):
            image.draft("L", None)  # the luma as it is stored
        image.load()
        return pixels(image, channels)


def pixels(image: Image.Image, channels: int) -> Tensor:
    """Returns an image of Pillow's as uint8 `[channels, H, W]`, upright as its EXIF says."""
    upright: Image.Image = image
    if image.mode in _DEEP_MODES | {"I"}:
        upright = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    turn = _UPRIGHT.get(_orientation(image))
    if turn is not None:
        upright = upright.transpose(turn)
    values = torch.from_numpy(np.array(upright.convert("L" if channels == 1 else "RGB")))
    return values[None] if channels == 1 else values.permute(2, 0, 1)


def _refusal(image: Image.Image) -> str:
    """Returns why an image that has been opened, and not decoded, is refused; empty if it is not."""
    width, height = image.size
    pixels = width * height
    if pixels > MAX_PIXELS:
        return f"it has {width:,} x {height:,} pixels, at most {MAX_PIXELS:,} are decoded"
    slow = any(part[0].startswith("ppm") for part in getattr(image, "tile", ()))
    if slow and pixels > _MAX_SLOW_PIXELS:
        return f"it has {width:,} x {height:,} pixels, of a PPM in text or with a maximum other than 255 at most {_MAX_SLOW_PIXELS:,}"
    if image.format == "TIFF":
        refused = _refusal_of_tiff(image)
        if refused:
            return refused
    if image.mode == "F":
        return f"its pixels are floating-point numbers, whose range is unknown; {_REMEDY}"
    deep = image.mode in _DEEP_MODES or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.mode == "I" and not deep:
        return f"its pixels are integers of 32 bits, whose range is unknown; {_REMEDY}"
    return "" if deep or image.mode in _MODES else f"its pixels are in mode {image.mode}, which has no stated conversion; {_REMEDY}"


def _refusal_of_tiff(image: Image.Image) -> str:
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits, formats = ({*_numbers(tags.get(tag, 1))} for tag in (_BITS, _SAMPLE_FORMAT))
    if not bits <= {1, 2, 4, 8, 16, 32}:
        return f"its pixels have {max(bits)} bits a channel; {_REMEDY}"
    if image.mode != "F" and not formats <= {1, 4}:
        return f"its pixels are numbers with a sign; {_REMEDY}"
    if 16 in bits and tags.get(_PHOTOMETRIC) == 0:
        return f"its pixels have 16 bits of which 0 is white; {_REMEDY}"
    return ""


def _numbers(value: object) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (int(str(value)),)


def _orientation(image: Image.Image) -> int:
    """Returns EXIF's orientation, 1 where there is none or where the EXIF is damaged: the pixels are whole then."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001, Pillow's parser of other people's bytes, as above
        return 1
    return orientation if isinstance(orientation, int) else 1


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(mode)), "a device")
