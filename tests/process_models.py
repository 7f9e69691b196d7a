"""Models that recipes of the tests name `process_models:...`: their process dies, waits, or writes down what it sees in their forwards."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import torch
from support import TinyNet


class Mortal(TinyNet):
    """The process of rank 1 dies in its 20th forward where the environment says so."""

    forwards = 0

    def forward(self, images):
        Mortal.forwards += 1
        if os.environ.get("RANK") == "1" and os.environ.get("MORTAL") and Mortal.forwards == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)


def mortal(num_classes, in_channels):
    """The factory `process_models:mortal`."""
    return Mortal(num_classes, in_channels, double=True)


class Slow(TinyNet):
    """Rank 1 takes its time."""

    def forward(self, images):
        if os.environ.get("RANK") == "1":
            time.sleep(0.05)
        return super().forward(images)


def slow(num_classes, in_channels):
    """The factory `process_models:slow`."""
    return Slow(num_classes, in_channels)


class Costly(TinyNet):
    """Takes a millisecond for every image."""

    def forward(self, images):
        time.sleep(0.001 * len(images))
        return super().forward(images)


def costly(num_classes, in_channels, **args):
    """The factory `process_models:costly`."""
    return Costly(num_classes, in_channels, double=True, **args)


class Stopped(TinyNet):
    """The process of rank 1 is stopped in its 10th forward, and goes on after some seconds."""

    forwards = 0

    def forward(self, images):
        Stopped.forwards += 1
        if os.environ.get("RANK") == "1" and Stopped.forwards == 10:
            subprocess.Popen(["sh", "-c", f"sleep 12; kill -CONT {os.getpid()}"])
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().forward(images)


def stopped(num_classes, in_channels):
    """The factory `process_models:stopped`."""
    return Stopped(num_classes, in_channels)


class Measured(TinyNet):
    """Writes down before each update what memory its process holds and how many files it has open.

    Pages of files are left out: of a process that was forked each counts only once code in it has run.
    """

    def __init__(self, num_classes, in_channels, *, log):
        super().__init__(num_classes, in_channels)
        self.log = log

    def forward(self, images):
        if torch.is_grad_enabled():
            (kilobytes,) = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
            now = {"bytes": 1024 * int(kilobytes), "files": len(list(Path("/proc/self/fd").iterdir()))}
            with Path(self.log).open("a") as log:
                log.write(json.dumps(now) + "\n")
        return super().forward(images)


def measured(num_classes, in_channels, **args):
    """The factory `process_models:measured`."""
    return Measured(num_classes, in_channels, **args)


class Counted(TinyNet):
    """Writes down of how many images each forward is."""

    def __init__(self, num_classes, in_channels, *, log, **args):
        super().__init__(num_classes, in_channels, double=True, **args)
        self.log = log

    def forward(self, images):
        with Path(self.log).open("a") as log:
            log.write(f"{len(images)}\n")
        return super().forward(images)


def counted(num_classes, in_channels, **args):
    """The factory `process_models:counted`."""
    return Counted(num_classes, in_channels, **args)
