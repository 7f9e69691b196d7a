"""Images: every kind of pixel is what the stated conversion makes of it, or is refused by its name, as what is no image is."""

import io
import struct
import time
import zlib

import numpy as np
import PIL
import pytest
import torch
from faults.damage import deep_png, healthy_images, png_chunk
from PIL import Image

from mutual.data import ImageError
from mutual.data.files.decoding import MAX_PIXELS, decode

HEALTHY = healthy_images()
GENERATOR = np.random.default_rng(0)


def decoded(content, channels=3):
    """As float64 `[H, W, C]`."""
    image = decode(content, channels, path="file")
    assert image.dtype == torch.uint8
    assert image.shape[0] == channels
    return image.permute(1, 2, 0).numpy().astype(np.float64)


def saved(pixels, kind="PNG", mode=None, **options):
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    if mode is not None:
        image = Image.frombytes(mode, image.size, image.tobytes())
    image.save(file, kind, **options)
    return file.getvalue()


def uint8(*shape):
    return GENERATOR.integers(0, 256, shape, dtype=np.uint8)


def uint16(*shape):
    return GENERATOR.integers(0, 65536, shape, dtype=np.uint16)


def luma(pixels_HWC):
    return (pixels_HWC.astype(np.float64) @ (0.299, 0.587, 0.114))[..., None]


def repeated(grey_HW):
    return np.repeat(np.asarray(grey_HW, np.float64)[..., None], 3, axis=-1)


# --- stated conversions, against numpy in float64


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM", "WEBP"])
def test_eight_bits_are_kept(kind):
    colour, grey = uint8(9, 7, 3), uint8(9, 7)
    lossless = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decoded(saved(colour, kind, **lossless)), colour)
    assert np.abs(decoded(saved(colour, kind, **lossless), 1) - luma(colour)).max() <= 0.51
    if kind != "WEBP":
        assert np.array_equal(decoded(saved(grey, kind)), repeated(grey))
        assert np.array_equal(decoded(saved(grey, kind), 1), grey[..., None])


def tiff(values, bits, *, photometric=1, sample_format=1, order="<", samples=1):
    """An uncompressed TIFF of one strip."""
    height, width = values.shape[:2]
    data = values.tobytes()
    entries = [(256, 3, 1, width), (257, 3, 1, height), (259, 3, 1, 1), (262, 3, 1, photometric)]
    entries += [(273, 4, 1, 8), (277, 3, 1, samples), (278, 3, 1, height), (279, 4, 1, len(data))]
    behind = 8 + len(data) + len(data) % 2
    extra = b""
    for tag, value in ((258, bits), (339, sample_format)):
        if samples == 1:
            entries.append((tag, 3, 1, value))
        else:
            entries.append((tag, 3, samples, behind + len(extra)))
            extra += struct.pack(f"{order}{samples}H", *[value] * samples)
    directory = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in sorted(entries):
        packed = struct.pack(f"{order}H", value) + b"\0\0" if kind == 3 and count == 1 else struct.pack(f"{order}I", value)
        directory += struct.pack(f"{order}HHI", tag, kind, count) + packed
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", behind + len(extra))
    return head + data + b"\0" * (len(data) % 2) + extra + directory + b"\0\0\0\0"


def deep_grey():
    values = uint16(9, 7)
    values[0, :4] = 0, 255, 256, 65535
    return values


