"""chosen_threads: the number of threads that the user of this process chose, if any."""

from __future__ import annotations

import os

import psutil
import torch

from mutual.data import available_cores

_THREADS = "OMP_NUM_THREADS"
_LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")
"""Variables that `accelerate launch` and `torchrun` set for every process."""
_THREADS_FLAG = "--num_cpu_threads_per_process"


def chosen_threads() -> int | None:
    """Returns the number of threads that the user chose for this process, or None where only a launcher did.

    Whoever calls `torch.set_num_threads`, sets OMP_NUM_THREADS or gives `--num_cpu_threads_per_process` chooses. `accelerate launch` always
    sets OMP_NUM_THREADS, and `torchrun` does for several processes, to 1 where nobody chose: whether somebody did, the environment and
    the command line of the launcher itself tell. Where they cannot be read, 1 is nobody's choice.
    """
    threads = torch.get_num_threads()
    if _THREADS not in os.environ:
        return None if threads >= available_cores() else threads
    is_set_since = os.environ[_THREADS] != str(threads)
    return threads if is_set_since or _is_chosen(threads) else None


def _is_chosen(threads: int) -> bool:
    """Returns whether the user, and not only a launcher, set OMP_NUM_THREADS."""
    if not any(variable in os.environ for variable in _LAUNCHED):
        return True
    try:
        for ancestor in psutil.Process().parents():
            variables = ancestor.environ()
            if not any(variable in variables for variable in _LAUNCHED):  # the launcher, which sets them for what it starts
                words = [word.replace("-", "_") for word in ancestor.cmdline()]
                return _THREADS in variables or any(word.startswith(_THREADS_FLAG.replace("-", "_")) for word in words)
    except psutil.Error:
        pass
    return threads != 1
