"""Look at a run or a comparison: `python -m mutual.report RUN|COMPARISON [--output FILE.html] [--split val|test] [key.path=value ...]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mutual.commandline import print_main, run_command
from mutual.recipe import InputError


def main(arguments: Sequence[str] | None = None, *, prog: str = "mutual.report") -> int:
    """Writes the report and returns the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Write a run, or a comparison, as one HTML page that needs nothing else.")
    parser.add_argument(
        "folder", metavar="RUN|COMPARISON", type=Path, help="a run folder, such as runs/dml_pplcnet, or that of a comparison"
    )
    parser.add_argument(
        "overrides", metavar="key.path=value", nargs="*", help="fields of the run's recipe to set otherwise, such as data.root"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.html", help="where to write; the default is report.html in the folder")
    parser.add_argument("--split", choices=("val", "test"), help="whose images are looked at (default: val)")
    parser.add_argument(
        "--factory", metavar="MODULE:NAME", action="append", default=[], help="run this code of yours, with which a peer was trained"
    )
    parser.add_argument(
        "--dataset", metavar="MODULE:NAME", action="append", default=[], help="run this code of yours, which makes the images of the run"
    )
    options = parser.parse_intermixed_args(arguments)

    def command() -> None:
        from mutual.engine import COMPARISON, REPORT, check_report_path

        output = options.output or options.folder / REPORT
        is_comparison = (options.folder / COMPARISON).is_file()
        if not is_comparison:
            _check_run(options)
        check_report_path(output)
        if is_comparison:
            _check_no_run_options(options)
            from mutual.engine import report_comparison

            line = report_comparison(options.folder, output)
        else:
            from mutual.engine import RunFolder, report_run  # torch takes seconds to import, a missing file is reported before

            line = report_run(
                RunFolder(options.folder),
                output,
                split=options.split or "val",
                factories=options.factory,
                datasets=options.dataset,
                overrides=options.overrides,
            )
        print_main(f"{output}  {output.stat().st_size / 1e6:.2f} MB: {line}")

    return run_command(command)


def _check_run(options: argparse.Namespace) -> None:
    """Reports what can be seen without torch: that there is no run, or that its images or weights are missing."""
    from mutual.engine import COMPARISON, RunFolder, check_data_present, check_split, peer_files

    folder = RunFolder(options.folder)
    if not (options.folder / "recipe.yaml").is_file():
        raise InputError(
            f"{options.folder} is no run folder and no comparison: it holds neither recipe.yaml nor {COMPARISON}; give the folder that a "
            "training or mutual.compare wrote"
        )
    recipe = folder.recipe(options.overrides)
    folder.best_peer()
    peer_files(folder, None)
    check_split(recipe, folder.recipe(), options.split or "val")
    check_data_present(recipe)


def _check_no_run_options(options: argparse.Namespace) -> None:
    given = [name for name in ("split", "factory", "dataset") if getattr(options, name)]
    words = [f"--{name}" for name in given] + options.overrides
    if words:
        raise InputError(f"{', '.join(words)}: these are for a run, and {options.folder} is a comparison; leave them out")


if __name__ == "__main__":
    sys.exit(main())
