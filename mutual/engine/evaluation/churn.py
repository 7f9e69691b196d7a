"""ChurnMeter: how many predictions are not those of the evaluation before (Fard et al., "Launch and Iterate", NeurIPS 2016).

Shapes: N images of the split, B of a batch, M members.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mutual.engine.evaluation import packed_predictions
from mutual.engine.evaluation.scored_batch import ScoredBatch
from mutual.group import Communicator


class ChurnMeter:
    """Counts predictions that change from one evaluation to the next.

    For one class an image these are predicted classes, for several labels the flags of each label. Only images count that could be read in
    both evaluations, and for a peer that knows a part of the classes those of these.

    Args:
        sizes: by member, peer or ensemble, the number of classes that it knows.
        comm: the ranks of the run.
        num_images: of the split.
        multi_label: whether an image has several labels and not one class.
    """

    def __init__(self, sizes: Mapping[str, int], comm: Communicator, *, num_images: int, multi_label: bool) -> None:
        self._sizes = dict(sizes)
        self._comm = comm
        self._num_images = num_images
        self._multi_label = multi_label
        self._previous: dict[str, Tensor] = {}
        self._is_whole = True
        """Whether `_previous` is of all images, and not only of those that this rank has scored."""
        self._begin()

    def add(self, scored: ScoredBatch) -> None:
        """Adds a batch."""
        positions = scored.positions(self._comm.device)
        for index, (member, size) in enumerate(self._sizes.items()):
            each = scored.members[member]
            packed = packed_predictions.pack(each.predictions, size)
            self._current[member][positions] = packed
            if member in self._previous:
                present, _ = packed_predictions.unpack(packed, size)
                previous, is_counted_B = packed_predictions.unpack(self._previous[member][positions], size)
                if each.is_counted_B is not None:
                    is_counted_B = is_counted_B & each.is_counted_B
                is_counted = is_counted_B if present.dim() == 1 else is_counted_B[:, None].expand_as(present)
                self._counts_M2[index] += torch.stack([((present != previous) & is_counted).sum(), is_counted.sum()])

    def finish(self) -> dict[str, float]:
        """Returns by member the fraction of predictions that have changed; none in the first evaluation. Collective."""
        churn = {}
        if self._previous:
            counts = self._comm.all_reduce_sum(self._counts_M2).tolist()
            churn = {
                member: changed / total
                for member, (changed, total) in zip(self._sizes, counts, strict=True)
                if member in self._previous and total
            }
        self._previous, self._is_whole = self._current, self._comm.size == 1
        self._begin()
        return churn

    def state_dict(self) -> dict[str, Tensor]:
        """Returns by member the predictions of the last evaluation `[N, ...]`, packed, in the order of the split. Collective."""
        if not self._is_whole:
            rows = torch.cat([tensor.view(torch.uint8).flatten() for tensor in self._previous.values()])
            rows = self._comm.all_reduce_sum(rows)  # where a rank has not scored an image, it has 0
            sizes = [tensor.nbytes for tensor in self._previous.values()]
            self._previous = {
                member: part.view(tensor.dtype).view_as(tensor)
                for (member, tensor), part in zip(self._previous.items(), rows.split(sizes), strict=True)
            }
            self._is_whole = True
        return dict(self._previous)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned, of any number of ranks."""
        fitting = [member for member in self._sizes if member in state and _are_alike(state[member], self._empty(member))]
        self._previous = {member: state[member].to(self._comm.device) for member in fitting}
        self._is_whole = True

    def _begin(self) -> None:
        self._current = {member: self._empty(member) for member in self._sizes}
        self._counts_M2 = torch.zeros(len(self._sizes), 2, dtype=torch.int64, device=self._comm.device)

    def _empty(self, member: str) -> Tensor:
        device = self._comm.device
        return packed_predictions.empty(self._num_images, self._sizes[member], multi_label=self._multi_label, device=device)


def _are_alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype
