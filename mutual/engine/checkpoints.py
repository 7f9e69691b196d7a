"""Checkpoints: folders `step_000123` of files with their checksums; the newest whole one is what a run resumes from."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

from mutual.engine.files import remove_unfinished, write_folder
from mutual.recipe import InputError

MANIFEST = "manifest.json"
FORMAT = 2


class ForeignFormatError(InputError):
    """A checkpoint of another version of this package: whole, and not to be thrown away."""


class Checkpoints:
    """The checkpoints of one run, of which the last `keep` stay."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, step: int, files: Mapping[str, bytes]) -> Path:
        """Writes a checkpoint in one step, then removes those that are older than the last `keep`."""
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        manifest = {"format": FORMAT, "step": step, "sha256": digests}
        remove_unfinished(self.folder)
        path = self.folder / f"step_{step:08d}"
        write_folder(path, {**files, MANIFEST: json.dumps(manifest, indent=1).encode()})
        for old in self.paths()[: -self.keep]:
            shutil.rmtree(old)
        return path

    def paths(self) -> list[Path]:
        """Returns the folders of all checkpoints, oldest first."""
        return sorted(self.folder.glob("step_*"))

    def latest(self) -> dict[str, bytes] | None:
        """Returns the files of the newest checkpoint whose checksums hold, or None; warns of each that is torn or altered.

        Raises:
            ForeignFormatError: the newest one was written by another version.
        """
        for path in reversed(self.paths()):
            try:
                return read_checkpoint(path)
            except ForeignFormatError:
                raise
            except ValueError as error:
                warnings.warn(f"{error}; taking the checkpoint before it", stacklevel=2)
        return None


def read_checkpoint(path: Path) -> dict[str, bytes]:
    """Returns the files of the checkpoint at `path`.

    Raises:
        ForeignFormatError: another version wrote it.
        ValueError: a file is missing, torn or altered.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            raise ForeignFormatError(
                f"checkpoint {path} has format {manifest['format']}, this version reads {FORMAT}; resume it with the version that wrote it"
            )
        files = {name: (path / name).read_bytes() for name in manifest["sha256"]}
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"checkpoint {path} is torn ({type(error).__name__}: {error})") from error
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != manifest["sha256"][name]:
            raise ValueError(f"checkpoint {path} is altered: the checksum of {name} does not hold")
    return files