@pytest.mark.parametrize(
    "write",
    [
        lambda values: saved(values),
        lambda values: deep_png(values[..., None]),
        lambda values: saved(values, "TIFF"),
        lambda values: saved(values, "TIFF", compression="tiff_lzw"),
        lambda values: tiff(values.astype("<u2"), 16),
        lambda values: tiff(values.astype(">u2"), 16, order=">"),
        lambda values: b"P5\n7 9\n65535\n" + values.astype(">u2").tobytes(),
    ],
    ids=["png", "png by hand", "tiff", "tiff lzw", "tiff little endian", "tiff big endian", "pgm"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_of_sixteen_bits_the_upper_eight_are_kept(write, channels):
    values = deep_grey()
    expected = np.floor(values.astype(np.float64) / 256)
    assert np.array_equal(decoded(write(values), channels), repeated(expected)[..., :channels])


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_of_sixteen_bits_a_channel_the_upper_eight_are_kept(channels):
    values = uint16(9, 7, channels)
    expected = np.floor(values.astype(np.float64) / 256)
    expected = repeated(expected[..., 0]) if channels == 2 else expected[..., :3]
    assert np.array_equal(decoded(deep_png(values)), expected), "alpha is passed over"
    if channels == 3:
        for order in "<>":
            content = tiff(values.astype(f"{order}u2"), 16, photometric=2, samples=3, order=order)
            assert np.array_equal(decoded(content), expected)


def grey_png(rows, depth, size):
    header = struct.pack(">IIBBBBB", *size, depth, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


@pytest.mark.parametrize(("depth", "values"), [(1, [0, 1, 1, 0]), (2, [0, 1, 2, 3]), (4, [0, 5, 10, 15])])
def test_few_bits_are_stretched(depth, values):
    packed = int("".join(f"{value:0{depth}b}" for value in values).ljust(16, "0"), 2).to_bytes(2, "big")
    content = grey_png(b"\0" + packed[: (4 * depth + 7) // 8], depth, (4, 1))
    assert decoded(content, 1).flatten().tolist() == [value * 255 / (2**depth - 1) for value in values]


def test_white_may_be_zero():
    values = uint8(9, 7)
    assert np.array_equal(decoded(tiff(values, 8, photometric=0), 1)[..., 0], 255.0 - values)


def test_one_bit_is_black_or_white():
    bits = GENERATOR.random((9, 7)) < 0.5
    for kind in ("PNG", "TIFF", "BMP", "PPM"):
        assert np.array_equal(decoded(saved(Image.fromarray(bits), kind), 1)[..., 0], 255.0 * bits)


def test_alpha_is_passed_over():
    colour = uint8(9, 7, 4)
    grey = colour[..., :2].copy()
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decoded(saved(Image.fromarray(colour, "RGBA"), kind)), colour[..., :3])
        assert np.array_equal(decoded(saved(Image.fromarray(grey, "LA"), kind)), repeated(grey[..., 0]))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("transparency", [None, 2, bytes(range(0, 256, 16))])
def test_a_palette_gives_its_colours_whether_or_not_they_are_transparent(kind, transparency):
    if transparency is not None and (kind in ("TIFF", "BMP") or (kind == "GIF" and isinstance(transparency, bytes))):
        pytest.skip("the format has no such transparency")
    palette, indices = uint8(16, 3), GENERATOR.integers(0, 16, (9, 7), dtype=np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette(palette.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    assert np.array_equal(decoded(saved(image, kind, **options)), palette[indices])


def test_cmyk_is_the_product_of_what_ink_leaves():
    cmyk = uint8(16, 16, 4)
    paper = 255.0 - cmyk.astype(np.float64)
    expected = paper[..., :3] * paper[..., 3:] / 255
    found = decoded(saved(Image.fromarray(cmyk, "CMYK"), "TIFF"))
    assert np.abs(found - expected).max() <= 0.51


def test_ycbcr_is_that_of_jpeg():
    y, cb, cr = (uint8(16, 16).astype(np.float64) for _ in range(3))
    expected = np.stack([y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)], axis=-1)
    image = Image.merge("YCbCr", [Image.fromarray(plane.astype(np.uint8)) for plane in (y, cb, cr)])
    try:
        found = decoded(saved(image, "TIFF"))
    except ImageError:
        assert int(PIL.__version__.partition(".")[0]) < 13, "earlier ones refuse such TIFFs"
        return
    assert np.abs(found - expected.clip(0, 255)).max() <= 1.01


@pytest.mark.parametrize(("maximum", "form"), [(100, ">u1"), (1023, ">u2"), (65535, ">u2")])
def test_a_ppm_with_another_maximum_is_scaled(maximum, form):
    values = GENERATOR.integers(0, maximum + 1, (9, 7, 3))
    content = f"P6\n7 9\n{maximum}\n".encode() + values.astype(form).tobytes()
    assert np.abs(decoded(content) - values * 255.0 / maximum).max() <= 0.5
    grey = f"P5\n7 9\n{maximum}\n".encode() + values[..., 0].astype(form).tobytes()
    assert np.abs(decoded(grey, 1)[..., 0] - values[..., 0] * 255.0 / maximum).max() < 1


@pytest.mark.parametrize("name", [name for name in HEALTHY if name.endswith((".jpg", ".png")) and name != "animated.png"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")  # of torchvision 0.29
def test_jpeg_and_png_have_the_pixels_that_torchvision_gives(name, channels):
    """So that runs of earlier versions keep their numbers."""
    io_of_torchvision = pytest.importorskip("torchvision.io")
    if not hasattr(io_of_torchvision, "decode_image"):
        pytest.skip("this torchvision decodes no images")
    mode = io_of_torchvision.ImageReadMode.GRAY if channels == 1 else io_of_torchvision.ImageReadMode.RGB
    content = torch.frombuffer(bytearray(HEALTHY[name]), dtype=torch.uint8)
    expected = io_of_torchvision.decode_image(content, mode=mode, apply_exif_orientation=True)
    if expected.dtype == torch.uint16:
        expected = (expected.int() >> 8).to(torch.uint8)
    found = decode(HEALTHY[name], channels, path=name)
    coloured = channels == 1 and name in ("colour.png", "alpha.png", "palette.png", "transparent.png", "turned.png", "deep_colour.png")
    assert (found.int() - expected.int()).abs().max() <= int(coloured), "the luma of a coloured PNG is rounded otherwise"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright_as_their_exif_says(kind, orientation):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16] = 200  # the upper left quarter
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    found = decoded(saved(pixels, kind, exif=exif, **options))
    upright = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels),
    }[orientation]
    assert found.shape == upright.shape
    assert np.abs(found - upright).max() <= 2


def test_damaged_exif_leaves_an_image_as_it_is():
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(range(40)), b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"):
        assert decoded(saved(uint8(8, 16, 3), "JPEG", exif=exif)).shape == (8, 16, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_taken(kind):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    found = decoded(saved(frames[0], kind, save_all=True, append_images=frames[1:], **lossless))
    assert found.shape == (6, 8, 3)
    assert (found == (250, 0, 0)).all()


# --- what is refused, and what is no image


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (saved(np.float32([[0.5]]), "TIFF"), "floating-point numbers, whose range is unknown; save it with 8 or 16 bits"),
        (saved(np.int32([[70000]]), "TIFF"), "numbers with a sign"),
        (tiff(np.uint32([[70000]]), 32), "integers of 32 bits"),
        (tiff(np.int16([[-5]]), 16, sample_format=2), "numbers with a sign"),
        (tiff(np.int8([[-5]]), 8, sample_format=2), "numbers with a sign"),
        (tiff(uint16(2, 2), 16, photometric=0), "16 bits of which 0 is white"),
        (tiff(np.zeros((2, 3), np.uint8), 12), "12 bits a channel"),
        (tiff(uint8(2, 2, 3), 8, photometric=8, samples=3), "mode LAB, which has no stated conversion"),
        (b"Pf\n1 1\n-1.0\n" + np.float32(0.5).tobytes(), "floating-point numbers"),
        (b"", "begins as none of JPEG, PNG"),
        (b"hello, this is text\n" * 10, "begins as none of JPEG, PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "begins as none of JPEG, PNG"),
        (HEALTHY["colour.jpg"][:-200], "truncated"),
        (HEALTHY["colour.png"][:300], "truncated"),
    ],
    ids=["float", "int32", "uint32", "int16", "int8", "white zero", "12 bits", "lab", "pfm", "empty", "text", "eps", "cut jpeg", "cut png"],
)
def test_what_has_no_stated_conversion_is_refused_by_its_name(content, reason):
    with pytest.raises(ImageError, match=rf"^some/file is no image that can be read: .*{reason}") as caught:
        decode(content, 3, path="some/file")
    assert "\n" not in str(caught.value)


def bomb_png(width, height):
    """A PNG of few bytes whose header announces so many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(10**7))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


@pytest.mark.parametrize(
    "content",
    [
        bomb_png(60_000, 60_000),
        bomb_png(2**31 - 1, 2**31 - 1),
        bomb_png(MAX_PIXELS + 1, 1),
        HEALTHY["colour.bmp"][:18] + struct.pack("<ii", 100_000, 100_000) + HEALTHY["colour.bmp"][26:],
        HEALTHY["still.gif"][:6] + struct.pack("<HH", 65535, 65535) + HEALTHY["still.gif"][10:],
        b"P6 99999999 99999999 255\n",
        b"P3 9999 9999 255\n" + b"1 " * 100,
    ],
    ids=["png", "huge png", "strip", "bmp", "gif", "ppm", "text"],
)
def test_bombs_are_refused_at_once(content):
    begun = time.perf_counter()
    with pytest.raises(ImageError, match=r"pixels"):
        decode(content, 3, path="bomb")
    assert time.perf_counter() - begun < 1
