"""The checks that need more than one section of a recipe: names of peers, who learns from whom, what the data can give."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mutual.recipe.base import MAX_PEERS
from mutual.recipe.checks.data import check_data
from mutual.recipe.checks.heads import check_heads
from mutual.recipe.checks.loading import check_loading
from mutual.recipe.checks.memory import check_memory
from mutual.recipe.checks.optimizers import check_parameter_groups
from mutual.recipe.checks.own_losses import check_own_losses
from mutual.recipe.checks.sampler import check_sampler
from mutual.recipe.checks.stores import check_stores
from mutual.recipe.checks.transforms import check_transforms
from mutual.recipe.data import Data
from mutual.recipe.document import Recipe
from mutual.recipe.edges import ENSEMBLE, PEERS_EMA, SELF, SOURCE_KINDS, At, DistillationObjective, Ensemble, is_ema, peer_of
from mutual.recipe.errors import Fault, did_you_mean
from mutual.recipe.own_loss import OwnLoss
from mutual.recipe.peers import FROZEN_ONLY, PeerSpec, program_file
from mutual.recipe.schedules import Schedule, check_schedule
from mutual.recipe.text import format_value
from mutual.recipe.training import Optimizer, Train

MAX_BYTES_OF_A_NAME = 200
RESERVED_NAMES = ("all", "best", *SOURCE_KINDS, "labels", "mean", "train", "training", "eval")


def check(recipe: Recipe) -> list[Fault]:
    """Returns the faults that no single section shows."""
    if len(recipe.peers) > MAX_PEERS:  # the rest takes time that grows with the number of their pairs
        return [Fault("peers", f"{len(recipe.peers):,} peers; a group has at most {MAX_PEERS}")]
    faults = [
        *_check_names_of_files(recipe),
        *_check_peers(recipe),
        *_check_expected(recipe),
        *_check_args(recipe),
        *_check_schedules(recipe),
        *_check_clipping(recipe),
        *check_parameter_groups(recipe),
        *check_memory(recipe),
        *_check_objectives(recipe),
        *check_own_losses(recipe),
        *check_heads(recipe),
        *check_data(recipe),
        *check_loading(recipe),
        *check_sampler(recipe),
        *check_transforms(recipe),
        *_check_pause(recipe),
        *_check_kernels(recipe),
        *check_stores(recipe),
    ]
    faults += [*_check_placement(recipe), *_check_exchange(recipe)]
    return list(dict.fromkeys(faults))  # one path may be wrong for learners and sources at once


def _check_names_of_files(recipe: Recipe) -> Iterator[Fault]:
    """File systems take names of 255 bytes; ours put a few more behind those of runs and peers."""
    for path, name in (("name", recipe.name), *((f"peers.{peer}", peer) for peer in recipe.peers)):
        if len(name.encode("utf-8", "surrogatepass")) > MAX_BYTES_OF_A_NAME:
            yield Fault(path, f"{format_value(name)} is too long for the name of a file; take at most {MAX_BYTES_OF_A_NAME} letters")


def _check_args(recipe: Recipe) -> Iterator[Fault]:
    sections: list[tuple[str, Data | Optimizer | OwnLoss | PeerSpec | Schedule]] = [
        ("data", recipe.data),
        ("optimizer", recipe.optimizer),
        ("schedule", recipe.schedule),
    ]
    sections += [(f"objectives.{index}", each) for index, each in enumerate(recipe.objectives) if isinstance(each, OwnLoss)]
    sections += [(f"peers.{name}", peer) for name, peer in recipe.peers.items()]
    sections += [(f"peers.{name}.optimizer", peer.optimizer) for name, peer in recipe.peers.items() if peer.optimizer is not None]
    sections += [(f"peers.{name}.schedule", peer.schedule) for name, peer in recipe.peers.items() if peer.schedule is not None]
    given = [(f"{path}.args.{key}", value) for path, section in sections for key, value in section.args.items()]
    for index, transform in enumerate(recipe.data.augment or ()):
        given += [(f"data.augment.{index}.{key}", value) for key, value in (transform.model_extra or {}).items()]
    for path, value in given:
        if _holds_nan(value):
            yield Fault(path, "holds .nan, which equals nothing, so that no run could be resumed with it")


def _holds_nan(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_nan(each) for item in value.items() for each in item)
    return any(map(_holds_nan, value)) if isinstance(value, list | tuple) else isinstance(value, float) and math.isnan(value)


def _check_peers(recipe: Recipe) -> Iterator[Fault]:
    if not recipe.trainable:
        yield Fault("peers", "every peer is frozen; leave at least one to train")
    for name, peer in recipe.peers.items():
        if name in RESERVED_NAMES or not re.fullmatch(r"[A-Za-z]\w*", name):
            yield Fault(
                f"peers.{name}",
                f"{format_value(name)} cannot name a peer; take letters, digits and _, and none of {', '.join(RESERVED_NAMES)}",
            )
        if not peer.frozen and peer.classes != "auto":
            yield Fault(
                f"peers.{name}.classes", f"peer {name!r} is trained, and has the data's classes; take this away or set frozen: true"
            )
        if peer.frozen:
            for key in ("optimizer", "schedule"):
                if getattr(peer, key) is not None:
                    yield Fault(f"peers.{name}.{key}", f"peer {name!r} is frozen and has no {key}; take this away or set frozen: false")
        for key in () if peer.frozen else FROZEN_ONLY:
            if getattr(peer, key) is not None:
                run = f"; train.{key} is that of the run" if key in Train.model_fields else ""
                yield Fault(f"peers.{name}.{key}", f"belongs to frozen peers, and {name!r} is trained{run}")
        yield from _check_frozen_parts(name, peer)
        yield from _check_program(name, peer)


def _check_frozen_parts(name: str, peer: PeerSpec) -> Iterator[Fault]:
    for key, paths in (("train_only", peer.train_only), ("freeze", peer.freeze)):
        if paths and peer.frozen:
            yield Fault(f"peers.{name}.{key}", f"peer {name!r} is frozen as a whole; take this away or set frozen: false")
        yield from _check_repeats(paths, f"peers.{name}.{key}")
    if peer.train_only and peer.freeze:
        yield Fault(f"peers.{name}.freeze", "train_only says already what is trained; take one of the two away")


def _check_program(name: str, peer: PeerSpec) -> Iterator[Fault]:
    if program_file(peer.model) is None:
        return
    if not peer.frozen:
        yield Fault(f"peers.{name}.model", "an exported program cannot be trained; set frozen: true, or take the model and its weights")
    if peer.weights is not None:
        yield Fault(f"peers.{name}.weights", "an exported program holds its weights; take this away")
    if peer.args:
        yield Fault(f"peers.{name}.args", "an exported program takes no arguments; take this away")


def _check_schedules(recipe: Recipe) -> Iterator[Fault]:
    sections = [("schedule", recipe.schedule)]
    sections += [(f"peers.{name}.schedule", peer.schedule) for name, peer in recipe.peers.items() if peer.schedule is not None]
    for path, schedule in sections:
        yield from check_schedule(schedule, path)


def _check_clipping(recipe: Recipe) -> Iterator[Fault]:
    if recipe.train.clip_grad_norm is not None and recipe.train.clip_parameter_norm is not None:
        yield Fault("train.clip_parameter_norm", "clip_grad_norm limits the norm of all parameters already; take one of the two away")


def _check_expected(recipe: Recipe) -> Iterator[Fault]:
    metrics, task = (("map",), "several labels") if recipe.data.multi_label else (("top1", "top5"), "one class")
    for name, peer in recipe.peers.items():
        if peer.expect is None:
            continue
        where = f"peers.{name}.expect"
        if not (peer.has_weights or ":" in peer.model):  # a model of the user's own may load its weights by itself
            yield Fault(where, f"{name!r} begins without weights, so that nothing can be expected of it; give it weights")
        if peer.head == "none" and recipe.data.multi_label:
            yield Fault(where, f"{name!r} has no head, and is not scored where images have several labels each; take this away")
        if not peer.expect.minima:
            yield Fault(where, f"says no metric; images of {task} each have {' and '.join(metrics)}")
        for metric in peer.expect.minima:
            if metric not in metrics:
                yield Fault(f"{where}.{metric}", f"images of {task} each are scored by {' and '.join(metrics)}, not by {metric}")


def _check_objectives(recipe: Recipe) -> Iterator[Fault]:
    for index, objective in enumerate(recipe.objectives):
        where = f"objectives.{index}"
        yield from _check_names(recipe, objective.learners or (), f"{where}.learners")
        for learner in objective.learners or ():
            if learner in recipe.peers and recipe.peers[learner].frozen:
                trainable = ", ".join(recipe.trainable) or "none"
                yield Fault(f"{where}.learners", f"{learner!r} is frozen and cannot learn; trainable peers: {trainable}")
        learners = [name for name in dict.fromkeys(recipe.learners_of(objective)) if name in recipe.peers]
        yield from _check_at(recipe, objective.at, learners, f"{where}.at")
        if isinstance(objective, DistillationObjective):
            yield from _check_sources(recipe, objective, learners, where)
        elif objective.gate == "correct":
            yield Fault(f"{where}.gate", f"'correct' asks whether a source is right, and {objective.loss} has no source")
        schedule = objective.schedule
        if schedule is not None and schedule.until_epoch is not None and schedule.until_epoch <= schedule.from_epoch:
            yield Fault(
                f"{where}.schedule.until_epoch", f"{schedule.until_epoch:g} must be greater than from_epoch, {schedule.from_epoch:g}"
            )
    trained = {name for objective in recipe.objectives if objective.gate != "cutoff" for name in recipe.learners_of(objective)}
    for name in recipe.trainable:
        if name not in trained:
            yield Fault(f"peers.{name}", f"no objective trains {name!r}; name it among some learners or set frozen: true")


def _check_sources(recipe: Recipe, objective: DistillationObjective, learners: list[str], where: str) -> Iterator[Fault]:
    entries = objective.sources or ()
    yield from _check_repeats(entries, f"{where}.sources")
    for entry in entries:
        if peer_of(entry) not in recipe.peers and entry not in SOURCE_KINDS:
            yield Fault(f"{where}.sources", f"{format_value(entry)} is no peer{did_you_mean(entry, [*recipe.peers, *SOURCE_KINDS])}")
        elif is_ema(entry) and recipe.peers[peer_of(entry)].frozen:
            yield Fault(f"{where}.sources", f"{peer_of(entry)!r} is frozen and has no moving average; take {peer_of(entry)!r} itself")
    if SELF in entries and objective.source_at in (None, objective.at):
        yield Fault(f"{where}.source_at", f"'{SELF}' needs source_at, another output of the learner than {objective.at!r}")
    yield from _check_ensemble(recipe, objective, learners, where)
    sources = [source for learner in learners for source in recipe.sources_of(objective, learner)]
    if recipe.train.ema is None and any(is_ema(source) for source in sources):
        yield Fault("train.ema", f"{where} learns from moving averages; give their decay, for instance 0.99")
    for learner in learners:
        if learner in entries:
            others = ", ".join(name for name in recipe.peers if name != learner) or "none"
            yield Fault(f"{where}.sources", f"an edge from {learner!r} to itself teaches nothing; other peers: {others}")
        elif not (recipe.sources_of(objective, learner) or recipe.may_lack_sources(objective)):
            yield Fault(where, f"{objective.loss} needs a source and {learner!r} has no other peer; add a peer or drop this objective")
    peers = [peer_of(source) for source in sources if peer_of(source) in recipe.peers]
    at, key = (objective.at, "at") if objective.source_at is None else (objective.source_at, "source_at")
    yield from _check_at(recipe, at, peers, f"{where}.{key}")


def _check_ensemble(recipe: Recipe, objective: DistillationObjective, learners: list[str], where: str) -> Iterator[Fault]:
    if ENSEMBLE not in (objective.sources or ()):
        if objective.ensemble is not None:
            yield Fault(f"{where}.ensemble", f"nothing reads it; write sources: {ENSEMBLE}")
        return
    if objective.source_at not in (None, "logits") or (objective.source_at is None and objective.at != "logits"):
        yield Fault(f"{where}.at", "an ensemble is one of logits; leave `at` away")
    yield from _check_names(recipe, (objective.ensemble or Ensemble()).members or (), f"{where}.ensemble.members")
    for learner in learners:
        if not recipe.members_of(objective, learner):
            yield Fault(f"{where}.ensemble", f"no peer is left in the ensemble that teaches {learner!r}; add a peer, or own: true")


def _check_at(recipe: Recipe, at: At, ends: Sequence[str], where: str) -> Iterator[Fault]:
    if isinstance(at, dict):
        for name in at:
            if name not in recipe.peers:
                yield Fault(where, f"{format_value(name)} is no peer{did_you_mean(name, recipe.peers)}")
        for name in sorted(set(ends) - set(at)):
            yield Fault(where, f"says nothing of peer {name!r}; give its module path too")


def _check_names(recipe: Recipe, names: Sequence[str], where: str) -> Iterator[Fault]:
    yield from _check_repeats(names, where)
    for name in names:
        if name not in recipe.peers:
            yield Fault(where, f"{format_value(name)} is no peer{did_you_mean(name, recipe.peers)}")


def _check_repeats(names: Sequence[str], where: str) -> Iterator[Fault]:
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield Fault(where, f"{format_value(name)} stands there {names.count(name)} times; once is enough")


def _check_kernels(recipe: Recipe) -> Iterator[Fault]:
    if recipe.train.deterministic and recipe.train.cudnn_benchmark:
        yield Fault("train.cudnn_benchmark", "takes whichever kernel is the fastest in this run; set it or train.deterministic to false")


def _check_pause(recipe: Recipe) -> Iterator[Fault]:
    pause = recipe.train.pause
    if pause is None:
        return
    for key, name in (("peer", pause.peer), ("versus", pause.versus)):
        if name not in recipe.trainable:
            yield Fault(f"train.pause.{key}", f"{format_value(name)} is no trainable peer{did_you_mean(name, recipe.trainable)}")
    if pause.peer == pause.versus:
        yield Fault("train.pause.versus", "a peer cannot be measured against itself; name the weaker one")
    if recipe.train.update == "alternating":
        yield Fault("train.pause", "needs all peers' predictions at once; set train.update: simultaneous")
    if recipe.data.multi_label:
        yield Fault("train.pause", "needs one class an image")


def _check_exchange(recipe: Recipe) -> Iterator[Fault]:
    exchange = recipe.exchange
    if exchange.kind == "live":
        for key in ("folder", "trains", "reads"):
            if getattr(exchange, key):
                yield Fault(f"exchange.{key}", "belongs to kind: stale")
        return
    if recipe.extended_from is not None and not exchange.trains:
        yield Fault("extended_from", "each job of a launch has a run folder of its own; start each by itself, with exchange.trains")
    if exchange.folder is None:
        yield Fault("exchange.folder", "a stale exchange needs the folder in which weights are published")
    yield from _check_names(recipe, exchange.trains, "exchange.trains")
    for name in exchange.trains:
        if name in recipe.peers and recipe.peers[name].frozen:
            yield Fault("exchange.trains", f"{name!r} is frozen and cannot learn")
    for index, objective in enumerate(recipe.objectives):
        sources = objective.sources or () if isinstance(objective, DistillationObjective) else ()
        if any(source == PEERS_EMA or (is_ema(source) and peer_of(source) not in exchange.trains) for source in sources):
            yield Fault(f"objectives.{index}.sources", "other jobs publish one set of weights for each peer, not its moving average")


def _check_placement(recipe: Recipe) -> Iterator[Fault]:
    for name, peer in recipe.peers.items():
        for key in ("rank", "ranks"):
            if getattr(peer, key) is not None and recipe.placement == "replicated":
                yield Fault(f"peers.{name}.{key}", "every rank holds all peers; set placement: parallel")
        if peer.rank is not None and not peer.frozen:
            yield Fault(f"peers.{name}.rank", f"{name!r} is trained and has ranks of its own anyway; ranks says how many")
    without_cost = [name for name, peer in recipe.peers.items() if peer.cost is None]
    if 0 < len(without_cost) < len(recipe.peers):
        yield Fault(f"peers.{without_cost[0]}.cost", "say what every peer costs, or of none, so that all are measured")
    if recipe.placement == "replicated":
        return
    if recipe.train.update == "alternating":
        yield Fault("train.update", "alternating peers wait for each other and cannot train in parallel; set placement: replicated")
    if recipe.train.pause is not None:
        yield Fault("train.pause", "is decided where both peers are; set placement: replicated")
