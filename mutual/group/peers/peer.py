"""Peer: one model of the group, trained or frozen, with the module that is called in training and the one that is scored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mutual.group.communication import Communicator
from mutual.group.peers.ema import MovingAverage
from mutual.group.peers.taps import Outputs, TappedModel
from mutual.recipe import LOGITS


class Frozen(nn.Module):
    """A model that only teaches: eval mode for good, whatever calls `train()`, and no gradient."""

    def __init__(self, tapped: TappedModel) -> None:
        super().__init__()
        self.tapped = tapped.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Frozen:
        """Stays in eval mode: BatchNorm keeps its statistics and dropout draws nothing."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> Outputs:
        """Returns the logits and tapped outputs; no_grad and not inference_mode, whose tensors cannot be saved for backward."""
        outputs: Outputs = self.tapped(images)
        return outputs


class Peer:
    """One model of the group.

    Attributes:
        name: as in the recipe.
        frozen: it only teaches.
        tapped: the model with its taps; what a checkpoint holds.
        comm: the processes that train it together, once it is distributed.
        runner: what is called in training: `tapped` under DDP, or behind `Frozen`.
        average: the moving average of the model's weights, or None.
    """

    def __init__(
        self, name: str, tapped: TappedModel, *, frozen: bool, average: MovingAverage | None = None, score_average: bool = True
    ) -> None:
        self.name = name
        self.frozen = frozen
        self.tapped = tapped
        self.train_module: nn.Module = Frozen(tapped) if frozen else tapped
        self.average = average
        self.comm: Communicator | None = None
        self._scored = average.tapped if average is not None and score_average else tapped

    @property
    def model(self) -> nn.Module:
        """The bare model, as it is being trained."""
        return self.tapped.model

    @property
    def eval_model(self) -> nn.Module:
        """The model whose weights are evaluated, saved and exported: the moving average where there is one, unless it only teaches."""
        return self._scored.model

    @property
    def modules(self) -> list[nn.Module]:
        """The trained module, and the averaged one where there is one."""
        return [self.tapped] if self.average is None else [self.tapped, self.average.tapped]

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that this peer's optimizer trains."""
        return [parameter for parameter in self.tapped.parameters() if parameter.requires_grad]

    def distribute(self, comm: Communicator) -> None:
        """Wraps the trainable peer so that gradients, and SyncBatchNorm's statistics, are averaged over the processes that hold it."""
        self.comm = comm
        for layer in self.tapped.modules():
            if isinstance(layer, nn.SyncBatchNorm):
                layer.process_group = comm.process_group
        self.train_module = comm.wrap_ddp(self.tapped)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Returns the logits `[B, C]` of the scored model, which the caller has put in eval mode."""
        outputs: Outputs = self._scored(images)
        return outputs[LOGITS]

    @torch.no_grad()
    def forward_ema(self, images: Tensor) -> Outputs:
        """Returns what the peer's moving average says, in eval mode."""
        assert self.average is not None, "a recipe whose edges read averages has a decay"
        outputs: Outputs = self.average.tapped(images)
        return outputs

    @torch.no_grad()
    def forward_without_side_effects(self, images: Tensor) -> Outputs:
        """Returns what the peer says in training mode, leaving no trace: no gradient, no BatchNorm statistics."""
        with _statistics_kept(self.tapped):
            outputs: Outputs = self.train_module(images) if self.frozen else self.tapped(images)
        return outputs


def replica_comm(peer: Peer) -> Communicator:
    """Returns the processes that train a trainable peer together."""
    assert peer.comm is not None, "a trainable peer is distributed"
    return peer.comm


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Within it, BatchNorm layers normalise as their mode says but do not update their running statistics."""
    tracking = [layer for layer in module.modules() if isinstance(layer, _NormBase) and layer.training and layer.track_running_stats]
    for layer in tracking:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in tracking:
            layer.track_running_stats = True
