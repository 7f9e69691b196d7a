"""Group: the peers and the edges between them; one `forward` gives every learner's loss and every peer's logits.

Shapes: P peers, B images of this process' micro-batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from mutual.group.edges import Edge
from mutual.group.peers import Peer
from mutual.group.taps import Outputs
from mutual.recipe import LOGITS, derive_seed


@dataclass(frozen=True)
class GroupOutput:
    """What one micro-batch gave.

    Attributes:
        losses: for each learner the weighted sum of its edges' losses, a scalar (mean over the real images), with its graph.
        values: by its index, each asked edge's loss, unweighted and detached.
        logits: for each peer that was run its detached logits `[B, C]`, float32, real images only.
    """

    losses: dict[str, Tensor]
    values: dict[int, Tensor]
    logits: dict[str, Tensor]


class Group:
    """N peers and the directed edges between them."""

    def __init__(self, peers: Sequence[Peer], edges: Sequence[Edge], *, autocast: Callable[[], AbstractContextManager[object]]) -> None:
        self.peers = {peer.name: peer for peer in peers}
        self.edges = tuple(edges)
        self._autocast = autocast
        self._view_of = {peer.name: view for view, peer in enumerate(peers)}
        learning = {edge.learner for edge in edges}
        reading_logits = {edge.learner for edge in edges if edge.learner_at == LOGITS}
        self._features_only = learning - reading_logits
        self.trainable = [peer for peer in peers if peer.name in learning]

    def sources_of(self, learner: str) -> list[str]:
        """Returns the names of the peers that `learner` learns from."""
        return list(dict.fromkeys(edge.source for edge in self.edges if edge.learner == learner and edge.source is not None))

    def train(self) -> None:
        """Puts trainable peers in training mode; frozen ones stay in eval."""
        for peer in self.peers.values():
            peer.runner.train()

    def eval(self) -> None:
        """Puts every peer in evaluation mode."""
        for peer in self.peers.values():
            peer.runner.eval()

    def forward(self, images: Tensor, labels: Tensor, *, count: int, draw: int) -> GroupOutput:
        """Runs every peer once on `images` `[B, ...]` (or one view for each peer, `[P, B, ...]`) and then every edge.

        Args:
            images: float images on the peers' device.
            labels: class indices `[B]` or probabilities `[B, C]`.
            count: so many images are real, the rest is padding that no loss reads; with 0 the losses are of padding and
                the caller gives them weight 0.
            draw: seed of this micro-batch's random draws; each peer's (dropout) depend on it and on the peer's name alone.
        """
        outputs = {name: self.run(name, images, draw=draw) for name in self.peers}
        return self.connect(outputs, outputs, labels, count=count, learners=[peer.name for peer in self.trainable])

    def run(self, name: str, images: Tensor, *, draw: int) -> Outputs:
        """Returns what the peer says of its view, with the graph if it is trainable."""
        torch.manual_seed(derive_seed(draw, name))
        with self._autocast():
            outputs: Outputs = self.peers[name].runner(self.view(name, images))
        return outputs

    def observe(self, name: str, images: Tensor, *, draw: int) -> Outputs:
        """Returns what the peer says of its view in training mode, without a graph and leaving its statistics alone."""
        torch.manual_seed(derive_seed(draw, name))
        with self._autocast():
            return self.peers[name].observe(self.view(name, images))

    def connect(
        self, outputs: Mapping[str, Outputs], fixed: Mapping[str, Outputs], labels: Tensor, *, count: int, learners: Iterable[str]
    ) -> GroupOutput:
        """Evaluates the edges of `learners`: each reads its learner in `outputs` and its source, detached, in `fixed`."""
        real = max(count, 1)
        losses: dict[str, Tensor] = {}
        values: dict[int, Tensor] = {}
        wanted = set(learners)
        for index, edge in enumerate(self.edges):
            if edge.learner not in wanted:
                continue
            learner = outputs[edge.learner][edge.learner_at][:real]
            source = None if edge.source is None else fixed[edge.source][edge.source_at][:real].detach()
            value = edge.loss(learner, source, labels[:real])
            losses[edge.learner] = losses.get(edge.learner, 0) + edge.weight * value
            values[index] = value.detach()
        for name in wanted & self._features_only:  # DDP waits for a gradient of every parameter, the classifier's too
            losses[name] = losses[name] + 0 * outputs[name][LOGITS].sum()
        logits = {name: output[LOGITS][:count].detach().float() for name, output in outputs.items()}
        return GroupOutput(losses, values, logits)

    @torch.no_grad()
    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Returns every peer's logits `[B, C]` in float32, by the weights that are scored; call `eval()` before."""
        with self._autocast():
            return {name: peer.predict(images).float() for name, peer in self.peers.items()}

    def view(self, name: str, images: Tensor) -> Tensor:
        """Returns the peer's own view `[B, C, H, W]` of images that may hold one view for each peer."""
        return images[self._view_of[name]] if images.dim() == 5 else images
