"""seed_generators: torch's generators that a forward on one device can draw from, and no others."""

from __future__ import annotations

import torch


def seed_generators(seed: int, device: torch.device) -> None:
    """Seeds torch's default generators of the CPU and of `device`.

    `torch.manual_seed` seeds those of every kind of device; of one that is not in use it only notes the call, with a formatted stack,
    which takes longer than the rest of a small peer's forward.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)
