"""RecordLayout: a frozen peer's outputs for one view of one image as a few bytes, and back.

Shapes: B images, C classes, K kept classes, N bytes of a record.

Of the logits the K largest log-probabilities are kept (float16), their classes, the log-probability of all other classes together (float16)
and the logarithm of the softmax's denominator (float32). Read again, the other classes share their probability evenly, the distribution of
the largest entropy that agrees with what is kept. For a loss whose gradient is `learner - source`, of the probabilities at temperature 1
(kd, soft_label, dml's kl), it is then exact for each of the K classes, and in sum for the others. At another temperature the losses soften
this same distribution. With K >= C nothing is left out.

What float16 rounds: a log-probability by at most 2^-11 of its size (0.002 at -4, 0.004 at -8); a vector's values alike.
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
        num_classes: classes of the logits.
        topk: number of classes whose log-probabilities are kept.
        features: by module path how the tapped outputs are kept.
        dtypes: by module path, and `logits`, the dtype in which an output is read.

    Example:
        >>> layout = RecordLayout(4, 2, {}, {"logits": torch.float32})
        >>> record_BN = layout.encode({"logits": torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()})
        >>> record_BN.shape[1]
        12
        >>> layout.decode(record_BN)["logits"].exp().round(decimals=3)
        tensor([[0.5000, 0.2500, 0.1250, 0.1250]])
    """

    num_classes: int
    topk: int
    features: Mapping[str, FeatureLayout]
    dtypes: Mapping[str, torch.dtype]

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
        logits_BC = outputs[LOGITS].float()
        norm_B1 = logits_BC.logsumexp(dim=1, keepdim=True)
        log_BC = logits_BC.log_softmax(dim=1)
        columns = [_as_bytes(norm_B1)]
        if self.is_whole:
            columns.append(_as_bytes(_half(log_BC)))
        else:
            log_BK, classes_BK = log_BC.topk(self.topk, dim=1)
            rest_B1 = log_BC.scatter(1, classes_BK, -torch.inf).logsumexp(dim=1, keepdim=True)
            columns += [_as_bytes(_half(rest_B1)), _as_bytes(_half(log_BK)), _as_bytes(classes_BK.to(self._class_dtype))]
        for path, feature in self.features.items():
            kept = to_vector(outputs[path]) if feature.is_mean else outputs[path]
            columns.append(_as_bytes(kept.to(torch.float16).flatten(start_dim=1)))
        return torch.cat(columns, dim=1)

    def decode(self, records_BN: Tensor) -> Outputs:
        """Returns the outputs that records `[B, N]` hold, on their device."""
        names, sizes = zip(*self._sections(), strict=True)
        columns = dict(zip(names, records_BN.split(sizes, dim=1), strict=True))
        norm_B1 = _from_bytes(columns["norm"], torch.float32)
        if self.is_whole:
            log_BC = _from_bytes(columns["log"], torch.float16).float()
        else:
            log_BK, rest_B1 = (_from_bytes(columns[name], torch.float16).float() for name in ("log", "rest"))
            classes_BK = _from_bytes(columns["classes"], self._class_dtype).long()
            even_B1 = rest_B1 - math.log(self.num_classes - self.topk)
            log_BC = even_B1.expand(-1, self.num_classes).scatter(1, classes_BK, log_BK)
        outputs = {LOGITS: (log_BC + norm_B1).to(self.dtypes[LOGITS])}
        for path, feature in self.features.items():
            values = _from_bytes(columns[f"at {path}"], torch.float16).to(self.dtypes[path])
            outputs[path] = values.view(len(values), *feature.shape)
        return outputs

    def overflowing(self, outputs: Outputs) -> str | None:
        """Returns the module path of an output that float16 does not hold, or None."""
        return next((path for path in self.features if not bool(outputs[path].to(torch.float16).isfinite().all())), None)

    @property
    def _class_dtype(self) -> torch.dtype:
        """The smallest dtype that holds every class."""
        return torch.uint8 if self.num_classes <= 2**8 else torch.int16 if self.num_classes <= 2**15 else torch.int32

    def _sections(self) -> list[tuple[str, int]]:
        """Returns name and bytes of each part of a record, in their order."""
        sections = [("norm", 4)]
        if self.is_whole:
            sections.append(("log", 2 * self.num_classes))
        else:
            sections += [("rest", 2), ("log", 2 * self.topk), ("classes", self._class_dtype.itemsize * self.topk)]
        return sections + [(f"at {path}", 2 * prod(feature.shape)) for path, feature in self.features.items()]


def _half(log_probabilities: Tensor) -> Tensor:
    """Returns float16; what lies below its range, a probability of 0 by any measure, becomes its lowest number."""
    return log_probabilities.clamp(min=_LOWEST).to(torch.float16)


def _as_bytes(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.uint8)


def _from_bytes(columns: Tensor, dtype: torch.dtype) -> Tensor:
    return columns.clone(memory_format=torch.contiguous_format).view(dtype)  # of one row, contiguous() keeps stride and offset
