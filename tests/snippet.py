"""Runs its first argument as a program, as `python -c` does: `support.run("snippet", code, ...)` does so in a fork."""

import sys

exec(compile(sys.argv.pop(1), "<snippet>", "exec"), {"__name__": "__main__"})
