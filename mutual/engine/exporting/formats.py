"""export_model: a trained peer as a file to ship, reloaded and compared with the eager model before it is kept."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mutual.engine.exporting.options import check_formats
from mutual.engine.storage import EXPORT_SUFFIXES, check_replaceable, unfinished, write_exported
from mutual.models import ModelCard, model_bytes, read_model
from mutual.recipe import InputError

BATCHES = (1, 3)
"""Batch sizes that an exported program is tried with."""
_TOLERANCE = 1e-4
"""Largest difference of logits, relative to the largest logit, between two runtimes in float32."""


def export_model(
    model: nn.Module, card: ModelCard, folder: Path, name: str, *, formats: Sequence[str], with_input: bool = False
) -> dict[str, tuple[Path, float]]:
    """Writes a model in each of `formats`.

    Args:
        model: in eval mode, on the CPU.
        card: its model card.
        folder: where the files are written.
        name: of the files, without suffix.
        formats: of `safetensors`, `torch`, `onnx`.
        with_input: the programs take pixels of the card's size, uint8 `[B, C, H, W]`, and normalise them; their files are `NAME.pixels.*`.

    Returns:
        By format, the file and the relative difference of its logits from the model's.

    Raises:
        InputError: no such format, a package is missing, the model cannot be exported, or a file that no export wrote is in the way;
            no wrong file is left.
    """
    check_formats(formats, with_input=with_input)
    if with_input:
        model = WithInput(model, card)
    names = {format_name: file_name(name, format_name, with_input=with_input) for format_name in formats}
    check_replaceable(folder, list(names.values()))
    return {format_name: _export(FORMATS[format_name], model, card, folder / each, format_name) for format_name, each in names.items()}


def file_name(name: str, format_name: str, *, with_input: bool = False) -> str:
    """Returns what the export of a peer called `name` is called."""
    return f"{name}{'.pixels' if with_input else ''}{EXPORT_SUFFIXES[format_name]}"


class WithInput(nn.Module):
    """Pixels of a model's own size, uint8 `[B, C, H, W]`, to its logits: what `ModelCard.input` does, in a program that can be exported."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.model = model
        for name, values in (("mean", card.mean), ("std", card.std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None])
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns the logits."""
        logits: Tensor = self.model((pixels.float() / 255 - self.mean) / self.std)
        return logits


Reload = Callable[[Tensor], Tensor]


def _export(
    write: Callable[[nn.Module, ModelCard, Path], Reload], model: nn.Module, card: ModelCard, path: Path, name: str
) -> tuple[Path, float]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temp_path = unfinished(path)
    try:
        reloaded = write(model, card, temp_path)
        difference = max(_difference(model, reloaded, card, batch) for batch in BATCHES)
        if not difference < _TOLERANCE:
            raise InputError(
                f"the {name} export of {card.model} gives other logits than the model (relative difference {difference:.1e}); not kept"
            )
        write_exported(path.parent, path.name, temp_path.read_bytes())
    finally:
        temp_path.unlink(missing_ok=True)
    return path, difference


def random_images(model: nn.Module, card: ModelCard, batch: int) -> Tensor:
    """Returns `batch` images of the kind that a model takes, pixels or normalised, the same each time."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, card.in_channels, *card.image_size)
    if isinstance(model, WithInput):
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return torch.randn(shape, generator=generator)


def _difference(model: nn.Module, reloaded: Reload, card: ModelCard, batch: int) -> float:
    images = random_images(model, card, batch)
    with torch.no_grad():
        expected = model(images)
        actual = reloaded(images)
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def _write_safetensors(model: nn.Module, card: ModelCard, path: Path) -> Reload:
    path.write_bytes(model_bytes(model, card))
    reloaded, _ = read_model(path, factories=[card.model])  # the user has allowed this factory when `model` was built
    return reloaded


def _write_torch(model: nn.Module, card: ModelCard, path: Path) -> Reload:
    example = _example(model, card)
    program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with path.open("wb") as file:  # a stream, because the path's ending is not the one that torch asks for
        torch.export.save(program, file, extra_files={"card.json": card.to_json()})
    with path.open("rb") as file:
        reloaded: Reload = torch.export.load(file).module()
    return reloaded


def _write_onnx(model: nn.Module, card: ModelCard, path: Path) -> Reload:
    missing = [package for package in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(package) is None]
    if missing:
        raise InputError(f"the onnx export needs {', '.join(missing)}; install them with `pip install mutual[export]`")
    import onnx

    name = "pixels" if isinstance(model, WithInput) else "images"
    example = _example(model, card)
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        verbose=False,
        input_names=[name],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    assert program is not None
    proto = program.model_proto
    proto.metadata_props.append(onnx.StringStringEntryProto(key="mutual", value=card.to_json()))
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())
    return onnx_program(path)


def onnx_program(path: Path, *, threads: int | None = None) -> Reload:
    """Returns the ONNX program in a file as a function of images on the CPU; `threads`: None leaves their number to the runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(["logits"], {name: images.numpy()})[0])


def _example(model: nn.Module, card: ModelCard) -> Tensor:
    """Returns two images of the kind that a model takes."""
    dtype = torch.uint8 if isinstance(model, WithInput) else torch.float32
    return torch.zeros(2, card.in_channels, *card.image_size, dtype=dtype)


FORMATS: dict[str, Callable[[nn.Module, ModelCard, Path], Reload]] = {
    "safetensors": _write_safetensors,
    "torch": _write_torch,
    "onnx": _write_onnx,
}
