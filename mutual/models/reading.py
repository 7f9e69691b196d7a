"""read_tensors: the tensors by name of a safetensors file, a torch checkpoint or Paddle's weights, whoever wrote it; nothing in it runs."""

from __future__ import annotations

import hashlib
import mmap
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mutual.models.checkpoints import NESTS, tensor_groups
from mutual.models.files import check_file, is_shortage
from mutual.models.paddleclas.layout import is_paddle, torch_name
from mutual.models.paddleclas.pdparams import read_pdparams
from mutual.recipe import first_line

CARD = "mutual"
"""Where the metadata of a safetensors file of ours have its checksum and, in a second line, its card: one entry, as a file would have
several in any order."""
UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    SafetensorError,
    RuntimeError,
    OSError,
    EOFError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
    AssertionError,
    ArithmeticError,
    ImportError,
)
"""What the readers raise at files that are damaged or of another kind; and see `is_shortage`."""
_SPEAKING = (RuntimeError, ValueError, OSError, zipfile.BadZipFile)
"""Those of them whose message says something to who reads it."""
_NO_WEIGHTS = {
    ".pdopt": "the state of an optimizer of Paddle's",
    ".pdstates": "the state of a training of Paddle's",
    ".pdiparams": "the weights of an inference program of Paddle's, without names",
    ".pdmodel": "an inference program of Paddle's",
}
"""Files that Paddle writes beside a `.pdparams`, and what they are."""


def read_tensors(path: Path) -> dict[str, dict[str, Tensor]]:
    """Returns the tensors of a weights file by name, in groups by where they stand in it, as `tensor_groups` does.

    Raises:
        ValueError: the file is missing or unreadable, or holds no tensors by name; one line says which.
        OSError, MemoryError, RuntimeError: the disk does not answer, or the machine lacks memory; that says nothing of the file.
    """
    check_file(path)
    if path.suffix in _NO_WEIGHTS:
        raise ValueError(f"{path} is {_NO_WEIGHTS[path.suffix]}; the model's weights are in a .pdparams")
    if is_paddle(path):
        return _read_paddle(path)
    return {"": _read_safetensors(path)} if path.suffix == ".safetensors" else _read_checkpoint(path)


def digest_of(tensors: Mapping[str, Tensor], card: str) -> str:
    """Returns the sha256 of a card and of names, kinds, shapes and bytes of tensors on the CPU, in hexadecimal."""
    digest = hashlib.sha256(card.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    except UNREADABLE as error:
        if is_shortage(error, path):
            raise
        raise ValueError(f"{path} is no whole safetensors file ({first_line(error)})") from error
    digest, newline, card = metadata.get(CARD, "").rpartition("\n")
    if newline and digest != digest_of(tensors, card):
        raise ValueError(f"{path} is damaged: its contents are not those of its checksum")
    return tensors


def _read_checkpoint(path: Path) -> dict[str, dict[str, Tensor]]:
    try:
        _check_archive(path)
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole,
            torch.serialization.safe_globals([*_PLACEHOLDERS, *_DICTS]),
        ):
            _check_pickle(whole)
            # of the older format from memory, where a text cannot be read that is longer than the file
            source: Any = path if zipfile.is_zipfile(path) else whole
            content = torch.load(source, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        if is_shortage(error, path):
            raise
        raise ValueError(f"{path} is no torch checkpoint of plain tensors ({_why(error)})") from error
    groups = tensor_groups(content)
    for where in [where for where, tensors in groups.items() if not all(isinstance(name, str) for name in tensors)]:
        if where == "" or where.split(".")[-2] in NESTS:
            unnamed = next(name for name in groups[where] if not isinstance(name, str))
            raise ValueError(f"{path} holds tensors under {unnamed!r}, which is no name; save the model's state_dict()")
        del groups[where]  # such as an optimizer's state
    if not groups:
        raise ValueError(f"{path} holds no weights: neither tensors by name nor any of {', '.join(NESTS)}")
    return groups


def _read_paddle(path: Path) -> dict[str, dict[str, Tensor]]:
    """Returns the tensors of a file of Paddle's, with torch's names and Paddle's values."""
    try:
        # from memory, where nothing can be read that is longer than the file
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            if whole[:2] == b"PK":
                raise ValueError("it is an archive, such as torch.save writes; call it .pt")
            content = read_pdparams(whole, len(whole))  # type: ignore[arg-type]
    except UNREADABLE as error:
        if is_shortage(error, path):
            raise
        raise ValueError(f"{path} is no file of plain arrays by Paddle ({_why(error)})") from error
    groups = {where: {torch_name(name): tensor for name, tensor in tensors.items()} for where, tensors in tensor_groups(content).items()}
    if not groups:
        raise ValueError(f"{path} holds no weights: no arrays by name")
    return groups


def _check_archive(path: Path) -> None:
    """Refuses archives that torch.save does not write: programs, and those whose contents are larger than the file."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise ValueError("it is a TorchScript program; save the model's state_dict() instead")
        compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if compressed or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its contents are compressed, or larger than the file; torch.save compresses nothing")
        altered = [entry.filename for entry in entries if not _is_whole(archive, entry)]
    if altered and len(altered) < len(entries):  # torch itself does not compare checksums; with an option of it torch.save writes none
        raise ValueError(f"{altered[0]} in it was altered: its checksum is another")


def _check_pickle(whole: mmap.mmap) -> None:
    """Refuses what asks for memory without holding as much: torch lets a pickle call bytearray with any number."""
    if any(whole.find(b"c%s\nbytearray\n" % module) >= 0 for module in (b"builtins", b"__builtin__")):
        raise ValueError("it holds a bytearray; save the model's state_dict() alone")


def _is_whole(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    with archive.open(entry) as file:
        try:
            while file.read(1 << 20):
                pass
        except zipfile.BadZipFile:
            return False
    return True


def _why(error: BaseException) -> str:
    """Returns why torch could not read a file, without its advice to read it unsafely."""
    wanted = re.search(r"Unsupported global: GLOBAL (\S+)|Unsupported class (\S+)", str(error))
    if wanted is not None:
        return f"it needs the code of {wanted[1] or wanted[2]}, which does not run here; save the model's state_dict() alone"
    return first_line(error) if type(error) in _SPEAKING else "it is damaged, or of another kind"


class _Placeholder:
    """Stands for an object beside the weights (a setting, a score) that is not needed; takes everything and does nothing."""

    def __new__(cls, *_arguments: Any, **_named: Any) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *_arguments: Any, **_named: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


# numpy moved these from `core` to `_core`; a file names what its writer had
_PLACEHOLDERS = tuple(
    type(name, (_Placeholder,), {"__module__": module})
    for module, name in (
        ("argparse", "Namespace"),
        ("datetime", "datetime"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        *((f"numpy.{core}.multiarray", function) for core in ("core", "_core") for function in ("scalar", "_reconstruct")),
        *(("pathlib", kind) for kind in ("Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
    )
)
"""Kinds of objects that many checkpoints hold beside the weights; torch.load would refuse the whole file."""
_LIGHTNING_MODULES = (
    "lightning.fabric.utilities.data",
    "lightning_fabric.utilities.data",
    "lightning.pytorch.utilities.parsing",
    "pytorch_lightning.utilities.parsing",
)
_DICTS = tuple((OrderedDict, f"{module}.AttributeDict") for module in _LIGHTNING_MODULES)
"""Kinds of dicts that checkpoints hold beside the weights: Lightning's hyperparameters."""
