"""Group: the peers and the edges between them; one `forward` gives every learner's loss and every peer's logits.

Shapes: P peers, B images of this process' micro-batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from mutual.group.edges import Edge, EdgeLoss
from mutual.group.exchange import ExchangeHandle, OutputExchange, Placement, is_scoring_rank
from mutual.group.peers import Outputs, Peer
from mutual.recipe import LOGITS, derive_seed, is_ema, peer_of


@dataclass(frozen=True)
class MicroBatchContext:
    """Where a micro-batch stands in a training.

    Attributes:
        count: so many of its images are real, the rest is padding that no loss reads; with 0 the losses are of padding and the caller
            gives them weight 0.
        draw: seed of its random draws; each peer's (dropout) depend on it and on the peer's name alone.
        epoch: how many epochs are done, fractions count; weights may change with it.
        total: so many images the micro-batch has over all processes.
    """

    count: int
    seed: int
    epoch: float = 0.0
    total: int = 0


@dataclass(frozen=True)
class GroupOutput:
    """What one micro-batch gave.

    Attributes:
        losses: for each learner the weighted sum of its edges' losses, a scalar (mean over the real images), with its graph.
        edge_losses: by its index, each asked edge's loss, unweighted and detached.
        logits: for each peer that was run its detached logits `[B, C]`, float32, real images only.
    """

    losses: dict[str, Tensor]
    edge_losses: dict[int, Tensor]
    logits: dict[str, Tensor]

    def detached(self) -> GroupOutput:
        """Returns the same without the graphs."""
        return GroupOutput({name: loss.detach() for name, loss in self.losses.items()}, self.edge_losses, self.logits)


def merge_outputs(outputs: Iterable[GroupOutput]) -> GroupOutput:
    """Returns what several learners' turns at one micro-batch gave together."""
    whole = GroupOutput({}, {}, {})
    for output in outputs:
        whole.losses.update(output.losses)
        whole.edge_losses.update(output.edge_losses)
        whole.logits.update(output.logits)
    return whole


