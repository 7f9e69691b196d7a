"""Placement: which ranks hold which peers, and which shard of each micro-batch a rank computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mutual.group.edges import Edge, expand_objectives, import_own_losses
from mutual.objectives import SourcePayload
from mutual.recipe import EMBEDDING, LOGITS, Recipe, peer_of

Shard = tuple[int, int]
"""Index of a rank's shard of each micro-batch, and the number of shards."""


@dataclass(frozen=True)
class Placement:
    """Which ranks hold which peers.

    Attributes:
        world_size: number of ranks.
        replica_ranks: maps each peer to the ranks that hold it, each of which computes its own shard of every micro-batch.
        sender_ranks: maps each peer to the ranks that send its outputs to ranks without a copy. Together they process every image exactly
            once.
        is_replicated: True if every rank holds every peer; nothing travels.
        shared: the frozen peers without ranks of their own, which the ranks that learn from them hold.
    """

    world_size: int
    replica_ranks: dict[str, tuple[int, ...]]
    sender_ranks: dict[str, tuple[int, ...]]
    is_replicated: bool
    shared: tuple[str, ...] = ()

    def peers_on(self, rank: int) -> list[str]:
        """Returns the peers that `rank` holds."""
        return [name for name, ranks in self.replica_ranks.items() if rank in ranks]

    def shard(self, rank: int) -> Shard:
        """Returns the shard of each micro-batch that `rank` computes, for all peers that it holds."""
        if self.is_replicated:
            return rank, self.world_size
        trained = next(ranks for ranks in self.replica_ranks.values() if rank in ranks)
        return trained.index(rank), len(trained)


def replicated(recipe: Recipe, world_size: int) -> Placement:
    """Returns the placement in which every rank holds every peer."""
    all_ranks = {name: tuple(range(world_size)) for name in recipe.peers}
    return Placement(world_size, all_ranks, all_ranks, is_replicated=True)


def needs_costs(recipe: Recipe, world_size: int) -> bool:
    """Returns True if a parallel placement on `world_size` ranks depends on costs, and the recipe does not give them all."""
    if all(peer.cost is not None for peer in recipe.peers.values()):
        return False
    owned = _with_own_ranks(recipe)
    free = [name for name in owned if recipe.peers[name].ranks is None]
    if len(owned) > world_size:
        return True
    num_left = world_size - sum(recipe.peers[name].ranks or 0 for name in owned)
    return len(free) < num_left and not _is_even(recipe, free, num_left)


def parallel(recipe: Recipe, world_size: int, costs: Mapping[str, float]) -> Placement:
    """Returns the placement in which each rank trains one peer, or some where there are more peers than ranks.

    Where W ranks and N peers divide, each peer has W / N neighbouring ranks; where not, the costlier peer has more of them, or peers
    share ranks, the costlier ones alone. A frozen peer without ranks of its own is held by the ranks that learn from it; with them, it has
    as many as it costs. `costs` are those of an image, in any unit.

    Raises:
        RecipeError: the ranks that peers ask for do not fit the world.
    """
    recipe = import_own_losses(recipe)
    owned = _with_own_ranks(recipe)
    costs = _with_frozen(recipe, owned, costs)
    if len(owned) > world_size:
        replica_ranks = _share_ranks(recipe, owned, world_size, costs)
    else:
        num_ranks = _num_ranks(recipe, owned, world_size, costs)
        first_ranks = [sum(num_ranks[:index]) for index in range(len(num_ranks))]
        replica_ranks = {
            name: tuple(range(first_rank, first_rank + count))
            for name, first_rank, count in zip(owned, first_ranks, num_ranks, strict=True)
        }
    sender_ranks = dict(replica_ranks)
    for name in recipe.peers:
        if name not in replica_ranks:
            learners = _learners_from(recipe, name)
            replica_ranks[name] = tuple(sorted({rank for learner in learners for rank in replica_ranks[learner]}))
            sender_ranks[name] = replica_ranks[learners[0]]
    shared = tuple(name for name in recipe.peers if name not in owned)
    return Placement(world_size, replica_ranks, sender_ranks, is_replicated=False, shared=shared)


