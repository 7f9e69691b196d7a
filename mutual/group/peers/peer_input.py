"""PeerInput: from the pixels of a micro-batch to what a peer reads."""

from __future__ import annotations

from dataclasses import dataclass

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
    """What peers read of the last pixels; peers with equal inputs read one tensor."""

    def __init__(self) -> None:
        self._pixels: tuple[Tensor, int] | None = None
        self._made: dict[tuple[PeerInput, int | None], Tensor] = {}

    def get(self, peer_input: PeerInput, pixels: Tensor, view: int | None) -> Tensor:
        """Returns what a peer with this input reads of `pixels`, or of a view of them."""
        if self._pixels is None or self._pixels[0] is not pixels or self._pixels[1] != pixels._version:
            self._pixels, self._made = (pixels, pixels._version), {}
        key = peer_input, view
        if key not in self._made:
            self._made[key] = peer_input(pixels if view is None else pixels[view])
        return self._made[key]
