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

    During warm-up, update t of w has lr * (t + 1) / w, so that no update is lost to a rate of zero. With `period_epochs`, a cosine rises
    again behind each period; an epoch at its lowest point may have a rate of zero, as with torch's CosineAnnealingLR.

    Raises:
        ValueError: a function of the user's own cannot be called, or gives no learning rate.

    Example:
        >>> learning_rate = build_schedule(Schedule(name="linear"), lr=0.4, updates_per_epoch=2, epochs=2)
        >>> [round(learning_rate(update), 3) for update in range(4)]
        [0.4, 0.3, 0.2, 0.1]
    """
    warmup = round(spec.warmup_epochs * updates_per_epoch)
    num_updates = max(epochs * updates_per_epoch, warmup + 1)  # a benchmark goes on beyond the last
    floor = min(spec.min_lr, lr)

    if is_users_name(spec.name):
        users_factor = _users_schedule(spec.name, spec.args, updates_per_epoch=updates_per_epoch, epochs=epochs, first=warmup)
    span = num_updates - warmup if spec.period_epochs is None else spec.period_epochs * updates_per_epoch

    def after_warmup(update: int) -> float:
        if spec.interval == "epoch":
            update = max(update - update % updates_per_epoch, warmup)
        progress = (update - warmup) / span
        epoch = update / updates_per_epoch
        match spec.name:
            case "constant":
                return lr
            case "cosine":
                return floor + (lr - floor) * (1 + math.cos(math.pi * progress)) / 2
            case "linear":
                return floor + (lr - floor) * (1 - progress)
            case "step":
                return lr * spec.gamma ** math.floor(epoch / spec.step_epochs)
            case "multistep":
                return lr * spec.gamma ** sum(epoch >= milestone for milestone in spec.milestones)
            case _:
                return lr * users_factor(update)

    return lambda update: lr * (update + 1) / warmup if update < warmup else after_warmup(update)


def _users_schedule(name: str, args: dict[str, Any], *, updates_per_epoch: int, epochs: int, first: int) -> Callable[[int], float]:
    """Returns what the learning rate is multiplied by, as a function of the update (0 is the first).

    Args:
        name: `package.module:name`, the user's own word.
        args: the arguments besides the epoch and the number of epochs.
        updates_per_epoch: updates in an epoch.
        epochs: epochs of the training.
        first: the first update that is not in the warm-up.

    Raises:
        InputError: there is no such function, it fails, it gives something else than a finite number that is not negative, or another when
            it is called again. What only updates show that were not looked at is said when they come.
    """
    function = import_users(name, kind="schedule")
    last = max(epochs * updates_per_epoch - 1, 0)

    def factor(update: int) -> float:
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
