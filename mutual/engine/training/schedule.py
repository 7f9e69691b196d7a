"""build_schedule: the learning rate as a function of the update, of our own or by a function of the user's."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

from mutual.recipe import InputError, Schedule, describe_error, import_users, is_users_name

_NUM_CHECKED = 1_000
"""So many updates, spread over the training, are looked at before it begins."""


def build_schedule(spec: Schedule, *, lr: float, updates_per_epoch: int, epochs: int) -> Callable[[int], float]:
    """Returns the learning rate as a pure function of the update (0 is the first).

    During warm-up, update t of w has lr * (t + 1) / w, so that no update is lost to a rate of zero, unless `warmup_start_lr` says where it
    begins. With `period_epochs`, a cosine rises again behind each period; an epoch at its lowest point may have a rate of zero, as with
    torch's CosineAnnealingLR.

    Raises:
        ValueError: a function of the user's own cannot be called, or gives no learning rate.

    Example:
        >>> learning_rate = build_schedule(Schedule(name="linear"), lr=0.4, updates_per_epoch=2, epochs=2)
        >>> [round(learning_rate(update), 3) for update in range(4)]
        [0.4, 0.3, 0.2, 0.1]
    """
    by_epoch = spec.warmup_interval == "epoch"
    exact = spec.warmup_epochs * updates_per_epoch + spec.warmup_updates
    warmup = exact if by_epoch else round(exact)  # whole updates, unless it rises once an epoch
    unit = updates_per_epoch if by_epoch else 1

    def warming_up(update: int) -> float:
        if spec.warmup_start_lr is None:
            return lr * min(update + unit, warmup) / warmup
        return spec.warmup_start_lr + (lr - spec.warmup_start_lr) * update / warmup

    timing = _Timing(spec, warmup=warmup, updates_per_epoch=updates_per_epoch, epochs=epochs)
    after_warmup = _after_warmup(spec, lr, timing)

    def learning_rate(update: int) -> float:
        position = update - update % unit
        return warming_up(position) if position < warmup else after_warmup(update)

    return learning_rate


class _Timing:
    """Where in the training an update is, as a schedule counts it.

    Args:
        spec: the schedule.
        warmup: updates of the warm-up.
        updates_per_epoch: updates in an epoch.
        epochs: epochs of the training.
    """

    def __init__(self, spec: Schedule, *, warmup: float, updates_per_epoch: int, epochs: int) -> None:
        self.warmup = warmup
        self.updates_per_epoch = updates_per_epoch
        self.epochs = epochs
        self._by_epoch = spec.interval == "epoch"
        self._from_warmup = spec.count_from == "warmup_end"
        if spec.period_epochs is not None:
            self._span = spec.period_epochs * updates_per_epoch
        elif self._from_warmup:
            self._span = max((epochs - spec.warmup_epochs) * updates_per_epoch - spec.warmup_updates, 1.0)
        else:
            self._span = max(epochs * updates_per_epoch, warmup + 1) - warmup  # a benchmark goes on beyond the last

    def position(self, update: int) -> float:
        """The update that `update` has the rate of: itself, or the first one of its epoch that is behind the warm-up."""
        return max(update - update % self.updates_per_epoch, self.warmup) if self._by_epoch else update

    def progress(self, position: float) -> float:
        """The part of the schedule that is over, from 0 to 1 (and on, behind its end)."""
        return (position - self.warmup) / self._span

    def epoch(self, position: float) -> float:
        """Epochs since milestones are counted."""
        return (position - self.warmup if self._from_warmup else position) / self.updates_per_epoch

    def num_steps(self, position: float, step_epochs: float) -> int:
        """How many steps of so many epochs are over."""
        if self._from_warmup and not self._by_epoch:
            return int((position - self.warmup) // max(1, int(step_epochs * self.updates_per_epoch)))
        return math.floor(self.epoch(position) / step_epochs)

    def cycles(self, position: float, length: float) -> tuple[int, float]:
        """How many cycles of so many updates (epochs, where the rate changes once an epoch) are over, and the part of the next one."""
        count = (position - self.warmup) / (self.updates_per_epoch if self._by_epoch else 1)
        return int(count // length), count % length / length


def _after_warmup(spec: Schedule, lr: float, timing: _Timing) -> Callable[[int], float]:
    floor = min(spec.min_lr, lr)
    if is_users_name(spec.name):
        factor = _users_schedule(spec.name, spec.args, timing)
        return lambda update: lr * factor(timing.position(update))

    def rate(update: int) -> float:
        position = timing.position(update)
        match spec.name:
            case "cosine":
                return floor + (lr - floor) * (1 + math.cos(math.pi * timing.progress(position))) / 2
            case "linear":
                return floor + (lr - floor) * max(1 - timing.progress(position), 0.0) ** spec.power
            case "step":
                return lr * spec.gamma ** timing.num_steps(position, spec.step_epochs)
            case "multistep":
                return lr * spec.gamma ** _num_passed(spec, timing.epoch(position))
            case "piecewise":
                return lr * spec.factors[_num_passed(spec, timing.epoch(position))]
            case "cyclic":
                return lr + _cyclic_height(spec, lr, timing, position)
            case "fixmatch_cosine":
                return lr * max(math.cos(math.pi * spec.num_cycles * timing.progress(position)), 0.0)
            case _:
                return lr

    return rate


def _num_passed(spec: Schedule, epoch: float) -> int:
    return sum(epoch >= milestone for milestone in spec.milestones)


def _cyclic_height(spec: Schedule, lr: float, timing: _Timing, position: float) -> float:
    """Returns by how much the rate of torch's CyclicLR is above `lr`."""
    assert spec.rise is not None
    assert spec.max_lr is not None
    length = spec.rise + (spec.rise if spec.fall is None else spec.fall)
    cycle, part = timing.cycles(position, length)
    top = spec.rise / length
    height = (spec.max_lr - lr) * (part / top if part <= top else (1 - part) / (1 - top))
    match spec.cycle_mode:
        case "triangular2":
            return height / 2**cycle
        case "exp_range":
            return height * spec.gamma ** ((cycle + part) * length)
        case _:
            return height


