"""One framework in a process of its own: `python -m peers.worker FRAMEWORK JOB`, which `tests/peers` starts."""

from __future__ import annotations

import importlib
import os
import sys

from peers.jobs import DrivenLoader, Job, answer


def main() -> int:
    """Trains a job in a framework, an update for each line on stdin; writes its versions, or why it is skipped, and then the times."""
    name, job = sys.argv[1], Job.from_json(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a framework prints is no answer
    try:
        framework = importlib.import_module(f"peers.frameworks.{name}")
        versions = framework.versions()
    except ImportError as error:
        answer(answers, {"skipped": f"not installed: {error}"})
        return 0
    if job.method not in framework.METHODS:
        answer(answers, {"skipped": f"no {job.method} here"})
        return 0

    def loader(batch: object) -> DrivenLoader:
        answer(answers, {"versions": versions})
        return DrivenLoader(batch, sys.stdin, answers)

    framework.train(job, loader)  # what it raises is the last line on stderr
    return 0


if __name__ == "__main__":
    sys.exit(main())
