"""Run as `python -m killed_in_write N RECIPE ...`: `mutual.train`, killed by SIGKILL in the middle of the N-th write of a file."""

import os
import signal
import sys

from mutual import train
from mutual.engine import files

writes_left = int(sys.argv[1])
write_synced = files._write_synced


def write_and_die(path, content):
    global writes_left
    writes_left -= 1
    if writes_left == 0:
        path.write_bytes(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    write_synced(path, content)


files._write_synced = write_and_die
sys.exit(train.main(sys.argv[2:]))
