"""Peer: one model of the group, trained or frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mutual.group.communication import Communicator
from mutual.group.peers.ema import MovingAverage
from mutual.group.peers.frozen_parts import frozen_buffers
from mutual.group.peers.peer_input import PeerInput
from mutual.group.peers.taps import Outputs, TappedModel
from mutual.group.peers.tensor_slots import TensorSlot, buffer_slots, copies_of, replaced
from mutual.models import ClassMap
from mutual.recipe import LOGITS, Precision


class Frozen(nn.Module):
    """A frozen model: always in eval mode, whatever calls `train()`, and without gradients."""

    def __init__(self, tapped: TappedModel) -> None:
        super().__init__()
        self.tapped = tapped.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Frozen:
        """Keeps the model in eval mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> Outputs:
        """Returns the logits and tapped outputs; no_grad and not inference_mode, whose tensors cannot be saved for backward."""
        outputs: Outputs = self.tapped(images)
        return outputs


Autocast = Callable[..., AbstractContextManager[object]]
"""Called without an argument it gives the context in which peers run, with a precision that of this one."""


@dataclass(frozen=True)
class FrozenSettings:
    """How a frozen peer is run, where that is said of it alone.

    Attributes:
        precision: mixed precision, or `no`; None: the run's.
        forward_batch: most images of a forward; None: the default of `FrozenForwards`.
    """

    precision: Precision | None = None
    forward_batch: int | None = None


class Peer:
    """One model of the group.

    Args:
        name: name in the recipe.
        tapped: the model with its taps.
        frozen: the peer is not trained.
        input: makes of pixels what the model reads.
        classes: which of the model's outputs, and so the logits, stand for which of the data's classes.
        average: moving average of the model's weights.
        evaluate_average: evaluate the moving average in place of the model.
        settings: how it is run, if it is frozen.

    Attributes:
        input: makes of pixels what the model reads.
        classes: as above; the logits `[B, K]` are of those that it knows.
        settings: as above.
        tapped: the model with its taps and adapters; what a checkpoint holds.
        train_module: what is called in training: `tapped`, wrapped in DDP or in `Frozen`.
        average: the moving average, or None.
        comm: the processes that train the peer together; None before `distribute`, and for a frozen peer.
    """

    def __init__(
        self,
        name: str,
        tapped: TappedModel,
        *,
        frozen: bool,
        input: PeerInput,
        classes: ClassMap | None = None,
        average: MovingAverage | None = None,
        evaluate_average: bool = True,
        settings: FrozenSettings | None = None,
    ) -> None:
        self.name = name
        self.settings = settings or FrozenSettings()
        self.frozen = frozen
        self.input = input
        self.classes = classes or ClassMap()
        self.tapped = tapped
        self.train_module: nn.Module = Frozen(tapped) if frozen else tapped
        self.average = average
        self.comm: Communicator | None = None
        self._evaluated = average.tapped if average is not None and evaluate_average else tapped

    @property
    def model(self) -> nn.Module:
        """The trained model without taps."""
        return self.tapped.model

    @property
    def eval_model(self) -> nn.Module:
        """The model that is evaluated, saved and exported: the moving average or, without one, the trained model."""
        return self._evaluated.model

    @property
    def modules(self) -> list[nn.Module]:
        """The trained module, and the averaged one where there is one."""
        return [self.tapped] if self.average is None else [self.tapped, self.average.tapped]

    @cached_property
    def _norms(self) -> list[_NormBase]:
        return [layer for layer in self.tapped.modules() if isinstance(layer, _NormBase)]

    @cached_property
    def _other_buffers(self) -> list[TensorSlot]:
        """The buffers that a forward in training mode may write to besides BatchNorm statistics, as those of spectral norms."""
        return buffer_slots(layer for layer in self.tapped.modules() if not isinstance(layer, _NormBase))

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that this peer's optimizer trains."""
        return [parameter for parameter in self.tapped.parameters() if parameter.requires_grad]

    def average_buffers(self) -> None:
        """Sets floating-point buffers to their mean over the processes that train the peer, those of frozen parts left out. Collective."""
        replica_comm(self).average_buffers(self.modules, leave_out=set().union(*map(frozen_buffers, self.modules)))

    def distribute(self, comm: Communicator) -> None:
        """Averages gradients and SyncBatchNorm statistics over the processes of `comm`, which hold this peer."""
        self.comm = comm
        for layer in self.tapped.modules():
            if isinstance(layer, nn.SyncBatchNorm):
                layer.process_group = comm.process_group
        self.train_module = comm.wrap_ddp(self.tapped)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Returns the logits `[B, C]` of the evaluated model; call `eval()` on the group before."""
        outputs: Outputs = self._evaluated(images)
        return outputs[LOGITS]

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Returns the embedding `[B, D]` of a peer without a head, as its model gives it."""
        return self.tapped.embed(images)

    @torch.no_grad()
    def forward_ema(self, images: Tensor) -> Outputs:
        """Returns the outputs of the moving average, in eval mode."""
        assert self.average is not None, "a recipe whose edges read averages has a decay"
        outputs: Outputs = self.average.tapped(images)
        return outputs

    @torch.no_grad()
    def forward_without_side_effects(self, images: Tensor) -> Outputs:
        """Returns the outputs in the present mode, without gradients and without updating BatchNorm statistics or other buffers."""
        with _frozen_batchnorm_statistics(self._norms), replaced(self._other_buffers, copies_of(self._other_buffers)):
            outputs: Outputs = self.tapped(images)
        return outputs


def replica_comm(peer: Peer) -> Communicator:
    """Returns the processes that train a peer together."""
    assert peer.comm is not None, "a trainable peer is distributed"
    return peer.comm


@contextmanager
def _frozen_batchnorm_statistics(norms: Sequence[_NormBase]) -> Iterator[None]:
    """Context in which those of the layers that are in training mode do not update their running statistics."""
    tracking = [layer for layer in norms if layer.training and layer.track_running_stats]
    for layer in tracking:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in tracking:
            layer.track_running_stats = True