def _users_schedule(name: str, args: dict[str, Any], timing: _Timing) -> Callable[[float], float]:
    """Returns what the learning rate is multiplied by, as a function of the update (0 is the first).

    Args:
        name: `package.module:name`, the user's own word.
        args: the arguments besides the epoch and the number of epochs.
        timing: of the schedule.

    Raises:
        InputError: there is no such function, it fails, it gives something else than a finite number that is not negative, or another when
            it is called again. What only updates show that were not looked at is said when they come.
    """
    function = import_users(name, kind="schedule")
    updates_per_epoch, epochs, first = timing.updates_per_epoch, timing.epochs, math.ceil(timing.warmup)
    last = max(epochs * updates_per_epoch - 1, 0)

    def factor(update: float) -> float:
        epoch = min(update, last) / updates_per_epoch  # a benchmark goes on beyond the last
        try:
            value = function(epoch, float(epochs), **args)
        except (Exception, SystemExit) as error:  # the user's code, which may raise anything
            raise InputError(f"{name} fails in epoch {epoch:g} of {epochs}: {describe_error(error, function)}") from error
        if not isinstance(value, Real) or not math.isfinite(value) or value < 0:
            raise InputError(f"{name} gives {value!r:.80} in epoch {epoch:g} of {epochs}, no finite number that is at least 0")
        return float(value)

    step = max(1, (last - first) // _NUM_CHECKED)
    for update in sorted({*range(first, last + 1, step), last}):
        if factor(update) != factor(update):
            raise InputError(f"{name} gives another number when it is called again; it may depend on its arguments alone")
    return factor
