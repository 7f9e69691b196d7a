"""Thumbnails: what a browser shows of loaded pixels."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from mutual.engine.report.thumbnails import thumbnail


def shown(pixels):
    address = thumbnail(pixels)
    kind, _, content = address.partition(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.mark.parametrize(("side", "expected"), [(8, 64), (28, 56), (32, 64), (33, 33), (64, 64)])
def test_tiny_images_are_enlarged_by_whole_factors(side, expected):
    pixels = torch.randint(0, 256, (1, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = shown(pixels)
    assert image.size == (expected, expected)
    factor = expected // side
    assert np.array_equal(np.asarray(image)[::factor, ::factor], pixels[0].numpy())


def test_large_images_keep_their_shape_and_colour():
    image = shown(torch.tensor([255, 0, 10], dtype=torch.uint8)[:, None, None].expand(3, 100, 200))
    assert image.size == (64, 32)
    assert image.getpixel((5, 5)) == (255, 0, 10)
