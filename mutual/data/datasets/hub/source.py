"""Where the data set of `hfds/NAME_OR_FOLDER` is, and opening it with Hugging Face `datasets`: memory-mapped tables, one for each split.

A data set here is a folder of parquet or arrow files, one such file, or what `save_to_disk` wrote; its README chooses nothing. Other names
are looked for on the hub. From version 4 on `datasets` runs no code of a data set, and we read none but formats of tables.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mutual.data.files.listing import image_files
from mutual.recipe import Data, first_line, format_value

if TYPE_CHECKING:
    from datasets import Dataset

_INSTALL = "needs Hugging Face datasets, version 4 or later: pip install 'mutual[hf]'"
_SUFFIXES = (".parquet", ".arrow")
_SAVED = ("dataset_dict.json", "state.json")
"""Files that `save_to_disk` writes: of several splits, of one."""
_REPOSITORY = re.compile(r"(?P<path>\w[\w.-]*(/\w[\w.-]*)?)(@(?P<revision>[\w./-]+))?(:(?P<name>[\w.-]+))?", re.ASCII)
_SPLITS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation")
_SHARD = re.compile(r"(?:^|-)(\w+(?:\.\w+)*)-\d{5,}-of-\d{5,}")
_FAILURES = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESTALE})
"""Numbers of the OSErrors that neither the data set nor its name is to blame for."""
_MAX_CAUSES = 8


@dataclass(frozen=True)
class Tables:
    """The splits of a data set by their names, and the folder in which their files lie; None on the hub."""

    splits: Mapping[str, Dataset]
    folder: Path | None


def check_hub(data: Data) -> None:
    """Raises a ValueError where `datasets` is not installed, or a folder or file that `data` names is missing."""
    if not _is_installed():
        raise ValueError(f"{data.dataset} {_INSTALL}")
    path = _local_path(data)
    if not path.exists() and _repository(data) is None:
        raise ValueError(f"no folder or file {path}; give {_WANTED}")


_WANTED = "a folder of parquet or arrow files, one such file, what save_to_disk wrote, or a name on the hub, as hfds/owner/name"


def open_tables(data: Data) -> Tables:
    """Returns the splits of the data set that `data` names; what is not memory-mapped yet is converted in the cache of `datasets`.

    Raises:
        ValueError: `datasets` is not installed; or there is no such data set, or it holds no tables; one line says which.
        OSError: the disk or the machine failed.
    """
    check_hub(data)
    path = _local_path(data)
    with _blaming(data.dataset), _progress_on_terminals_only():
        if not path.exists():
            return Tables(_download(data), None)
        if path.is_file():
            if path.suffix not in _SUFFIXES:
                raise _RefusedError(f"{path} is no .parquet or .arrow file; give {_WANTED}")
            return Tables(_convert({"train": [path]}), path.parent)
        if any((path / name).is_file() for name in _SAVED):
            return Tables(_load_saved(path), path)
        return Tables(_convert(_files_of(path)), path)


def _is_installed() -> bool:
    try:
        return int(metadata.version("datasets").partition(".")[0]) >= 4
    except metadata.PackageNotFoundError:  # a folder of the user's may have its name
        return False


class _RefusedError(ValueError):
    """A data set is refused by us, in words that need no others around them."""


def _local_path(data: Data) -> Path:
    return Path(data.root or "") / data.dataset.partition("/")[2]


def _repository(data: Data) -> dict[str, str | None] | None:
    """Returns what `load_dataset` calls the data set on the hub, or None where the name is none of the hub's."""
    name = data.dataset.partition("/")[2]
    found = _REPOSITORY.fullmatch(name)
    return None if found is None or name.endswith(_SUFFIXES) else found.groupdict()


def _download(data: Data) -> dict[str, Dataset]:
    from datasets import load_dataset_builder

    repository = _repository(data)
    assert repository is not None, "check_hub has been passed"
    try:
        builder = load_dataset_builder(**repository)
    except (ValueError, OSError) as error:
        reason = f"{_local_path(data)} is no folder or file here, and cannot be opened on the hub: {_cause(error)}"
        raise _RefusedError(reason) from error
    if builder.name not in ("parquet", "arrow", "cache"):  # a cache is that of an earlier download
        raise _RefusedError(
            f"{data.dataset} is stored as {builder.name} on the hub; its parquet form may be at @refs/convert/parquet, "
            "and what is a folder of images can be downloaded for data.dataset: image_folder"
        )
    for files in (builder.config.data_files or {}).values():
        for file in files:
            if not str(file).startswith("hf://"):
                raise _RefusedError(f"{data.dataset} names files outside the hub, as {format_value(str(file))}; they are not read")
    builder.download_and_prepare()
    return _splits(builder.as_dataset())


