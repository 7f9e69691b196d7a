"""The checks of what bounds the memory of an update: `train.backward` and `activation_checkpointing`."""

from __future__ import annotations

from collections.abc import Iterator

from mutual.recipe.document import Recipe
from mutual.recipe.errors import Fault


def check_memory(recipe: Recipe) -> Iterator[Fault]:
    """Yields the faults of what bounds the memory of an update."""
    train = recipe.train
    if train.backward == "per_peer" and train.update == "alternating":
        yield Fault("train.backward", "alternating peers run one after another as it is; leave backward away")
    for name, peer in recipe.peers.items():
        where = f"peers.{name}.activation_checkpointing"
        if peer.activation_checkpointing and peer.frozen:
            yield Fault(where, f"peer {name!r} is frozen and keeps nothing for a backward; take this away or set frozen: false")
        elif peer.activation_checkpointing and train.compile:
            yield Fault(where, "train.compile decides by itself what the backward computes once more; take one of the two away")
