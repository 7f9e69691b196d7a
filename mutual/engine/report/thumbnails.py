"""Thumbnails: loaded images as small PNGs that an HTML page holds in itself."""

from __future__ import annotations

import base64
import io

from PIL import Image
from torch import Tensor

SIDE = 64
"""Longest side in pixels, as far as whole factors reach it."""


def thumbnail(pixels: Tensor) -> str:
    """Returns uint8 pixels `[C, H, W]`, grey or RGB, as a `data:` address of a PNG.

    Larger images are made smaller; tiny ones are enlarged by a whole factor, so that their pixels stay what they are.
    """
    array = pixels.cpu().numpy()
    image = Image.fromarray(array[0]) if len(array) == 1 else Image.fromarray(array.transpose(1, 2, 0).copy())
    factor = SIDE // max(image.size)
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    elif max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
