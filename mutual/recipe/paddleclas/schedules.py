"""convert_schedule: `lr` of an optimizer as its learning rate and the section `schedule` of a recipe.

Their trainer steps a schedule after each update, or with `by_epoch` after each epoch. A warm-up rises from `warmup_start_lr` (0, which is
the rate of the first update) for `warmup_epoch` epochs, rounded to whole updates; the schedule itself begins where the warm-up ends, and
counts its epochs from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from mutual.recipe.errors import did_you_mean
from mutual.recipe.paddleclas.section import Section
from mutual.recipe.text import format_value

Schedule = dict[str, Any]


def convert_schedule(optimizer: Section) -> tuple[float, Schedule]:
    """Returns the learning rate and the section `schedule` that an optimizer's `lr` says.

    Raises:
        RecipeError: there is none, or one that nothing here can stand for.
    """
    value = optimizer.take("lr")
    if value is None:
        raise optimizer.error("lr", "is missing; give the name of a schedule and its learning_rate")
    lr = optimizer.opened("lr", value if isinstance(value, dict) else {"learning_rate": value})
    lr.pass_over("epochs", "step_each_epoch", "verbose")  # the trainer's own
    if lr.take("last_epoch", -1) != -1:
        lr.remark("a run begins with the schedule's first update; --resume goes on with a run", "last_epoch")
    name = lr.text("name")
    if name is None:
        return _positive(lr, "learning_rate"), {"name": "constant"}
    if name not in _CONVERTERS:
        raise lr.error("name", f"nothing here stands for the schedule {name!r}{did_you_mean(name, _CONVERTERS)}")
    return _CONVERTERS[name](lr)


def _constant(lr: Section) -> tuple[float, Schedule]:
    for key in ("warmup_epoch", "warmup_start_lr"):
        if key in lr:
            lr.leave_out(key, "their Constant passes it over; ConstLR has a warm-up")
    lr.pass_over("by_epoch")
    return _positive(lr, "learning_rate"), {"name": "constant"}


def _constant_with_warmup(lr: Section) -> tuple[float, Schedule]:
    rate = _positive(lr, "learning_rate")
    warmup = _warmup(lr, rate)
    warmup.pop("interval", None)
    return rate, {"name": "constant", **warmup}


def _cosine(lr: Section) -> tuple[float, Schedule]:
    rate = _positive(lr, "learning_rate")
    return rate, {"name": "cosine", **_warmup(lr, rate), **_least(lr, "eta_min", rate)}


def _linear(lr: Section) -> tuple[float, Schedule]:
    rate, power = _positive(lr, "learning_rate"), lr.number("power", 1.0)
    lr.pass_over("cycle")  # a training ends with its first cycle
    schedule = {"name": "linear", **_warmup(lr, rate), **_least(lr, "end_lr", rate)}
    if "warmup_interval" in schedule:
        why = "their Linear takes warmup_epoch times the updates of an epoch for epochs; here it is that many epochs"
        lr.leave_out("by_epoch", why, value=True)
    return rate, schedule if power == 1 else {**schedule, "power": power}


def _step(lr: Section) -> tuple[float, Schedule]:
    rate = _positive(lr, "learning_rate")
    step = _positive(lr, "step_size")
    return rate, {"name": "step", "step_epochs": step, "gamma": lr.number("gamma", 0.1), **_counted(_warmup(lr, rate), step)}


def _multistep(lr: Section) -> tuple[float, Schedule]:
    rate, milestones = _positive(lr, "learning_rate"), _rising(lr, "milestones")
    return rate, {"name": "multistep", "milestones": milestones, "gamma": lr.number("gamma", 0.1), **_counted(_warmup(lr, rate))}


def _piecewise(lr: Section) -> tuple[float, Schedule]:
    if "learning_rate" in lr:
        return _every_30_epochs(lr)
    milestones, values = _rising(lr, "decay_epochs"), _numbers(lr, "values")
    if len(values) == len(milestones):
        lr.remark(f"is one too short, of which newer Paddle makes an error: the last rate stays behind epoch {milestones[-1]:g}", "values")
    if len(values) < len(milestones):
        raise lr.error("values", f"{len(values)} values are not one more than {len(milestones)} decay_epochs")
    if values[0] <= 0:
        raise lr.error("values", f"the first is {format_value(values[0])}; it must be greater than 0")
    values = [*values[: len(milestones)], values[-1]]  # as theirs reads a list that is longer
    factors = [_factor(value, values[0]) for value in values]
    return values[0], {"name": "piecewise", "milestones": milestones, "factors": factors, **_counted(_warmup(lr, values[0]))}


def _every_30_epochs(lr: Section) -> tuple[float, Schedule]:
    """What their newest Piecewise does where there is a learning_rate; before, it read decay_epochs and values all the same."""
    rate, epochs, values = _positive(lr, "learning_rate"), _numbers(lr, "decay_epochs"), _numbers(lr, "values")
    agree = all(epoch == 30 * (index + 1) for index, epoch in enumerate(epochs))
    if not agree or any(not math.isclose(value, rate * 0.1**index) for index, value in enumerate(values)):
        why = "with learning_rate, their newest release drops to a tenth every 30 epochs instead, and so does this; without it these count"
        lr.leave_out("values", why, value=values)
    return rate, {"name": "step", "step_epochs": 30, "gamma": 0.1, **_counted(_warmup(lr, rate))}


def _cyclic(lr: Section) -> tuple[float, Schedule]:
    rate = _positive(lr, "base_learning_rate")
    schedule: Schedule = {"name": "cyclic", "max_lr": _positive(lr, "max_learning_rate"), "rise": _positive(lr, "step_size_up")}
    fall = lr.number("step_size_down")
    schedule |= {} if fall is None else {"fall": fall}
    lr.pass_over("scale_mode")  # it belongs to scale_fn
    mode, gamma = lr.text("mode", "triangular"), lr.number("exp_gamma", 1.0)
    schedule |= {} if mode == "triangular" else {"cycle_mode": mode}
    schedule |= {"gamma": gamma} if mode == "exp_range" else {}
    return rate, {**schedule, **_warmup(lr, rate)}


def _fixmatch(lr: Section) -> tuple[float, Schedule]:
    rate, warmup, cycles = _positive(lr, "learning_rate"), lr.number("num_warmup_steps", 0), lr.number("num_cycles", 7 / 16)
    if "by_epoch" in lr:
        lr.leave_out("by_epoch", "their CosineFixmatch then counts its epochs as updates")
    schedule: Schedule = {"name": "fixmatch_cosine", "num_cycles": cycles}
    return rate, {**schedule, "warmup_updates": warmup, "warmup_start_lr": 0.0} if warmup else schedule


def _on_plateau(lr: Section) -> tuple[float, Schedule]:
    lr.leave_out("name", "no schedule here follows the scores; the rate is constant behind the warm-up", value="ReduceOnPlateau")
    return _constant_with_warmup(lr)


_CONVERTERS: dict[str, Callable[[Section], tuple[float, Schedule]]] = {
    "Constant": _constant,
    "ConstLR": _constant_with_warmup,
    "Cosine": _cosine,
    "Linear": _linear,
    "Step": _step,
    "MultiStepDecay": _multistep,
    "Piecewise": _piecewise,
    "Cyclic": _cyclic,
    "CosineFixmatch": _fixmatch,
    "ReduceOnPlateau": _on_plateau,
}


def _warmup(lr: Section, rate: float) -> Schedule:
    """Returns the fields of a warm-up to `rate`, and `interval` where the schedule is stepped once an epoch."""
    epochs, start, by_epoch = lr.number("warmup_epoch", 0), lr.number("warmup_start_lr", 0.0), lr.flag("by_epoch")
    fields: Schedule = {"interval": "epoch"} if by_epoch else {}
    if epochs <= 0:
        return fields
    if start > rate:
        lr.remark(f"the warm-up falls, from {start:g} to {rate:g}", "warmup_start_lr")
    fields |= {"warmup_epochs": epochs, "warmup_start_lr": start}
    if by_epoch:
        fields["warmup_interval"] = "epoch"
    if epochs % 1:
        fields["count_from"] = "warmup_end"  # the schedule's length is not rounded, the warm-up's is
    return fields


def _counted(fields: Schedule, step_epochs: float = 1) -> Schedule:
    """Returns `fields` with epochs that are counted from the end of the warm-up, where that or rounding makes a difference."""
    return {**fields, "count_from": "warmup_end"} if "warmup_epochs" in fields or step_epochs % 1 else fields


def _least(lr: Section, key: str, rate: float) -> Schedule:
    """Returns the field of the lowest rate, which `key` has."""
    least = lr.number(key, 0.0)
    if least > rate:
        lr.leave_out(key, f"it is above the learning rate, {rate:g}, and no schedule here rises to its end", value=least)
        return {"min_lr": rate}
    return {"min_lr": least} if least else {}


def _factor(value: float, first: float) -> float:
    """Returns what `first` is multiplied by to give `value`, in few digits where these say the same."""
    factor = value / first
    short = float(f"{factor:.12g}")
    return short if math.isclose(short * first, value, rel_tol=4e-16) else factor


def _positive(section: Section, key: str) -> float:
    value = section.number(key)
    if value is None:
        raise section.error(key, "is missing")
    if value <= 0:
        raise section.error(key, f"{format_value(value)} is not greater than 0")
    return float(value) if key.endswith("learning_rate") else value


def _numbers(section: Section, key: str) -> list[float]:
    entries = section.entries(key)
    numbers = section.opened(key, {str(index): value for index, value in enumerate(entries)})
    if None in entries:
        raise section.error(key, f"{format_value(entries)} has an entry without a number")
    return [float(numbers.number(str(index))) for index in range(len(entries))]


def _rising(section: Section, key: str) -> list[float]:
    numbers = _numbers(section, key)
    if not numbers or numbers != sorted(set(numbers)):
        raise section.error(key, f"{format_value(numbers)} are not rising epochs")
    return [int(number) if number.is_integer() else number for number in numbers]
