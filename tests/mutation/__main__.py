"""Counts small faults that no test notices: `python tests/mutation mutual/objectives [--tests tests/objectives] [--sample 200]`.

A mutant that survives is killed by a new test, shows that its line is not needed, or is listed in `equivalent.yaml` with the reason why no
test can notice it.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import yaml  # noqa: E402
from hypothesis import settings  # noqa: E402
from mutants import Mutant, find_mutants  # noqa: E402
from runner import Outcome, Runner  # noqa: E402


def main() -> int:
    """Runs the mutants and prints a table and the survivors; exit code 1 where less than 90 % died."""
    arguments = _arguments()
    os.chdir(ROOT)
    chosen = _choose(arguments)
    print(f"{len(chosen)} mutants", flush=True)
    settings.register_profile("mutation", database=None, deadline=None, derandomize=True)
    settings.load_profile("mutation")
    runner = Runner(chosen, jobs=arguments.jobs, budget=arguments.budget, record=arguments.record)
    line = [*arguments.tests, "-s", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "tmp_path_retention_policy=none"]
    pytest.main([*line, "-m", arguments.marked], plugins=[runner])
    return _report(runner.outcomes)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/mutation", description=__doc__.partition("\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, help="files or folders of the source")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="files or folders of tests")
    parser.add_argument("--marked", default="not slow and not faults", metavar="EXPRESSION", help="which of these tests, as pytest's -m")
    parser.add_argument("--sample", type=int, metavar="N", help="so many mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of that draw")
    parser.add_argument("--only", default="", metavar="TEXT", help="mutants whose 'path:line function: change' has this text")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keeps there which lines each test executes, for the next run")
    parser.add_argument("--again", type=Path, metavar="FILE", help="only those mutants that the output in FILE shows")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--budget", type=float, default=60, metavar="SECONDS", help="of tests for one mutant, the quickest first")
    return parser.parse_args()


def _choose(arguments: argparse.Namespace) -> list[tuple[ast.Module, Mutant]]:
    equivalents = yaml.safe_load((Path(__file__).parent / "equivalent.yaml").read_text())
    files = [file for path in arguments.paths for file in (sorted(path.resolve().rglob("*.py")) if path.is_dir() else [path.resolve()])]
    again = None if arguments.again is None else set(map(_without_line, arguments.again.read_text().splitlines()))
    found = []
    for file in files:
        path, tree = file.relative_to(ROOT), ast.parse(file.read_text())
        for mutant in find_mutants(path, tree):
            asked = arguments.only in _shown(mutant) and (again is None or _without_line(_shown(mutant)) in again)
            if asked and not any(_is_listed(entry, mutant) for entry in equivalents):
                found.append((tree, mutant))
    if arguments.sample is not None and arguments.sample < len(found):
        kept = sorted(random.Random(arguments.seed).sample(range(len(found)), arguments.sample))
        found = [found[index] for index in kept]
    return found


def _without_line(shown: str) -> str:
    """Returns a mutant as it is shown, without what was said of it and without its line's number, which changes with others."""
    return re.sub(r"^\w+ \(\d+ tests\): |(?<=\.py):\d+", "", shown)


def _is_listed(entry: dict[str, str], mutant: Mutant) -> bool:
    return entry["file"] == str(mutant.path) and entry["function"] == mutant.function and entry["change"] in mutant.change


def _report(outcomes: Sequence[Outcome]) -> int:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        for name in (str(outcome.mutant.path), "all"):
            counts[name][outcome.result] += 1
    print(f"{'':48}{'mutants':>8}{'killed':>8}{'timeout':>8}{'survived':>9}{'unreached':>10}{'share':>7}")
    for name, row in sorted(counts.items(), key=lambda item: (item[0] == "all", item[0])):
        dead = row["killed"] + row["timeout"]
        columns = f"{row.total():8}{row['killed']:8}{row['timeout']:8}{row['survived']:9}{row['unreached']:10}"
        print(f"{name:48}{columns}{dead / row.total():7.0%}")
    alive = [outcome for outcome in outcomes if outcome.result in ("survived", "unreached")]
    for outcome in sorted(alive, key=lambda outcome: (str(outcome.mutant.path), outcome.mutant.line)):
        print(f"{outcome.result} ({outcome.num_tests} tests): {_shown(outcome.mutant)}")
    return int(len(alive) > 0.1 * len(outcomes))


def _shown(mutant: Mutant) -> str:
    return f"{mutant.path}:{mutant.line} {mutant.function}: {mutant.operator}: {mutant.change}"


if __name__ == "__main__":
    sys.exit(main())
