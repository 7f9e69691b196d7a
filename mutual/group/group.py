"""Group: the peers and the edges between them; one `forward` gives every learner's loss and every peer's logits.

Shapes: P peers, B images of this process' micro-batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from mutual.group.edges import Edge, EdgeLoss, MicroBatchContext, Selections
from mutual.group.exchange import ExchangeHandle, OutputExchange, Placement, is_scoring_rank
from mutual.group.peers import Outputs, OutputStore, Peer
from mutual.recipe import LOGITS, derive_seed, is_ema, peer_of


@dataclass(frozen=True)
class GroupOutput:
    """What one micro-batch gave.

    Attributes:
        losses: for each learner the weighted sum of its edges' losses, a scalar (mean over the valid images), with its graph.
        edge_losses: by the edge's index its loss, unweighted and detached.
        logits: for each peer that was run its detached logits `[B, C]`, float32, valid images only.
    """

    losses: dict[str, Tensor]
    edge_losses: dict[int, Tensor]
    logits: dict[str, Tensor]

    def detached(self) -> GroupOutput:
        """Returns the same without the graphs."""
        return GroupOutput({name: loss.detach() for name, loss in self.losses.items()}, self.edge_losses, self.logits)


def merge_outputs(outputs: Iterable[GroupOutput]) -> GroupOutput:
    """Returns the outputs of several learners for one micro-batch as one."""
    merged = GroupOutput({}, {}, {})
    for output in outputs:
        merged.losses.update(output.losses)
        merged.edge_losses.update(output.edge_losses)
        merged.logits.update(output.logits)
    return merged


class Group:
    """The peers that this process holds, and the edges between all peers.

    Args:
        peers: the peers that this process holds, by name.
        edges: all edges of the group.
        local_losses: by the edge's index the losses of the learners that this process holds.
        autocast: gives the context in which peers run.
        placement: which ranks hold which peers.
        rank: this process among them.
        loss_exchange: sends outputs between ranks for the losses.
        score_exchange: sends logits to the ranks that score.

    Attributes:
        peers: the peers that this process holds, by name.
        edges: all edges of the group, in the order in which their losses are numbered.
        local_losses: by the edge's index the losses of the learners that this process holds.
        trainable: the peers that are trained here.
        placement: which ranks hold which peers.
        shard: which shard of each micro-batch this process computes: its index, and the number of shards.
        is_scoring_rank: True where this process counts images and scores peers; those ranks together see every image once.
        exchange: what sends outputs between ranks for the losses.
        unavailable_sources: sources whose outputs mean nothing yet; their edges weigh 0.
        stores: by frozen peer what its outputs are read from, and kept in.
        forward_context: each peer's forward of an update runs inside this context; for timing.
        peer_context: whatever a peer, by its name, computes runs inside this context.

    Example:
        >>> import torch
        >>> from mutual.group import Communicator, MicroBatchContext, build_group
        >>> from mutual.recipe import parse_recipe
        >>> peers = {name: {"model": "small_cnn"} for name in "ab"}
        >>> recipe = parse_recipe({"name": "pair", "peers": peers, "objectives": [{"loss": "cross_entropy"}, {"loss": "dml"}]})
        >>> comm = Communicator(rank=0, size=1, device=torch.device("cpu"))
        >>> group = build_group(recipe, comm, num_classes=10, in_channels=1, image_size=(28, 28))
        >>> images, labels = torch.rand(4, 1, 28, 28), torch.tensor([3, 1, 4, 1])
        >>> output = group.forward(images, labels, MicroBatchContext(num_valid=4, seed=0))
        >>> sorted(output.losses), len(output.edge_losses), output.logits["a"].shape
        (['a', 'b'], 4, torch.Size([4, 10]))
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
        self.stores: dict[str, OutputStore] = {}
        self.forward_context: Callable[[], AbstractContextManager[object]] = nullcontext
        self.peer_context: Callable[[str], AbstractContextManager[object]] = nullcontext
        self.exchange = loss_exchange
        self._score_exchange = score_exchange
        self._autocast = autocast
        self._view_of = {name: view for view, name in enumerate(self.peers)}
        required = dict.fromkeys(name for edge in edges for name in edge.required_sources if is_ema(name))
        self._averages = [name for name in required if peer_of(name) in self.peers]
        local = [edge_loss.edge for edge_loss in self.local_losses.values()]
        learning = {edge.learner for edge in local}
        self.trainable = [peer for peer in self.peers.values() if peer.name in learning]
        self._features_only = learning - {edge.learner for edge in local if LOGITS in edge.learner_at}
        sources_here = {*self.peers, *self._averages}
        self._locally_sourced = [index for index, each in self.local_losses.items() if sources_here.issuperset(each.edge.required_sources)]
        self._remotely_sourced = [index for index in self.local_losses if index not in self._locally_sourced]

    def sources_of(self, learner: str) -> list[str]:
        """Returns the peers and moving averages that `learner` learns from, itself left out."""
        return list(dict.fromkeys(name for edge in self.edges if edge.learner == learner for name in edge.required_sources))

    def train(self) -> None:
        """Puts trainable peers in training mode; frozen ones stay in eval mode."""
        for peer in self.peers.values():
            peer.train_module.train()

    def eval(self) -> None:
        """Puts every peer in evaluation mode."""
        for peer in self.peers.values():
            peer.train_module.eval()

    def forward(self, images: Tensor, labels: Tensor, context: MicroBatchContext) -> GroupOutput:
        """Runs every peer once and computes the losses of all edges.

        Collective: all ranks must call it, as outputs travel between them.

        Args:
            images: float images `[B, ...]` on the peers' device, or one view for each peer of this process, `[P, B, ...]`.
            labels: class indices `[B]` (-1: no label) or probabilities `[B, C]`.
            context: what else is known of the micro-batch.
        """
        outputs = {name: self._forward_or_read(name, images, context) for name in self.peers}
        averages = {name: self.forward_without_side_effects(name, images, seed=context.seed) for name in self._averages}
        source_outputs = outputs | averages
        handle = self.exchange.start(source_outputs, size=context.global_batch_size)
        learners = [peer.name for peer in self.trainable]
        return self.compute_losses(outputs, source_outputs, labels, context, learners=learners, handle=handle)

    def _forward_or_read(self, name: str, images: Tensor, context: MicroBatchContext) -> Outputs:
        return self.read_or_compute(name, images, context) if name in self.stores else self.forward_peer(name, images, seed=context.seed)

    def read_or_compute(self, name: str, images: Tensor, context: MicroBatchContext) -> Outputs:
        """Returns the outputs of a frozen peer that has a store; those that are not there are computed and kept."""
        assert context.keys_B2 is not None, "a store knows images by their keys"

        def compute(rows: Tensor | None) -> Outputs:
            return self.forward_peer(name, images, seed=context.seed, rows=rows)

        return self.stores[name].outputs(context.keys_B2, compute)

    def forward_peer(self, name: str, images: Tensor, *, seed: int, rows: Tensor | None = None) -> Outputs:
        """Returns the peer's outputs for its view of `images`, or of some rows, with their graph if the peer is trainable."""
        view = self.view(name, images)
        torch.manual_seed(derive_seed(seed, name))
        with self.peer_context(name), self.forward_context(), self._autocast():
            outputs: Outputs = self.peers[name].train_module(view if rows is None else view[rows])
        return outputs

    def forward_without_side_effects(self, name: str, images: Tensor, *, seed: int) -> Outputs:
        """Returns the outputs of a peer in training mode, or of its moving average in eval mode; no graph, no BatchNorm statistics."""
        peer, view = self.peers[peer_of(name)], self.view(peer_of(name), images)
        torch.manual_seed(derive_seed(seed, name))
        with self.peer_context(name), self._autocast():
            return peer.forward_ema(view) if is_ema(name) else peer.forward_without_side_effects(view)

    def forward_source(self, name: str, images: Tensor, context: MicroBatchContext) -> Outputs:
        """Returns the outputs of a peer or a moving average that only teaches now, from its store where it has one."""
        if name in self.stores:
            return self.read_or_compute(name, images, context)
        return self.forward_without_side_effects(name, images, seed=context.seed)

    def compute_losses(
        self,
        outputs: Mapping[str, Outputs],
        source_outputs: Mapping[str, Outputs],
        labels: Tensor,
        context: MicroBatchContext,
        *,
        learners: Iterable[str],
        handle: ExchangeHandle | None = None,
    ) -> GroupOutput:
        """Computes the losses of all edges of `learners` from their outputs and the detached source outputs.

        Edges whose sources are still in flight are evaluated last.

        Args:
            outputs: outputs of the learners, with their graph.
            source_outputs: outputs of the sources; a learner's own replace them where it is its own source.
            labels: as in `forward`.
            context: as in `forward`.
            learners: the peers whose losses are wanted.
            handle: the exchange that brings the other sources' outputs.
        """
        wanted = set(learners)
        selections = Selections(labels[: max(context.num_valid, 1)])
        losses: dict[str, Tensor] = {}
        edge_losses: dict[int, Tensor] = {}
        for index, sources in self._in_order(wanted, source_outputs, handle):
            edge_loss = self.local_losses[index]
            learner = edge_loss.edge.learner
            loss = edge_loss.forward(outputs[learner], {**sources, learner: outputs[learner]}, selections, context)
            is_unavailable = not self.unavailable_sources.isdisjoint(edge_loss.edge.required_sources)
            losses[learner] = losses.get(learner, 0) + (0.0 if is_unavailable else edge_loss.weight(context.epoch)) * loss
            edge_losses[index] = loss.detach()
        for name in wanted & self._features_only:  # DDP waits for a gradient of every parameter, the classifier's too
            losses[name] = losses[name] + outputs[name][LOGITS][:0].sum()  # no value is read: logits may overflow in fp16
        logits = {name: output[LOGITS][: context.num_valid].detach().float() for name, output in outputs.items()}
        return GroupOutput(losses, edge_losses, logits)

    def _in_order(
        self, learners: Collection[str], source_outputs: Mapping[str, Outputs], handle: ExchangeHandle | None
    ) -> Iterator[tuple[int, Mapping[str, Outputs]]]:
        """Yields the index of each edge of `learners` with the source outputs; waits for `handle` before edges with sources elsewhere."""
        yield from ((index, source_outputs) for index in self._locally_sourced if self.edges[index].learner in learners)
        if handle is not None:  # waited for in any case: all ranks finish an exchange that they have started
            source_outputs = {**source_outputs, **handle.wait()}
        yield from ((index, source_outputs) for index in self._remotely_sourced if self.edges[index].learner in learners)

    @torch.no_grad()
    def predict(self, images: Tensor, *, global_batch_size: int) -> dict[str, Tensor]:
        """Returns every peer's logits `[B, C]` in float32, by the weights that are evaluated; call `eval()` before.

        Collective: all ranks must call it. Where this process does not score, only its own peers' logits are returned.

        Args:
            images: as in `forward`, one view for all peers.
            global_batch_size: images of this batch over all processes.
        """
        outputs = {}
        for name, peer in self.peers.items():
            with self.peer_context(name), self._autocast():
                outputs[name] = {LOGITS: peer.predict(images).float()}
        everyone = outputs | self._score_exchange.start(outputs, size=global_batch_size).wait()
        return {name: each[LOGITS] for name, each in everyone.items()}

    def view(self, name: str, images: Tensor) -> Tensor:
        """Returns the peer's view `[B, C, H, W]` of `images`, which may hold one view for each peer of this process."""
        return images[self._view_of[name]] if images.dim() == 5 else images
