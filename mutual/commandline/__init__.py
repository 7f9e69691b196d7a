"""What the verbs share: one line for what goes wrong, exit codes, and an end of all processes where one fails; imports no torch."""

from mutual.commandline.verbs import run_verb, say

__all__ = [
    "run_verb",
    "say",
]
