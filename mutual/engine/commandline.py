"""What the verbs share: one line for the user's mistakes, and the exit codes 0, 1 and 2."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable

from mutual.data import allow_any_name
from mutual.engine.meters import NonFiniteLossError
from mutual.engine.stopping import StoppedError
from mutual.group import leave
from mutual.recipe import InputError


def run_verb(verb: Callable[[], None]) -> int:
    """Runs `verb` and returns its exit code: 0 done, 2 the user's input is wrong (told on stderr), 1 stopped or diverged."""
    warnings.showwarning = _warn  # type: ignore[assignment]
    allow_any_name(sys.stdout, sys.stderr)
    try:
        verb()
    except InputError as error:
        _complain(str(error))
        return 2
    except (StoppedError, NonFiniteLossError) as error:  # every process raises them at the same update
        _complain(str(error))
        leave()
        return 1
    except BrokenPipeError:  # the reader of our output, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        _complain("interrupted at once; the last checkpoint stands, go on with --resume")
        return 1
    leave()
    return 0


def say(message: str) -> None:
    """Prints `message` on the terminal, on the main process only."""
    if _is_main():
        print(message, flush=True)


def _complain(message: str) -> None:
    if _is_main():
        print(f"mutual: {message}", file=sys.stderr, flush=True)


def _warn(message: Warning | str, category: type[Warning], *_: object) -> None:
    _complain(f"{'warning: ' if issubclass(category, UserWarning) else ''}{message}")


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"
