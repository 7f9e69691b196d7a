"""PlainLoops, JointStep: updates of a recipe's peers as one would write them by hand, the floors of `mutual.bench --floor`.

Both have models, optimizers (groups, foreach, fused), memory format, compilation, precision, clipping and micro-batches as the recipe says.
The learning rate is the recipe's highest: schedules of rates and weights are left out, and so are meters and moving averages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutual.data import DataInfo, Window, mixed
from mutual.engine.runtime import Environment
from mutual.engine.training import Training, clip_parameter_norms, make_optimizer
from mutual.group import DataSpec, Edge, Peer, PeerInput, create_peer_model
from mutual.models import ModelInput
from mutual.recipe import LOGITS, Recipe

_PlainLoss = Callable[..., Tensor]
_View = tuple[PeerInput, int | None]


@dataclass(frozen=True)
class PlainPeer:
    """A peer as a plain script has it.

    Attributes:
        name: in the recipe.
        model: the bare model with the weights that the peer has now.
        optimizer: with these parameters' groups; None if the peer is frozen.
        scaler: its fp16 loss scaler, the identity in other precisions.
        autocast: the context of its forward.
        view: what it reads of the pixels: how it converts them, and which of several views.
        max_norm: its gradient is clipped to; None: not at all.
        max_parameter_norm: each parameter's gradient is clipped to; None: not at all.
        has_scores: its outputs are the data's classes in their order.
    """

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    scaler: torch.amp.GradScaler
    autocast: Callable[[], AbstractContextManager[object]]
    view: _View
    max_norm: float | None
    max_parameter_norm: float | None
    has_scores: bool

    def forward(self, images: Tensor) -> Tensor:
        """Returns the output in float32 at least; of a frozen peer without a graph."""
        with self.autocast(), torch.set_grad_enabled(self.optimizer is not None):
            output: Tensor = self.model(images)
        return output.to(torch.promote_types(output.dtype, torch.float32))

    def step(self) -> None:
        """Steps, and clears the gradients."""
        if self.optimizer is None:
            return
        if self.max_norm is not None or self.max_parameter_norm is not None:
            self.scaler.unscale_(self.optimizer)
            parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
            if self.max_norm is not None:
                nn.utils.clip_grad_norm_(parameters, self.max_norm)
            if self.max_parameter_norm is not None:
                clip_parameter_norms(parameters, self.max_parameter_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)


class PlainLoops:
    """Each trainable peer alone: forward, cross-entropy, backward, step; of frozen peers the forward.

    A peer whose outputs are not the data's classes minimises their mean square.

    Args:
        recipe: what is trained.
        training: built from it; its peers' weights are copied.
        environment: of the run.
    """

    def __init__(self, recipe: Recipe, training: Training, environment: Environment) -> None:
        info = training.data.info
        self._device = environment.comm.device
        self._num_classes = info.num_classes
        self._peers = plain_peers(recipe, training, environment)
        self._ground_truth = _ground_truth(info)

    def __call__(self, window: Window) -> None:
        """Updates every peer."""
        micro_batches = list(_micro_batches(window, self._peers, num_classes=self._num_classes, device=self._device))
        for peer in self._peers:
            for micro_batch in micro_batches:
                output = peer.forward(micro_batch.images[peer.view])[: micro_batch.num_valid]
                if peer.optimizer is not None:
                    loss = self._ground_truth(output, micro_batch.labels) if peer.has_scores else output.square().mean()
                    peer.scaler.scale(loss * micro_batch.fraction).backward()
            peer.step()

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Returns each peer's weights."""
        return {peer.name: peer.model.state_dict() for peer in self._peers}


