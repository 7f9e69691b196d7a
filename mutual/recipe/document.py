"""Recipe: the whole document, and the checks that need more than one section."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field, PrivateAttr, StrictInt

from mutual.recipe.base import Spec
from mutual.recipe.data import Data
from mutual.recipe.errors import Fault, Origin, RecipeError, did_you_mean
from mutual.recipe.objectives import AnyObjective, Objective, SourcedObjective
from mutual.recipe.training import CheckpointSpec, Optimizer, Peer, Schedule, Train

MAX_PEERS = 8
RESERVED_NAMES = ("all", "best", "ema", "ensemble", "labels", "mean", "train", "eval")


class Recipe(Spec):
    """A training run: data, peers, the objectives between them, and how they are optimized."""

    name: str = Field(pattern=r"^[\w][\w.\-]*$")
    """The run's folder in `output`."""
    seed: StrictInt = 0
    """Where all randomness of the run begins."""
    output: str = "runs"
    """The folder of all runs."""
    placement: Literal["replicated"] = "replicated"
    """replicated: every rank holds all peers."""
    data: Data = Data()
    peers: dict[str, Peer] = Field(min_length=1)
    """The models of the group, by name."""
    objectives: list[AnyObjective] = Field(min_length=1)
    """What the peers learn: each entry is a loss, with its weight, learners and sources."""
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    train: Train = Train()
    checkpoint: CheckpointSpec = CheckpointSpec()

    _origin: Origin = PrivateAttr(default=Origin())

    @property
    def trainable(self) -> tuple[str, ...]:
        """Names of the peers that are trained, in the recipe's order."""
        return tuple(name for name, peer in self.peers.items() if not peer.frozen)

    def optimizer_of(self, peer: str) -> Optimizer:
        """The optimizer section that holds for `peer`."""
        return self.peers[peer].optimizer or self.optimizer

    def schedule_of(self, peer: str) -> Schedule:
        """The schedule section that holds for `peer`."""
        return self.peers[peer].schedule or self.schedule

    def learners_of(self, objective: Objective) -> tuple[str, ...]:
        """Names of the peers that `objective` trains."""
        return self.trainable if objective.learners is None else tuple(objective.learners)

    def sources_of(self, objective: Objective, learner: str) -> tuple[str, ...]:
        """Names of the peers that `learner` learns from in `objective`; empty for ground truth."""
        if not isinstance(objective, SourcedObjective):
            return ()
        if objective.sources is None:
            return tuple(name for name in self.peers if name != learner)
        return tuple(objective.sources)

    def error(self, path: str, message: str) -> RecipeError:
        """A RecipeError for one fault, which names the file or the override that it comes from."""
        return self._origin.error([Fault(path, message)])


def check(recipe: Recipe) -> list[Fault]:
    """Returns the faults that no single section shows: names of peers, frozen learners, edges to oneself."""
    return [*_check_peers(recipe), *_check_objectives(recipe), *_check_data(recipe)]


def _check_peers(recipe: Recipe) -> Iterator[Fault]:
    if len(recipe.peers) > MAX_PEERS:
        yield Fault("peers", f"{len(recipe.peers)} peers; a group has at most {MAX_PEERS}")
    if not recipe.trainable:
        yield Fault("peers", "every peer is frozen; leave at least one to train")
    for name, peer in recipe.peers.items():
        if name in RESERVED_NAMES or not re.fullmatch(r"[A-Za-z]\w*", name):
            yield Fault(
                f"peers.{name}", f"{name!r} cannot name a peer; take letters, digits and _, and none of {', '.join(RESERVED_NAMES)}"
            )
        if peer.frozen:
            for key in ("optimizer", "schedule"):
                if getattr(peer, key) is not None:
                    yield Fault(f"peers.{name}.{key}", f"peer {name!r} is frozen and has no {key}; take this away or set frozen: false")


def _check_objectives(recipe: Recipe) -> Iterator[Fault]:
    for index, objective in enumerate(recipe.objectives):
        where = f"objectives.{index}"
        yield from _check_repeats(objective.learners or (), f"{where}.learners")
        for learner in objective.learners or ():
            if learner not in recipe.peers:
                yield Fault(f"{where}.learners", f"{learner!r} is no peer{did_you_mean(learner, recipe.peers)}")
            elif recipe.peers[learner].frozen:
                trainable = ", ".join(recipe.trainable) or "none"
                yield Fault(f"{where}.learners", f"{learner!r} is frozen and cannot learn; trainable peers: {trainable}")
        if isinstance(objective, SourcedObjective):
            yield from _check_sources(recipe, objective, where)
    learning = {name for objective in recipe.objectives for name in recipe.learners_of(objective)}
    for name in recipe.trainable:
        if name not in learning:
            yield Fault(f"peers.{name}", f"no objective trains {name!r}; name it among some learners or set frozen: true")


def _check_sources(recipe: Recipe, objective: SourcedObjective, where: str) -> Iterator[Fault]:
    yield from _check_repeats(objective.sources or (), f"{where}.sources")
    for source in objective.sources or ():
        if source not in recipe.peers:
            yield Fault(f"{where}.sources", f"{source!r} is no peer{did_you_mean(source, recipe.peers)}")
    for learner in dict.fromkeys(recipe.learners_of(objective)):
        sources = recipe.sources_of(objective, learner)
        if learner in sources:
            others = ", ".join(name for name in recipe.peers if name != learner) or "none"
            yield Fault(f"{where}.sources", f"an edge from {learner!r} to itself teaches nothing; other peers: {others}")
        elif not sources:
            yield Fault(where, f"{objective.loss} needs a source and {learner!r} has no other peer; add a peer or drop this objective")
    if isinstance(objective.at, dict):
        for name in objective.at:
            if name not in recipe.peers:
                yield Fault(f"{where}.at", f"{name!r} is no peer{did_you_mean(name, recipe.peers)}")
        ends = {end for learner in recipe.learners_of(objective) for end in (learner, *recipe.sources_of(objective, learner))}
        for name in sorted(ends & set(recipe.peers) - set(objective.at)):
            yield Fault(f"{where}.at", f"says nothing of peer {name!r}; give its module path too")


def _check_repeats(names: Sequence[str], where: str) -> Iterator[Fault]:
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield Fault(where, f"{name!r} stands there {names.count(name)} times; once is enough")


def _check_data(recipe: Recipe) -> Iterator[Fault]:
    data = recipe.data
    if data.dataset == "image_list":
        for key in ("train_list", "val_list"):
            if getattr(data, key) is None:
                yield Fault(f"data.{key}", "image_list needs a text file with a line `path label` for each image")
    if data.dataset in ("image_folder", "image_list", "mnist", "fashion_mnist", "cifar10", "cifar100") and data.root is None:
        yield Fault("data.root", f"{data.dataset} needs the folder that holds the data")
