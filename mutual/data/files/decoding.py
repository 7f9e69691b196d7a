"""Decoding: an image file as uint8 pixels; the one way by which training, evaluation, prediction and data.check read images.

Pillow decodes every format. What each kind of pixel becomes stands in this folder's README; what has no stated conversion is refused.
"""

from __future__ import annotations

import errno
import io
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
_GREY_MODES = _DEEP_MODES | {"1", "L", "LA", "I"}
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
_SWAPPED = (5, 6, 7, 8)
"""Orientations of which the stored rows are the upright image's columns."""


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
    return ImageSource(content, channels, path=path).whole()


class ImageSource:
    """The content of an image file, to be decoded whole or in part; a JPEG also at a half, a quarter or an eighth of its size.

    Args:
        content: the file's.
        channels: 1 for grey, 3 for RGB.
        path: where it lies, for messages.

    Attributes:
        content: as above.
        channels: as above.
        size: height and width, upright as the EXIF says.
        is_grey: it is stored without colour.
        scales: the fractions (1 / scale) of the size at which it can be decoded, the smallest first.

    Raises:
        ImageError: it holds no image that can be read.
    """

    def __init__(self, content: bytes, channels: int, *, path: str | Path) -> None:
        self.content = content
        self.channels = channels
        self._path = path
        with _blaming(path):
            image = Image.open(io.BytesIO(content), formats=_FORMATS)
            refused = refusal(image)
            if refused:
                raise ImageError(path, refused)
            self._is_jpeg = image.format in ("JPEG", "MPO")
            if not self._is_jpeg:
                image.load()  # some formats have their EXIF behind the pixels
            self._orientation = _orientation(image)
        self.size: tuple[int, int] = image.size if self._orientation in _SWAPPED else image.size[::-1]
        self.is_grey = image.mode in _GREY_MODES
        self.scales = (8, 4, 2, 1) if self._is_jpeg else (1,)
        self._opened: Image.Image | None = image
        self._decoded: dict[int, Image.Image] = {}

    def whole(self) -> Tensor:
        """Returns the image, uint8 `[channels, H, W]`."""
        with _blaming(self._path):
            return pixels(self._at(1), self.channels)

    def rectangle(self, top: int, left: int, height: int, width: int) -> Tensor:
        """Returns a rectangle, uint8 `[channels, height, width]`."""
        with _blaming(self._path):
            image = self._at(1)
            if (self._orientation, self.channels, image.mode) in ((1, 3, "RGB"), (1, 1, "L")):
                return _tensor(image.crop((left, top, left + width, top + height)))
            return pixels(image, self.channels)[:, top : top + height, left : left + width]

    def reduced(self, scale: int, box: tuple[int, int, int, int], size: tuple[int, int], resample: Image.Resampling) -> Tensor:
        """Returns a rectangle brought to `size` from the image as it is decoded at a fraction of its size, uint8 `[channels, *size]`.

        Args:
            scale: the image is decoded at 1 / scale of its size, which only JPEGs are.
            box: top, left, bottom and right of the rectangle in pixels of the whole image.
            size: height and width of what it is brought to, by which its own are not smaller at that scale.
            resample: how pixels are interpolated.
        """
        with _blaming(self._path):
            image = self._at(scale)
            whole_size = self.size[::-1] if self._orientation not in _SWAPPED else self.size
            if image.size == whole_size:  # a decoder may know no fractions
                scale = 1
            top, left, bottom, right = _stored(box, self.size, self._orientation)
            exact = (left / scale, top / scale, right / scale, bottom / scale)
            stored_size = size if self._orientation in _SWAPPED else size[::-1]
            resized = image.convert("L" if self.channels == 1 else "RGB").resize(stored_size, resample, box=exact)
            turn = _UPRIGHT.get(self._orientation)
            return _tensor(resized if turn is None else resized.transpose(turn))

    def _at(self, scale: int) -> Image.Image:
        """Returns the image as it is stored, decoded at 1 / scale of its size; each scale is decoded once."""
        if scale not in self._decoded:
            image = self._opened or Image.open(io.BytesIO(self.content), formats=_FORMATS)
            self._opened = None
            if self._is_jpeg and (scale > 1 or self.channels == 1):  # where grey is wanted, the luma as it is stored
                width, height = image.size
                image.draft("L" if self.channels == 1 else image.mode, (max(1, width // scale), max(1, height // scale)))
            image.load()
            self._decoded[scale] = image
        return self._decoded[scale]


@contextmanager
def _blaming(path: str | Path) -> Iterator[None]:
    """Makes an ImageError that names `path` of whatever Pillow raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata and of sizes that are within the bounds here
            yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(path, f"it begins as none of {', '.join(_FORMATS)}") from error
    except MemoryError as error:
        raise OSError(errno.ENOMEM, "not enough memory to decode the image", str(path)) from error
    except Exception as error:  # whatever Pillow's parsers of other people's bytes run into: seen were eight types, struct.error among them
        raise ImageError(path, f"{error}" if str(error) else type(error).__name__) from error


def _stored(box: tuple[int, int, int, int], size: tuple[int, int], orientation: int) -> tuple[int, int, int, int]:
    """Returns where a box (top, left, bottom, right) of the upright image of `size` lies in the image as it is stored."""
    (top, left, bottom, right), (height, width) = box, size
    if orientation in (2, 3, 6, 7):
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    return (left, top, right, bottom) if orientation in _SWAPPED else (top, left, bottom, right)


def pixels(image: Image.Image, channels: int) -> Tensor:
    """Returns an image of Pillow's as uint8 `[channels, H, W]`, upright as its EXIF says."""
    upright: Image.Image = image
    if image.mode in _DEEP_MODES | {"I"}:
        upright = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    turn = _UPRIGHT.get(_orientation(image))
    if turn is not None:
        upright = upright.transpose(turn)
    return _tensor(upright.convert("L" if channels == 1 else "RGB"))


def _tensor(image: Image.Image) -> Tensor:
    """Returns an image in mode L or RGB as uint8 `[1 or 3, H, W]`."""
    values = torch.from_numpy(np.array(image))
    return values[None] if values.dim() == 2 else values.permute(2, 0, 1)


def refusal(image: Image.Image) -> str:
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
