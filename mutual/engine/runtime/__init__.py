"""Runtime: how a process begins and ends: launcher, device, precision, threads, signals."""

from mutual.engine.runtime.environment import Environment, start, switches_restored
from mutual.engine.runtime.resolving import Launch, environment_notes, resolved, threads
from mutual.engine.runtime.stop_signals import StoppedError, StopSignals

__all__ = [
    "Environment",
    "Launch",
    "StopSignals",
    "StoppedError",
    "environment_notes",
    "resolved",
    "start",
    "switches_restored",
    "threads",
]
