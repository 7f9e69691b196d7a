"""Group: the peers and the edges between them; one `forward` gives every learner's loss and every peer's logits.

Shapes: P peers, B images of this process' micro-batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from mutual.group.edge_evaluation import EdgeEvaluation
from mutual.group.edges import Edge, EdgeLoss, KnownClasses, MicroBatchContext, OutputKey
from mutual.group.exchange import ExchangeHandle, OutputExchange, Placement, is_scoring_rank
from mutual.group.frozen_forwards import FrozenForwards
from mutual.group.outputs import GroupOutput
from mutual.group.peers import Autocast, Outputs, Peer, SharedInputs, seed_generators
from mutual.models import ClassMap, ModelInput
from mutual.recipe import EMBEDDING, LOGITS, derive_seed, is_ema, peer_of


class Group:
    """The peers that this process holds, and the edges between all peers.

    Args:
        peers: the peers that this process holds, by name.
        edges: all edges of the group.
        local_losses: by the edge's index the losses of the learners that this process holds.
        inputs: what every peer, of all ranks, reads.
        classes: the peers, of all ranks, whose outputs are not simply the data's classes in their order, with what these stand for.
        autocast: gives the context in which peers run, or in another precision if one is given.
        placement: which ranks hold which peers.
        rank: this process among them.
        loss_exchange: sends outputs between ranks for the losses. Of frozen peers that its plan splits, this rank computes a part of its
            images, and gets the others' outputs for the rest.
        score_exchange: returns what sends the logits of some peers to the ranks that score.

    Attributes:
        peers: the peers that this process holds, by name.
        edges: all edges of the group, in the order in which their losses are numbered.
        local_losses: by the edge's index the losses of the learners that this process holds.
        inputs: what every peer, of all ranks, reads.
        classes: as above.
        known_classes: the peers, of all ranks, that know a part of the data's classes, with these.
        trainable: the peers that are trained here.
        placement: which ranks hold which peers.
        shard: which shard of each micro-batch this process computes: its index, and the number of shards.
        is_scoring_rank: True where this process counts images and scores peers; those ranks together see every image once.
        exchange: what sends outputs between ranks for the losses.
        unavailable_sources: sources whose outputs mean nothing yet; their edges weigh 0.
        frozen_forwards: computes the outputs of the frozen peers, or reads them from their stores.
        shared_inputs: what peers read of pixels, kept for other peers within `forward`, `predict` and `embed`, or for as long as the
            caller says.
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
        inputs: Mapping[str, ModelInput],
        classes: Mapping[str, ClassMap],
        autocast: Autocast,
        placement: Placement,
        rank: int,
        loss_exchange: OutputExchange,
        score_exchange: Callable[[tuple[str, ...]], OutputExchange],
    ) -> None:
        self.peers = dict(peers)
        self.edges = tuple(edges)
        self.local_losses = dict(local_losses)
        self.inputs = dict(inputs)
        self.classes = dict(classes)
        self.known_classes: KnownClasses = {name: each.known for name, each in classes.items() if each.known is not None}
        self.placement = placement
        self.shard = placement.shard(rank)
        self._rank = rank
        self.is_scoring_rank = is_scoring_rank(placement, rank)
        self.unavailable_sources: set[str] = set()
        self.forward_context: Callable[[], AbstractContextManager[object]] = nullcontext
        self.peer_context: Callable[[str], AbstractContextManager[object]] = nullcontext
        self.exchange = loss_exchange
        self._score_exchange = score_exchange
        self._autocast = autocast
        self.shared_inputs = SharedInputs()
        self._view_of = {name: view for view, name in enumerate(self.peers)}
        required = dict.fromkeys(name for edge in edges for name in edge.required_sources if is_ema(name))
        self._averages = [name for name in required if peer_of(name) in self.peers]
        read = {key for edge in edges for key in edge.required_outputs if key.peer != edge.learner}
        self._source_paths = {name: {key.path for key in read if key.peer == name} for name in self.peers}
        local = [edge_loss.edge for edge_loss in self.local_losses.values()]
        learning = {edge.learner for edge in local}
        self.trainable = [peer for peer in self.peers.values() if peer.name in learning]
        self._features_only = learning - {edge.learner for edge in local if LOGITS in edge.learner_at}
        self._embeds = [
            name for name, peer in self.peers.items() if peer.tapped.output == EMBEDDING and rank in placement.sender_ranks[name]
        ]
        self._split_peers = tuple(name for name in loss_exchange.transfer_plan.split_peers if name in self.peers)
        frozen = [peer for peer in self.peers.values() if peer.frozen]
        self.frozen_forwards = FrozenForwards(frozen, self._split_peers, view=self.view, forward=self._forward_view, exchange=loss_exchange)
        self._sources_here = frozenset({*self.peers, *self._averages}.difference(self._split_peers))
        self._evaluations: dict[frozenset[str], EdgeEvaluation] = {}

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

    def forward(
        self, images: Tensor, labels: Tensor, context: MicroBatchContext, frozen_outputs: Mapping[str, Outputs] | None = None
    ) -> GroupOutput:
        """Runs every peer once and computes the losses of all edges.

        Collective: all ranks must call it, as outputs travel between them.

        Args:
            images: pixels `[B, C, H, W]` on the peers' device (uint8, or floats in 0 .. 255), or one view of them for each peer of this
                process, `[P, B, C, H, W]`.
            labels: class indices `[B]` (-1: no label) or probabilities `[B, C]`.
            context: what else is known of the micro-batch.
            frozen_outputs: as `frozen_forwards` gives them; by default they are computed here.
        """
        learners = [peer.name for peer in self.trainable]
        with self.shared_inputs.kept():
            fixed_outputs, frozen = self._fixed_outputs(images, context, frozen_outputs)
            outputs = {name: self.forward_peer(name, images, seed=context.seed) for name in learners}
        source_outputs = {**outputs, **fixed_outputs}
        handle = self.exchange.start(source_outputs, size=context.global_batch_size)
        return self.compute_losses({**outputs, **frozen}, source_outputs, labels, context, learners=learners, handle=handle)

    def forward_per_peer(
        self, images: Tensor, labels: Tensor, context: MicroBatchContext, frozen_outputs: Mapping[str, Outputs] | None = None
    ) -> Iterator[GroupOutput]:
        """Yields the outputs of one learner after another, which together are what `forward` returns.

        One learner's graph is alive at a time, if its backward has run when the next is asked for. What the others say that is read is
        computed before, without a graph: these learners run twice.

        Collective: all ranks must call it and take all that it yields. The arguments are those of `forward`.
        """
        learners = [peer.name for peer in self.trainable]
        if len(learners) < 2:
            yield self.forward(images, labels, context, frozen_outputs)
            return
        first, *others = sorted(learners, key=lambda name: not self._source_paths[name])  # whose graph serves as a source, too
        with self.shared_inputs.kept():
            fixed_outputs, frozen = self._fixed_outputs(images, context, frozen_outputs)
            taught_from = [name for name in others if self._source_paths[name]]
            source_outputs = {
                name: self._source_part(name, self.forward_without_side_effects(name, images, seed=context.seed)) for name in taught_from
            }
            outputs = {first: self.forward_peer(first, images, seed=context.seed)}
            source_outputs |= {first: self._source_part(first, outputs[first]), **fixed_outputs}
            source_outputs |= self.exchange.start(source_outputs, size=context.global_batch_size).wait()
            yield self.compute_losses({**outputs, **frozen}, source_outputs, labels, context, learners=[first])
            del outputs
            for name in others:
                yield self.forward_learner(name, images, source_outputs, labels, context)

    def _fixed_outputs(
        self, images: Tensor, context: MicroBatchContext, frozen_outputs: Mapping[str, Outputs] | None
    ) -> tuple[dict[str, Outputs], dict[str, Outputs]]:
        """Returns the outputs of moving averages and frozen peers, and of these again those that are of all images."""
        if frozen_outputs is None:
            (frozen_outputs,) = self.frozen_forwards.outputs([(images, context)])
        averages = {name: self.forward_without_side_effects(name, images, seed=context.seed) for name in self._averages}
        return {**averages, **frozen_outputs}, {name: each for name, each in frozen_outputs.items() if name not in self._split_peers}

    def _source_part(self, name: str, outputs: Outputs) -> Outputs:
        """Returns what others read of a peer's outputs, detached."""
        return {path: outputs[path].detach() for path in outputs if path in self._source_paths[name]}

    def forward_peer(self, name: str, images: Tensor, *, seed: int) -> Outputs:
        """Returns the peer's outputs for its view of `images`, with their graph if the peer is trainable."""
        return self._forward_view(name, self.view(name, images), seed=seed)

    def forward_learner(
        self, name: str, images: Tensor, source_outputs: Mapping[str, Outputs], labels: Tensor, context: MicroBatchContext
    ) -> GroupOutput:
        """Runs a learner alone and computes its losses from the outputs of its sources."""
        outputs = {name: self.forward_peer(name, images, seed=context.seed)}
        return self.compute_losses(outputs, source_outputs, labels, context, learners=[name])

    def forward_without_side_effects(self, name: str, images: Tensor, *, seed: int) -> Outputs:
        """Returns the outputs of a peer in training mode, or of its moving average in eval mode; no graph, no BatchNorm statistics."""
        peer, view = self.peers[peer_of(name)], self.view(peer_of(name), images)
        seed_generators(derive_seed(seed, name), view.device)
        with self.peer_context(name), self._autocast_of(peer):
            return peer.forward_ema(view) if is_ema(name) else peer.forward_without_side_effects(view)

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

        Edges whose sources are still in flight are evaluated last, and edges of an objective on logits together.

        Args:
            outputs: outputs of the learners, with their graph.
            source_outputs: outputs of the sources; a learner's own replace them where it is its own source.
            labels: as in `forward`.
            context: as in `forward`.
            learners: the peers whose losses are wanted.
            handle: the exchange that brings the other sources' outputs.
        """
        wanted = frozenset(learners)
        losses, edge_losses = self._edges_of(wanted, outputs).forward(
            outputs, source_outputs, labels, context, unavailable=self.unavailable_sources, handle=handle
        )
        for name in wanted & self._features_only:  # DDP waits for a gradient of every parameter, the classifier's too
            losses[name] = losses[name] + outputs[name][LOGITS][:0].sum()  # no value is read: logits may overflow in fp16
        classifiers = {name: output[LOGITS] for name, output in outputs.items() if LOGITS in output}
        logits = {name: output[: context.num_valid].detach().float() for name, output in classifiers.items()}
        return GroupOutput(losses, edge_losses, logits)

    def _edges_of(self, learners: frozenset[str], outputs: Mapping[str, Outputs]) -> EdgeEvaluation:
        """Returns what evaluates the edges of `learners`; made once, as in most updates these are the same."""
        if learners not in self._evaluations:
            edge_losses = {index: each for index, each in self.local_losses.items() if each.edge.learner in learners}
            device = next((output.device for each in outputs.values() for output in each.values()), torch.device("cpu"))  # none: no edge
            self._evaluations[learners] = EdgeEvaluation(edge_losses, sources_here=self._sources_here, device=device)
        return self._evaluations[learners]

    @torch.no_grad()
    def predict(self, images: Tensor, peers: Sequence[str], *, global_batch_size: int) -> dict[str, Tensor]:
        """Returns the logits `[B, C]` of `peers` in float32, by the weights that are evaluated; call `eval()` before.

        Collective: all ranks must call it. Where this process does not score, only logits that it sends are returned.

        Args:
            images: as in `forward`, one view for all peers.
            peers: names of the peers that are run, here or on other ranks.
            global_batch_size: images of this batch over all processes.
        """
        outputs = {}
        with self.shared_inputs.kept():
            for name in self._predicted_here(peers):
                with self.peer_context(name), self._autocast_of(self.peers[name]):
                    outputs[name] = {LOGITS: self.peers[name].predict(self.view(name, images)).float()}
        everyone = outputs | self._score_exchange(tuple(peers)).start(outputs, size=global_batch_size).wait()
        return {name: each[LOGITS] for name, each in everyone.items()}

    def embedding_spec(self, name: str) -> tuple[int, torch.dtype]:
        """Returns the width of the embeddings that `embed` returns of a peer without a head, on whichever ranks it is, and their dtype."""
        (width,), dtype = self.exchange.transfer_plan.specs[OutputKey(name, EMBEDDING)]
        return width, torch.promote_types(dtype, torch.float32)

    @torch.no_grad()
    def embed(self, images: Tensor) -> dict[str, Tensor]:
        """Returns the embeddings `[B, D]`, in float32 at least and not standardised, of the peers without a head whose outputs it sends.

        Over all processes that do, every image is embedded exactly once by each such peer.
        """
        embeddings = {}
        with self.shared_inputs.kept():
            for name in self._embeds:
                with self.peer_context(name), self._autocast_of(self.peers[name]):
                    embedding = self.peers[name].embed(self.view(name, images))
                embeddings[name] = embedding.to(torch.promote_types(embedding.dtype, torch.float32))
        return embeddings

    def view(self, name: str, images: Tensor) -> Tensor:
        """Returns what the peer reads `[B, C, H, W]` of `images`, which may hold one view for each peer of this process."""
        view = self._view_of[name] if images.dim() == 5 else None
        return self.shared_inputs.get(self.peers[name].input, images, view)

    def _forward_view(self, name: str, view: Tensor, *, seed: int) -> Outputs:
        seed_generators(derive_seed(seed, name), view.device)
        peer = self.peers[name]
        with self.peer_context(name), self.forward_context(), self._autocast_of(peer):
            outputs: Outputs = peer.train_module(view)
        return outputs

    def _autocast_of(self, peer: Peer) -> AbstractContextManager[object]:
        precision = peer.settings.precision
        return self._autocast() if precision is None else self._autocast(precision)

    def _predicted_here(self, peers: Sequence[str]) -> Iterator[str]:
        """Yields those of `peers` that this process holds, and whose logits it scores or sends."""
        for name in self.peers:
            if name in peers and (self.is_scoring_rank or self._rank in self.placement.sender_ranks[name]):
                yield name
