"""Values of transforms' arguments: sizes, ranges and kinds of interpolation, as PaddleClas writes them."""

from __future__ import annotations

from collections.abc import Sequence

from mutual.recipe.paddleclas.section import Section, is_number
from mutual.recipe.text import format_value

_OF_CV2 = {-1: "bilinear", 0: "nearest", 1: "bilinear", 2: "bicubic", 3: "area", 4: "lanczos"}
_OF_PIL = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""By number what cv2 and Pillow mean by it."""
_NEAREST_KIND = {"area": "bilinear", "box": "bilinear", "hamming": "bilinear", "random": "bilinear", "lanczos": "bicubic"}
"""By interpolation that is not here, the one that comes nearest: bilinear is over all pixels that a smaller one stands for, too."""


def size_of(section: Section, key: str = "size", *, height_first: bool = False) -> tuple[int, int]:
    """Returns a size as height and width: one number, or `[width, height]`, where not `height_first` as Paddle's own transforms have it.

    Raises:
        RecipeError: it is neither.
    """
    value = section.take(key)
    sides = [value, value] if isinstance(value, int) else value
    if not (isinstance(sides, list) and len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides)):
        raise section.error(key, f"{format_value(value)} is no size; it is a number of pixels, or two")
    return (sides[0], sides[1]) if height_first else (sides[1], sides[0])


def range_of(section: Section, key: str, default: tuple[float, float]) -> list[float]:
    """Returns a list of two numbers; where it is absent, `default`.

    Raises:
        RecipeError: it is none.
    """
    value = section.take(key, list(default))
    if not (isinstance(value, list) and len(value) == 2 and all(is_number(each) for each in value)):
        raise section.error(key, f"{format_value(value)} are no two numbers")
    return [float(each) for each in value]


def numbers_of(section: Section, key: str, default: tuple[float, ...]) -> list[float]:
    """Returns a list of numbers; where it is absent, `default`.

    Raises:
        RecipeError: it is none.
    """
    value = section.take(key, list(default))
    if not (isinstance(value, list) and value and all(is_number(each) for each in value)):
        raise section.error(key, f"{format_value(value)} is no list of numbers")
    return [float(each) for each in value]


def deviations_of(section: Section, key: str, default: tuple[float, ...]) -> list[float]:
    """Returns a list of numbers that are divided by; where it is absent, `default`.

    Raises:
        RecipeError: it is none, or has a 0.
    """
    values = numbers_of(section, key, default)
    if min(values) <= 0:
        raise section.error(key, f"{format_value(values)} are no deviations; they are above 0")
    return values


def color_of(section: Section, key: str, default: Sequence[int]) -> list[int]:
    """Returns a color, of which one number is a grey; where it is absent, `default`.

    Raises:
        RecipeError: it is none.
    """
    value = section.take(key, list(default))
    values = [value] * 3 if isinstance(value, int) else value
    if not (isinstance(values, list) and len(values) == 3 and all(isinstance(each, int) and 0 <= each <= 255 for each in values)):
        raise section.error(key, f"{format_value(value)} is no color; it is a number of 0 to 255, or three")
    return values


def rounded(value: float) -> float:
    """Returns a number that was computed as one would write it: with 9 digits, more than float32 holds."""
    return float(f"{value:.9g}")


def interpolation_of(section: Section, *, quiet: bool = False) -> tuple[str, str]:
    """Returns how pixels are interpolated here, and by which package there, `cv2` or `pil`.

    Raises:
        RecipeError: there is no such interpolation.
    """
    backend = str(section.text("backend", "cv2")).lower()
    backend = backend if backend == "pil" else "cv2"  # whatever it does not know is cv2 there, too
    value = section.take("interpolation", "bicubic" if backend == "pil" else "bilinear")
    numbers = _OF_PIL if backend == "pil" else _OF_CV2
    name = value.lower() if isinstance(value, str) else numbers.get(value) if is_number(value) else None
    if name not in ("nearest", "bilinear", "bicubic", *_NEAREST_KIND):
        raise section.error("interpolation", f"{format_value(value)} is none of {backend}'s")
    here = _NEAREST_KIND.get(name, name)
    if here != name and not quiet:
        section.remark(f"{name} is not here, {here} comes nearest", "interpolation")
    return here, backend
