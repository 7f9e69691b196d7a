"""DistillationLoss: the edges of a recipe's objectives, for a training loop of the user's own.

Shapes: B images of a batch; a model's outputs are `logits` `[B, C]` and, by module path, others `[B, ...]`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mutual.group.build import build_edge_loss, source_statistics
from mutual.group.communication import Communicator
from mutual.group.edge_evaluation import EdgeEvaluation
from mutual.group.edges import Edge, EdgeLoss, MicroBatchContext, OutputKey, TensorSpec, expand_objectives, import_own_losses, weight_factor
from mutual.group.peers import Outputs
from mutual.recipe import CLASS_WEIGHTS, LOGITS, Fault, InputError, Recipe, RecipeError, did_you_mean, is_ema, parse_recipe


class DistillationLoss(nn.Module):
    """The losses of several models that learn, from labels, from each other, and from models that only teach.

    It computes what a group that is trained by a recipe does: sources are detached, losses are in float32 at least, and one backward over
    the sum gives each learner its own gradient. Its parameters are those of the adapters (regressors, projectors), which belong to their
    learners: give them to the optimizer, save them with the training's state, and leave them out of what you ship. In a loop of several
    processes each computes the losses of its own batch, and DDP must hold this module where it has parameters.

    Args:
        objectives: as in a recipe (recipes/REFERENCE.md): `loss` with its arguments, `weight`, `at`, `source_at`, `learners`, `sources`,
            `reduce`, `gate`, `ensemble`, `schedule`. Weights of classes are taken as they are, as the training images are not known.
        learners: for each model that learns, by a name that objectives may use, its outputs for some images; their shapes are read.
        sources: the same of models that only teach.
        models: by name the sources themselves, for losses that read their weights (`ofd`).
        epochs: of the training, for weights that depend on its end.
        multi_label: images have several labels each.
        seed: of the adapters' initial weights.

    Attributes:
        adapters: by learner its adapters.

    Raises:
        RecipeError: an objective is wrong, reads an output that is not given, or one of another shape; a ValueError of one line a fault.

    Example:
        >>> student, teacher = {"logits": torch.zeros(2, 3), "layer1": torch.zeros(2, 4)}, {"logits": torch.eye(2, 3)}
        >>> objectives = [{"loss": "cross_entropy"}, {"loss": "kd", "weight": 0.5}]
        >>> criterion = DistillationLoss(objectives, learners={"student": student}, sources={"teacher": teacher})
        >>> criterion({"student": student, "teacher": teacher}, torch.tensor([0, 1]))
        {'student/cross_entropy': tensor(1.0986), 'student/kd': tensor(0.0583)}
    """

    def __init__(
        self,
        objectives: Sequence[Mapping[str, Any]],
        *,
        learners: Mapping[str, Outputs],
        sources: Mapping[str, Outputs] | None = None,
        models: Mapping[str, nn.Module] | None = None,
        epochs: int | None = None,
        multi_label: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sources = sources or {}
        recipe = import_own_losses(_recipe_of(objectives, learners, sources, epochs=epochs, multi_label=multi_label, seed=seed))
        specs = {
            OutputKey(name, path): (tuple(output.shape[1:]), output.dtype)
            for name, outputs in {**learners, **sources}.items()
            for path, output in outputs.items()
        }
        self._edges = expand_objectives(recipe)
        for edge in self._edges:
            _check_given(recipe, edge, specs)
            _check_class_weights(recipe, edge, specs)
        self.adapters = nn.ModuleDict({name: nn.ModuleDict() for name in learners})
        self._autocast: tuple[str, torch.dtype, bool] = ("cpu", torch.bfloat16, False)
        self._edge_losses = dict(enumerate(self._build(recipe, specs, models or {})))
        self._is_stochastic = any(each.loss.loss_spec.is_stochastic for each in self._edge_losses.values())
        self._evaluations: dict[torch.device, EdgeEvaluation] = {}
        self.to(next(output.device for outputs in learners.values() for output in outputs.values()))

    def forward(
        self, outputs: Mapping[str, Outputs], labels: Tensor | None = None, *, epoch: float = 0.0, seed: int | None = None
    ) -> dict[str, Tensor]:
        """Returns by `LEARNER/OBJECTIVE` the weighted losses, scalars with their graphs, which add up to what is trained.

        Args:
            outputs: of all models, by name, for the same images.
            labels: class indices `[B]` or probabilities `[B, C]`; None where no objective reads them.
            epoch: epochs done, with fractions; weights may depend on it.
            seed: of what stochastic losses (`mgd`) draw; None: drawn from torch's default generator.

        Raises:
            ValueError: an output or labels are missing, or of another number of images.
        """
        first = self._check_outputs(outputs, labels)
        labels = first.new_zeros(len(first), dtype=torch.long) if labels is None else labels
        seed = _drawn_seed() if seed is None and self._is_stochastic else seed or 0
        context = MicroBatchContext(num_valid=len(first), seed=seed, epoch=epoch, global_batch_size=len(first))
        losses: dict[str, Tensor] = {}
        with self._only_adapters_in_autocast(first.device), self._generators_restored(first.device):
            for indices, _, weighted in self._evaluation(first.device).evaluate(outputs, outputs, labels, context):
                for learner, loss in weighted:
                    name = f"{learner}/{self._edges[indices[0]].name}"
                    losses[name] = losses[name] + loss if name in losses else loss
        return {name: losses[name] for name in dict.fromkeys(f"{edge.learner}/{edge.name}" for edge in self._edges)}

    def extra_repr(self) -> str:
        """Returns what `print` shows: a line for each edge."""
        return "\n".join(f"{edge}, weight {edge.weight:g}" for edge in self._edges)

    def _build(self, recipe: Recipe, specs: dict[OutputKey, TensorSpec], models: Mapping[str, nn.Module]) -> Iterator[EdgeLoss]:
        """Yields the losses of the edges, and adds their adapters to those of their learners."""
        statistics, notes = source_statistics(recipe, self._edges, models), list[str]()
        comm = Communicator(rank=0, size=1, device=torch.device("cpu"))  # it is asked for no collective
        for index, edge in enumerate(self._edges):
            if edge.loss_spec.from_model is not None and str(index) not in statistics:
                needed = f"reads the weights of its source; give models={{{edge.source!r}: ...}}"
                raise recipe.error(f"objectives.{edge.objective_index}", f"{edge.objective.loss} {needed}")
            adapters = self.adapters[edge.learner]
            assert isinstance(adapters, nn.ModuleDict)
            loss = build_edge_loss(recipe, edge, adapters, specs, statistics.get(str(index)), notes)
            factor = weight_factor(edge.objective, epochs=recipe.train.epochs)
            yield EdgeLoss(edge, loss, factor, comm=comm, autocast=self._adapter_context)
        for note in notes:
            warnings.warn(note, stacklevel=4)

    def _evaluation(self, device: torch.device) -> EdgeEvaluation:
        """Returns what evaluates the edges of outputs on `device`, where it holds tensors of its own."""
        if device not in self._evaluations:
            names = {name for edge in self._edges for name in edge.required_sources}
            self._evaluations[device] = EdgeEvaluation(self._edge_losses, sources_here=names, device=device)
        return self._evaluations[device]

    def _check_outputs(self, outputs: Mapping[str, Outputs], labels: Tensor | None) -> Tensor:
        """Returns an output of a learner, after a look at all that edges read."""
        num_rows = None if labels is None else len(labels)
        for edge in self._edges:
            if labels is None and edge.reads_labels:
                raise ValueError(f"{edge} reads labels, and none are given")
            for name, path in _read_by(edge):
                if path not in outputs.get(name, {}):
                    raise ValueError(f"{edge} reads {path!r} of {name!r}, which is not among the outputs that are given")
                num_rows = len(outputs[name][path]) if num_rows is None else num_rows
                if len(outputs[name][path]) != num_rows:
                    raise ValueError(f"{path!r} of {name!r} is of {len(outputs[name][path])} images, and others are of {num_rows}")
        edge = self._edges[0]
        return outputs[edge.learner][edge.learner_at[0]]

    @contextmanager
    def _only_adapters_in_autocast(self, device: torch.device) -> Iterator[None]:
        """Context in which autocast is off, but for adapters: these run as their learners do."""
        self._autocast = device.type, torch.get_autocast_dtype(device.type), torch.is_autocast_enabled(device.type)
        with torch.autocast(device.type, enabled=False):
            yield

    def _adapter_context(self) -> AbstractContextManager[object]:
        return torch.autocast(*self._autocast)

    def _generators_restored(self, device: torch.device) -> AbstractContextManager[None]:
        """Returns a context after which the generators that stochastic losses seed are as before."""
        if not self._is_stochastic:
            return nullcontext()
        return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _drawn_seed() -> int:
    return int(torch.randint(2**62, (), device="cpu"))


def _recipe_of(
    objectives: Sequence[Mapping[str, Any]],
    learners: Mapping[str, Outputs],
    sources: Mapping[str, Outputs],
    *,
    epochs: int | None,
    multi_label: bool,
    seed: int,
) -> Recipe:
    """Returns a recipe with these objectives, whose models nobody builds.

    Raises:
        RecipeError: they are wrong by themselves.
    """
    both = [name for name in learners if name in sources]
    if both:
        raise InputError(f"{both[0]!r} is among learners and sources; leave it away among sources, learners teach each other")
    taken = [name for name in learners if hasattr(nn.ModuleDict, name) or name in nn.ModuleDict().__dict__]
    if taken:
        raise InputError(f"{taken[0]!r} is what a torch module calls something of its own; give the learner another name")
    peers = {name: {"model": "small_cnn", "frozen": name in sources} for name in (*learners, *sources)}
    document = {
        "name": "loop",
        "seed": seed,
        "data": {"dataset": "fake", "multi_label": multi_label},
        "peers": peers,
        "objectives": list(objectives),
        "train": {"epochs": epochs or 1, "ema": 0.9},  # so that a moving average is refused here, in words that fit
    }
    try:
        recipe = parse_recipe(document)
    except RecipeError as error:
        remedies = {
            "set frozen: true": "give it among the sources",
            "every peer is frozen; leave at least one to train": "no learner is given",
        }
        raise RecipeError([_reworded(fault, remedies) for fault in error.faults]) from None
    for index, objective in enumerate(recipe.objectives):
        schedule, where = objective.schedule, f"objectives.{index}"
        is_open = schedule is not None and schedule.name != "constant" and schedule.until_epoch is None
        if epochs is None and (is_open or objective.gate == "linear"):
            raise recipe.error(where, "its weight depends on when the training ends; give epochs")
        for source in (source for learner in recipe.learners_of(objective) for source in recipe.sources_of(objective, learner)):
            if is_ema(source):
                raise recipe.error(f"{where}.sources", f"{source!r}: give the outputs of a moving average a name among the sources")
    return recipe


def _reworded(fault: Fault, words: Mapping[str, str]) -> Fault:
    """Returns a fault in which what a recipe would say is said as it is here."""
    message = fault.message
    for theirs, ours in words.items():
        message = message.replace(theirs, ours)
    return replace(fault, message=message)


def _check_given(recipe: Recipe, edge: Edge, specs: Mapping[OutputKey, TensorSpec]) -> None:
    """Refuses an edge that reads an output of which nothing is known."""
    for name, path in _read_by(edge):
        if OutputKey(name, path) not in specs:
            near = did_you_mean(path, [key.path for key in specs if key.peer == name]) or "; none is given"
            raise recipe.error(f"objectives.{edge.objective_index}.at", f"{name!r} has no output {path!r}{near}")


def _check_class_weights(recipe: Recipe, edge: Edge, specs: Mapping[OutputKey, TensorSpec]) -> None:
    """Refuses numbers of the classes that only data say, or that are not as many as the learner's logits."""
    given = recipe.class_weights.get(edge.objective_index)
    if given is None:
        return
    where = f"objectives.{edge.objective_index}.{CLASS_WEIGHTS[edge.objective.loss]}"
    if isinstance(given, str):
        raise recipe.error(where, f"{given!r} is for a recipe, whose data say how frequent classes are; give a number for each class")
    shape, _ = specs[OutputKey(edge.learner, LOGITS)]
    if shape[:1] != (len(given),):
        raise recipe.error(where, f"{len(given):,} numbers, and the logits of {edge.learner!r} have shape {shape}; give one for each class")


def _read_by(edge: Edge) -> list[OutputKey]:
    """Returns the outputs that an edge reads, of its learner and of its sources."""
    own = [OutputKey(edge.learner, path) for path in edge.learner_at]
    if not edge.sources and edge.loss_spec.on_logits:
        own.append(OutputKey(edge.learner, LOGITS))  # of which it asks for the shape
    return [*own, *edge.required_outputs]
