"""Pictures of an evaluation, drawn with Pillow, in milliseconds: confusion, reliability, how peers compare, and what they see.

Shapes: N images, C classes or channels, K bins, P peers; a picture is uint8 `[H, W, 3]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

Picture = NDArray[np.uint8]
Numbers = NDArray[Any]

_SIDE = 360
"""Pixels of the square in which a matrix or diagram is drawn, at most."""
_TITLE = 26
_LIGHT, _DARK = np.array([247, 251, 255]), np.array([8, 81, 156])
_INK, _GREY, _BLUE, _RED = (40, 40, 40), (190, 190, 190), (66, 133, 190), (214, 60, 50)
_MOST_LABELS, _MOST_NUMBERS, _LONGEST_LABEL = 40, 12, 14
_MISSING = np.array([225, 225, 225])


def confusion_picture(counts_CC: Numbers, names: Sequence[str], title: str) -> Picture:
    """Returns the matrix of classes (rows) and predicted classes (columns): each row's fractions as colours, the counts as numbers."""
    fractions_CC = counts_CC / np.maximum(counts_CC.sum(axis=1, keepdims=True), 1)
    return _matrix(fractions_CC, names, f"{title}: class (rows), prediction", lambda row, column: f"{int(counts_CC[row, column])}")


def agreement_picture(agreement_PP: Numbers, names: Sequence[str]) -> Picture:
    """Returns the matrix of how often two peers predict the same class."""
    return _matrix(agreement_PP, names, "same prediction", lambda row, column: _percent(agreement_PP[row, column]))


def kl_picture(kl_PP: Numbers, names: Sequence[str]) -> Picture:
    """Returns the matrix of how far peers (columns) are from peers (rows), in nats."""
    known = kl_PP[np.isfinite(kl_PP)]
    scale = max(float(known.max()) if known.size else 0.0, 1e-12)
    return _matrix(kl_PP / scale, names, "KL(column || row), nats", lambda row, column: f"{kl_PP[row, column]:.3g}")


def reliability_picture(counts_K: Numbers, confidences_K: Numbers, accuracies_K: Numbers, title: str) -> Picture:
    """Returns the accuracy in each bin of confidence as bars; red is what it lacks of the confidence, or has beyond it.

    Args:
        counts_K: number of predictions in bins of equal width.
        confidences_K: their mean confidence; NaN in an empty bin.
        accuracies_K: the fraction of them that is right; NaN in an empty bin.
        title: is written above.
    """
    left, bottom, num_bins = 40, 24, len(counts_K)
    image = Image.new("RGB", (left + _SIDE + 10, _TITLE + _SIDE + bottom), "white")
    draw = ImageDraw.Draw(image)

    def point(x: float, y: float) -> tuple[float, float]:
        return left + x * _SIDE, _TITLE + (1 - y) * _SIDE

    for bin_index in np.flatnonzero(counts_K).tolist():
        low, high = bin_index / num_bins, (bin_index + 1) / num_bins
        accuracy, confidence = float(accuracies_K[bin_index]), float(confidences_K[bin_index])
        gap = sorted((accuracy, confidence))
        draw.rectangle([*point(low, accuracy), *point(high, 0)], fill=_BLUE, outline="white")
        draw.rectangle([*point(low, gap[1]), *point(high, gap[0])], outline=_RED)
        draw.text(point((low + high) / 2, 0.005), _short_count(int(counts_K[bin_index])), fill=_INK, font=_font(9), anchor="md")
    draw.line([point(0, 0), point(1, 1)], fill=_GREY)
    draw.rectangle([*point(0, 1), *point(1, 0)], outline=_INK)
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = point(tick, 0)
        draw.text((x, y + 4), f"{tick:g}", fill=_INK, font=_font(11), anchor="ma")
        draw.text((left - 5, point(0, tick)[1]), f"{tick:g}", fill=_INK, font=_font(11), anchor="rm")
    draw.text((left, 6), f"{title}: accuracy by confidence", fill=_INK, font=_font(12))
    return np.asarray(image)


def views_picture(images_NCHW: Numbers, *, columns: int = 8) -> Picture:
    """Returns images, uint8 of one or three channels, side by side."""
    images = np.repeat(images_NCHW, 3, axis=1) if images_NCHW.shape[1] == 1 else images_NCHW
    num, _, height, width = images.shape
    rows, columns = -(-num // columns), min(columns, num)
    grid = np.full((rows * columns, 3, height + 2, width + 2), 255, np.uint8)
    grid[:num, :, 1:-1, 1:-1] = images
    tiled = grid.reshape(rows, columns, 3, height + 2, width + 2).transpose(0, 3, 1, 4, 2).reshape(rows * (height + 2), -1, 3)
    scale = 112 / max(height, width)  # of photographs, thumbnails; small images are magnified by a whole number
    factor = float(max(1, int(scale))) if scale >= 1 else scale
    size = (round(tiled.shape[1] * factor), round(tiled.shape[0] * factor))
    return np.asarray(Image.fromarray(tiled).resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BILINEAR))


def _matrix(values: Numbers, names: Sequence[str], title: str, text: Callable[[int, int], str]) -> Picture:
    """Returns a square of cells coloured by values in 0 .. 1; where these are NaN it is grey."""
    num = len(values)
    cell = max(4, _SIDE // max(num, 4))
    has_labels, has_numbers = num <= _MOST_LABELS, num <= _MOST_NUMBERS
    font, side = _font(min(12, max(7, cell - 2))), cell * num
    labels = [name[:_LONGEST_LABEL] for name in names] if has_labels else []
    margin = 8 + round(max((font.getlength(label) for label in labels), default=0))
    image = Image.new("RGB", (margin + side + 8, _TITLE + side + margin), "white")
    fractions = np.clip(np.nan_to_num(values), 0, 1)[..., None]
    colours = np.where(np.isfinite(values)[..., None], _LIGHT + fractions * (_DARK - _LIGHT), _MISSING).astype(np.uint8)
    image.paste(Image.fromarray(colours.repeat(cell, axis=0).repeat(cell, axis=1)), (margin, _TITLE))
    draw = ImageDraw.Draw(image)
    draw.text((8, 6), title, fill=_INK, font=_font(12))
    for row in range(num):
        middle = _TITLE + row * cell + cell / 2
        if has_labels:
            draw.text((margin - 4, middle), labels[row], fill=_INK, font=font, anchor="rm")
            _draw_upright(image, labels[row], (round(margin + row * cell + cell / 2), _TITLE + side + 4), font)
        for column in range(num) if has_numbers else ():
            if np.isfinite(values[row, column]):
                ink = "white" if values[row, column] > 0.5 else _INK
                draw.text((margin + column * cell + cell / 2, middle), text(row, column), fill=ink, font=font, anchor="mm")
    return np.asarray(image)


def _draw_upright(image: Image.Image, text: str, top: tuple[int, int], font: Any) -> None:
    """Draws text that is read from below, with its end at the middle of `top`."""
    left, upper, right, lower = font.getbbox(text)
    label = Image.new("RGB", (int(right - left) + 2, int(lower - upper) + 2), "white")
    ImageDraw.Draw(label).text((1 - left, 1 - upper), text, fill=_INK, font=font)
    turned = label.rotate(90, expand=True)
    image.paste(turned, (top[0] - turned.width // 2, top[1]))


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size) if features.check("freetype2") else ImageFont.load_default()


def _percent(fraction: float) -> str:
    return f"{fraction:.0%}" if fraction in (0, 1) else f"{fraction:.1%}"


def _short_count(count: int) -> str:
    return f"{count}" if count < 1000 else f"{count / 1000:.0f}k"
