"""Ship a trained peer: `python -m mutual.export RUN [--peer best|NAME] [--format safetensors,torch,onnx] [--with-input] [--output DIR]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mutual.commandline import print_main, run_command
from mutual.recipe import InputError


def main(arguments: Sequence[str] | None = None, *, prog: str = "mutual.export") -> int:
    """Exports and returns the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Write a trained peer as files to ship.")
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder, such as runs/dml_pplcnet")
    parser.add_argument("--peer", default="best", help="a peer's name, or best (the default)")
    parser.add_argument("--epoch", type=int, metavar="N", help="weights of this epoch, which checkpoint.keep_best kept, not the best")
    parser.add_argument("--format", default="safetensors", help="one or more of safetensors,torch,onnx")
    parser.add_argument(
        "--factory", metavar="MODULE:NAME", action="append", default=[], help="run this code of yours, with which a peer was trained"
    )
    parser.add_argument(
        "--with-input",
        action="store_true",
        help="torch, onnx: the program takes uint8 pixels of the model's size",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write; the default is RUN/export")
    options = parser.parse_args(arguments)

    def command() -> None:
        from mutual.engine import RunFolder, peer_file

        folder = RunFolder(options.run)
        if options.output is not None and options.output.exists() and not options.output.is_dir():
            raise InputError(f"--output {options.output} is a file; give the folder to write to")
        file = peer_file(folder, options.peer, epoch=options.epoch)
        from mutual.engine import export_model  # torch takes seconds to import, a missing file is reported before
        from mutual.models import read_model

        model, card = read_model(file, factories=options.factory)
        output, formats = options.output or folder.export, options.format.split(",")
        written = export_model(model, card, output, file.stem, formats=formats, with_input=options.with_input)
        for path, difference in written.values():
            print_main(f"{path}  {path.stat().st_size / 1e6:.2f} MB, reloaded: logits agree within {difference:.0e}")

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
