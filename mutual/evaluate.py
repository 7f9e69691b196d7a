"""Score a run's best weights: `python -m mutual.evaluate RUN [--peer NAME|best|all] [--epoch N] [--factory MODULE:NAME] [--json]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mutual.commandline import print_main, run_command

if TYPE_CHECKING:
    from mutual.engine import Scores


def main(arguments: Sequence[str] | None = None, *, prog: str = "mutual.evaluate") -> int:
    """Evaluates and returns the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Score a run's best weights on its validation images.")
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder, such as runs/dml_pplcnet")
    parser.add_argument(
        "overrides", metavar="key.path=value", nargs="*", help="fields of the run's recipe to set otherwise, such as data.root"
    )
    parser.add_argument(
        "--peer", default="all", help="a peer's name, also of a frozen one, best, or all that were trained and their ensemble (the default)"
    )
    parser.add_argument(
        "--factory", metavar="MODULE:NAME", action="append", default=[], help="run this code of yours, with which a peer was trained"
    )
    parser.add_argument("--epoch", type=int, metavar="N", help="weights of this epoch, which checkpoint.keep_best kept, not the best")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_intermixed_args(arguments)

    def command() -> None:
        from mutual.engine import RunFolder, check_data_present, check_weights_present, json_text, peer_files

        folder = RunFolder(options.run)
        recipe = folder.recipe(options.overrides)
        frozen = options.peer if options.peer in recipe.peers and recipe.peers[options.peer].frozen else None
        files = peer_files(folder, None if options.peer == "all" else "best" if frozen else options.peer, epoch=options.epoch)
        check_data_present(recipe)
        if frozen is not None:
            check_weights_present(recipe, frozen)
        from mutual.engine import evaluate_run  # torch takes seconds to import, a missing file is reported before

        scores = evaluate_run(recipe, files, factories=options.factory, frozen=frozen)
        print_main(json_text(scores) if options.json else table(scores))

    return run_command(command)


def table(scores: Scores) -> str:
    """Returns the scores as lines: a member a line, accuracies in percent, NLL in nats."""
    columns = [name for name in ("top1", "top5", "map", "nll", "ece") if name in next(iter(scores.values()))]
    lines = [f"{'':12}" + "".join(f"{column:>9}" for column in columns)]
    for member, row in scores.items():
        if member != "pairs":
            cells = (f"{row[column]:9.2%}" if column.startswith(("top", "map")) else f"{row[column]:9.4f}" for column in columns)
            lines.append(f"{member:12}" + "".join(cells))
    if "pairs" in scores:
        lines.append(
            f"the peers agree on {scores['pairs']['agreement']:.2%} of the images; mean pairwise KL {scores['pairs']['kl']:.4f} nats"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