class JointStep:
    """All peers together: forwards, the recipe's losses edge by edge, one backward over their sum, and each peer's step.

    Args:
        recipe: what is trained; `joint_obstacle` finds nothing in it.
        training: built from it; its peers' weights are copied.
        environment: of the run.
    """

    def __init__(self, recipe: Recipe, training: Training, environment: Environment) -> None:
        self._device = environment.comm.device
        self._num_classes = training.data.info.num_classes
        self._peers = plain_peers(recipe, training, environment)
        self._edges = [_PlainEdge.of(edge) for edge in training.group.edges]

    def __call__(self, window: Window) -> None:
        """Updates every peer."""
        for micro_batch in _micro_batches(window, self._peers, num_classes=self._num_classes, device=self._device):
            logits = {peer.name: peer.forward(micro_batch.images[peer.view])[: micro_batch.num_valid] for peer in self._peers}
            losses: dict[str, Tensor] = {}
            for edge in self._edges:
                second = micro_batch.labels if edge.source is None else logits[edge.source].detach()
                loss = edge.weight * edge.loss(logits[edge.learner], second)
                losses[edge.learner] = losses[edge.learner] + loss if edge.learner in losses else loss
            scaled = [peer.scaler.scale(losses[peer.name] * micro_batch.fraction) for peer in self._peers if peer.name in losses]
            torch.autograd.backward(scaled)
        for peer in self._peers:
            peer.step()

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Returns each peer's weights."""
        return {peer.name: peer.model.state_dict() for peer in self._peers}


def joint_obstacle(recipe: Recipe, training: Training) -> str | None:
    """Returns why `JointStep` cannot express a recipe, or None."""
    group, train = training.group, recipe.train
    for key, is_used in {"ema": train.ema, "pause": train.pause, "update": train.update == "alternating"}.items():
        if is_used:
            return f"train.{key}: not written by hand"
    if recipe.data.unlabelled is not None:
        return "data.unlabelled: not written by hand"
    for name in [*group.classes, *recipe.headless]:
        return f"peers.{name}: its outputs are not the data's classes in their order"
    for edge in group.edges:
        obstacle = _edge_obstacle(edge, list(group.peers))
        if obstacle is not None:
            return f"objectives.{edge.objective_index}: {obstacle} is not written by hand"
    return None


def _edge_obstacle(edge: Edge, peers: Sequence[str]) -> str | None:
    if edge.objective.loss not in _PLAIN_LOSSES:
        return edge.objective.loss
    if edge.objective.gate == "correct":
        return "gate: correct"
    if any(path != LOGITS for paths in (edge.learner_at, *edge.source_at) for path in paths):
        return "at: a module"
    return next((f"sources: {source}" for source in edge.sources if source not in peers), None)


def plain_peers(recipe: Recipe, training: Training, environment: Environment) -> list[PlainPeer]:
    """Returns the peers of a training as a plain script has them, with copies of their weights."""
    several = recipe.data.views == "per_peer"
    return [
        _plain_peer(recipe, peer, environment, training.data.info, view=index if several else None)
        for index, peer in enumerate(training.group.peers.values())
    ]


def _plain_peer(recipe: Recipe, peer: Peer, environment: Environment, info: DataInfo, *, view: int | None) -> PlainPeer:
    spec, train = recipe.peers[peer.name], recipe.train
    data_input = ModelInput(info.image_size, info.mean, info.std, channels=info.channels)
    model = create_peer_model(recipe, peer.name, DataSpec(info.num_classes, info.class_names, data_input)).model
    model.load_state_dict(peer.model.state_dict())
    model.to(environment.comm.device)
    if peer.input.channels_last:
        model.to(memory_format=torch.channels_last)
    model.train(not spec.frozen)
    if spec.frozen:
        model.requires_grad_(False)
    if recipe.is_compiled(peer.name):
        model.compile(mode=train.compile_mode, dynamic=False)  # as the peer is
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return PlainPeer(
        peer.name,
        model,
        optimizer=None if spec.frozen else make_optimizer(recipe, peer.name, model, parameters),
        scaler=environment.scaler(),
        autocast=lambda: environment.autocast(spec.precision),
        view=(peer.input, view),
        max_norm=train.clip_grad_norm,
        max_parameter_norm=train.clip_parameter_norm,
        has_scores=spec.head == "classifier" and peer.classes.columns is None and peer.classes.known is None,
    )


@dataclass(frozen=True)
class _PlainMicroBatch:
    """A micro-batch on its device.

    Attributes:
        images: what peers read of it.
        labels: `[B]` or `[B, C]`, of the valid images.
        num_valid: number of these.
        fraction: of the window's images.
    """

    images: Mapping[_View, Tensor]
    labels: Tensor
    num_valid: int
    fraction: float


