"""ExportOptions: what the user asks of an export, checked before anything is built."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mutual.engine.storage import EXPORT_SUFFIXES
from mutual.recipe import InputError, did_you_mean, format_value

CALIBRATION_IMAGES = 256
"""By default so many training images calibrate an int8 program."""
MAX_DROP = 1.0
"""By default so many percentage points an int8 program may score less than the float one."""
FIT = "fit"
_MAX_TEMPERATURE = 1000.0
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and what is measured.

    Attributes:
        formats: of `safetensors`, `torch`, `onnx`.
        with_input: programs take uint8 pixels and normalise them.
        factories: names of models of the user's own that may be built (`my_models:net`), which runs their code.
        datasets: names of data sets of the user's own that may be made (`my_data:make`), which runs their code.
        temperature: by what the logits are divided; `fit`: by what suits the validation images; None: by nothing.
        int8: the ONNX program is written in int8 as well.
        max_drop: percentage points of top-1 (mAP of several labels) that the int8 program may lose; with more it is not kept.
        calibration_images: number of training images that calibrate it.
        benchmark: latencies are measured.
        license: an identifier such as `apache-2.0` for the model card.
        card: a model card and the recipe are written beside.

    Raises:
        InputError: some of it does not go together, or a value is out of range.
    """

    formats: Sequence[str] = ("safetensors",)
    with_input: bool = False
    factories: Sequence[str] = ()
    datasets: Sequence[str] = ()
    temperature: float | Literal["fit"] | None = None
    int8: bool = False
    max_drop: float = MAX_DROP
    calibration_images: int = CALIBRATION_IMAGES
    benchmark: bool = False
    license: str | None = None
    card: bool = True

    def __post_init__(self) -> None:
        check_formats(self.formats, with_input=self.with_input)
        if self.int8 and "onnx" not in self.formats:
            raise InputError("--int8 is for the ONNX program; add --format onnx")
        if not (math.isfinite(self.max_drop) and self.max_drop >= 0):
            raise InputError(f"--max-drop {self.max_drop} must be a number of percentage points, 0 or more")
        if self.calibration_images < 1:
            raise InputError(f"--calibration {self.calibration_images} must be at least 1 image")
        if self.license is not None and not _LICENSE.fullmatch(self.license):
            raise InputError(f"--license {format_value(self.license)} is no identifier of a licence, such as apache-2.0 or cc-by-4.0")

    @property
    def needs_images(self) -> bool:
        """Whether nothing can be exported where the run's images are not there."""
        return self.int8 or self.temperature == FIT


def check_formats(formats: Sequence[str], *, with_input: bool) -> None:
    """Refuses formats that there are not, or that cannot take pixels where `with_input` asks for it.

    Raises:
        InputError: it is so.
    """
    for format_name in formats:
        if format_name not in EXPORT_SUFFIXES:
            raise InputError(f"{format_name!r} is no export format{did_you_mean(format_name, EXPORT_SUFFIXES)}")
    if with_input and "safetensors" in formats:
        raise InputError("a safetensors file holds weights and no program that could take pixels; with the input export torch or onnx")


def parse_temperature(text: str) -> float | Literal["fit"]:
    """Returns what `--temperature` says.

    Raises:
        InputError: neither `fit` nor a positive number.
    """
    if text == FIT:
        return "fit"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= _MAX_TEMPERATURE:
        raise InputError(f"--temperature {format_value(text)} must be `fit`, or a number above 0 and not above {_MAX_TEMPERATURE:g}")
    return value
