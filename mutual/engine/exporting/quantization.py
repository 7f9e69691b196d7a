"""quantize: an ONNX program in int8, calibrated with training images, and what that costs in accuracy and saves in bytes."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mutual.recipe import InputError, first_line


@dataclass(frozen=True)
class Int8Export:
    """An int8 program beside the float one that it was made of.

    Attributes:
        path: its file.
        num_bytes: its size.
        float_bytes: that of the float program.
        calibration_images: number of training images whose activations it was calibrated with.
        images: number of validation images that both were scored on.
        scores: `float` and `int8`: their metrics on these.
        metric: the metric in which a drop counts.
    """

    path: Path
    num_bytes: int
    float_bytes: int
    calibration_images: int
    images: int
    scores: dict[str, dict[str, float]]
    metric: str

    @property
    def drop(self) -> float:
        """How much less the int8 program scores, in percentage points."""
        return 100 * (self.scores["float"][self.metric] - self.scores["int8"][self.metric])


def quantize(program: Path, output: Path, batches: Iterable[Tensor]) -> int:
    """Writes the ONNX program in the file `program` in int8 to the file `output`, and returns how many images calibrated it.

    Static quantisation as ONNX Runtime recommends it: shapes inferred and the graph simplified before (BatchNorm folded), weights by
    channel (signed), activations by tensor (unsigned: signed ones take up to ten times as long on x86), QDQ nodes; ranges are the least and
    the greatest value.

    Args:
        program: a program that takes images.
        output: the file to write.
        batches: images for calibration.

    Raises:
        InputError: it cannot be quantised.
    """
    import onnxruntime
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    reader = _Reader(program, batches)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared, found = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        try:
            quant_pre_process(str(program), str(prepared))
            quantize_static(
                str(prepared),
                str(found),
                reader,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            onnxruntime.InferenceSession(str(found), providers=["CPUExecutionProvider"])
        except (InputError, OSError, MemoryError):  # of an image that cannot be read, a disk, a machine
            raise
        except Exception as error:
            raise InputError(f"{program} cannot be quantised to int8 ({type(error).__name__}: {first_line(error)})") from error
        output.write_bytes(found.read_bytes())
    return reader.num_images


class _Reader:
    """What the calibration reads: the images, and then None."""

    def __init__(self, program: Path, batches: Iterable[Tensor]) -> None:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(program), providers=["CPUExecutionProvider"])
        self._name = session.get_inputs()[0].name
        self._batches = iter(batches)
        self.num_images = 0

    def get_next(self) -> dict[str, Any] | None:
        """Returns the next batch by the name of the program's input."""
        images = next(self._batches, None)
        if images is None:
            return None
        self.num_images += len(images)
        return {self._name: images.numpy()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Context without the quantizer's log, which names each layer that it quantises by tensor."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
