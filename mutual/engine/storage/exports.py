"""What exports have written into a folder: their names, and a record of digests, by which no other file is replaced or removed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from mutual.engine.storage.files import UNFINISHED, json_text, read_file, sha256, unfinished, write_file
from mutual.recipe import InputError

EXPORTED = ".mutual-exports.json"
"""Beside exported files, with their digests; an export replaces no other file."""
EXPORT_SUFFIXES = {"safetensors": ".safetensors", "torch": ".pt2", "onnx": ".onnx"}
MODEL_CARD, EXPORTED_RECIPE = "README.md", "recipe.yaml"
"""Of the peer that was exported last: the page on it, and how it was trained."""
TIMM_FOLDER, TIMM_CONFIG, TIMM_WEIGHTS = "{name}-timm", "config.json", "model.safetensors"
"""What timm loads as `local-dir:...`."""
_ENDINGS = "|".join(map(re.escape, EXPORT_SUFFIXES.values()))
_RECORDS: TypeAdapter[dict[str, list[str]]] = TypeAdapter(dict[str, list[str]])


def read_exported(folder: Path) -> dict[str, list[str]]:
    """Returns by file name, relative to `folder`, the digests of what exports have written; none where the record is missing or damaged."""
    try:
        return _RECORDS.validate_json(read_file(folder / EXPORTED))
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return {}


def is_exported(folder: Path, name: str) -> bool:
    """Returns whether the file `name` in `folder` is as an export wrote it."""
    path, digests = folder / name, read_exported(folder).get(name, [])
    return bool(digests) and path.is_file() and sha256(path.read_bytes()) in digests


def check_replaceable(folder: Path, names: Sequence[str]) -> None:
    """Refuses to write files of these names where others stand.

    Raises:
        InputError: one is there, and no export wrote it, or it was changed.
    """
    for name in names:
        if (folder / name).exists() and not is_exported(folder, name):
            remedy = ", or --no-card" if name in (MODEL_CARD, EXPORTED_RECIPE) else ""
            reason = "is there already, and not as an export wrote it; move it away, or give another --output"
            raise InputError(f"{folder / name} {reason}{remedy}")


def write_exported(folder: Path, name: str, content: bytes) -> Path:
    """Writes the file `name` in `folder`, and its digest beside the previous one before, so that after a kill one of them holds."""
    recorded = read_exported(folder)
    digests = [*recorded.get(name, [])[-1:], sha256(content)]
    write_file(folder / EXPORTED, json_text(recorded | {name: digests}, indent=1).encode())
    write_file(folder / name, content)
    return folder / name


def exported_paths(folder: Path, peers: Sequence[str]) -> Iterator[Path]:
    """Yields the paths in a run's folder of exports that exports of `peers` have written; weights and programs by their names alone."""
    for peer in peers:
        for suffix in EXPORT_SUFFIXES.values():
            for path in (folder / f"{peer}{suffix}", folder / f"{peer}.pixels{suffix}"):
                yield from (path, unfinished(path))
        of_epoch = rf"({re.escape(UNFINISHED)})?{peer}-epoch\d+(\.pixels)?({_ENDINGS})"
        yield from (path for path in folder.glob(f"*{peer}-epoch*") if re.fullmatch(of_epoch, path.name))
    stems = f"({'|'.join(map(re.escape, peers))})" + r"(-epoch\d+)?"
    in_timm_folder = f"({'|'.join(map(re.escape, (TIMM_CONFIG, TIMM_WEIGHTS, MODEL_CARD, EXPORTED_RECIPE)))})"
    in_folder = f"{re.escape(MODEL_CARD)}|{re.escape(EXPORTED_RECIPE)}|{stems}" + r"(\.pixels)?\.int8\.onnx"
    known = f"{in_folder}|{TIMM_FOLDER.format(name=stems)}/{in_timm_folder}"
    for name in read_exported(folder):
        if re.fullmatch(known, name):
            yield unfinished(folder / name)
            if is_exported(folder, name):
                yield folder / name
    yield from (folder / EXPORTED, unfinished(folder / EXPORTED))
