"""predict_cost: an update's time, memory and traffic, from profiles of the peers and a placement alone.

A rank computes its peers one after another, each on its shard of the micro-batch, and then sends. The bytes that it sends are counted;
the time that they take is added whole, as if nothing overlapped with the backward: an upper bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from mutual.engine.costs.profiles import Links, PeerProfile
from mutual.group import Placement, TransferPlan

BUCKET_BYTES = 25 * 2**20
"""DDP averages gradients in buckets of this size, each a message of its own."""


@dataclass(frozen=True)
class CostPrediction:
    """Predicted cost of one update.

    Attributes:
        step_seconds: on the slowest rank.
        memory_bytes: state, and what a micro-batch saves for the backward, on the rank that has most.
        gradient_bytes: sent by a rank to average gradients, mean over the ranks.
        exchange_bytes: sent by it as outputs to peers on other ranks.
    """

    step_seconds: float
    memory_bytes: float
    gradient_bytes: float
    exchange_bytes: float


def predict_cost(
    placement: Placement,
    transfer_plan: TransferPlan,
    profiles: Mapping[str, PeerProfile],
    links: Links,
    *,
    batch_size: int,
    accumulate: int,
    backward: Literal["joint", "per_peer"] = "joint",
) -> CostPrediction:
    """Predicts the cost of an update.

    Args:
        placement: which rank trains which peer.
        transfer_plan: what ranks send each other.
        profiles: of the peers.
        links: between the ranks.
        batch_size: images of a micro-batch on a rank.
        accumulate: micro-batches of an update.
        backward: `per_peer`: the activations of one peer are in memory at a time; the forwards that this takes besides are left out.
    """
    combined = sum if backward == "joint" else max
    ranks = [
        _predict_rank(placement, transfer_plan, profiles, links, rank, batch_size, accumulate, combined)
        for rank in range(placement.world_size)
    ]
    return CostPrediction(
        step_seconds=max(rank.step_seconds for rank in ranks),
        memory_bytes=max(rank.memory_bytes for rank in ranks),
        gradient_bytes=sum(rank.gradient_bytes for rank in ranks) / len(ranks),
        exchange_bytes=sum(rank.exchange_bytes for rank in ranks) / len(ranks),
    )


def _predict_rank(
    placement: Placement,
    transfer_plan: TransferPlan,
    profiles: Mapping[str, PeerProfile],
    links: Links,
    rank: int,
    batch_size: int,
    accumulate: int,
    combined: Callable[[list[float]], float],
) -> CostPrediction:
    size = batch_size * placement.world_size
    seconds, state, gradients = 0.0, 0.0, 0.0
    saved = []
    for name in placement.peers_on(rank):
        peer, num_replicas = profiles[name], len(placement.replica_ranks[name])
        num_images = sum(end - start for start, end in transfer_plan.computed_rows(rank, name, size))
        seconds += accumulate * peer.seconds(num_images) + peer.step_seconds
        state += peer.state_bytes
        saved.append(num_images * peer.saved_bytes)
        if num_replicas > 1 and peer.gradient_bytes:
            sent = 2 * (num_replicas - 1) / num_replicas * peer.gradient_bytes
            gradients += sent
            seconds += links.replicas.seconds(sent, messages=1 + peer.gradient_bytes // BUCKET_BYTES)
    exchanged = accumulate * transfer_plan.sent_bytes(rank, size)
    if not transfer_plan.is_empty:
        seconds += links.all_ranks.seconds(exchanged, messages=accumulate)
    return CostPrediction(step_seconds=seconds, memory_bytes=state + combined(saved), gradient_bytes=gradients, exchange_bytes=exchanged)
