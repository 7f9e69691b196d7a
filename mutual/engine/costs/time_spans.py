"""Where the time of an update goes: spans around the parts of a training step, opened from outside, and the same spans in a trace."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from mutual.data import Window
from mutual.engine.costs.profiles import synchronize
from mutual.engine.storage import unfinished
from mutual.engine.training import Training

LOADER, FORWARD, LOSSES, BACKWARD, OPTIMIZER, METERS, OTHER = "loader", "forward", "losses", "backward", "optimizer", "meters", "other"
SPANS = (LOADER, FORWARD, LOSSES, BACKWARD, OPTIMIZER, METERS, OTHER)
_TRACED_UPDATES = 3


class Spans:
    """Seconds by span, each without the spans inside it; the device is synchronised wherever a span begins or ends.

    Args:
        device: where the work runs.
        clock: gives seconds.

    Attributes:
        seconds: by span.

    Example:
        >>> spans = Spans(torch.device("cpu"), clock=itertools.count().__next__)
        >>> with spans.during(OTHER):
        ...     with spans.during(FORWARD):
        ...         pass
        >>> {name: seconds for name, seconds in spans.seconds.items() if seconds}
        {'forward': 1, 'other': 2}
    """

    def __init__(self, device: torch.device, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(SPANS, 0)
        self._device = device
        self._clock = clock
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Context whose time is counted under `name`, and which a trace shows."""
        self._charge()
        self._open.append(name)
        try:
            with record_function(name):
                yield
                synchronize(self._device)
        finally:
            self._charge()
            self._open.pop()

    @contextmanager
    def attached(self, training: Training) -> Iterator[None]:
        """Context in which the parts of a training's updates run in spans."""
        group = training.group
        parts = [
            (group.frozen_forwards, "outputs", FORWARD),
            (group, "forward_peer", FORWARD),
            (group, "forward_without_side_effects", FORWARD),
            (group, "compute_losses", LOSSES),
            (torch.autograd, "backward", BACKWARD),
            (training.meter, "add", METERS),
            (training.pause_selector, "add", METERS),
            *((optimizer, "step", OPTIMIZER) for optimizer in training.optimizers.values()),
        ]
        with ExitStack() as stack:
            for owner, name, span in parts:
                stack.enter_context(self._wrapped(owner, name, span))
            yield

    @contextmanager
    def _wrapped(self, owner: Any, name: str, span: str) -> Iterator[None]:
        """Context in which a function of a module, or a method of an object, runs in a span."""
        function = getattr(owner, name)
        is_own = name in vars(owner)  # not where the class has it

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self.during(span):
                return function(*args, **kwargs)

        setattr(owner, name, run)
        try:
            yield
        finally:
            if is_own:
                setattr(owner, name, function)
            else:
                delattr(owner, name)

    def _charge(self) -> None:
        synchronize(self._device)
        now = self._clock()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


def measure_shares(training: Training, device: torch.device, *, rounds: int, update: Callable[[Window], None]) -> dict[str, float]:
    """Returns by span its share of the time between two updates, of medians over `rounds`; loader: what an update waits for its window.

    Args:
        training: its windows are loaded as in a run.
        device: where it runs.
        rounds: number of measured updates.
        update: updates the training's peers.
    """
    with _windows(training) as windows:
        measured = []
        for _ in range(rounds + 1):
            spans = Spans(device)
            with spans.attached(training), spans.during(OTHER):
                with spans.during(LOADER):
                    window = next(windows)
                update(window)
            measured.append(spans.seconds)
    medians = {name: statistics.median(each[name] for each in measured[1:]) for name in SPANS}  # the first starts the loader
    total = sum(medians.values())
    return {name: seconds / total for name, seconds in medians.items()}


def write_trace(training: Training, device: torch.device, path: Path | None, *, update: Callable[[Window], None]) -> None:
    """Traces a few updates and writes a Chrome trace with the spans as ranges, or none; compressed where `path` ends in .gz."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    spans = Spans(device)
    with _windows(training) as windows, spans.attached(training), profile(activities=activities) as profiler:
        for _ in range(_TRACED_UPDATES):
            with record_function("update"):
                with spans.during(LOADER):
                    window = next(windows)
                update(window)
    if path is not None:
        profiler.export_chrome_trace(str(unfinished(path)))
        unfinished(path).replace(path)


@contextmanager
def _windows(training: Training) -> Iterator[Iterator[Window]]:
    """Yields a training's windows without end; the loader's processes end with the context."""
    try:
        yield itertools.chain.from_iterable(training.windows(epoch) for epoch in itertools.count())
    finally:
        training.data.close()