def _with_own_ranks(recipe: Recipe) -> list[str]:
    """Returns the peers that have ranks to themselves."""
    return [name for name, peer in recipe.peers.items() if not peer.frozen or peer.rank == "own" or peer.ranks is not None]


def _is_even(recipe: Recipe, free: Sequence[str], num_left: int) -> bool:
    """Returns True if `num_left` ranks divide equally among the peers without `ranks`, all of which are trained; costs play no part."""
    return bool(free) and num_left % len(free) == 0 and not any(recipe.peers[name].frozen for name in free)


def _with_frozen(recipe: Recipe, owned: Sequence[str], costs: Mapping[str, float]) -> dict[str, float]:
    """Returns the cost of each owned peer, with the frozen peers that its ranks hold, or its part of those that will be split."""
    total_costs = {name: costs[name] for name in owned}
    edges = expand_objectives(recipe)
    for name in recipe.peers:
        if name not in owned:
            learners = _learners_from(recipe, name)
            num_parts = len(learners) if _reads_vectors(edges, name) else 1
            for learner in learners:
                total_costs[learner] += costs[name] / num_parts
    return total_costs


def _reads_vectors(edges: Sequence[Edge], source: str) -> bool:
    """Returns True if edges read a peer, and surely no feature maps of it: then the ranks that hold it compute a part each."""
    required = [(key.path, payload) for edge in edges for key, payload in edge.required_outputs.items() if key.peer == source]
    return bool(required) and all(path in (LOGITS, EMBEDDING) or payload is SourcePayload.VECTOR for path, payload in required)


def _share_ranks(recipe: Recipe, owned: Sequence[str], world_size: int, costs: Mapping[str, float]) -> dict[str, tuple[int, ...]]:
    for name in owned:
        if recipe.peers[name].ranks is not None:
            raise recipe.error(f"peers.{name}.ranks", f"{len(owned)} peers on {world_size} ranks share them; leave ranks away")
    load = [0.0] * world_size
    replica_ranks = {}
    for name in sorted(owned, key=lambda name: -costs[name]):
        rank = load.index(min(load))
        load[rank] += costs[name]
        replica_ranks[name] = (rank,)
    return {name: replica_ranks[name] for name in owned}


def _num_ranks(recipe: Recipe, owned: Sequence[str], world_size: int, costs: Mapping[str, float]) -> list[int]:
    requested = {name: recipe.peers[name].ranks for name in owned}
    num_fixed = sum(count for count in requested.values() if count is not None)
    free = [name for name in owned if requested[name] is None]
    num_left = world_size - num_fixed
    if num_left < len(free) or (not free and num_left):
        raise recipe.error(
            "peers", f"their ranks do not fit: {num_fixed} are asked for, {len(free)} peers ask for none, the run has {world_size}"
        )
    num_ranks = dict.fromkeys(free, 1)
    even = _is_even(recipe, free, num_left)
    for _ in range(num_left - len(free)):  # each next rank goes to the peer that computes longest
        slowest = max(free, key=lambda name: -num_ranks[name] if even else costs[name] / num_ranks[name])
        num_ranks[slowest] += 1
    return [num_ranks[name] if requested[name] is None else requested[name] or 0 for name in owned]


def _learners_from(recipe: Recipe, source: str) -> list[str]:
    learners = []
    for objective in recipe.objectives:
        for learner in recipe.learners_of(objective):
            sources = {peer_of(name) for name in recipe.sources_of(objective, learner)} | set(recipe.members_of(objective, learner))
            if source in sources:
                learners.append(learner)
    return list(dict.fromkeys(learners)) or list(recipe.trainable)
