"""Recipe: the whole document, and who learns from whom in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from pydantic import Field, PrivateAttr

from mutual.recipe.base import MAX_OBJECTIVES, Positive, Seed, Spec
from mutual.recipe.data import Data
from mutual.recipe.edges import EMA, ENSEMBLE, PEERS_EMA, SELF, DistillationObjective, Ensemble, LabelType, Objective, OutputKind
from mutual.recipe.errors import Fault, Origin, RecipeError
from mutual.recipe.objectives import CLASS_FRACTIONS, CLASS_WEIGHTS, AnyObjective
from mutual.recipe.own_loss import LossTraits, OwnLoss
from mutual.recipe.peers import InputSpec, PeerSpec, StoreSpec, program_file
from mutual.recipe.schedules import Schedule
from mutual.recipe.tracking import TENSORBOARD, TrackerSpec, Tracking, tracker_spec
from mutual.recipe.training import CheckpointSpec, ExchangeSpec, Optimizer, Train

TUNED_SWITCHES = ("compile", "channels_last")
"""Fields of `train` that are false where the recipe says nothing and asks for no tuning."""
MAX_SAVED_CLASSES = 2_000
"""Over all peers: the recipe that a run writes down must not be larger than a recipe may be."""


class ExtendedFrom(Spec):
    """The run that this one goes on from, under another name: with its weights, averages, optimizer states and counters."""

    run: str
    """Its run folder; it is read when this run begins, and not changed. This recipe may differ from its own in epochs, patience, schedules,
    the optimizers' rates, weight decay and momentum, clipping, checkpoints and logging."""
    step: Positive | None = None
    """Updates that it had done; recorded in the run's recipe. Where it is given, its last checkpoint must be of this step."""
    sha256: str | None = None
    """Digest of its checkpoint; recorded in the run's recipe. Where it is given, its last checkpoint must have it."""


