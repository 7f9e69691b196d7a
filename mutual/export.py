"""Ship a trained peer: `python -m mutual.export RUN [--peer best|NAME] [--format safetensors,torch,onnx] [--with-input] [--output DIR]`.

`--int8` adds the ONNX program in int8 and measures what it loses, `--benchmark` measures latencies, `--temperature T|fit` divides the
logits. A model card, README.md, says all of it beside the files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mutual.commandline import print_main, run_command
from mutual.recipe import InputError

if TYPE_CHECKING:
    from mutual.engine import RunExport


def main(arguments: Sequence[str] | None = None, *, prog: str = "mutual.export") -> int:
    """Exports and returns the exit code."""
    options = _parser(prog).parse_intermixed_args(arguments)

    def command() -> None:
        from mutual.engine import ExportOptions, RunFolder, check_data_present, given_datasets, parse_temperature, peer_file

        folder = RunFolder(options.run)
        if options.output is not None and options.output.exists() and not options.output.is_dir():
            raise InputError(f"--output {options.output} is a file; give the folder to write to")
        recipe = folder.recipe(options.overrides)
        file = peer_file(folder, options.peer, epoch=options.epoch)
        asked = ExportOptions(
            formats=list(dict.fromkeys(options.format.split(","))),
            with_input=options.with_input,
            factories=options.factory,
            datasets=given_datasets(options.dataset, options.overrides),
            temperature=None if options.temperature is None else parse_temperature(options.temperature),
            int8=options.int8,
            max_drop=options.max_drop,
            calibration_images=options.calibration,
            benchmark=options.benchmark,
            license=options.license,
            card=not options.no_card,
        )
        if asked.needs_images:
            check_data_present(recipe)
        from mutual.engine import export_run  # torch takes seconds to import, a missing file is reported before

        found = export_run(folder, recipe, file, options.output or folder.export, asked, epoch=options.epoch)
        print_main(json_of(found) if options.json else report(found))
        if found.refusal:
            raise InputError(found.refusal)

    return run_command(command)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Write a trained peer as files to ship.")
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="a run folder, such as runs/dml_pplcnet")
    add("overrides", metavar="key.path=value", nargs="*", help="fields of the run's recipe to set otherwise, such as data.root")
    add("--peer", default="best", help="a peer's name, or best (the default)")
    add("--epoch", type=int, metavar="N", help="weights of this epoch, which checkpoint.keep_best kept, not the best")
    add("--format", default="safetensors", help="one or more of safetensors,torch,onnx")
    add("--factory", metavar="MODULE:NAME", action="append", default=[], help="run this code of yours, with which a peer was trained")
    add("--dataset", metavar="MODULE:NAME", action="append", default=[], help="run this code of yours, which makes the images of the run")
    add("--with-input", action="store_true", help="torch, onnx: the program takes uint8 pixels of the model's size")
    add("--temperature", metavar="T|fit", help="divide the logits by a number, or by the one that suits the validation images")
    add("--int8", action="store_true", help="onnx: write the program in int8 as well, calibrated with training images, and score both")
    add("--max-drop", type=float, default=1.0, metavar="POINTS", help="what int8 may lose of top-1, percentage points (default: 1)")
    add("--calibration", type=int, default=256, metavar="N", help="training images that calibrate int8 (the default is 256)")
    add("--benchmark", action="store_true", help="measure latencies on this machine: eager, compiled, and the ONNX programs")
    add("--license", metavar="ID", help="for the model card, such as apache-2.0; without it the card says that none is stated")
    add("--no-card", action="store_true", help="write no model card (README.md) and no recipe beside the files")
    add("--output", type=Path, metavar="DIR", help="where to write; the default is RUN/export")
    add("--json", action="store_true", help="print one JSON object")
    return parser


def report(found: RunExport) -> str:
    """Returns what was written and measured as lines."""
    from mutual.engine import latency_table

    lines = list(found.notes)
    if found.temperature is not None:
        fitted = ", fitted to the validation images" if found.temperature.is_fitted else ""
        line = f"temperature {found.temperature.value:.4g}{fitted}"
        if found.temperature.nll is not None:
            before, after = found.temperature.nll
            line += f": NLL {before:.4f} before, {after:.4f} after, on {found.temperature.images:,} validation images"
        lines.append(line)
    for file in found.files:
        if file.format != "onnx int8":
            lines.append(f"{file.path}  {file.num_bytes / 1e6:.2f} MB, reloaded: logits agree within {file.difference:.0e}")
    if found.int8 is not None:
        int8, (name, before, after) = found.int8, _int8_scores(found)
        sizes = f"{int8.float_bytes / 1e6:.2f} to {int8.num_bytes / 1e6:.2f} MB"
        nll = f"NLL {int8.scores['float']['nll']:.4f} to {int8.scores['int8']['nll']:.4f}"
        lines.append(
            f"{int8.path}  {sizes}, calibrated with {int8.calibration_images:,} training images: "
            f"{name} {before:.2%} to {after:.2%}, {nll} on {int8.images:,} validation images"
        )
    lines += [f"{path}" for path in (found.timm_folder, found.card) if path is not None]
    if found.benchmark is not None:
        lines.append(latency_table(found.benchmark))
    return "\n".join(lines)


def _int8_scores(found: RunExport) -> tuple[str, float, float]:
    assert found.int8 is not None
    metric = found.int8.metric
    return metric, found.int8.scores["float"][metric], found.int8.scores["int8"][metric]


def json_of(found: RunExport) -> str:
    """Returns what was written and measured as JSON text."""
    from dataclasses import asdict

    from mutual.engine import json_text

    return json_text(_plain(asdict(found)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    sys.exit(main())
