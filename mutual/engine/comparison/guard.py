"""Runs a command and ends it, with all that it has started, as soon as whoever started this script has ended or closes its standard input.

A script of its own (`python -I guard.py COMMAND ...`) that imports nothing of ours: it stands between a comparison and a training, so that
a comparison that is killed leaves no training behind. The training then has time to write a checkpoint. It prints the command's process
group, and exits with the command's code, or with minus the number of the signal that ended it (as a byte: 256 - number).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

GRACE = 300.0
"""Seconds after SIGTERM in which a training may write its checkpoint, before it is killed."""


def main(command: list[str]) -> int:
    """Runs `command` to its end."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # handlers, unlike SIG_IGN, are not inherited by the command
        signal.signal(number, lambda *_: None)
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True)
    except OSError as error:
        sys.stderr.write(f"mutual: {command[0]}: {error.strerror}\n")
        return 127
    with contextlib.suppress(OSError):
        os.write(1, b"%d\n" % process.pid)
    threading.Thread(target=_end_with_parent, args=(process.pid,), daemon=True).start()
    code = process.wait()
    end_group(process.pid)  # a launcher may end before what it has launched
    return code % 256


def _end_with_parent(group: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    end_group(group)


def end_group(group: int) -> None:
    """Asks the processes of a group to end, kills those that have not after a while, and returns when none is left."""
    deadline = time.monotonic() + GRACE
    number: int = signal.SIGTERM
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: PermissionError where only zombies are left
        while True:
            os.killpg(group, number)
            number = signal.SIGKILL if time.monotonic() > deadline else 0  # 0 only looks whether one is left
            time.sleep(0.05)
            if not _is_alive(group):
                return


def _is_alive(group: int) -> bool:
    """Returns False where Linux knows zombies alone: in a container nobody may wait for those whose parent has ended."""
    processes = Path("/proc")
    if not (processes / "self").is_dir():
        return True
    for process in processes.glob("[1-9]*"):
        with contextlib.suppress(OSError):
            state, _, found = (process / "stat").read_bytes().rpartition(b")")[2].split()[:3]
            if int(found) == group and state not in (b"Z", b"X"):
                return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
