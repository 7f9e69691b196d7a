"""Our update beside those of other frameworks: `python tests/peers [JOB ...] [--rounds 20] [--threads 1] [--python PATH] [--json]`.

Every framework runs in a process of its own, one at a time, an update of each in every round; all have the same models, image shape, batch
and number of threads, on the CPU. `--python` is the interpreter of an environment in which the others are installed; what is not there is
skipped by name.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from peers.jobs import JOBS  # noqa: E402
from peers.measuring import Measured, Worker, measure, table  # noqa: E402

OURS = ("mutual_eager", "mutual_channels_last", "mutual_compiled")
OTHERS = ("paddleclas_dml", "kd_lib", "torchdistill_kd", "pytorch_tutorial")


def main() -> int:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description="Measure our update beside those of other frameworks, in turn.")
    parser.add_argument("jobs", metavar="JOB", nargs="*", help=f"of {', '.join(JOBS)} (the default is all)")
    parser.add_argument("--rounds", type=int, default=20, help="updates of each that are measured (the default is 20)")
    parser.add_argument("--threads", type=int, default=1, help="threads of an operation (the default is 1)")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the other frameworks")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    fault = options_fault(options)
    if fault is not None:
        parser.error(fault)
    names = options.jobs or list(JOBS)
    results = {name: compare(name, options) for name in names}
    if options.json:
        print(json.dumps({name: [asdict(each) for each in measured] for name, measured in results.items()}))
        return 0
    print(table({JOBS[name].title: measured for name, measured in results.items()}))
    print(f"{options.rounds} rounds, {options.threads} thread(s), Python {platform.python_version()}, {platform.machine()}")
    return 0


def options_fault(options: argparse.Namespace) -> str | None:
    """Returns what is wrong with the options, or None."""
    unknown = [name for name in options.jobs if name not in JOBS]
    if unknown:
        return f"no job {unknown[0]!r}; choose from {', '.join(JOBS)}"
    if min(options.rounds, options.threads) < 1:
        return "--rounds and --threads must be at least 1"
    return None if shutil.which(options.python) else f"--python: {options.python} is no program; give an interpreter's path"


def compare(name: str, options: argparse.Namespace) -> list[Measured]:
    """Returns what every framework takes for a job."""
    interpreters = {**dict.fromkeys(OURS, sys.executable), **dict.fromkeys(OTHERS, options.python)}
    with ExitStack() as stack:
        workers = []
        for module, python in interpreters.items():
            workers.append(stack.enter_context(closing(Worker(module, JOBS[name], python=python, threads=options.threads))))
        return measure(workers, rounds=options.rounds)


if __name__ == "__main__":
    sys.exit(main())
