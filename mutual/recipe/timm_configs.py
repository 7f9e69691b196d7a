"""timm's strings for augmentation, as `rand-m9-mstd0.5-inc1`: what they may say. timm itself is not imported here."""

from __future__ import annotations

import re
from typing import Literal

_POLICIES = ("v0", "v0r", "original", "originalr", "3a")
_DIGITS, _NUMBER = r"\d{1,3}", r"\d{1,3}(\.\d{1,6})?"
_KEYS = {
    "rand": {
        "m": _DIGITS,
        "n": r"[1-9]\d?",
        "p": r"0(\.\d{1,6})?|1(\.0{1,6})?",
        "mstd": _NUMBER,
        "mmax": _DIGITS,
        "inc": "[01]",
        "t": "weights|3aw?",
    },
    "augmix": {"m": _DIGITS, "w": r"[1-9]\d?", "d": r"[1-9]\d?", "a": _NUMBER, "b": "[01]", "mstd": _NUMBER},
    **{policy: {"mstd": _NUMBER} for policy in _POLICIES},
}
"""By the name that a string begins with the keys that may follow, and what each may be."""
TimmOperation = Literal[
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "Posterize",
    "PosterizeIncreasing",
    "PosterizeOriginal",
    "Solarize",
    "SolarizeIncreasing",
    "SolarizeAdd",
    "Color",
    "ColorIncreasing",
    "Contrast",
    "ContrastIncreasing",
    "Brightness",
    "BrightnessIncreasing",
    "Sharpness",
    "SharpnessIncreasing",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "TranslateXRel",
    "TranslateYRel",
    "Desaturate",
    "GaussianBlur",
    "GaussianBlurRand",
]
"""timm's names of operations."""


def check_config(text: str) -> str:
    """Returns `text`, one of timm's strings.

    Raises:
        ValueError: it is none; the message says which part is wrong, and what would be right.

    Example:
        >>> check_config("rand-m9-mstd0.5-inc1")
        'rand-m9-mstd0.5-inc1'
        >>> check_config("rand-m9-x2")
        Traceback (most recent call last):
        ValueError: has -x2, which rand-... does not know; it takes m, n, p, mstd, mmax, inc, t, each with its value
    """
    kind, *parts = text.split("-")
    keys = _KEYS.get(kind)
    if keys is None:
        raise ValueError(f"begins with {kind!r}; take one of {', '.join(_KEYS)}")
    seen = set()
    for part in parts:
        key = next((key for key, value in keys.items() if re.fullmatch(f"{key}({value})", part)), None)
        if key is None:
            raise ValueError(f"has -{part}, which {kind}-... does not know; it takes {', '.join(keys)}, each with its value")
        if key in seen:
            raise ValueError(f"says {key} twice")
        seen.add(key)
    return text