def _micro_batches(window: Window, peers: Sequence[PlainPeer], *, num_classes: int, device: torch.device) -> Iterator[_PlainMicroBatch]:
    """Yields the micro-batches of a window; what several peers read is made once."""
    views = dict.fromkeys(peer.view for peer in peers)
    for batch in window.batches:
        pixels, labels = mixed(batch.to(device, non_blocking=True), num_classes=num_classes)
        images = {(convert, view): convert(pixels if view is None else pixels[view]) for convert, view in views}
        yield _PlainMicroBatch(images, labels[: batch.num_valid], batch.num_valid, batch.num_valid / window.num_samples)


def _ground_truth(info: DataInfo) -> _PlainLoss:
    """Returns the loss of plain training: cross-entropy, without the images that have no label, or that of several labels an image."""
    return _bce if info.multi_label else lambda logits, labels: F.cross_entropy(logits, labels, ignore_index=-1)


@dataclass(frozen=True)
class _PlainEdge:
    """A learner's loss against the labels, if there is no source, or against a source."""

    learner: str
    source: str | None
    weight: float
    loss: _PlainLoss

    @classmethod
    def of(cls, edge: Edge) -> _PlainEdge:
        """Returns an edge of the recipe as it is written by hand."""
        loss, arguments = _PLAIN_LOSSES[edge.objective.loss], edge.objective.loss_arguments()
        return cls(edge.learner, edge.source, edge.weight, lambda learner, second: loss(learner, second, **arguments))


def _cross_entropy(logits_BC: Tensor, labels: Tensor, *, label_smoothing: float, class_weight: list[float] | None = None) -> Tensor:
    if class_weight is None:
        return F.cross_entropy(logits_BC, labels, label_smoothing=label_smoothing)
    weight = torch.tensor(class_weight, dtype=logits_BC.dtype, device=logits_BC.device)
    return F.cross_entropy(logits_BC, labels, weight, reduction="none", label_smoothing=label_smoothing).mean()


def _bce(logits_BC: Tensor, labels_BC: Tensor, *, class_fraction: list[float] | None = None) -> Tensor:
    weight = None
    if class_fraction is not None:
        fraction = torch.tensor(class_fraction, dtype=logits_BC.dtype, device=logits_BC.device)
        weight = torch.where(labels_BC > 0.5, 1 - fraction, fraction).exp()
    return F.binary_cross_entropy_with_logits(logits_BC, labels_BC.to(logits_BC.dtype), weight)


def _kd(learner_BC: Tensor, source_BC: Tensor, *, temperature: float, standardize: bool, reduction: str) -> Tensor:
    if standardize:
        learner_BC, source_BC = (
            (each - each.mean(dim=1, keepdim=True)) / (each.std(dim=1, keepdim=True, correction=0) + 1e-7)
            for each in (learner_BC, source_BC)
        )
    learner_log, source = F.log_softmax(learner_BC / temperature, dim=1), F.softmax(source_BC / temperature, dim=1)
    divergence = F.kl_div(learner_log, source, reduction="batchmean") * temperature**2
    return divergence if reduction == "batchmean" else divergence / learner_BC.shape[1]


def _soft_label(learner_BC: Tensor, source_BC: Tensor, *, temperature: float) -> Tensor:
    return F.cross_entropy(learner_BC / temperature, F.softmax(source_BC / temperature, dim=1)) * temperature**2


def _dml(learner_BC: Tensor, source_BC: Tensor, *, form: str, temperature: float) -> Tensor:
    learner, source = learner_BC / temperature, source_BC / temperature
    if form == "kl":
        return F.kl_div(F.log_softmax(learner, dim=1), F.softmax(source, dim=1), reduction="batchmean") * temperature**2
    if form.startswith("sigmoid"):
        logs = (learner, source) if form == "sigmoid" else (F.logsigmoid(learner), F.logsigmoid(source))
        return ((learner.sigmoid() - source.sigmoid()) * (logs[0] - logs[1])).sum(dim=1).mean() * (temperature**2 / 2)
    learner_log, source_log = F.log_softmax(learner, dim=1), F.log_softmax(source, dim=1)
    there = F.kl_div(learner_log, source_log, reduction="batchmean", log_target=True)
    back = F.kl_div(source_log, learner_log, reduction="batchmean", log_target=True)
    return (there + back) * (temperature**2 / 2)


_PLAIN_LOSSES: dict[str, _PlainLoss] = {"cross_entropy": _cross_entropy, "bce": _bce, "kd": _kd, "soft_label": _soft_label, "dml": _dml}
