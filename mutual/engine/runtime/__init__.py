"""Runtime: how a process starts and ends: launcher, device, precision, threads, signals."""

from mutual.engine.runtime.environment import Environment, init_environment, is_lone_process, restore_switches
from mutual.engine.runtime.facts import installed_version, processor_name
from mutual.engine.runtime.launch_settings import LaunchSettings, environment_notes, resolve_launch, torch_threads
from mutual.engine.runtime.stop_signals import StoppedError, StopSignals

__all__ = [
    "Environment",
    "LaunchSettings",
    "StopSignals",
    "StoppedError",
    "environment_notes",
    "init_environment",
    "installed_version",
    "is_lone_process",
    "processor_name",
    "resolve_launch",
    "restore_switches",
    "torch_threads",
]
