"""CheckpointStore: folders `step_000123` of files with their checksums; the newest whole one is what a run resumes from."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mutual.engine.storage.files import REPLACED, UNFINISHED, file_sha256, remove, sha256, write_folder
from mutual.recipe import InputError

if TYPE_CHECKING:  # it imports torch
    from mutual.engine.storage.contents import Content, Sink

MANIFEST = "manifest.json"
FORMAT = 3
_NAME = re.compile(r"step_\d{8,}")
_SUFFIXES = (".json", ".pt", ".safetensors")


class ForeignFormatError(InputError):
    """A checkpoint of another version of this package: whole, and not to be thrown away."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint.

    Attributes:
        step: number of updates that were done.
        path: its folder.
        sha256: by the name of each of its files the checksum, which holds.
        files: content of those that were asked for.
    """

    step: int
    path: Path
    sha256: dict[str, str]
    files: dict[str, bytes]


class CheckpointStore:
    """Writes and reads the checkpoints of a run.

    Args:
        root: the run folder, which carries the mark of a run.
        keep: number of whole checkpoints that are kept.

    Example:
        >>> import tempfile
        >>> from mutual.engine.storage.files import MARK
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / MARK).touch()
        >>> path = CheckpointStore(root, keep=1).save(5, {"training.pt": b"state"})
        >>> CheckpointStore(root, keep=1).latest().files
        {'training.pt': b'state'}
    """

    def __init__(self, root: Path, *, keep: int) -> None:
        self.folder = root / "checkpoints"
        self.keep = keep
        self._root = root
        self._whole: set[Path] = set()

    def save(self, step: int, files: Mapping[str, Content], *, check: Callable[[], None] = lambda: None) -> Path:
        """Writes a checkpoint atomically, then removes those that are older than the last `keep` whole ones.

        Args:
            step: number of updates that are done.
            files: content of each file, in the order in which they are written.
            check: called between pieces; raises an OSError if the checkpoint is not to be finished.
        """
        digests: dict[str, str] = {}

        def manifest(sink: Sink) -> None:  # written last, when the digests are known
            sink.write(json.dumps({"format": FORMAT, "step": step, "sha256": digests}, indent=1).encode())

        remove(_files_in(self.folder, UNFINISHED), root=self._root)
        path = self.folder / f"step_{step:08d}"
        self._whole.discard(path)
        contents = {name: _digested(name, content, digests, check) for name, content in files.items()}
        write_folder(path, {**contents, MANIFEST: manifest}, root=self._root)
        self._whole.add(path)
        self._prune(newest=path)
        return path

    def paths(self) -> list[Path]:
        """Returns the folders of all checkpoints, whole or not, oldest first."""
        return _folders(self.folder, "")

    def resumable(self) -> list[Path]:
        """Returns, oldest first, `paths` and those that were moved aside for a rewrite, which may not have been finished."""
        return sorted([*_folders(self.folder, REPLACED), *self.paths()], key=_step)

    def files(self) -> list[Path]:
        """Returns the files of all checkpoints, unfinished and replaced ones included."""
        return [file for prefix in ("", UNFINISHED, REPLACED) for file in _files_in(self.folder, prefix)]

    def listing(self) -> dict[str, str]:
        """Returns by its name the sha256 of each checkpoint's manifest; empty text where it cannot be read."""
        return {path.name: _manifest_digest(path) for path in self.paths()}

    def latest(self, *, wanted: Callable[[str], bool] = lambda _: True) -> Checkpoint | None:
        """Returns the newest checkpoint whose checksums hold, or None where there is none at all; warns of each that is damaged.

        Args:
            wanted: says by its name which files' contents are to be returned; the checksums of all are compared.

        Raises:
            ForeignFormatError: the newest one was written by another version.
            InputError: there are checkpoints, and all are damaged.
            OSError: the disk does not answer.
        """
        paths = self.resumable()
        for path in reversed(paths):
            try:
                checkpoint = read_checkpoint(path, wanted=wanted)
            except ForeignFormatError:
                raise
            except ValueError as error:
                warnings.warn(f"{error}; taking the checkpoint before it", stacklevel=2)
                continue
            self._whole.add(path)
            return checkpoint
        if paths:
            raise InputError(
                f"none of the {len(paths)} checkpoints in {self.folder} is whole, so the run cannot be resumed; nothing was changed. "
                "Bring one back, or start over with --overwrite"
            )
        return None

    def _prune(self, *, newest: Path) -> None:
        """Removes what is older than the last `keep` whole checkpoints; nothing while there are fewer of these."""
        older = [path for path in self.paths() if _step(path) < _step(newest)]
        kept = [newest]
        for path in reversed(older):
            if len(kept) < self.keep and self._is_whole(path):
                kept.append(path)
        if len(kept) == self.keep:
            for path in older:
                if _step(path) < _step(kept[-1]):
                    self._whole.discard(path)
                    remove(_files_of(path), root=self._root)

    def _is_whole(self, path: Path) -> bool:
        if path not in self._whole:
            try:
                read_checkpoint(path, wanted=lambda _: False)
            except (ValueError, OSError):
                return False
            self._whole.add(path)
        return True