class Recipe(Spec):
    """A training run: data, peers, the objectives between them, and how they are optimized."""

    name: str = Field(pattern=r"^[\w][\w.\-]*$")
    """The run's folder in `output`."""
    seed: Seed = 0
    """Where all randomness of the run begins."""
    output: str = "runs"
    """The folder of all runs."""
    extended_from: ExtendedFrom | None = None
    """The run that this one goes on from; `--extend RUN` on the command line."""
    placement: Literal["replicated", "parallel", "auto"] = "replicated"
    """replicated: every rank holds all peers; parallel: each rank trains one peer (or a few, where there are more peers than ranks), and
    predictions travel in place of gradients; auto: measures both for a few updates and takes the faster."""
    exchange: ExchangeSpec = ExchangeSpec()
    """How peers of different ranks or jobs learn from each other."""
    data: Data = Data()
    """The images."""
    peers: dict[str, PeerSpec] = Field(min_length=1)
    """The models of the group, by name."""
    objectives: list[AnyObjective] = Field(min_length=1, max_length=MAX_OBJECTIVES)
    """What the peers learn: each entry is a loss, with its weight, learners and sources."""
    optimizer: Optimizer = Optimizer()
    """The optimizer of every trainable peer that names none of its own."""
    schedule: Schedule = Schedule()
    """The learning rate's schedule of every trainable peer that names none of its own."""
    train: Train = Train()
    """How long and in which way the peers are trained."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """When checkpoints are written."""
    tracking: Tracking = Field(default=[TENSORBOARD])
    """What shows the run while it trains: names of Accelerate's trackers, or mappings with their arguments. The list may be empty;
    metrics.jsonl is written all the same."""

    _origin: Origin = PrivateAttr(default=Origin())
    _own_losses: Mapping[str, LossTraits] = PrivateAttr(default_factory=dict)

    @property
    def trainable(self) -> tuple[str, ...]:
        """Names of the peers that are trained, in the recipe's order."""
        return tuple(name for name, peer in self.peers.items() if not peer.frozen)

    def is_trained(self, peer: str) -> bool:
        """Whether `peer` is trained: here, or by another job, as whose teacher it is frozen in the recipe of this job."""
        return not self.peers[peer].frozen or peer in self.exchange.reads

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Names of the peers that give logits, in the recipe's order."""
        return tuple(name for name, peer in self.peers.items() if peer.head != "none")

    @property
    def headless(self) -> tuple[str, ...]:
        """Names of the peers that give embeddings in place of logits, in the recipe's order."""
        return tuple(name for name, peer in self.peers.items() if peer.head == "none")

    @property
    def trackers(self) -> dict[str, TrackerSpec]:
        """By name the trackers that show the run."""
        return {spec.name: spec for spec in map(tracker_spec, self.tracking)}

    @property
    def stores(self) -> dict[str, StoreSpec]:
        """By peer the store that its outputs are kept in."""
        return {name: peer.store for name, peer in self.peers.items() if peer.store is not None}

    @property
    def counted_views(self) -> tuple[int, int] | None:
        """Number of the views of each training image, and their seed; None: each epoch has views of its own."""
        for store in self.stores.values():  # all say the same
            if store.views != "epoch":
                return store.views, self.seed if store.seed is None else store.seed
        return None

    def optimizer_of(self, peer: str) -> Optimizer:
        """The optimizer section that holds for `peer`."""
        return self.peers[peer].optimizer or self.optimizer

    def schedule_of(self, peer: str) -> Schedule:
        """The schedule section that holds for `peer`."""
        return self.peers[peer].schedule or self.schedule

    def channels_last_of(self, peer: str) -> bool:
        """Whether the weights and images of `peer` are in channels-last memory format."""
        own = self.peers[peer].channels_last
        return bool(self.train.channels_last if own is None else own)

    def is_compiled(self, peer: str) -> bool:
        """Whether `peer` is compiled: as it says itself or, if it does not, as the run does."""
        own = self.peers[peer].compile
        return bool(self.train.compile if own is None else own)

    def learners_of(self, objective: Objective) -> tuple[str, ...]:
        """Names of the peers that `objective` trains."""
        return self.trainable if objective.learners is None else tuple(objective.learners)

    def sources_of(self, objective: Objective, learner: str) -> tuple[str, ...]:
        """What `learner` learns from in `objective`: peers, moving averages (`NAME.ema`) or `ensemble`; empty for ground truth.

        It is empty as well where a loss of the user's own, which is not imported yet, may be ground truth.
        """
        if not isinstance(objective, DistillationObjective):
            return ()
        others = tuple(name for name in self.peers if name != learner)
        if objective.sources is None:
            return () if self.may_lack_sources(objective) else others
        averages = tuple(f"{name}.{EMA}" for name in others if not self.peers[name].frozen)
        kinds = {EMA: (f"{learner}.{EMA}",), PEERS_EMA: averages, SELF: (learner,)}
        sources = [source for entry in objective.sources for source in kinds.get(entry, (entry,))]
        return tuple(dict.fromkeys(sources))

    def traits_of(self, objective: Objective) -> LossTraits | None:
        """What a loss of the user's own says of itself; None of an inbuilt one, and before it is imported."""
        return self._own_losses.get(objective.loss)

    def may_lack_sources(self, objective: Objective) -> bool:
        """Whether `objective` learns from labels alone, as far as it is known: a loss of the user's own says it once it is imported."""
        if not isinstance(objective, OwnLoss):
            return not isinstance(objective, DistillationObjective)
        traits = self.traits_of(objective)
        return objective.sources is None if traits is None else not traits.reads_source

    def label_type_of(self, objective: Objective) -> LabelType:
        """The data that the loss of `objective` is for, as far as it is known."""
        traits = self.traits_of(objective)
        return objective.label_type if traits is None else traits.label_type

    def reads_of(self, objective: Objective) -> OutputKind:
        """The outputs that the loss of `objective` is for, as far as it is known."""
        traits = self.traits_of(objective)
        return objective.reads if traits is None else traits.reads

    def with_loss_traits(self, traits: Mapping[str, LossTraits]) -> Recipe:
        """Returns this recipe with what its losses of the user's own say of themselves, by their names."""
        recipe = self.model_copy()
        recipe._own_losses = dict(traits)
        return recipe

    def members_of(self, objective: Objective, learner: str) -> tuple[str, ...]:
        """The peers whose logits make the ensemble that `learner` learns from in `objective`; empty where there is none."""
        if not isinstance(objective, DistillationObjective) or ENSEMBLE not in (objective.sources or ()):
            return ()
        ensemble = objective.ensemble or Ensemble()
        members = tuple(self.peers) if ensemble.members is None else tuple(ensemble.members)
        return tuple(name for name in members if ensemble.own or name != learner)

    def resolved(self) -> Recipe:
        """Returns this recipe with what null and auto stand for, as far as it follows from the recipe alone; a run writes it."""
        best_metric = self.train.best_metric or ("map" if self.data.multi_label else "top1")
        update: dict[str, Any] = {"best_metric": best_metric}
        if not self.train.tune:
            update |= {key: getattr(self.train, key) or False for key in TUNED_SWITCHES}
        train = self.train.model_copy(update=update)
        return self.model_copy(update={"data": self.data.resolved(seed=self.seed), "train": train})

    def with_tuned_of(self, saved: Recipe) -> Recipe:
        """Returns this recipe, where it asks to be tuned, with what that has found for `saved` wherever this one leaves it open.

        Optimizers are left to `with_step_forms_of`.
        """
        if not self.train.tune:
            return self
        update = {key: getattr(saved.train, key) for key in (*TUNED_SWITCHES, "threads") if getattr(self.train, key) is None}
        update |= {"compile_mode": saved.train.compile_mode} if "compile" in update else {}
        return self.model_copy(update={"train": self.train.model_copy(update={**update, "tune": False})})

    def with_step_forms_of(self, saved: Recipe) -> Recipe:
        """Returns this recipe with the form of each optimizer's step that the run of `saved` has chosen, where this one leaves it open.

        A GPU chooses it where a step may be skipped, and `train.tune` where it was asked to; a peer may then have a section of its own.
        """
        peers = dict(self.peers)
        for name, peer in self.peers.items():
            then = saved.peers[name].optimizer if name in saved.peers else None
            if then is not None:
                optimizer = _with_step_form(self.optimizer_of(name), then)
                if peer.optimizer is not None or optimizer == then:
                    peers[name] = peer.model_copy(update={"optimizer": optimizer})
        return self.model_copy(update={"peers": peers, "optimizer": _with_step_form(self.optimizer, saved.optimizer)})

    @property
    def input_shapes(self) -> list[tuple[int, int, int]]:
        """Channels, height and width of what peers read of which the recipe says it; a run's recipe says it of all."""
        inputs = [peer.input for peer in self.peers.values() if peer.input != "auto"]
        return [(each.channels, *each.height_width) for each in inputs if each.channels is not None and each.height_width is not None]

    def with_inputs(self, inputs: Mapping[str, Mapping[str, Any]]) -> Recipe:
        """Returns this recipe with what peers read, which their models say; by the peer's name the fields of `InputSpec`."""
        peers = {
            name: peer.model_copy(update={"input": InputSpec(**inputs[name])}) if name in inputs else peer
            for name, peer in self.peers.items()
        }
        return self.model_copy(update={"peers": peers})

    def with_inputs_of(self, saved: Recipe) -> Recipe:
        """Returns this recipe in which peers read what those of `saved` do where this one leaves it open."""
        peers = {}
        for name, peer in self.peers.items():
            then = saved.peers[name].input if name in saved.peers else "auto"
            if then != "auto":
                given = {} if peer.input == "auto" else peer.input.model_dump(exclude_none=True)
                peer = peer.model_copy(update={"input": InputSpec(**{**then.model_dump(), **given})})
            peers[name] = peer
        return self.model_copy(update={"peers": peers})

    def with_classes(self, indices: Mapping[str, Sequence[int | None]], num_outputs: Mapping[str, int]) -> Recipe:
        """Returns this recipe with the outputs that `auto` and files of names stand for, as far as a recipe has room for them.

        Args:
            indices: by frozen peer the output that stands for each class of the data, None for none.
            num_outputs: by peer how many outputs it has, if the names say it, which indices do not.
        """
        peers, room = dict(self.peers), MAX_SAVED_CLASSES
        for name, peer in self.peers.items():
            room -= len(indices[name]) if name in indices and isinstance(peer.classes, str) else 0
            if name not in indices or not isinstance(peer.classes, str) or room < 0:
                continue
            takes_number = peer.classes != "auto" and program_file(peer.model) is None and name in num_outputs
            args = {"num_classes": num_outputs[name], **peer.args} if takes_number else peer.args
            peers[name] = peer.model_copy(update={"classes": list(indices[name]), "args": args})
        return self.model_copy(update={"peers": peers})

    def with_classes_of(self, saved: Recipe) -> Recipe:
        """Returns this recipe with the outputs that `auto` and files of names stood for in `saved`."""
        peers = dict(self.peers)
        for name, peer in self.peers.items():
            then = saved.peers.get(name)
            if then is not None and isinstance(peer.classes, str) and not isinstance(then.classes, str):
                number = {key: value for key, value in then.args.items() if key == "num_classes"} if peer.classes != "auto" else {}
                peers[name] = peer.model_copy(update={"classes": then.classes, "args": {**number, **peer.args}})
        return self.model_copy(update={"peers": peers})

    def with_class_weights(self, weights: Mapping[int, Sequence[float]]) -> Recipe:
        """Returns this recipe with the weights of the classes in the objectives of these indices."""
        objectives = [
            each.model_copy(update={CLASS_WEIGHTS[each.loss]: list(weights[index])}) if index in weights else each
            for index, each in enumerate(self.objectives)
        ]
        return self.model_copy(update={"objectives": objectives})

    @property
    def class_weights(self) -> dict[int, str | list[float]]:
        """By index of the objectives that weigh classes, how."""
        given = {index: getattr(each, CLASS_WEIGHTS[each.loss]) for index, each in enumerate(self.objectives) if each.loss in CLASS_WEIGHTS}
        return {index: value for index, value in given.items() if isinstance(value, str | list)}

    def takes_class_fractions(self, index: int) -> bool:
        """Returns whether the numbers of an objective's classes are fractions of the images; weights say the same times any factor."""
        return self.objectives[index].loss in CLASS_FRACTIONS

    def with_class_weights_of(self, saved: Recipe) -> Recipe:
        """Returns this recipe with the numbers that `saved` has for `balanced`, `data` and weights that differ by a factor alone."""
        then = {index: value for index, value in saved.class_weights.items() if isinstance(value, list)}
        return self.with_class_weights(
            {
                index: then[index]
                for index, value in self.class_weights.items()
                if index in then and self._is_same(index, value, then[index])
            }
        )

    def _is_same(self, index: int, numbers: str | list[float], saved: list[float]) -> bool:
        """Returns whether an objective's numbers of the classes are those that were saved, but for rounding: weights for a factor, too."""
        if isinstance(numbers, str) or not self.takes_class_fractions(index):
            return _is_multiple(numbers, saved)
        return len(numbers) == len(saved) and all(map(partial(math.isclose, rel_tol=1e-6), numbers, saved))

    def with_extension(self, run: str, *, step: int | None = None, sha256: str | None = None) -> Recipe:
        """Returns this recipe as one that goes on from `run`, from its checkpoint after `step` updates."""
        return self.model_copy(update={"extended_from": ExtendedFrom(run=run, step=step, sha256=sha256)})

    def with_extension_of(self, saved: Recipe) -> Recipe:
        """Returns this recipe with the run that `saved` went on from, as far as this one names no other."""
        own, then = self.extended_from, saved.extended_from
        if then is None or (own is not None and (own.run != then.run or own.step not in (None, then.step))):
            return self
        return self.model_copy(update={"extended_from": then})

    @property
    def origin(self) -> Origin:
        """The file and the overrides that it comes from."""
        return self._origin

    def error(self, path: str, message: str) -> RecipeError:
        """A RecipeError for one fault, which names the file or the override that it comes from."""
        return self._origin.error([Fault(path, message)])


def _is_multiple(weights: str | list[float], saved: list[float]) -> bool:
    """Returns whether weights of the classes are those that were saved, but for a factor and rounding."""
    if isinstance(weights, str):
        return True
    if len(weights) != len(saved) or not sum(weights) or not sum(saved):
        return False
    factor = sum(saved) / sum(weights)
    return all(math.isclose(weight * factor, then, rel_tol=1e-5) for weight, then in zip(weights, saved, strict=True))


def _with_step_form(optimizer: Optimizer, saved: Optimizer) -> Optimizer:
    """Returns `optimizer` with the form of the step that was chosen for `saved`, where it says none."""
    if not optimizer.is_form_open:
        return optimizer
    return optimizer.model_copy(update={"fused": saved.fused, "foreach": saved.foreach})
