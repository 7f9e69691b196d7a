"""Counted randomness: a seed is a pure function of what it is for, so nothing random depends on what ran before.

Every random draw of a training (the order of an epoch, the augmentation of a sample, a peer's initial weights, the
dropout of a micro-batch) starts from a seed made here. Torch-free, so that every floor may use it.
"""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Returns a 63-bit seed that depends on `parts` alone, on their types and on their order."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest(), "little") >> 1