class Group:
    """N peers and the directed edges between them, as one process holds them.

    Attributes:
        peers: the peers that this process holds, by name.
        edges: all edges of the group, in the order in which their losses are numbered.
        lessons: by its edge's number what each local learner learns.
        trainable: the peers that are trained here.
        placement: who holds whom.
        shard: which part of each micro-batch this process computes.
        silent: sources that have nothing to say yet; their edges weigh nothing.
        is_scoring_rank: True where this process counts images and scores peers: those that do see every image once.
        around_run: each peer's forward of an update runs inside what this gives; for a stopwatch.
        around_peer: whatever a peer, by its name, computes is inside what this gives.
    """

    def __init__(
        self,
        peers: Mapping[str, Peer],
        edges: Sequence[Edge],
        local_losses: Mapping[int, EdgeLoss],
        *,
        autocast: Callable[[], AbstractContextManager[object]],
        placement: Placement,
        rank: int,
        loss_exchange: OutputExchange,
        score_exchange: OutputExchange,
    ) -> None:
        self.peers = dict(peers)
        self.edges = tuple(edges)
        self.local_losses = dict(local_losses)
        self.placement = placement
        self.shard = placement.shard(rank)
        self.is_scoring_rank = is_scoring_rank(placement, rank)
        self.unavailable_sources: set[str] = set()
        self.forward_context: Callable[[], AbstractContextManager[object]] = nullcontext
        self.peer_context: Callable[[str], AbstractContextManager[object]] = nullcontext
        self.exchange = loss_exchange
        self._autocast = autocast
        self._view_of = {name: view for view, name in enumerate(self.peers)}
        self._score_exchange = score_exchange
        local = [edge_loss.edge for edge_loss in self.local_losses.values()]
        learning = {edge.learner for edge in local}
        self._features_only = learning - {edge.learner for edge in local if LOGITS in edge.learner_at}
        heard = dict.fromkeys(name for edge in edges for name in edge.required_sources if is_ema(name))
        self._averages = [name for name in heard if peer_of(name) in self.peers]
        self.trainable = [peer for peer in self.peers.values() if peer.name in learning]

    def sources_of(self, learner: str) -> list[str]:
        """Returns the peers and moving averages that `learner` learns from, itself left out."""
        return list(dict.fromkeys(name for edge in self.edges if edge.learner == learner for name in edge.required_sources))

    def train(self) -> None:
        """Puts trainable peers in training mode; frozen ones stay in eval."""
        for peer in self.peers.values():
            peer.train_module.train()

    def eval(self) -> None:
        """Puts every peer in evaluation mode."""
        for peer in self.peers.values():
            peer.train_module.eval()

    def forward(self, images: Tensor, labels: Tensor, context: MicroBatchContext) -> GroupOutput:
        """Runs every peer once on `images` `[B, ...]` (or one view for each peer, `[P, B, ...]`) and then every edge.

        Every process must call it, as outputs travel between them.

        Args:
            images: float images on the peers' device.
            labels: class indices `[B]` (-1: none is known) or probabilities `[B, C]`.
            context: where this micro-batch stands in the training.
        """
        outputs = {name: self.forward_peer(name, images, seed=context.seed) for name in self.peers}
        heard = outputs | {name: self.forward_without_side_effects(name, images, seed=context.seed) for name in self._averages}
        pending = self.exchange.start(heard, size=context.total)
        return self.compute_losses(outputs, heard, labels, context, learners=[peer.name for peer in self.trainable], pending=pending)

    def forward_peer(self, name: str, images: Tensor, *, seed: int) -> Outputs:
        """Returns what the peer says of its view, with the graph if it is trainable."""
        torch.manual_seed(derive_seed(seed, name))
        with self.peer_context(name), self.forward_context(), self._autocast():
            outputs: Outputs = self.peers[name].train_module(self.view(name, images))
        return outputs

    def forward_without_side_effects(self, name: str, images: Tensor, *, seed: int) -> Outputs:
        """Returns what a peer says of its view in training mode, or its moving average in eval mode; without graph or trace."""
        peer, view = self.peers[peer_of(name)], self.view(peer_of(name), images)
        torch.manual_seed(derive_seed(seed, name))
        with self.peer_context(name), self._autocast():
            return peer.forward_ema(view) if is_ema(name) else peer.forward_without_side_effects(view)

    def compute_losses(
        self,
        outputs: Mapping[str, Outputs],
        fixed: Mapping[str, Outputs],
        labels: Tensor,
        context: MicroBatchContext,
        *,
        learners: Iterable[str],
        pending: ExchangeHandle | None = None,
    ) -> GroupOutput:
        """Evaluates the edges of `learners`: each reads its learner in `outputs` and its sources, detached, in `fixed`.

        Edges whose sources are not there yet come last, when what is `pending` has arrived.
        """
        losses: dict[str, Tensor] = {}
        values: dict[int, Tensor] = {}
        wanted = set(learners)
        mine = [(index, edge_loss) for index, edge_loss in self.local_losses.items() if edge_loss.edge.learner in wanted]
        heard = dict(fixed)
        for index, edge_loss in sorted(mine, key=lambda item: not fixed.keys() >= set(item[1].edge.required_sources)):
            learner = edge_loss.edge.learner
            if pending is not None and not heard.keys() >= set(edge_loss.edge.required_sources):
                heard |= pending.wait()
                pending = None
            said = {**heard, learner: outputs[learner]}
            value = edge_loss.value(outputs[learner], said, labels, count=context.count, seed=context.seed, total=context.total)
            weight = 0.0 if self.unavailable_sources.intersection(edge_loss.edge.required_sources) else edge_loss.weight(context.epoch)
            losses[learner] = losses.get(learner, 0) + weight * value
            values[index] = value.detach()
        if pending is not None:
            pending.wait()
        for name in wanted & self._features_only:  # DDP waits for a gradient of every parameter, the classifier's too
            losses[name] = losses[name] + outputs[name][LOGITS].flatten()[:0].sum()  # no value is read: logits may overflow in fp16
        logits = {name: output[LOGITS][: context.count].detach().float() for name, output in outputs.items()}
        return GroupOutput(losses, values, logits)

    @torch.no_grad()
    def predict(self, images: Tensor, *, total: int) -> dict[str, Tensor]:
        """Returns every peer's logits `[B, C]` in float32, by the weights that are scored; call `eval()` before.

        `total` is the number of images of this round over all processes, each of which must call it; where this one does not
        score, what comes back is of its own peers alone.
        """
        said = {}
        for name, peer in self.peers.items():
            with self.peer_context(name), self._autocast():
                said[name] = {LOGITS: peer.predict(images).float()}
        heard = said | self._score_exchange.start(said, size=total).wait()
        return {name: outputs[LOGITS] for name, outputs in heard.items()}

    def view(self, name: str, images: Tensor) -> Tensor:
        """Returns the peer's own view `[B, C, H, W]` of images that may hold one view for each peer of this process."""
        return images[self._view_of[name]] if images.dim() == 5 else images
