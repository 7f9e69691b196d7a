"""peer_views: what the peers see of some training images, for pictures.

Shapes: N images, C channels, H and W of a peer's own input.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mutual.data import mixed, seeded_generators
from mutual.engine.training.setup import Training


def peer_views(training: Training, num_images: int, *, epoch: int) -> dict[str, Tensor]:
    """Returns by peer the first images of an epoch as the peer sees them, uint8 `[N, C, H, W]` in the CPU's memory.

    They are augmented, mixed, in the peer's own view, and resized to its input, but not normalised: the pixels that its forward is given in
    that epoch, up to rounding. All peers show the same images, whatever the number of ranks. Only peers that this process holds are there,
    which with `placement: parallel` are those of its rank. It loads the images in this process, calls no collective, and changes nothing
    that the training draws or counts: the main process may call it alone.

    Args:
        training: data and group.
        num_images: how many, or all of an epoch that has fewer.
        epoch: its number; 0 is the first.

    Returns:
        By peer its images; nothing where one of them cannot be read.
    """
    with seeded_generators(0), torch.no_grad():  # for transforms of the user's own that draw from global generators
        batch = training.data.first_images(epoch, num_images, world_size=training.world_size, accumulate=training.accumulate)
        if batch is None:
            return {}
        pixels, _ = mixed(batch, num_classes=training.data.info.num_classes)
        views = {}
        for view, (name, peer) in enumerate(training.group.peers.items()):
            own = (pixels[view] if pixels.dim() == 5 else pixels)[: batch.num_valid]
            own = peer.input.model_input.resize(own)
            views[name] = own.contiguous() if own.dtype == torch.uint8 else own.round().to(torch.uint8)
    return views
