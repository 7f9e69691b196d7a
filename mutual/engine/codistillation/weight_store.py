"""A folder, or any address that fsspec knows, in which jobs publish their peers' weights."""

from __future__ import annotations

import hashlib
import json
import re

from mutual.engine.storage import UNFINISHED


class WeightStore:
    """A folder, or any address that fsspec knows, in which peers' weights are published whole."""

    def __init__(self, address: str) -> None:
        import fsspec  # few runs publish weights

        self._files, self._root = fsspec.core.url_to_fs(address)

    def publish(self, peer: str, content: bytes, *, step: int) -> None:
        """Writes the weights under a name of their own, and only then the note that points to them; older ones go, nothing else does."""
        self._files.makedirs(self._root, exist_ok=True)
        digest = hashlib.sha256(content).hexdigest()
        name = f"{peer}-{step:010d}-{digest[:8]}.safetensors"
        kept = (name, self._noted(peer))  # a slow reader may still be at the one before
        self._write(name, content)
        self._write(f"{peer}.json", json.dumps({"file": name, "sha256": digest, "step": step}).encode())
        ours = re.compile(rf"({re.escape(UNFINISHED)})?{re.escape(peer)}-\d{{10}}-[0-9a-f]{{8}}\.safetensors")
        for old in self._files.ls(self._root, detail=False, refresh=True):
            found = old.rpartition("/")[2]
            if ours.fullmatch(found) and found not in kept:
                self._files.rm_file(old)

    def _noted(self, peer: str) -> str | None:
        """Returns the file that the peer's note points to; not the highest step, as a job may have begun anew."""
        try:
            note = json.loads(self._files.cat_file(f"{self._root}/{peer}.json"))
            return str(note["file"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def latest(self, peer: str) -> tuple[str, bytes] | None:
        """Returns digest and contents of the peer's latest publication, or None where there is none yet.

        Raises:
            ValueError: it is missing, half-written or altered.
        """
        try:
            note = json.loads(self._files.cat_file(f"{self._root}/{peer}.json"))
            file, digest = str(note["file"]), str(note["sha256"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the note of peer {peer!r} cannot be read ({type(error).__name__})") from error
        try:
            content: bytes = self._files.cat_file(f"{self._root}/{file}")
        except OSError as error:
            raise ValueError(f"the weights of peer {peer!r} cannot be read ({type(error).__name__})") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"the weights of peer {peer!r} are half-written or altered")
        return digest, content

    def _write(self, name: str, content: bytes) -> None:
        beside = f"{self._root}/{UNFINISHED}{name}"
        self._files.pipe_file(beside, content)
        self._files.mv(beside, f"{self._root}/{name}")
