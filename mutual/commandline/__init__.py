"""What the verbs share: one line for what goes wrong, exit codes, and an end of all processes where one fails; imports no torch."""

from mutual.commandline.commands import print_main, run_command
from mutual.commandline.launched import launched_rank
from mutual.commandline.outputs import check_free

__all__ = [
    "check_free",
    "launched_rank",
    "print_main",
    "run_command",
]
