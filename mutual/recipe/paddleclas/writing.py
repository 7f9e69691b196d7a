"""converted_text: a converted config as the text of a recipe's file, with what there is to say of it in comments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mutual.recipe.paddleclas.conversion import Conversion
from mutual.recipe.syntax import dump_yaml
from mutual.recipe.text import printable


def converted_text(conversion: Conversion, *, source: str) -> str:
    """Returns the text of a recipe; its first lines are comments, which name what has no counterpart."""
    lines = [f"Converted from {source}, a config of PaddleClas."]
    lines += _listed("No counterpart here, left out:", conversion.left_out)
    lines += _listed("Said or done in another way:", conversion.remarks)
    if conversion.unneeded:
        lines.append(f"Not needed here: {', '.join(conversion.unneeded)}.")
    comments = "".join(f"# {printable(line)}\n" for line in lines)
    return f"{comments}\n{dump_yaml(conversion.document)}"


def _listed(title: str, entries: Sequence[str]) -> Iterator[str]:
    if entries:
        yield title
        yield from (f"- {entry}" for entry in entries)
