"""Is it worth it? `python -m mutual.compare RECIPE|RUN ... [key.path=value ...] [--seeds 0:6] [--baseline NAME] [--control NAME ...]`.

Each recipe is an arm, and so is each value of an override that lists several (`objectives.1.temperature=1,2,4`): what of them is not there
yet is trained, under each seed, and then they are compared, paired by seed. Run folders in the place of recipes are grouped by what
they were trained with. The same command line goes on with a comparison that was stopped.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mutual.commandline import print_main, run_command
from mutual.recipe import InputError, did_you_mean, format_value, printable

if TYPE_CHECKING:
    from mutual.engine import ArmRuns, CompareOptions, Comparison

_FORMATS = ("json", "markdown", "csv", "latex")
_TRAINING_OPTIONS = ("jobs", "launcher", "overwrite", "control", "teacher_flops")
"""Those that say how runs are trained, or what is trained beside them."""


def main(arguments: Sequence[str] | None = None, *, prog: str = "mutual.compare") -> int:
    """Compares and returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser(prog).parse_intermixed_args(words)
    misplaced = [word for word in options.control if "=" in word or Path(word).suffix in (".yaml", ".yml")]
    options.words = [*options.words, *misplaced]  # `--control` takes whatever words stand behind it
    options.control = [word for word in options.control if word not in misplaced]

    def command() -> None:
        overrides = [word for word in options.words if "=" in word and not Path(word).is_dir()]
        paths = [word for word in options.words if word not in overrides]
        folders = [path for path in paths if Path(path).is_dir()]
        _check_words(options, paths, folders, overrides)
        from mutual.engine import parse_seeds

        seeds = None if options.seeds is None else parse_seeds(options.seeds)
        command_line = f"python -m {prog if prog.startswith('mutual.') else 'mutual.compare'} {shlex.join(words)}"
        if folders:
            _compare_folders(options, list(map(Path, paths)), seeds, command_line)
        else:
            _compare_recipes(options, paths, overrides, seeds, command_line)

    return run_command(command)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Compare recipes under several seeds, with controls, or runs that exist.")
    parser.add_argument(
        "words",
        metavar="RECIPE|RUN|key.path=value",
        nargs="*",
        help="recipes, and fields to set in all of them, of which a list (1,2,4) makes an arm for each value; or run folders, or folders "
        "that hold them",
    )
    parser.add_argument("--seeds", metavar="0:6", help="0:6 is 0 to 5 (the default, of runs all), 0,3,7 these")
    parser.add_argument(
        "--baseline",
        metavar="NAME",
        help="the arm which others are compared with (the default is the control independent, else the first arm)",
    )
    parser.add_argument("--control", metavar="NAME", nargs="+", action="extend", default=[], help="add controls; --control help names them")
    parser.add_argument(
        "--peer", metavar="NAME", help="whose scores count: mean of the trained peers (the default), best, ensemble or a peer"
    )
    parser.add_argument(
        "--epoch", choices=("best", "last"), help="on validation images, each peer's best epoch, or the last (the default); test: the best"
    )
    parser.add_argument("--metrics", metavar="NAME,...", help="what is compared (the default is by the task: top1,nll,ece)")
    parser.add_argument("--name", help="the comparison's folder (the default is compare_RECIPE)")
    parser.add_argument("--output", metavar="FOLDER", type=Path, default=Path("runs"), help="where that folder is (the default is runs)")
    parser.add_argument("--jobs", metavar="N", type=_count, help="runs that are trained at a time (the default is 1, or one for each GPU)")
    parser.add_argument("--launcher", metavar="COMMAND", help="starts several processes for each run: 'torchrun --nproc_per_node 2'")
    parser.add_argument("--overwrite", action="store_true", help="replace runs of other recipes in the comparison's folder")
    parser.add_argument("--teacher-flops", metavar="N", type=float, help="what training the teachers took, where their runs do not say it")
    chosen = parser.add_mutually_exclusive_group()
    for name in _FORMATS:
        chosen.add_argument(f"--{name}", dest="format", action="store_const", const=name, default="text", help=f"print as {name}")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw the curves into this PNG or SVG file")
    return parser


