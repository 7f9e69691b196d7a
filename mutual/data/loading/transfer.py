"""Transfer: batches to the device; to a GPU on a stream of its own, so that they are copied while what was launched before is computed."""

from __future__ import annotations

import torch

from mutual.data.loading.batch import Batch


class DeviceTransfer:
    """Brings batches to a device, and makes there what is left to be made of them.

    On a GPU the present stream waits for the copy, and the copy for nothing: as the host runs ahead of the GPU, a micro-batch is copied
    while the one before it is computed. The host memory of the batch is page-locked (`Batch.pin_memory`) and is not reused before the copy
    has ended, which torch's allocator of such memory sees to.

    Args:
        device: where batches go.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: Batch) -> Batch:
        """Returns the batch on the device."""
        if self._stream is None:
            return batch.to(self._device, non_blocking=True)
        with torch.cuda.stream(self._stream):
            moved = batch.to(self._device, non_blocking=True)
        present = torch.cuda.current_stream(self._device)
        present.wait_stream(self._stream)
        for tensor in moved.device_tensors():
            tensor.record_stream(present)  # its memory was taken on the other stream, and may be reused there only after this one's work
        return moved
