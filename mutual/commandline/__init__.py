"""What the verbs share: one line for what goes wrong, exit codes, and an end of all processes where one fails; imports no torch."""

from mutual.commandline.commands import print_main, run_command

__all__ = [
    "print_main",
    "run_command",
]