def read_checkpoint(path: Path, *, wanted: Callable[[str], bool] = lambda _: True) -> Checkpoint:
    """Returns the checkpoint at `path` with the contents of its `wanted` files; the checksums of all hold.

    Raises:
        ForeignFormatError: another version wrote it.
        ValueError: a file is missing, torn or altered.
        OSError: a file is there and cannot be read.
    """
    files, actual = {}, {}
    try:
        manifest = _read_manifest((path / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            raise ForeignFormatError(
                f"checkpoint {path} has format {manifest['format']}, this version reads {FORMAT}; resume it with the version that wrote it"
            )
        step, digests = int(manifest["step"]), dict(manifest["sha256"])
        for name in digests:
            if wanted(name):
                files[name] = (path / name).read_bytes()
                actual[name] = sha256(files[name])
            else:
                actual[name] = file_sha256(path / name)
    except ForeignFormatError:
        raise
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"checkpoint {path} is torn ({type(error).__name__}: {error})") from error
    for name, digest in actual.items():
        if digest != digests[name]:
            raise ValueError(f"checkpoint {path} is altered: the checksum of {name} does not hold")
    if path.name.removeprefix(REPLACED) != f"step_{step:08d}":
        raise ValueError(f"checkpoint {path} is not of this step: it holds step {step}")
    return Checkpoint(step, path, digests, files)


def _digested(name: str, content: Content, digests: dict[str, str], check: Callable[[], None]) -> Content:
    """Returns what writes `content` and then sets `digests[name]`."""

    def write(sink: Sink) -> None:
        hashing = _HashingSink(sink, check)
        if isinstance(content, bytes):
            hashing.write(content)
        else:
            content(hashing)
        digests[name] = hashing.digest.hexdigest()

    return write


class _HashingSink:
    def __init__(self, sink: Sink, check: Callable[[], None]) -> None:
        self.digest = hashlib.sha256()
        self._sink = sink
        self._check = check

    def write(self, data: bytes | memoryview) -> None:
        self._check()
        self.digest.update(data)
        self._sink.write(data)


def _read_manifest(content: bytes) -> dict[str, Any]:
    manifest = json.loads(content)
    if any(Path(name).name != name for name in manifest["sha256"]):
        raise ValueError("it names files elsewhere")
    return dict(manifest)


def _folders(folder: Path, prefix: str) -> list[Path]:
    """Returns the folders of checkpoints, oldest first; one without files of a checkpoint belongs to somebody else."""
    if not folder.is_dir():
        return []
    named = [path for path in folder.iterdir() if path.name.startswith(prefix) and _NAME.fullmatch(path.name.removeprefix(prefix))]
    return sorted((path for path in named if path.is_dir() and _files_of(path)), key=_step)


def _step(path: Path) -> int:
    return int(path.name.rpartition("_")[2])


def _files_in(folder: Path, prefix: str) -> list[Path]:
    return [file for path in _folders(folder, prefix) for file in _files_of(path)]


def _files_of(path: Path) -> list[Path]:
    """Returns the files of a checkpoint's folder, by their suffixes."""
    return [file for file in path.iterdir() if file.suffix in _SUFFIXES]


def _manifest_digest(path: Path) -> str:
    try:
        return sha256((path / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return ""
