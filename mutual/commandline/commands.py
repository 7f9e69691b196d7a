"""run_command: a command from its start to its exit code, with a line for each error that the user can fix."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mutual.commandline.failures import LOST, FailureMonitor, end_process, end_workers
from mutual.commandline.launched import launched_rank
from mutual.recipe import InputError, RunError, allow_any_name, first_line, format_value, printable, printable_lines

_PATH_ERRORS = {
    errno.ENOTDIR: "a file stands in a folder's place; move it away or give another path",
    errno.EEXIST: "a file stands in a folder's place; move it away or give another path",
    errno.EISDIR: "a folder stands in a file's place; move it away or give another path",
    errno.ENAMETOOLONG: "give a shorter name or path",
    errno.ELOOP: "links lead in a circle; give another path",
}
"""What is wrong with a path itself, which the user can fix."""
_ACCESS_ERRORS = {
    errno.EACCES: "allow this user to read and write there, or give another path",
    errno.EPERM: "allow this user to read and write there, or give another path",
    errno.EROFS: "give a path on a disk that can be written",
    errno.ENOENT: "check the path",
}
"""What is wrong with access to a path, which the user can fix where it was given on the command line."""
_MACHINE_ERRORS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or ask for a larger quota",
    errno.EMFILE: "allow more open files (ulimit -n), or take fewer data.workers",
    errno.ENFILE: "close other programs, or take fewer data.workers",
    errno.ENOMEM: "take a smaller data.batch_size or fewer data.workers",
}
_LESS_MEMORY = "take a smaller data.batch_size (and train.accumulate), a smaller model or precision bf16"
_LOADER_ENDED = "where a library crashed or does not bear to be forked, set data.workers: 0; where memory ran out, take fewer"

_UNREAD = "the reader of the output has ended"


def run_command(command: Callable[[], None], *, resumes: bool = False) -> int:
    """Runs `command` and returns its exit code: 0 done, 2 the user's input is wrong, 1 stopped, diverged or the machine's fault.

    What went wrong is a line on stderr, or a traceback if it is none of these. Where several processes were started, it is said once for
    all of them; the process does not return then, as others may have ended in the midst of a collective. `resumes`: what is interrupted
    can be gone on with by --resume.
    """
    allow_any_name(sys.stdout, sys.stderr)
    warnings.showwarning = _Warnings()  # type: ignore[assignment]
    monitor = None
    try:
        monitor = FailureMonitor.of_launch()
        command()
        _shutdown()
    except (Exception, KeyboardInterrupt, SystemExit) as error:  # a user's code may call sys.exit
        unread = isinstance(error, BrokenPipeError) and _is_unread()
        if unread:  # what is still to be flushed goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        description = (_UNREAD, 1) if unread else _describe_error(error, resumes=resumes)
        if monitor is not None:
            _fail(monitor, error, description)
        end_workers()
        if unread:  # by `head` say, and one process says no more of it than other programs do
            return 1
        if description is None:
            raise
        message, code = description
        _print_error(message)
        return code
    finally:
        if monitor is not None:
            monitor.close()
    return 0


def print_main(message: str) -> None:
    """Prints `message` on the terminal, on the main process only."""
    if _is_main():
        print(message, flush=True)


def _fail(monitor: FailureMonitor, error: BaseException, description: tuple[str, int] | None) -> None:
    """Ends this process, one of several, after reporting the reason to the others."""
    for number in (signal.SIGINT, signal.SIGTERM):  # of a launcher that ends all as soon as one has ended
        signal.signal(number, signal.SIG_IGN)
    if isinstance(error, RunError):  # all have it, and the slowest of them comes to its end before the others go
        with suppress(RuntimeError):  # one of them has gone nevertheless
            from mutual.group import wait_for_all  # torch takes seconds to import, and one process may not need it

            wait_for_all()
    message, code = description if description is not None else ("".join(traceback.format_exception(error)).rstrip(), 1)
    end_process(monitor.report(message, code))


def _is_unread() -> bool:
    """Returns True where stdout leads to another process that no longer reads."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)  # errors and hang-ups are reported whatever is asked for
    except (OSError, ValueError):  # no file of the system
        return False
    return bool(poll.poll(0))


def _describe_error(error: BaseException, *, resumes: bool) -> tuple[str, int] | None:
    """Returns the line that says what went wrong, and the exit code; None for what nobody expected."""
    again = "; go on with --resume" if resumes else ""
    if isinstance(error, KeyboardInterrupt):
        return (f"interrupted at once; the last checkpoint, if there is one, stands{again}" if resumes else "interrupted"), 1
    if isinstance(error, SystemExit):
        frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
        return f"{printable(frame.f_code.co_filename)}:{line} ends the process: sys.exit({format_value(error.code)}){again}", 1
    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, RunError):
        return str(error), 1
    if isinstance(error, OSError):
        return _describe_os_error(error, again)
    return _describe_torch_error(error, again)


def _describe_os_error(error: OSError, again: str) -> tuple[str, int]:
    number = error.errno or 0
    path = "" if error.filename is None else f"{printable(error.filename)}: "
    reason = error.strerror or first_line(error)
    if number in _PATH_ERRORS:
        return f"{path}{reason}; {_PATH_ERRORS[number]}", 2
    if number in _ACCESS_ERRORS:
        return f"{path}{reason}; {_ACCESS_ERRORS[number]}", 2 if error.filename is not None and _is_given(error.filename) else 1
    remedy = f"; {_MACHINE_ERRORS[number]}" if number in _MACHINE_ERRORS else ""
    return f"{path}{reason}{remedy}{again}", 1


def _is_given(name: object) -> bool:
    """Returns True for a path that the command line names, or one in a folder that it names."""
    path = Path(os.fsdecode(name) if isinstance(name, bytes) else str(name)).absolute()
    given = [Path(word.rpartition("=")[2]).absolute() for word in sys.argv[1:] if word.rpartition("=")[2]]
    return any(path == each or each in path.parents for each in given)


def _describe_torch_error(error: BaseException, again: str) -> tuple[str, int] | None:
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error)):
        return f"out of memory; {_LESS_MEMORY}{again}", 1
    if torch is None:
        return None
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
        return f"a loader process ended ({first_line(error)}); {_LOADER_ENDED}{again}", 1
    if isinstance(error, torch.OutOfMemoryError):
        return f"{str(error).partition('. ')[0]}; {_LESS_MEMORY}{again}", 1
    from mutual.group import lost_connection

    return (f"{LOST}{again}", 1) if lost_connection(error) else None


def _shutdown() -> None:
    """Waits for the other processes, where this one has joined any."""
    if "torch" in sys.modules:
        from mutual.group import shutdown

        shutdown()


def _print_error(message: str) -> None:
    if _is_main():
        sys.stderr.write(f"mutual: {printable_lines(message)}\n")
        sys.stderr.flush()


class _Warnings:
    """Prints a warning as a line, each once: Python forgets which it has shown whenever a library touches its filters."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, message: Warning | str, category: type[Warning], *_: object) -> None:
        line = f"{'warning: ' if issubclass(category, UserWarning) else ''}{message}"
        if line not in self._seen:
            self._seen.add(line)
            _print_error(line)


def _is_main() -> bool:
    return launched_rank()[0] == 0
