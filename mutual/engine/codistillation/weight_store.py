"""WeightStore: a folder, or any address that fsspec knows, to which jobs publish their peers' weights."""

from __future__ import annotations

import hashlib
import json
import re

from mutual.engine.storage import UNFINISHED


class WeightStore:
    """Publishes peers' weights atomically, and reads the latest ones.

    Args:
        address: a folder, or any address that fsspec knows.

    Example:
        >>> store = WeightStore("memory://weights")
        >>> store.publish("a", b"weights", step=100)
        >>> digest, content = store.latest("a")
        >>> content
        b'weights'
    """

    def __init__(self, address: str) -> None:
        import fsspec  # few runs publish weights

        self._files, self._root = fsspec.core.url_to_fs(address)

    def publish(self, peer: str, content: bytes, *, step: int) -> None:
        """Writes the weights to a file of their own and then the manifest that points to it; removes older files of this peer."""
        self._files.makedirs(self._root, exist_ok=True)
        digest = hashlib.sha256(content).hexdigest()
        name = f"{peer}-{step:010d}-{digest[:8]}.safetensors"
        kept = (name, self._latest_file(peer))  # a slow reader may still read the one before
        self._write(name, content)
        self._write(f"{peer}.json", json.dumps({"file": name, "sha256": digest, "step": step}).encode())
        pattern = re.compile(rf"({re.escape(UNFINISHED)})?{re.escape(peer)}-\d{{10}}-[0-9a-f]{{8}}\.safetensors")
        for path in self._files.ls(self._root, detail=False, refresh=True):
            file = path.rpartition("/")[2]
            if pattern.fullmatch(file) and file not in kept:
                self._files.rm_file(path)

    def latest(self, peer: str) -> tuple[str, bytes] | None:
        """Returns digest and content of the peer's latest weights, or None if there are none yet.

        Raises:
            ValueError: they are missing, half-written or altered.
        """
        try:
            manifest = json.loads(self._files.cat_file(f"{self._root}/{peer}.json"))
            file, digest = str(manifest["file"]), str(manifest["sha256"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the manifest of peer {peer!r} cannot be read ({type(error).__name__})") from error
        try:
            content: bytes = self._files.cat_file(f"{self._root}/{file}")
        except OSError as error:
            raise ValueError(f"the weights of peer {peer!r} cannot be read ({type(error).__name__})") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"the weights of peer {peer!r} are half-written or altered")
        return digest, content

    def _latest_file(self, peer: str) -> str | None:
        """Returns the file that the peer's manifest points to; it may not have the highest step, as a job may have started over."""
        try:
            manifest = json.loads(self._files.cat_file(f"{self._root}/{peer}.json"))
            return str(manifest["file"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write(self, name: str, content: bytes) -> None:
        temp_path = f"{self._root}/{UNFINISHED}{name}"
        self._files.pipe_file(temp_path, content)
        self._files.mv(temp_path, f"{self._root}/{name}")