def _convert(files: Mapping[str, list[Path]]) -> dict[str, Dataset]:
    """Returns parquet or arrow files as tables, which `datasets` keeps in its cache."""
    from datasets import load_dataset

    absolute = {split: [str(path.absolute()) for path in paths] for split, paths in files.items()}
    for path in (path for paths in absolute.values() for path in paths):
        if "::" in path:
            raise _RefusedError(f"{path}: datasets reads a name with `::` as an address; rename it")
    kind = Path(next(iter(absolute.values()))[0]).suffix.removeprefix(".")
    escaped = {split: list(map(glob.escape, paths)) for split, paths in absolute.items()}
    return _splits(load_dataset(kind, data_files=escaped, keep_in_memory=False))


def _load_saved(folder: Path) -> dict[str, Dataset]:
    from datasets import load_from_disk

    root = os.path.abspath(folder)  # noqa: PTH100, a Path keeps its `..`
    for name in _saved_names(folder):
        if not re.fullmatch(r"\w[\w.-]*", str(name)):
            raise _RefusedError(f"{folder} has a split called {format_value(name)}, which is no name")
    splits = _splits(load_from_disk(root, keep_in_memory=False))
    for file in (file["filename"] for dataset in splits.values() for file in dataset.cache_files):
        if not Path(os.path.normpath(file)).is_relative_to(root):
            raise _RefusedError(f"{folder} names the file {format_value(file)}, which lies elsewhere; it is not read")
    return splits


def _saved_names(folder: Path) -> list[Any]:
    """Returns what the splits are called, and their folders, in what `save_to_disk` wrote of several."""
    file = folder / _SAVED[0]
    return list(json.loads(file.read_text())["splits"]) if file.is_file() else []


def _splits(found: Any) -> dict[str, Dataset]:
    return dict(found) if isinstance(found, dict) else {str(found.split or "train"): found}


def _files_of(folder: Path) -> dict[str, list[Path]]:
    """Returns the parquet or arrow files of a folder by their splits."""
    listed = [path.relative_to(folder) for suffix in _SUFFIXES for path in sorted(folder.rglob(f"*{suffix}"))]
    files = [path for path in listed if not any(part.startswith(".") for part in path.parts)]
    if not files:
        images = "; for a folder of images set data.dataset: image_folder" if image_files(folder) else ""
        raise _RefusedError(f"{folder} holds no .parquet or .arrow file{images or f'; give {_WANTED}'}")
    if len({path.suffix for path in files}) > 1:
        raise _RefusedError(f"{folder} holds both .parquet and .arrow files; name the folder of one kind")
    named = [(_split_of(path), path) for path in files]
    if all(split is None for split, _ in named):
        return {"train": [folder / path for path in files]}
    splits: dict[str, list[Path]] = {}
    for split, path in named:
        if split is None:
            raise _RefusedError(f"{folder / path} belongs to no split, as others in {folder} do; name it after one, as train.parquet")
        twin = next((other for other in splits.get(split, ()) if other.name == path.name), None)
        if twin is not None:
            raise _RefusedError(f"{twin} and {folder / path} are the same part of {split}; name the folder of one configuration")
        splits.setdefault(split, []).append(folder / path)
    return splits


def _split_of(path: Path) -> str | None:
    """Returns the split that a file's name (`train-00000-of-00002.parquet`), or the folder that it is in, names; None where none does."""
    shard = _SHARD.search(path.stem)
    words = [word for part in reversed(path.parts[:-1]) for word in _words(part)]
    if shard and (shard[1] in _SPLITS or not set(words) & set(_SPLITS)):
        return shard[1]
    return next((word for word in [*_words(path.stem), *words] if word in _SPLITS), None)


def _words(name: str) -> list[str]:
    return re.split(r"[^a-z]+", name.lower())


@contextmanager
def _blaming(name: str) -> Iterator[None]:
    """Makes a ValueError of what `datasets` and its parsers of other people's files raise, unless the disk or the machine is to blame."""
    try:
        yield
    except (_RefusedError, MemoryError):
        raise
    except ImportError as error:  # a module of the user's has its name
        raise ValueError(f"{name} {_INSTALL} ({first_line(error)})") from error
    except Exception as error:  # whatever parsers of other people's files run into, the network, and what is wrong with a cache
        failure = next((cause for cause in _causes(error) if isinstance(cause, OSError) and cause.errno in _FAILURES), None)
        if failure is not None:
            raise failure from error
        raise ValueError(f"{name} cannot be opened: {_cause(error)}") from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields the error and those that it came of, the outermost first."""
    cause: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__


def _cause(error: BaseException) -> str:
    """Returns what the innermost of an error's causes says: those outside say only that there was one."""
    *_, cause = _causes(error)
    return first_line(cause)


@contextmanager
def _progress_on_terminals_only() -> Iterator[None]:
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    silenced = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if silenced:
        disable_progress_bars()
    try:
        yield
    finally:
        if silenced:
            enable_progress_bars()
