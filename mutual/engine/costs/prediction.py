"""Prediction: an update's time, memory and traffic, from profiles of the peers and a placement alone.

A rank computes its peers one after another, each on its part of the micro-batch, and then sends. What it sends is counted, not guessed;
the link's share is added whole, as if nothing of it hid behind the backward: an upper bound where it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mutual.engine.costs.profiles import Links, PeerProfile
from mutual.group import Placement, TransferPlan

BUCKET_BYTES = 25 * 2**20
"""DDP averages gradients in buckets of so many bytes, each a message of its own."""


@dataclass(frozen=True)
class Prediction:
    """What one update is expected to take.

    Attributes:
        step_seconds: on the slowest rank.
        held_bytes: state, and what a micro-batch keeps for the backward, on the rank that holds most.
        gradient_bytes: what a rank sends to average gradients, mean over the ranks.
        exchange_bytes: what it sends of outputs to peers elsewhere.
    """

    step_seconds: float
    memory_bytes: float
    gradient_bytes: float
    exchange_bytes: float


def predict(
    placement: Placement,
    transfer_plan: TransferPlan,
    profiles: Mapping[str, PeerProfile],
    links: Links,
    *,
    batch_size: int,
    accumulate: int,
) -> Prediction:
    """Returns what an update of `accumulate` micro-batches of `batch_size` images a process takes where peers are placed so."""
    ranks = [_rank(placement, transfer_plan, profiles, links, rank, batch_size, accumulate) for rank in range(placement.world_size)]
    return Prediction(
        step_seconds=max(rank.step_seconds for rank in ranks),
        memory_bytes=max(rank.memory_bytes for rank in ranks),
        gradient_bytes=sum(rank.gradient_bytes for rank in ranks) / len(ranks),
        exchange_bytes=sum(rank.exchange_bytes for rank in ranks) / len(ranks),
    )


def _rank(
    placement: Placement,
    transfer_plan: TransferPlan,
    profiles: Mapping[str, PeerProfile],
    links: Links,
    rank: int,
    batch_size: int,
    accumulate: int,
) -> Prediction:
    size = batch_size * placement.world_size
    first, last = transfer_plan.rows(rank, size)
    images = last - first
    seconds, held, gradients = 0.0, 0.0, 0.0
    for name in placement.peers_on(rank):
        peer, num_replicas = profiles[name], len(placement.replica_ranks[name])
        seconds += accumulate * peer.seconds(images) + peer.step_seconds
        held += peer.state_bytes + images * peer.saved_bytes
        if num_replicas > 1 and peer.gradient_bytes:
            sent = 2 * (num_replicas - 1) / num_replicas * peer.gradient_bytes
            gradients += sent
            seconds += links.replicas.seconds(sent, messages=1 + peer.gradient_bytes // BUCKET_BYTES)
    exchanged = accumulate * transfer_plan.sent_bytes(rank, size)
    if not transfer_plan.is_empty:
        seconds += links.all_ranks.seconds(exchanged, messages=accumulate)
    return Prediction(seconds, held, gradients, exchanged)
