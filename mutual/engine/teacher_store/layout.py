"""RecordLayout: a frozen peer's outputs for one view of one image as a few bytes, and back.

Shapes: B images, C classes, K kept classes, R = C - K others, N bytes of a record.

Of the logits the K largest log-probabilities are kept, with their classes, and the logarithm of the softmax's denominator. When they are
read, the others share evenly what they have together, the distribution of the largest entropy that agrees with what is kept. How much they
have together depends on the temperature T at which a loss softens the logits: a few small probabilities become many of middle size. So
for T = 1, 2, 4, 8 and infinity the record holds the log-probability that each of the others would have to have for their sum at this
temperature to be the true one, `T (logsumexp(others / T) - log R)`, at infinity their mean; between two it is interpolated, linearly in
1/T, and below 1 it is that of 1. The layout is told the temperature of the losses that read the peer.

Softened by that temperature, the probabilities of the K classes are then the true ones, and so is the sum of the others. For a loss whose
gradient is the difference of learner's and source's softened probabilities (kd, soft_label, dml's kl) it is exact for each of the K
classes, and in sum for the others. With K >= C nothing is left out, and all losses read their own.

Numbers are float16, which rounds a log-probability by at most 2^-11 of its size (0.002 at -4, 0.004 at -8), and a vector's values alike;
the denominator is float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from mutual.group import Outputs
from mutual.objectives import to_vector
from mutual.recipe import LOGITS

TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
"""At which the sum of the probabilities that are left out is kept."""
_LOWEST = torch.finfo(torch.float16).min


@dataclass(frozen=True)
class FeatureLayout:
    """How a tapped output is kept, in float16.

    Attributes:
        shape: of what is kept of an image.
        is_mean: of feature maps the mean over the positions is kept, which is all that any loss reads.
    """

    shape: tuple[int, ...]
    is_mean: bool = False


@dataclass(frozen=True)
class RecordLayout:
    """How the outputs for an image become the bytes of a record.

    Attributes:
        num_classes: classes of the logits; 0 for a peer without logits.
        topk: number of classes whose log-probabilities are kept.
        features: by module path how the tapped outputs are kept.
        dtypes: by module path, and `logits`, the dtype in which an output is read.
        temperature: at which losses soften the logits; it changes nothing that is kept.

    Example:
        >>> layout = RecordLayout(4, 2, {}, {"logits": torch.float32})
        >>> record_BN = layout.encode({"logits": torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()})
        >>> record_BN.shape[1]
        20
        >>> layout.decode(record_BN)["logits"].exp().round(decimals=3)
        tensor([[0.5000, 0.2500, 0.1250, 0.1250]])
    """

    num_classes: int
    topk: int
    features: Mapping[str, FeatureLayout]
    dtypes: Mapping[str, torch.dtype]
    temperature: float = 1.0

    @property
    def is_whole(self) -> bool:
        """True if every log-probability is kept."""
        return self.topk >= self.num_classes

    @property
    def num_bytes(self) -> int:
        """Bytes of a record."""
        return sum(size for _, size in self._sections())

    def encode(self, outputs: Outputs) -> Tensor:
        """Returns the records `[B, N]` (uint8) of a peer's outputs, on their device."""
        columns = self._encode_logits(outputs[LOGITS].float()) if self.num_classes else []
        for path, feature in self.features.items():
            kept = to_vector(outputs[path]) if feature.is_mean else outputs[path]
            columns.append(_as_bytes(kept.to(torch.float16).flatten(start_dim=1)))
        return torch.cat(columns, dim=1)

    def decode(self, records_BN: Tensor) -> Outputs:
        """Returns the outputs that records `[B, N]` hold, on their device."""
        names, sizes = zip(*self._sections(), strict=True)
        columns = dict(zip(names, records_BN.split(sizes, dim=1), strict=True))
        outputs = {LOGITS: self._decode_logits(columns).to(self.dtypes[LOGITS])} if self.num_classes else {}
        for path, feature in self.features.items():
            values = _from_bytes(columns[f"at {path}"], torch.float16).to(self.dtypes[path])
            outputs[path] = values.view(len(values), *feature.shape)
        return outputs

    def overflowing(self, outputs: Outputs) -> str | None:
        """Returns the module path of an output that float16 does not hold, or None."""
        return next((path for path in self.features if not bool(outputs[path].to(torch.float16).isfinite().all())), None)

    def _encode_logits(self, logits_BC: Tensor) -> list[Tensor]:
        """Returns the parts of the records that belong to the logits."""
        log_BC = logits_BC.log_softmax(dim=1)
        columns = [_as_bytes(logits_BC.logsumexp(dim=1, keepdim=True))]
        if self.is_whole:
            return [*columns, _as_bytes(_half(log_BC))]
        log_BK, classes_BK = log_BC.topk(self.topk, dim=1)
        others_BR = log_BC[torch.ones_like(log_BC, dtype=torch.bool).scatter(1, classes_BK, False)].view(len(log_BC), -1)
        columns += [_as_bytes(_half(each)) for each in (_even_log_probabilities(others_BR), log_BK)]
        return [*columns, _as_bytes(classes_BK.to(self._class_dtype))]

    def _decode_logits(self, columns: Mapping[str, Tensor]) -> Tensor:
        """Returns the logits `[B, C]` that these parts of the records hold."""
        norm_B1, log_BK = _from_bytes(columns["norm"], torch.float32), _from_bytes(columns["log"], torch.float16).float()
        if self.is_whole:
            return log_BK + norm_B1
        even_B5 = _from_bytes(columns["even"], torch.float16).float()
        classes_BK = _from_bytes(columns["classes"], self._class_dtype).long()
        return self._at_temperature(even_B5).expand(-1, self.num_classes).scatter(1, classes_BK, log_BK) + norm_B1

    def _at_temperature(self, even_B5: Tensor) -> Tensor:
        """Returns the log-probability `[B, 1]` of each class that is left out, interpolated in 1/T."""
        nodes = [1 / temperature for temperature in TEMPERATURES] + [0.0]
        inverse = min(1 / self.temperature, nodes[0])
        upper = max(index for index, node in enumerate(nodes[:-1]) if node >= inverse)
        share = (inverse - nodes[upper + 1]) / (nodes[upper] - nodes[upper + 1])
        return even_B5[:, [upper + 1]].lerp(even_B5[:, [upper]], share)

    @property
    def _class_dtype(self) -> torch.dtype:
        """The smallest dtype that holds every class."""
        return torch.uint8 if self.num_classes <= 2**8 else torch.int16 if self.num_classes <= 2**15 else torch.int32

    def _sections(self) -> list[tuple[str, int]]:
        """Returns name and bytes of each part of a record, in their order."""
        sections = [("norm", 4)] if self.num_classes else []
        if self.num_classes and self.is_whole:
            sections.append(("log", 2 * self.num_classes))
        elif self.num_classes:
            sections += [("even", 2 * len(TEMPERATURES) + 2), ("log", 2 * self.topk), ("classes", self._class_dtype.itemsize * self.topk)]
        return sections + [(f"at {path}", 2 * prod(feature.shape)) for path, feature in self.features.items()]


def _even_log_probabilities(others_BR: Tensor) -> Tensor:
    """Returns for each of `TEMPERATURES`, and for infinity, the value that R equal log-probabilities of the same sum would have."""
    log_num = math.log(others_BR.shape[1])
    even = [temperature * ((others_BR / temperature).logsumexp(dim=1) - log_num) for temperature in TEMPERATURES]
    return torch.stack([*even, others_BR.mean(dim=1)], dim=1)


def _half(log_probabilities: Tensor) -> Tensor:
    """Returns float16; what lies below its range, a probability of 0 by any measure, becomes its lowest number."""
    return log_probabilities.clamp(min=_LOWEST).to(torch.float16)


def _as_bytes(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.uint8)


def _from_bytes(columns: Tensor, dtype: torch.dtype) -> Tensor:
    return columns.clone(memory_format=torch.contiguous_format).view(dtype)  # of one row, contiguous() keeps stride and offset
