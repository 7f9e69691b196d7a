"""Schedule: the section on the learning rate as a function of the update, and the checks of it that need no training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictFloat, WithJsonSchema

from mutual.recipe.base import NonNegative, NonNegativeFloat, PositiveFloat, Spec
from mutual.recipe.errors import Fault, did_you_mean
from mutual.recipe.users_code import USERS_NAME, is_users_name

SCHEDULES = ("constant", "cosine", "linear", "step", "multistep", "piecewise", "cyclic", "fixmatch_cosine")
"""The schedules that are built in."""
_OWNERS = {
    "period_epochs": ("cosine",),
    "power": ("linear",),
    "factors": ("piecewise",),
    "max_lr": ("cyclic",),
    "rise": ("cyclic",),
    "fall": ("cyclic",),
    "cycle_mode": ("cyclic",),
    "num_cycles": ("fixmatch_cosine",),
}
"""By field the schedules that read it, where others would pass over it in silence."""


def _known_schedule(value: Any) -> Any:
    if not isinstance(value, str) or (value not in SCHEDULES and not is_users_name(value)):
        raise ValueError(f"is no valid name{did_you_mean(value, SCHEDULES)}")
    return value


ScheduleName = Annotated[
    str,
    BeforeValidator(_known_schedule),
    WithJsonSchema({"anyOf": [{"enum": list(SCHEDULES)}, {"type": "string", "pattern": USERS_NAME}]}),
]


class Schedule(Spec):
    """The learning rate as a function of the update, as a multiple of the optimizer's `lr`."""

    name: ScheduleName = "cosine"
    """Form of the schedule after the warm-up. package.module:name is a function of yours: called with the epoch (0.5 is the middle of the
    first) and the number of epochs, both as floats, and with `args`, it returns what lr is multiplied by."""
    args: dict[str, Any] = Field(default_factory=dict)
    """package.module:name: further arguments of the function."""
    warmup_epochs: NonNegativeFloat = 0.0
    """The rate rises linearly from 0 over this number of epochs, before the schedule proper begins."""
    warmup_updates: NonNegative = 0
    """The same in updates, in place of `warmup_epochs`."""
    warmup_start_lr: NonNegativeFloat | None = None
    """The rate of the first update, from which the warm-up rises; 0 is allowed. By default update t of a warm-up of w has t/w of lr, the
    first is 1, so that no update is lost to a rate of 0."""
    warmup_interval: Literal["update", "epoch"] = "update"
    """update: the warm-up rises with each update; epoch: once an epoch, and it need not end with an update."""
    count_from: Literal["start", "warmup_end"] = "start"
    """Where `step_epochs` and `milestones` are counted from. warmup_end: the end of the warm-up, as by a scheduler that begins there.
    Cosine and linear then fall over the epochs less `warmup_epochs`, not rounded, though the warm-up is; `step_epochs` is rounded down to
    whole updates."""
    min_lr: NonNegativeFloat = 0.0
    """cosine, linear: the rate that the last update approaches; with `period_epochs`, the lowest rate of each period."""
    power: PositiveFloat = 1.0
    """linear: the part of the way that is left is raised to it (polynomial decay)."""
    period_epochs: Annotated[StrictFloat, Field(ge=1e-3, le=1e6)] | None = None
    """cosine: epochs in which the rate falls; in as many it rises again, and so on, as torch's CosineAnnealingLR with this T_max. The
    default is all epochs behind the warm-up, in which it falls once."""
    num_cycles: PositiveFloat = 0.4375
    """fixmatch_cosine: the rate is lr times the cosine of so many half turns at the end, never less than 0 (FixMatch, arXiv:2001.07685)."""
    step_epochs: Annotated[StrictFloat, Field(ge=1e-3, le=1e6)] = 30.0
    """step: epochs between two drops."""
    milestones: list[PositiveFloat] = Field(default_factory=list, max_length=1_000)
    """multistep, piecewise: epochs at which the rate drops, or changes."""
    factors: list[NonNegativeFloat] = Field(default_factory=list, max_length=1_001)
    """piecewise: what lr is multiplied by before the first milestone, between it and the second, ..., and behind the last one."""
    gamma: Annotated[StrictFloat, Field(gt=0, le=1)] = 0.1
    """step, multistep: factor of a drop; cyclic with exp_range: of the amplitude with each update."""
    max_lr: PositiveFloat | None = None
    """cyclic: the rate rises from lr to this one and falls back to lr, and so on (arXiv:1506.01186)."""
    rise: PositiveFloat | None = None
    """cyclic: updates in which the rate rises (epochs, with `interval: epoch`)."""
    fall: PositiveFloat | None = None
    """cyclic: updates (epochs) in which it falls; the default is `rise`."""
    cycle_mode: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    """cyclic: triangular: all cycles rise to max_lr; triangular2: the amplitude is halved with each cycle; exp_range: multiplied by `gamma`
    with each update, as torch's CyclicLR."""
    interval: Literal["update", "epoch"] = "update"
    """update: the rate changes with each update; epoch: an epoch's updates have the rate of its first one, as with a scheduler of torch
    that is stepped once an epoch. The warm-up has an interval of its own."""


def check_schedule(schedule: Schedule, path: str) -> Iterator[Fault]:
    """Yields the faults of a schedule at a recipe's `path`."""
    for key, names in _OWNERS.items():
        if schedule.name not in names and getattr(schedule, key) != Schedule.model_fields[key].get_default(call_default_factory=True):
            yield Fault(f"{path}.{key}", f"belongs to name: {' or '.join(names)}, not to {schedule.name}")
    if schedule.args and schedule.name in SCHEDULES:
        yield Fault(f"{path}.args", f"belongs to a function of yours (name: package.module:function), not to {schedule.name}")
    if schedule.warmup_epochs and schedule.warmup_updates:
        yield Fault(f"{path}.warmup_updates", "warmup_epochs says already how long the warm-up is; take one of the two away")
    if schedule.warmup_updates and schedule.warmup_interval == "epoch":
        yield Fault(f"{path}.warmup_updates", "a warm-up that rises once an epoch is counted in epochs; write warmup_epochs")
    if schedule.name == "piecewise" and len(schedule.factors) != len(schedule.milestones) + 1:
        yield Fault(
            f"{path}.factors",
            f"{len(schedule.factors)} factors are not one more than {len(schedule.milestones)} milestones; give one for each piece",
        )
    if schedule.name == "cyclic":
        for key in ("max_lr", "rise"):
            if getattr(schedule, key) is None:
                yield Fault(f"{path}.{key}", "is missing; a cyclic schedule needs it")
