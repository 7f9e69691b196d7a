"""TeacherStore: a frozen peer's outputs for the views of the training images, each computed once and read from then on.

Shapes: B images, N bytes of a record's content.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mutual.engine.teacher_store.layout import RecordLayout
from mutual.engine.teacher_store.shards import Shards
from mutual.group import Outputs
from mutual.recipe import LOGITS, InputError


class TeacherStore:
    """What a frozen peer says of each view of each training image.

    What is computed goes through the same rounding as what is read, so that a training that fills a store and one that reads it are equal
    bit for bit. What a rank lacks it computes: no rank waits for another.

    Args:
        folder: the store's folder; it carries the mark of a store.
        layout: how outputs become bytes.
        shards: the records.
        device: where outputs are read to.
        tolerance: how far, relatively and in nats, outputs that are computed again may be from those that are kept.

    Attributes:
        folder: as above.
        layout: as above.
        shards: as above.
        num_computed: images whose outputs this process has computed.
    """

    def __init__(self, folder: Path, layout: RecordLayout, shards: Shards, *, device: torch.device, tolerance: float) -> None:
        self.folder = folder
        self.layout = layout
        self.shards = shards
        self.num_computed = 0
        self._device = device
        self._tolerance = tolerance

    def outputs(self, keys_B2: Tensor, compute: Callable[[Tensor | None], Outputs]) -> Outputs:
        """Returns the outputs for B images; the same bit for bit whether they were there or are computed now.

        Args:
            keys_B2: index and view number of each image.
            compute: runs the peer on the rows of these indices, on all if it is None; called where outputs are missing.

        Raises:
            InputError: float16 does not hold an output.
            OSError: the disk is full, say.
        """
        keys = keys_B2.numpy()
        records, is_there_B = self.shards.read(keys)
        if not is_there_B.all():
            missing = np.flatnonzero(~is_there_B)
            records[missing] = self._compute(keys, missing, compute)
        on_host = torch.from_numpy(records)
        if self._device.type == "cuda":
            on_host = on_host.pin_memory()  # or the host would wait for the copy
        return self.layout.decode(on_host.to(self._device, non_blocking=True))

    def difference(self, key: tuple[int, int], outputs: Outputs) -> tuple[float, bool]:
        """Compares the record of one image with its outputs `[1, ...]` as they are computed now.

        Returns:
            The largest difference between log-probabilities, or between values of a tapped output, and whether every one is within the
            tolerance.
        """
        records, is_there_B = self.shards.read(np.array([key], dtype=np.int64))
        if not is_there_B.all():
            return float("inf"), False
        kept = self.layout.decode(torch.from_numpy(records))
        now = self.layout.decode(self.layout.encode(outputs).cpu())
        largest, is_close = 0.0, True
        for path in kept:
            kept_values, values = kept[path].double(), now[path].double()
            if path == LOGITS:
                kept_values, values = _comparable(kept_values, values)
            largest = max(largest, float((kept_values - values).abs().max()))
            is_close &= torch.allclose(kept_values, values, rtol=self._tolerance, atol=self._tolerance)
        return largest, is_close

    def refresh(self) -> None:
        """Takes notice of what others have computed; called when no rank computes, so that a run depends on no race."""
        self.shards.refresh()

    def close(self) -> None:
        """Lets others write into this process' file."""
        self.shards.close()

    def _compute(
        self, keys: NDArray[np.int64], missing: NDArray[np.int64], compute: Callable[[Tensor | None], Outputs]
    ) -> NDArray[np.uint8]:
        """Computes the rows that are missing, keeps them, and returns their records `[M, N]`."""
        rows = None if len(missing) == len(keys) else torch.from_numpy(missing).to(self._device)
        outputs = compute(rows)
        path = self.layout.overflowing(outputs)
        if path is not None:
            raise InputError(f"{self.folder}: {path} has values beyond float16's 65,504, or not finite; leave the peer's store away")
        contents = self.layout.encode(outputs).cpu().numpy()
        _, first = np.unique(keys[missing], axis=0, return_index=True)  # padding repeats an image
        first.sort()
        self.shards.append(keys[missing][first], contents[first])
        self.num_computed += len(first)
        return contents


def _comparable(kept: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    """Returns both log-probabilities where either gives a class one of its own; of two classes next to each other at rank K both do."""
    kept_log, now_log = (logits.log_softmax(dim=1) for logits in (kept, now))
    floor = torch.maximum(kept_log.amin(), now_log.amin())
    return kept_log.clamp(min=float(floor)), now_log.clamp(min=float(floor))
