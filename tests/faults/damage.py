"""Healthy images of every format, and damaged ones made of them: both are functions of their number alone."""

from __future__ import annotations

import io
import random
import struct
import zlib

import numpy as np
from PIL import Image

SIZE = (60, 44)


def healthy_images():
    """Small image files by name, at least one of each format and kind."""
    pictures = _variants()
    kinds = (_jpegs, _pngs, _webps_and_gifs, _bmps, _tiffs, _ppms)
    return {name: content for kind in kinds for name, content in kind(**pictures).items()}


def _jpegs(*, colour, grey, turned, **_):
    return {
        "grey.jpg": _saved(grey, "JPEG"),
        "colour.jpg": _saved(colour, "JPEG", quality=90),
        "444.jpg": _saved(colour, "JPEG", subsampling=0),
        "progressive.jpg": _saved(colour, "JPEG", progressive=True),
        "restarts.jpg": _saved(colour, "JPEG", restart_marker_blocks=2),
        "turned.jpg": _saved(colour, "JPEG", exif=turned),
        "profile.jpg": _saved(colour, "JPEG", icc_profile=bytes(range(256)) * 4, comment=b"a comment"),
        "cmyk.jpg": _saved(colour.convert("CMYK"), "JPEG"),
    }


def _pngs(*, colour, grey, alpha, deep, turned, palette, transparent, frames, **_):
    return {
        "grey.png": _saved(grey, "PNG"),
        "colour.png": _saved(colour, "PNG"),
        "alpha.png": _saved(alpha, "PNG"),
        "grey_alpha.png": _saved(alpha.convert("LA"), "PNG"),
        "palette.png": _saved(palette, "PNG"),
        "transparent.png": _saved(transparent, "PNG"),
        "bilevel.png": _saved(grey.convert("1"), "PNG"),
        "deep.png": _saved(Image.fromarray(deep), "PNG"),
        "deep_colour.png": deep_png(np.stack([deep, deep[::-1], deep.T.reshape(deep.shape)], axis=-1)),
        "turned.png": _saved(colour, "PNG", exif=turned),
        "interlaced.png": interlaced_png(np.asarray(grey)),
        "animated.png": _saved(
            frames[0].convert("RGB"), "PNG", save_all=True, append_images=[frame.convert("RGB") for frame in frames[1:]]
        ),
    }


def _webps_and_gifs(*, colour, alpha, palette, transparent, frames, several, **_):
    return {
        "lossy.webp": _saved(colour, "WEBP"),
        "lossless.webp": _saved(colour, "WEBP", lossless=True),
        "alpha.webp": _saved(alpha, "WEBP"),
        "animated.webp": _saved(
            frames[0].convert("RGB"), "WEBP", save_all=True, append_images=[frame.convert("RGB") for frame in frames[1:]]
        ),
        "still.gif": _saved(palette, "GIF"),
        "interlaced.gif": _saved(palette, "GIF", interlace=1),
        "transparent.gif": _saved(transparent, "GIF", transparency=3),
        "animated.gif": _saved(frames[0], "GIF", **several),
    }


def _bmps(*, colour, grey, alpha, **_):
    return {
        "colour.bmp": _saved(colour, "BMP"),
        "grey.bmp": _saved(grey, "BMP"),
        "bilevel.bmp": _saved(grey.convert("1"), "BMP"),
        "alpha.bmp": _saved(alpha, "BMP"),
        "runs.bmp": runs_bmp(),
    }


def _tiffs(*, colour, grey, deep, frames, several, **_):
    return {
        "colour.tif": _saved(colour, "TIFF"),
        "grey.tif": _saved(grey, "TIFF"),
        "bilevel.tif": _saved(grey.convert("1"), "TIFF", compression="group4"),
        "lzw.tif": _saved(colour, "TIFF", compression="tiff_lzw"),
        "deflate.tif": _saved(colour, "TIFF", compression="tiff_adobe_deflate"),
        "packbits.tif": _saved(grey, "TIFF", compression="packbits"),
        "jpeg.tif": _saved(colour, "TIFF", compression="jpeg"),
        "deep.tif": _saved(Image.fromarray(deep), "TIFF"),
        "float.tif": _saved(Image.fromarray((deep / 65535).astype(np.float32)), "TIFF"),
        "integer.tif": _saved(Image.fromarray(deep.astype(np.int32)), "TIFF"),
        "cmyk.tif": _saved(colour.convert("CMYK"), "TIFF"),
        "ycbcr.tif": _saved(colour.convert("YCbCr"), "TIFF"),
        "pages.tif": _saved(frames[0], "TIFF", **several),
    }


def _ppms(*, colour, grey, deep, **_):
    text = "P3\n6 4\n255\n" + " ".join(str(value) for value in range(72)) + "\n"
    return {
        "grey.pgm": _saved(grey, "PPM"),
        "deep.pgm": _saved(Image.fromarray(deep.astype(np.int32)), "PPM"),
        "colour.ppm": _saved(colour, "PPM"),
        "text.ppm": text.encode(),
        "bilevel.pbm": _saved(grey.convert("1"), "PPM"),
    }


def damaged_image(sources, number):
    """The name and the bytes of damaged file `number`: one of `sources` in turn, damaged in one way or several."""
    seed = random.Random(number)
    name = sorted(sources)[number % len(sources)]
    content = bytearray(sources[name])
    for _ in range(seed.choice((1, 1, 1, 2, 4))):
        _DAMAGES[seed.randrange(len(_DAMAGES))](seed, content, name)
    return name, bytes(content)


