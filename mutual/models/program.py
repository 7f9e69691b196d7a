"""Programs that `torch.export` wrote, as frozen models: `program:FILE.pt2`."""

from __future__ import annotations

import logging
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from mutual.models.files import check_file, is_shortage
from mutual.models.program_archive import checked_archive
from mutual.models.reading import UNREADABLE
from mutual.recipe import first_line

_NO_PICKLES, _PICKLES = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


class Program(nn.Module):
    """An exported program: images `[B, C, H, W]` to logits, always as it was exported, whatever calls `train()`.

    Args:
        program: takes one tensor, whose first dimension is dynamic.

    Attributes:
        num_classes: number of logits of an image.

    Raises:
        ValueError: it takes something else, or batches of one size alone.
    """

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self._program = program
        self._least, self._most = _batch_bounds(program)
        self.num_classes = _num_outputs(program)
        self._device = torch.device("cpu")
        self.graph = program.module().requires_grad_(False)
        self.training = False

    def train(self, mode: bool = True) -> Program:
        """Changes nothing."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits; batches of more or fewer images than the program takes go in parts, or with copies of the last image."""
        if self._most is not None and len(images) > self._most:
            return torch.cat([self(part) for part in images.split(self._most)])
        num_images = len(images)
        if num_images < self._least:
            images = torch.cat([images, images[-1:].expand(self._least - num_images, *images.shape[1:])])
        logits: Tensor = self.graph(images.contiguous())  # its operators are those for this memory format
        return logits[:num_images] if len(images) > num_images else logits

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Program:
        """Moves the program to another device; it keeps its precision and memory format."""
        device = fn(torch.empty(0, device=self._device)).device
        if device != self._device:
            from torch.export.passes import move_to_device_pass

            self._program = move_to_device_pass(self._program, device)
            self._device = device
            self.graph = self._program.module().requires_grad_(False)
        return self


def load_program(path: str | Path) -> Program:
    """Returns the program in a file of `torch.export.save`; nothing in it runs but operators of torch.

    Raises:
        ValueError: there is no such file, it cannot be loaded, or it is no model for images in batches; one line says which.
    """
    path = Path(path)
    check_file(path)
    try:
        with _plain_and_quiet():
            program = torch.export.load(checked_archive(path))
    except UNREADABLE as error:
        if is_shortage(error, path):
            raise
        kind = "" if isinstance(error, ValueError | zipfile.BadZipFile) else f"torch {torch.__version__} cannot load it: "
        raise ValueError(f"{path} is no exported program that can be used here ({kind}{first_line(error)})") from error
    try:
        return Program(program)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def _batch_bounds(program: ExportedProgram) -> tuple[int, int | None]:
    """Returns the smallest and the largest number of images that the program takes; None: any."""
    inputs = [node.meta.get("val") for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or inputs[0].dim() != 4 or not inputs[0].is_floating_point():
        raise ValueError("takes something else than one batch of float images [B, C, H, W]")
    num_images: Any = inputs[0].shape[0]
    if isinstance(num_images, int):
        raise ValueError(
            f"takes batches of {num_images} images alone; export it with a dynamic batch, as `mutual.export` does: "
            "dynamic_shapes=({0: torch.export.Dim('batch')},)"
        )
    bounds = program.range_constraints.get(num_images.node.expr)
    if bounds is None:
        return 1, None
    return max(int(bounds.lower), 1), int(bounds.upper) if bounds.upper.is_Integer else None


def _num_outputs(program: ExportedProgram) -> int | None:
    """Returns the width of the program's output; None where it is no vector of one width for each image."""
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    values = [node.meta.get("val") for node in output.args[0] if hasattr(node, "meta")]
    shape = values[-1].shape if values and isinstance(values[-1], Tensor) else ()
    return shape[1] if len(shape) == 2 and isinstance(shape[1], int) else None


@contextmanager
def _plain_and_quiet() -> Iterator[None]:
    """Context in which torch.load unpickles tensors alone, whoever calls it and how, and in which torch logs no tracebacks."""
    saved = {name: os.environ.pop(name, None) for name in (_NO_PICKLES, _PICKLES)}
    os.environ[_NO_PICKLES] = "1"
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an older form of archive is deprecated
            yield
    finally:
        logging.disable(disabled)
        del os.environ[_NO_PICKLES]
        os.environ.update({name: value for name, value in saved.items() if value is not None})
