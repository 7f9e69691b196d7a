"""Run in a process of its own, whose signals it changes: a loader's worker is signalled before it has its handlers."""

import multiprocessing
import os
import signal
import time

from mutual.data.loading import workers


def main():
    begin = workers._Termination.begin_worker
    workers._Termination.begin_worker = lambda self, number: time.sleep(0.5) or begin(self, number)
    iterator = workers.Loader(range(4), workers=1, prefetch=2)([[0], [2]])
    (worker,) = multiprocessing.active_children()
    for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    print(list(iterator))  # noqa: T201


if __name__ == "__main__":
    main()
