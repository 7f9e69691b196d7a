"""Classify images: `python -m mutual.predict RUN IMAGE_OR_FOLDER ... [--peer NAME|best|ensemble] [--topk 5] [--json]`.

In Python the module is called as a function: `mutual.predict(run, images)`; see `mutual.engine.predict`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mutual.commandline import print_main, run_command
from mutual.recipe import ENSEMBLE, printable

if TYPE_CHECKING:
    from mutual.engine import ImageLike, Prediction


def main(arguments: Sequence[str] | None = None, *, prog: str = "mutual.predict") -> int:
    """Predicts and returns the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Classify image files with a trained peer.")
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder, such as runs/dml_pplcnet")
    parser.add_argument("images", metavar="IMAGE_OR_FOLDER", type=Path, nargs="+", help="image files, or folders that hold some")
    parser.add_argument("--peer", default="best", help="a peer's name, best (the default), or ensemble")
    parser.add_argument("--topk", type=int, default=5, help="number of classes for each image")
    parser.add_argument(
        "--factory", metavar="MODULE:NAME", action="append", default=[], help="run this code of yours, with which a peer was trained"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    options = parser.parse_args(arguments)
    if options.topk < 1:
        parser.error(f"argument --topk: {options.topk} must be at least 1")

    def command() -> None:
        from mutual.data import named_images
        from mutual.engine import RunFolder, json_text, peer_files

        folder = RunFolder(options.run)
        recipe, files = folder.recipe(), peer_files(folder, None if options.peer == ENSEMBLE else options.peer)
        images = named_images(options.images)
        from mutual.engine import Predictor  # torch takes seconds to import, a missing file is reported before

        for found in Predictor(recipe, files, factories=options.factory)(images, topk=options.topk):
            ranked = list(zip(found.classes, found.probabilities, strict=True))
            if options.json:
                classes = [{"class": name, "probability": round(probability, 6)} for name, probability in ranked]
                print_main(json_text({"image": str(found.image), "classes": classes}))
            else:
                print_main(f"{printable(found.image)}  " + "  ".join(f"{name} {probability:.1%}" for name, probability in ranked))

    return run_command(command)


class _CallableModule(ModuleType):
    """A module under the name of a function: `python -m mutual.predict` needs the one, and `mutual.predict(run, images)` the other."""

    def __call__(
        self,
        run: str | Path,
        images: ImageLike | Iterable[ImageLike],
        *,
        peer: str = "best",
        topk: int | None = None,
        factory: str | None = None,
    ) -> list[Prediction]:
        """Classifies images with a trained peer; see `mutual.engine.predict`."""
        from mutual.engine import predict

        return predict(run, images, peer=peer, topk=topk, factory=factory)


sys.modules[__name__].__class__ = _CallableModule  # as Python's data model provides for modules

if __name__ == "__main__":
    sys.exit(main())