def _count(text: str) -> int:
    """Returns a positive number; argparse names this function where it raises ValueError."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _check_words(options: argparse.Namespace, paths: Sequence[str], folders: Sequence[str], overrides: Sequence[str]) -> None:
    """Refuses words that do not go together, and a plot that cannot be written.

    Raises:
        InputError: so it is.
    """
    if not paths:
        raise InputError("give at least one recipe or run folder")
    if folders and len(folders) < len(paths):
        recipe = next(path for path in paths if path not in folders)
        raise InputError(f"{printable(folders[0])} is a folder of runs and {printable(recipe)} is none: give either recipes or run folders")
    given = [f"--{name.replace('_', '-')}" for name in _TRAINING_OPTIONS if getattr(options, name)]
    if folders and (overrides or given):
        raise InputError(f"{(overrides or given)[0]} does not go with runs that exist; give the recipes to train others")
    if options.teacher_flops is not None and not (math.isfinite(options.teacher_flops) and options.teacher_flops >= 0):
        raise InputError(f"--teacher-flops {options.teacher_flops} is no number of operations; give one such as 1.5e12")
    if options.plot is not None and (options.plot.suffix not in (".png", ".svg") or not options.plot.absolute().parent.is_dir()):
        raise InputError(f"--plot: {printable(options.plot)} is no name of a .png or .svg file in a folder that exists")


def _compare_recipes(
    options: argparse.Namespace, paths: Sequence[str], overrides: Sequence[str], seeds: Sequence[int] | None, command_line: str
) -> None:
    """Trains what is missing and prints what was found."""
    from mutual.engine import DEFAULT_SEEDS, ComparisonFolder, RunSettings, compare_recipes, default_name, parse_seeds, plan_arms

    arms = plan_arms(paths, overrides, member=options.peer or "mean")
    name = options.name or default_name(arms)
    controls = _known_controls(options.control)
    settings = RunSettings(jobs=options.jobs, launcher=options.launcher, overwrite=options.overwrite)
    chosen = _options(options, name, command_line, controls)
    folder = ComparisonFolder(options.output / name)
    comparison, arm_runs = compare_recipes(arms, seeds or parse_seeds(DEFAULT_SEEDS), folder, chosen, settings)
    _show(options, comparison, arm_runs)


def _compare_folders(options: argparse.Namespace, folders: Sequence[Path], seeds: Sequence[int] | None, command_line: str) -> None:
    """Compares runs that exist and prints what was found; writes it where a name was given for it."""
    from mutual.engine import ComparisonFolder, compare_runs

    name = options.name or folders[0].resolve().name
    comparison, arm_runs = compare_runs(folders, _options(options, name, command_line, []), seeds=seeds, member=options.peer)
    if options.name is not None:
        folder = ComparisonFolder(options.output / name)
        with folder.exclusive_access():
            folder.write_arms([])
            folder.write(comparison)
    _show(options, comparison, arm_runs)


def _options(options: argparse.Namespace, name: str, command_line: str, controls: Sequence[str]) -> CompareOptions:
    from mutual.engine import CompareOptions

    return CompareOptions(
        name=name,
        command=command_line,
        baseline=options.baseline,
        metrics=options.metrics.split(",") if options.metrics else None,
        epoch=options.epoch,
        controls=controls,
        teacher_flops=options.teacher_flops,
    )


def _known_controls(words: Sequence[str]) -> list[str]:
    """Returns the names of controls, each once.

    Raises:
        InputError: there is no such control.
    """
    if not words:
        return []
    from mutual.engine.comparison import CONTROLS

    names = list(dict.fromkeys(name for word in words for name in word.split(",")))
    for name in names:
        if name not in CONTROLS:
            known = "; ".join(f"{each}: {what}" for each, what in CONTROLS.items())
            raise InputError(
                f"--control: {known}" if name == "help" else f"--control: {format_value(name)} is none{did_you_mean(name, CONTROLS)}"
            )
    return names


def _show(options: argparse.Namespace, comparison: Comparison, arm_runs: Sequence[ArmRuns]) -> None:
    """Prints what was found, and draws it where that is asked for."""
    from mutual.engine.comparison import render

    print_main(render(comparison, options.format))
    if options.plot is not None:
        from mutual.engine.comparison import plot_curves

        plot_curves(arm_runs, comparison, options.plot)


if __name__ == "__main__":
    sys.exit(main())
