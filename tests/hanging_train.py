"""`mutual.train` that hangs for some seconds in a forward, in the loader, in an evaluation (rank 1) and in a checkpoint (rank 0)."""

import os
import sys
import time

from support import TinyNet

SECONDS = float(os.environ.get("SECONDS", "7"))
MIDDLE = 8
RANK = os.environ.get("RANK")


class Hanging(TinyNet):
    """Waits in one forward of training, and in one of evaluation."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.forwards = {True: 0, False: 0}

    def forward(self, images):
        if len(images) > 2:  # when the group is built, it is tried out with two
            self.forwards[self.training] += 1
            if RANK == "1" and self.forwards[self.training] == (MIDDLE if self.training else 1):
                time.sleep(SECONDS)
        return super().forward(images)


def hanging(num_classes, in_channels):
    return Hanging(num_classes, in_channels)


def hang_once(function, when):
    """Returns what does as `function` does, but waits before its call number `when`."""
    calls = 0

    def call(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == when:
            time.sleep(SECONDS)
        return function(*arguments, **options)

    return call


if __name__ == "__main__":
    from mutual.data.loading.dataset import TransformedDataset
    from mutual.engine.monitoring.watchdog import HangWatchdog
    from mutual.engine.storage.checkpoint_store import CheckpointStore
    from mutual.train import main

    HangWatchdog.PERIOD, HangWatchdog.STALL = 0.5, 3.0
    if RANK == "0":
        CheckpointStore.save = hang_once(CheckpointStore.save, 2)  # the run's last, for which the training waits
    else:
        TransformedDataset.__getitems__ = hang_once(TransformedDataset.__getitems__, MIDDLE // 2)
    sys.exit(main())
