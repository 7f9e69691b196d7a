"""PeerInput: from the pixels of a micro-batch to what a peer reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mutual.models import ModelInput


@dataclass(frozen=True)
class PeerInput:
    """Called on pixels `[B, C, H, W]`, it returns what a peer reads of them; peers with equal inputs can share it.

    Attributes:
        model_input: what the peer's model was made for.
        is_identity: images are given as the model reads them already.
        channels_last: the memory format.
    """

    model_input: ModelInput
    is_identity: bool = False
    channels_last: bool = False

    def __call__(self, pixels: Tensor) -> Tensor:
        """Returns float images `[B, C, H, W]` of the peer's own size and channels."""
        images = pixels if self.is_identity else self.model_input(pixels)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images


class SharedInputs:
    """What peers read of pixels, made once for all peers with equal inputs.

    Only within a `kept` context is anything kept: the pixels that were asked for, and what was made of them, until they are dropped.
    """

    def __init__(self) -> None:
        self._num_contexts = 0
        self._entries: dict[int, _Entry] = {}

    @property
    def num_kept(self) -> int:
        """Number of pixel tensors of which something is kept."""
        return len(self._entries)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Context in which what was made of any pixels is kept; at the end of the outermost one all of it is dropped."""
        self._num_contexts += 1
        try:
            yield
        finally:
            self._num_contexts -= 1
            if self._num_contexts == 0:
                self._entries.clear()

    def drop(self, pixels: Tensor) -> None:
        """Drops what was made of `pixels`."""
        self._entries.pop(id(pixels), None)

    def get(self, peer_input: PeerInput, pixels: Tensor, view: int | None) -> Tensor:
        """Returns what a peer with this input reads of `pixels`, or of a view of them."""
        if self._num_contexts == 0:
            return _convert(peer_input, pixels, view)
        entry = self._entries.get(id(pixels))
        if entry is None or entry.version != pixels._version:
            entry = self._entries[id(pixels)] = _Entry(pixels, pixels._version)
        key = peer_input, view
        if key not in entry.made:
            entry.made[key] = _convert(peer_input, pixels, view)
        return entry.made[key]


@dataclass
class _Entry:
    """What was made of some pixels. It holds them, so that no other tensor has their id.

    Attributes:
        pixels: the pixels.
        version: theirs, which changes when they are written to.
        made: what was made of them, by the input and the view.
    """

    pixels: Tensor
    version: int
    made: dict[tuple[PeerInput, int | None], Tensor] = field(default_factory=dict)


def _convert(peer_input: PeerInput, pixels: Tensor, view: int | None) -> Tensor:
    return peer_input(pixels if view is None else pixels[view])
