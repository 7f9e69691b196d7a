"""FrozenForwards: the outputs of frozen peers, each computed once for each image, of several micro-batches at once, or read from a store.

A split peer is held by several ranks that hold the same images: each computes its part of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from mutual.group.edges import MicroBatchContext
from mutual.group.exchange import OutputExchange
from mutual.group.peers import Outputs, OutputStore, Peer

FORWARD_BATCH = 256
"""Most images of a frozen peer's forward, if its recipe gives no `forward_batch`; a micro-batch of more images is one forward."""

MicroBatches = Sequence[tuple[Tensor, MicroBatchContext]]
"""Images as in `Group.forward`, with their contexts."""


class Forward(Protocol):
    """Runs a peer, by its name, on what it reads."""

    def __call__(self, name: str, view: Tensor, /, *, seed: int) -> Outputs:
        """Returns the peer's outputs."""


class FrozenForwards:
    """Computes or reads the outputs of the frozen peers of this process. No collective: outputs travel later.

    Args:
        peers: the frozen peers that this process holds.
        split_peers: names of those of which this rank computes a part of its images.
        view: returns what a peer, by its name, reads of images.
        forward: runs a peer on that.
        exchange: it knows which images of a split peer this rank computes.

    Attributes:
        chunk_size: images whose outputs are computed at once; 0 where no peer is frozen.
        stores: by peer what its outputs are read from, and kept in.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        split_peers: Sequence[str],
        *,
        view: Callable[[str, Tensor], Tensor],
        forward: Forward,
        exchange: OutputExchange,
    ) -> None:
        self.chunk_size = max((peer.settings.forward_batch or FORWARD_BATCH for peer in peers), default=0)
        self.stores: dict[str, OutputStore] = {}
        self._peers = peers
        self._split_peers = split_peers
        self._view = view
        self._forward = forward
        self._exchange = exchange

    def outputs(self, micro_batches: MicroBatches) -> list[dict[str, Outputs]]:
        """Returns for each micro-batch the outputs of the frozen peers, computed for all of these micro-batches at once.

        Of a split peer these are the outputs of this rank's part of the images; none where it has no part.
        """
        outputs: list[dict[str, Outputs]] = [{} for _ in micro_batches]
        for peer in self._peers:
            find = self.read_or_compute if peer.name in self.stores else self._compute
            for index, each in find(peer, micro_batches).items():
                outputs[index][peer.name] = each
        return outputs

    def read_or_compute(self, peer: Peer, micro_batches: MicroBatches) -> dict[int, Outputs]:
        """Returns by the micro-batch's index the outputs of a peer with a store; those that are not there are computed and kept."""
        found = {}
        for index, (images, context) in enumerate(micro_batches):
            assert context.keys_B2 is not None, "a store knows images by their keys"
            keys_B2 = self._own_rows(peer.name, context.keys_B2, context)
            if len(keys_B2):
                found[index] = self.stores[peer.name].outputs(keys_B2, partial(self._compute_rows, peer, images, context))
        return found

    def _compute(self, peer: Peer, micro_batches: MicroBatches) -> dict[int, Outputs]:
        """Returns by the micro-batch's index the outputs of a peer, computed for all of these micro-batches at once."""
        views = [self._own_rows(peer.name, self._view(peer.name, images), context) for images, context in micro_batches]
        sizes = [len(view) for view in views]
        if not any(sizes):
            return {}
        found = self._forward_in_batches(peer, torch.cat(views) if len(views) > 1 else views[0], max(sizes), micro_batches[0][1].seed)
        rows_of_path = {path: output.split(sizes) for path, output in found.items()}
        return {index: {path: rows[index] for path, rows in rows_of_path.items()} for index, size in enumerate(sizes) if size}

    def _compute_rows(self, peer: Peer, images: Tensor, context: MicroBatchContext, rows: Tensor | None) -> Outputs:
        """Returns a peer's outputs for some of the rows that this rank computes, or for all of them."""
        view = self._own_rows(peer.name, self._view(peer.name, images), context)
        view = view if rows is None else view[rows]
        return self._forward_in_batches(peer, view, len(view), context.seed)

    def _own_rows(self, name: str, values: Tensor, context: MicroBatchContext) -> Tensor:
        """Returns those of `values`, one for each image, that this rank computes a peer for: all, or of a split peer its part."""
        if name not in self._split_peers:
            return values
        assert context.global_batch_size, "which rank computes what depends on the number of images"
        ranges = self._exchange.computed_rows(name, context.global_batch_size)
        return torch.cat([values[:0], *(values[rows] for rows in ranges)])

    def _forward_in_batches(self, peer: Peer, view: Tensor, micro_batch_size: int, seed: int) -> Outputs:
        size = peer.settings.forward_batch or max(FORWARD_BATCH, micro_batch_size)
        each = [self._forward(peer.name, part, seed=seed) for part in view.split(size)]
        return each[0] if len(each) == 1 else {path: torch.cat([outputs[path] for outputs in each]) for path in each[0]}
