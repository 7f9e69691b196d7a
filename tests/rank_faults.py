"""`mutual.train` in which rank 1 lacks its recipe or data, or its model raises; or rank 0 closes slowly, or has no reader."""

import os
import signal
import sys
import time
from pathlib import Path

from support import TinyNet

from mutual.recipe import InputError

AT_FORWARD = 9


def note_the_moment():
    Path(os.environ["MOMENT"]).write_text(str(time.time()))


def on_rank_1():
    return os.environ.get("RANK") == "1"


def unbuildable(num_classes, in_channels):
    """A factory that fails on rank 1 alone."""
    if on_rank_1():
        note_the_moment()
        raise ZeroDivisionError("no driver on this machine")
    return TinyNet(num_classes, in_channels)


class Faulty(TinyNet):
    """Fails on rank 1 in the middle of an epoch."""

    forwards = 0

    def forward(self, images):
        Faulty.forwards += 1
        if on_rank_1() and Faulty.forwards == AT_FORWARD:
            note_the_moment()
            if os.environ["FAULT"] == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise {"input": InputError("/data/3.jpg cannot be read"), "bug": KeyError("no such key")}[os.environ["FAULT"]]
        return super().forward(images)


def faulty(num_classes, in_channels):
    return Faulty(num_classes, in_channels)


def end_reader():
    """Makes of stdout a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.dup2(writing, 1)
    os.close(writing)
    os.close(reading)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115, as a pipe from the beginning


def close_slowly():
    """Lets rank 0 take longer to close its files than the others wait for a process that has failed; the moment is that of its end."""
    from mutual.engine.monitoring.tracker import Tracker

    close = Tracker.close

    def closing(tracker):
        time.sleep(4)
        close(tracker)
        note_the_moment()

    Tracker.close = closing


if __name__ == "__main__":
    from mutual.train import main

    arguments = sys.argv[1:]
    if os.environ["FAULT"] == "slow close" and not on_rank_1():
        close_slowly()
    if os.environ["FAULT"] == "no reader" and not on_rank_1():
        end_reader()
    if on_rank_1() and os.environ["FAULT"] in ("recipe", "data"):
        note_the_moment()
        match os.environ["FAULT"]:
            case "recipe":
                arguments[0] = "/nowhere/recipe.yaml"
            case "data":
                arguments += ["data.root=/nowhere", "data.dataset=image_folder"]
    sys.exit(main(arguments))
