"""OutputStore: what a frozen peer's outputs are kept in, as the group sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from mutual.group.peers.taps import Outputs


class OutputStore(Protocol):
    """Keeps the outputs of a frozen peer for the views of images, so that each is computed once."""

    def outputs(self, keys_B2: Tensor, compute: Callable[[Tensor | None], Outputs]) -> Outputs:
        """Returns the outputs for B images; the same bit for bit whether they were there or are computed now.

        Args:
            keys_B2: index and view number of each image.
            compute: runs the peer on the rows of these indices, on all if it is None; called where outputs are missing.
        """
        ...
