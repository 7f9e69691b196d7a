"""Losses weighted by attention: over layers (AFD) or over peers (OKDDip).

Shapes: B images, S learner layers, T source layers, K peers, C classes, D width of queries and keys; every loss is `[B]`. The trainable
parts run in the precision that autocast gives, the rest in full precision. Sources arrive detached.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutual.objectives.adapters import SafeBatchNorm1d
from mutual.objectives.precision import in_full_precision
from mutual.objectives.products import average_to_size, einsum
from mutual.objectives.shapes import Shape, feature_maps, size_of, to_vector, vector_width
from mutual.objectives.spec import LossSpec, SourcePayload


class _LinearNorm(nn.Module):
    """A linear layer and a BatchNorm."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_in, num_out)
        self.bn = SafeBatchNorm1d(num_out)

    def forward(self, rows: Tensor) -> Tensor:
        return self.bn(self.linear(rows))


class AttentionFeatureLoss(nn.Module):
    """AFD (Ji et al., AAAI 2021): every layer of the source taught to every layer of the learner, weighted by attention.

    The attention of a source's layer (query, of its channels' means) over the learner's layers (keys) weighs the mean squared
    difference of their normalised energy maps, the mean of squares over the channels; the learner's are averaged to the source's
    size. The sum over the source's layers.
    """

    def __init__(self, learner_shape: list[Shape], source_shape: list[Shape], *, qk_dim: int = 128) -> None:
        super().__init__()
        feature_maps(*learner_shape, *source_shape)
        self.width = qk_dim
        self.query = nn.ModuleList(_LinearNorm(shape[0], qk_dim) for shape in source_shape)
        self.key = nn.ModuleList(_LinearNorm(shape[0], qk_dim) for shape in learner_shape)
        self.bilinear = _LinearNorm(qk_dim, qk_dim * len(source_shape))
        self.place_T = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(source_shape), qk_dim)))
        self.place_S = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(learner_shape), qk_dim)))

    def forward(self, learner: list[Tensor], source: list[Tensor]) -> Tensor:
        """Returns the loss of the learner's layers against the source's, each `[B, C, H, W]`."""
        return _attended_differences(learner, source, self._attention(learner, source))

    def _attention(self, learner: list[Tensor], source: list[Tensor]) -> Tensor:
        query_BTD = torch.stack([layer(maps.mean(dim=(2, 3))) for layer, maps in zip(self.query, source, strict=True)], dim=1)
        keys = [layer(maps.mean(dim=(2, 3))).relu() for layer, maps in zip(self.key, learner, strict=True)]
        key_ND = torch.stack(keys, dim=1).flatten(0, 1)
        key_BSTD = self.bilinear(key_ND).view(-1, len(learner), len(source), self.width)
        logits_BTS = in_full_precision(einsum)("bstd,btd->bts", key_BSTD, query_BTD) + self.place_T @ self.place_S.T
        return torch.softmax(logits_BTS / self.width**0.5, dim=2)


@in_full_precision
def _attended_differences(learner: list[Tensor], source: list[Tensor], attention_BTS: Tensor) -> Tensor:
    energies = [maps.pow(2).mean(dim=1) for maps in learner]
    by_size: dict[tuple[int, int], Tensor] = {}
    total_B = attention_BTS.new_zeros(len(attention_BTS))
    for layer, maps in enumerate(source):
        size = size_of(maps)
        if size not in by_size:
            by_size[size] = torch.stack([_unit(average_to_size(energy, size)) for energy in energies], dim=1)
        target_BN = _unit(maps.pow(2).mean(dim=1))
        difference_BS = (by_size[size] - target_BN[:, None]).pow(2).mean(dim=2)
        total_B = total_B + (difference_BS * attention_BTS[:, layer]).sum(dim=1)
    return total_B


class DiversePeersLoss(nn.Module):
    """OKDDip's first level (arXiv:1912.00350, section 3): T^2 KL(mixture || learner), the mixture of all peers' predictions by attention.

    The query is a projection of the learner's embedding, the keys are projections of those of the other peers (with `own` the learner's,
    too); the softmax of their products weighs the predictions. The gradient trains the projections and, through its prediction, the
    learner; embeddings are detached.
    """

    def __init__(
        self, learner_shape: list[Shape], source_shape: list[Shape], *, dim: int = 64, temperature: float = 3.0, own: bool = False
    ) -> None:
        super().__init__()
        embeddings = [*learner_shape[1:] * own, *source_shape[1::2]]
        self.temperature = temperature
        self.own = own
        self.query = nn.Linear(vector_width(learner_shape[1]), dim, bias=False)
        self.key = nn.ModuleList(nn.Linear(vector_width(shape), dim, bias=False) for shape in embeddings)
        self.register_load_state_dict_pre_hook(_rename_state)  # type: ignore[no-untyped-call]

    def forward(self, learner: list[Tensor], source: list[Tensor]) -> Tensor:
        """Returns the loss; `learner` is [logits, embedding], `source` the same of every source in turn."""
        detached = [output.detach() for output in learner]
        peers = detached * self.own + source
        logits, embeddings = peers[::2], [to_vector(output) for output in peers[1::2]]
        query_BD = self.query(to_vector(detached[1]))
        key_BKD = torch.stack([layer(embedding) for layer, embedding in zip(self.key, embeddings, strict=True)], dim=1)
        return _kl_from_mixture(learner[0], logits, query_BD, key_BKD, self.temperature)


@in_full_precision
def _kl_from_mixture(learner_BC: Tensor, logits: list[Tensor], query_BD: Tensor, key_BKD: Tensor, temperature: float) -> Tensor:
    weight_BK = torch.softmax(einsum("bd,bkd->bk", query_BD, key_BKD), dim=1)
    prediction_BKC = torch.stack([F.softmax(each / temperature, dim=1) for each in logits], dim=1)
    mixture_BC = (weight_BK[:, :, None] * prediction_BKC).sum(dim=1)
    learner_log = F.log_softmax(learner_BC / temperature, dim=1)
    return F.kl_div(learner_log, mixture_BC, reduction="none").sum(dim=1) * temperature**2


def _rename_state(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Lets checkpoints be read that have OKDDip's projections under their former names."""
    for old, new in (("ask.", "query."), ("answer.", "key.")):
        for name in [name for name in state if name.startswith(prefix + old)]:
            state[prefix + new + name.removeprefix(prefix + old)] = state.pop(name)


def _unit(energy_BHW: Tensor) -> Tensor:
    return F.normalize(energy_BHW.flatten(1), dim=1)


LOSSES = {
    "afd": LossSpec(AttentionFeatureLoss, multi_output=True),
    "okddip": LossSpec(DiversePeersLoss, multi_output=True, multi_source=True, payload=SourcePayload.VECTOR),
}
