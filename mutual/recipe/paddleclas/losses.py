"""convert_losses: the section Loss as the objectives of a recipe.

Their sum of losses is a mapping by name. Of two values of one name it has the later one, and where the list has a single loss, the first of
its values alone, without its weight. The objectives train what this sum trains: each trained model's gradient is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mutual.recipe.paddleclas.architectures import Model
from mutual.recipe.paddleclas.loss_edges import LossValue, objectives_of
from mutual.recipe.paddleclas.loss_kinds import values_of
from mutual.recipe.paddleclas.loss_peers import LossPeers
from mutual.recipe.paddleclas.section import Section


@dataclass(frozen=True)
class _Entry:
    """A loss of the list.

    Attributes:
        section: its arguments.
        weight: its weight, the list's only one has 1.
        values: what it gives; None where it has no counterpart.
    """

    section: Section
    weight: float
    values: tuple[LossValue, ...] | None


def convert_losses(losses: Section, models: Sequence[Model], data: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Returns the objectives of a recipe; a model that no loss of theirs trains becomes a frozen peer.

    Args:
        losses: the section.
        models: those of Arch.
        data: the recipe's section of that name.

    Raises:
        RecipeError: a loss that names what is not there, or none that trains a model.
    """
    losses.pass_over("Eval")
    sections = losses.named_sections("Train")
    if not sections:
        raise losses.error("Train", "is missing: the list of the losses that are trained with, such as [CELoss: {weight: 1.0}]")
    peers = LossPeers(models, data or {})
    entries = [_converted(name, section, peers, is_only=len(sections) == 1) for name, section in sections]
    summed = _summed(entries)
    names = [model.name for model in models]
    objectives = []
    for entry in entries:
        values = [value for value in entry.values or () if summed.get(value.name) is value]
        objectives += objectives_of(values, entry.weight, names)
    if not objectives:
        reasons = "; ".join(line for line in losses.notes.left_out if line.startswith(f"{losses.path}."))
        raise losses.error("Train", f"no loss is left that trains a model{reasons and f': {reasons}'}")
    if all(entry.values is not None for entry in entries):
        _freeze_untrained(losses, models, objectives)
    return objectives


def _converted(name: str, section: Section, peers: LossPeers, *, is_only: bool) -> _Entry:
    if "weight" not in section:
        raise section.error("weight", "is missing; each loss needs one")
    weight = section.number("weight")
    if weight < 0:
        raise section.error("weight", f"{weight} is negative")
    if is_only and weight != 1:
        section.remark(f"{weight} is not applied, there as here: the list's only loss has the weight 1", "weight")
    values = values_of(name, section, peers)
    return _Entry(section, 1.0 if is_only else weight, None if values is None else _of_distinct_names(values))


def _of_distinct_names(values: Sequence[LossValue]) -> tuple[LossValue, ...]:
    """Returns the values that a loss of theirs returns: of several of one name the last, where the first stood."""
    return tuple({value.name: value for value in values}.values())


def _summed(entries: Sequence[_Entry]) -> dict[str, LossValue]:
    """Returns the values that their sum consists of, by name, and remarks which it leaves out."""
    if len(entries) == 1:
        (entry,) = entries
        first, *others = entry.values or (None,)
        if any(value.edges for value in others if value is not None):
            entry.section.remark(f"of the list's only loss their sum has the first value alone, there as here: {_edges_text(first)}")
        return {} if first is None else {first.name: first}
    summed: dict[str, LossValue] = {}
    owners: dict[str, Section] = {}
    for entry in entries:
        for value in entry.values or ():
            if value.name in summed:
                owners[value.name].remark(
                    f"trains nothing, there as here ({_edges_text(summed[value.name])}): {entry.section.path} gives a value of the same "
                    f"name, {value.name}, and their sum has the later one alone; a `name` of its own would keep both"
                )
            summed[value.name] = value
            owners[value.name] = entry.section
    return summed


def _edges_text(value: LossValue | None) -> str:
    edges = () if value is None else value.edges
    return ", ".join(f"{edge.learner} <- {edge.source or 'labels'}" for edge in edges) or "nothing that is trained"


def _freeze_untrained(losses: Section, models: Sequence[Model], objectives: Sequence[dict[str, Any]]) -> None:
    trained = {name for objective in objectives for name in objective["learners"]}
    for model in models:
        if model.name not in trained and not model.document.get("frozen"):
            model.document["frozen"] = True
            model.document.pop("freeze", None)
            losses.remark(f"no loss trains {model.name}, there as here, so that it is frozen", "Train")
