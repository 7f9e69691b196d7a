"""Score weights: `python -m mutual.evaluate RUN [--split val|test|train] [--peer NAME|best|all] [--epoch N] [--per-class] [--json]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mutual.commandline import print_main, run_command

if TYPE_CHECKING:
    from mutual.engine import Scores


def main(arguments: Sequence[str] | None = None, *, prog: str = "mutual.evaluate") -> int:
    """Evaluates and returns the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Score a run's best weights on images of its data.")
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder, such as runs/dml_pplcnet")
    parser.add_argument(
        "overrides", metavar="key.path=value", nargs="*", help="fields of the run's recipe to set otherwise, such as data.root"
    )
    parser.add_argument("--split", choices=("val", "test", "train"), default="val", help="which images (default: val)")
    parser.add_argument(
        "--peer", default="all", help="a peer's name, also of a frozen one, best, or all that were trained and their ensemble (the default)"
    )
    parser.add_argument(
        "--factory", metavar="MODULE:NAME", action="append", default=[], help="run this code of yours, with which a peer was trained"
    )
    parser.add_argument(
        "--dataset", metavar="MODULE:NAME", action="append", default=[], help="run this code of yours, which makes the images of the run"
    )
    parser.add_argument("--per-class", action="store_true", help="score each class, too: support, recall, precision and F1")
    parser.add_argument("--epoch", type=int, metavar="N", help="weights of this epoch, which checkpoint.keep_best kept, not the best")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_intermixed_args(arguments)

    def command() -> None:
        from mutual.engine import RunFolder, check_data_present, check_split, check_weights_present, given_datasets, json_text, peer_files

        folder = RunFolder(options.run)
        recipe = folder.recipe(options.overrides)
        frozen = options.peer if options.peer in recipe.peers and recipe.peers[options.peer].frozen else None
        files = peer_files(folder, None if options.peer == "all" else "best" if frozen else options.peer, epoch=options.epoch)
        check_split(recipe, folder.recipe(), options.split)
        check_data_present(recipe)
        if frozen is not None:
            check_weights_present(recipe, frozen)
        from mutual.engine import class_table, score_run  # torch takes seconds to import, a missing file is reported before

        found = score_run(
            recipe,
            files,
            factories=options.factory,
            datasets=given_datasets(options.dataset, options.overrides),
            frozen=frozen,
            split=options.split,
            per_class=options.per_class,
        )
        if options.json:
            classes = {member: [asdict(row) for row in rows] for member, rows in found.classes.items()}
            print_main(json_text({**found.scores, "per_class": classes} if options.per_class else found.scores))
        else:
            print_main("\n".join([table(found.scores), *([class_table(found.classes)] if options.per_class else [])]))

    return run_command(command)


def table(scores: Scores) -> str:
    """Returns the scores as lines: a member a line, accuracies in percent, NLL in nats."""
    columns = [name for name in ("top1", "macro_top1", "top5", "map", "nll", "ece") if name in next(iter(scores.values()))]
    members = [member for member in scores if member != "pairs"]
    rows: list[list[str]] = [[*columns]]
    rows += [[f"{scores[member][column]:{'.4f' if column in ('nll', 'ece') else '.2%'}}" for column in columns] for member in members]
    widths = [max(9, *(len(cell) + 2 for cell in cells)) for cells in zip(*rows, strict=True)]
    first = max(12, *(len(member) for member in members))
    lines = [
        f"{member:{first}}" + "".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for member, row in zip(["", *members], rows, strict=True)
    ]
    if "pairs" in scores:
        lines.append(
            f"the peers agree on {scores['pairs']['agreement']:.2%} of the images; mean pairwise KL {scores['pairs']['kl']:.4f} nats"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