def _flip(seed, content, _):
    if content:
        content[seed.randrange(len(content))] ^= 1 << seed.randrange(8)


def _flip_in_header(seed, content, _):
    if content:
        content[seed.randrange(min(len(content), 200))] ^= 1 << seed.randrange(8)


def _overwrite(seed, content, _):
    if content:
        place = seed.randrange(min(len(content), seed.choice((64, 256, len(content)))))
        value = seed.choice((b"\x00", b"\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80", seed.randbytes(8)))
        content[place : place + len(value)] = value


def _truncate(seed, content, _):
    del content[seed.randrange(len(content) + 1) :]


def _delete(seed, content, _):
    begin = seed.randrange(len(content) + 1)
    del content[begin : begin + seed.randrange(1, 200)]


def _insert(seed, content, _):
    place = seed.randrange(len(content) + 1)
    content[place:place] = seed.randbytes(seed.randrange(1, 100))


def _zero(seed, content, _):
    begin = seed.randrange(len(content) + 1)
    end = min(begin + seed.randrange(1, 400), len(content))
    content[begin:end] = bytes(end - begin)


def _swap(seed, content, _):
    """Two spans of equal length change places."""
    length = seed.randrange(1, max(len(content) // 4, 2))
    if len(content) >= 2 * length:
        first, second = sorted(seed.sample(range(len(content) - length + 1), 2)) if len(content) > length else (0, 0)
        if second >= first + length:
            content[first : first + length], content[second : second + length] = (
                content[second : second + length],
                content[first : first + length],
            )


def _repeat(seed, content, _):
    begin = seed.randrange(len(content) + 1)
    span = content[begin : begin + seed.randrange(1, 500)]
    content[begin:begin] = span * seed.randrange(1, 4)


def _alter_chunks(seed, content, name):
    """Swaps, drops or changes chunks of a PNG, with checksums that are right; other formats get a flip."""
    if not name.endswith(".png") or content[:8] != b"\x89PNG\r\n\x1a\n":
        return _flip(seed, content, name)
    chunks, place = [], 8
    while place + 12 <= len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        chunks.append([bytes(content[place + 4 : place + 8]), bytearray(content[place + 8 : place + 8 + length])])
        place += 12 + length
    if not chunks:
        return None
    for _ in range(seed.randrange(1, 4)):
        index, other = seed.randrange(len(chunks)), seed.randrange(len(chunks))
        match seed.randrange(5):
            case 0:
                chunks[index], chunks[other] = chunks[other], chunks[index]
            case 1:
                chunks.insert(other, chunks[index])
            case 2 if len(chunks) > 1:
                del chunks[index]
            case _:
                if chunks[index][1]:
                    chunks[index][1][seed.randrange(len(chunks[index][1]))] = seed.randrange(256)
    content[8:] = b"".join(png_chunk(kind, bytes(data)) for kind, data in chunks)
    return None


_DAMAGES = (
    _flip,
    _flip,
    _flip_in_header,
    _flip_in_header,
    _overwrite,
    _overwrite,
    _truncate,
    _delete,
    _insert,
    _zero,
    _swap,
    _repeat,
    _alter_chunks,
)


def png_chunk(kind, data):
    """A chunk of a PNG with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(pixels_HWC):
    """A PNG of 16 bits a channel: grey, grey and alpha, colour, or colour and alpha, by the number of channels."""
    height, width, channels = pixels_HWC.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels_HWC)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def interlaced_png(pixels_HW):
    """A grey PNG in Adam7 order."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b"".join(b"\0" + row.tobytes() for x, y, dx, dy in passes for row in pixels_HW[y::dy, x::dx] if len(row))
    header = struct.pack(">IIBBBBB", pixels_HW.shape[1], pixels_HW.shape[0], 8, 0, 0, 0, 1)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def runs_bmp():
    """A BMP of 8 x 4 pixels that is compressed by run lengths."""
    rows = b"".join(bytes((8, value, 0, 0)) for value in range(4)) + b"\0\1"
    palette = b"".join(bytes((value, value, value, 0)) for value in range(256))
    offset = 54 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, 8, 4, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + header + palette + rows


def _variants():
    """The pictures of `_pictures` in other kinds of pixel, and what is saved with them."""
    colour, grey = _pictures()
    alpha = colour.copy()
    alpha.putalpha(grey)
    deep = np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE[1], SIZE[0]) * 24
    turned = Image.Exif()
    turned[0x0112] = 6
    turned[0x010E] = "a description"
    palette, transparent = colour.quantize(64), colour.quantize(32)
    transparent.info["transparency"] = 3
    frames = [colour.rotate(90 * turn).quantize(32) for turn in range(3)]
    several = {"save_all": True, "append_images": frames[1:]}
    return {
        "colour": colour,
        "grey": grey,
        "alpha": alpha,
        "deep": deep,
        "turned": turned,
        "palette": palette,
        "transparent": transparent,
        "frames": frames,
        "several": several,
    }


def _pictures():
    width, height = SIZE
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    pixels = np.stack([x * 255 // width, y * 255 // height, (x * y) % 256], axis=-1) * 0.8 + noise
    colour = Image.fromarray(pixels.astype(np.uint8))
    return colour, colour.convert("L")


def _saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
