"""Classify images: `python -m mutual.predict RUN IMAGE_OR_FOLDER ... [--peer NAME|best|ensemble] [--topk 5] [--json]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mutual.commandline import print_main, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Predicts and returns the exit code."""
    parser = argparse.ArgumentParser(prog="mutual.predict", description="Classify image files with a trained peer.")
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder, such as runs/dml_pplcnet")
    parser.add_argument("images", metavar="IMAGE_OR_FOLDER", type=Path, nargs="+", help="image files, or folders that hold some")
    parser.add_argument("--peer", default="best", help="a peer's name, best (the default), or ensemble")
    parser.add_argument("--topk", type=int, default=5, help="so many classes for each image")
    parser.add_argument(
        "--factory", metavar="MODULE:NAME", action="append", default=[], help="run this code of yours, with which a peer was trained"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    options = parser.parse_args(arguments)
    if options.topk < 1:
        parser.error(f"argument --topk: {options.topk} must be at least 1")

    def command() -> None:
        from mutual.engine import RunFolder, json_text, predict_images
        from mutual.recipe import printable

        found = predict_images(RunFolder(options.run), options.images, peer=options.peer, topk=options.topk, factories=options.factory)
        for path, ranked in found:
            if options.json:
                classes = [{"class": name, "probability": round(probability, 6)} for name, probability in ranked]
                print_main(json_text({"image": str(path), "classes": classes}))
            else:
                print_main(f"{printable(path)}  " + "  ".join(f"{name} {probability:.1%}" for name, probability in ranked))

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
