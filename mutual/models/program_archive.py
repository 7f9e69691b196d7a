"""Archives that `torch.export.save` writes: read and checked before torch loads them, so that nothing in one runs but operators of torch.

torch.export.load unpickles what an archive says is pickled, evaluates texts of expressions, puts names into code that it compiles, looks up
any function of the module torch by its name, and loads compiled libraries. What is not plain is refused here.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

_CARDS = ("extra/card.json", "extra_files/card.json")
"""Where our exports have their card: since torch 2.8, and before."""
_GRAPHS = re.compile(r"(.*/)?(models/[^/]*\.json|serialized_exported_program\.json)")
_TENSORS = re.compile(r"(tensor_\d+|[^/]*_constants_config\.json|[^/]*\.pt)")
_NAME = re.compile(r"[\w.:+\-/]*")
_CALLS = re.compile(
    r"math\.[a-z]\w*|torch\._?sym_\w+"
    r"|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|and_|or_|not_)"
)
_HIGHER_ORDER = frozenset(["cond", "map_impl", "scan", "while_loop", "wrap_with_set_grad_enabled", "wrap_with_autocast", "out_dtype"])
_TOKEN = re.compile(r"\s+|'[A-Za-z]+\d*'|\*\*\d(?![\d*])|\*(?!\*)|[()+\-/%,<>=]|\d{1,20}(\.\d{1,20})?|(?P<word>[A-Za-z_]\w*)")
_WORD = re.compile(
    r"[a-z]{1,3}\d+|Symbol|positive|nonnegative|integer|real|finite|zero|nonzero|evaluate|True|False|oo|int_oo|Max|Min|Add|Mul|Integer|Rational"
    "|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality|GreaterThan|LessThan|StrictGreaterThan|StrictLessThan|And|Or|Not|floor|ceiling|Identity"
    "|FloorDiv|ModularIndexing|Where|PythonMod|Mod|CleanDiv|CeilToInt|FloorToInt|CeilDiv|IntTrueDiv|TruncToInt"
)
"""What torch writes into expressions of sizes: symbols, their assumptions, and functions of sympy and of its own."""
_SPECS = (None, "builtins.tuple", "builtins.list", "builtins.dict")


def checked_archive(path: Path) -> io.BytesIO:
    """Returns a program's archive, written anew: what was checked is what torch reads.

    Raises:
        ValueError: it is no such archive, or holds something that could run code.
    """
    written = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(written, "w") as copy:
        entries = archive.infolist()
        if len({entry.filename for entry in entries}) < len(entries):
            raise ValueError("it holds two files of one name")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(e.file_size for e in entries) > path.stat().st_size:
            raise ValueError("its contents are compressed, or larger than the file; torch.export.save compresses nothing")
        if not any(_GRAPHS.fullmatch(entry.filename) for entry in entries):
            raise ValueError("it holds no program of torch.export.save")
        for entry in entries:
            copy.writestr(entry.filename, _checked(entry.filename, archive.read(entry)))
    written.seek(0)
    return written


def card_text(path: Path) -> str | None:
    """Returns the card that an export of ours has put into a program's archive; None where there is none.

    Raises:
        ValueError: it is damaged.
    """
    if not zipfile.is_zipfile(path):
        return None  # who loads it says what is wrong
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(_CARDS)]
            return archive.read(names[0]).decode() if names else None
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _checked(name: str, content: bytes) -> bytes:
    """Returns the content of a file of the archive, a graph without code of its own for checks of its inputs."""
    if "/aotinductor/" in f"/{name}":
        raise ValueError("it holds a compiled library; save the program with torch.export.save")
    if "/data/constants/" in f"/{name}" and not _TENSORS.fullmatch(name.rpartition("/")[2]):
        raise ValueError("it holds pickled objects beside its tensors")
    if not _GRAPHS.fullmatch(name):
        return content
    document = json.loads(content)
    document.pop("guards_code", None)  # Python that checks inputs; torch 2.6 does not know the key
    for key, value in _leaves("", document):
        _check_leaf(key, value)
    return json.dumps(document).encode()


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the key and the value of everything in a graph that is no mapping or list; what only describes the graph is left out."""
    if isinstance(value, dict):
        for name, entry in value.items():
            yield "", name
            if name != "metadata":
                yield from _leaves(name, entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _leaves(key, entry)
    else:
        yield key, value


def _check_leaf(key: str, value: Any) -> None:
    if not isinstance(value, str) or key in ("as_string", "as_strings"):
        return
    if key == "target":
        _check_call(value)
    elif key == "expr_str":
        _check_expression(value)
    elif key in ("in_spec", "out_spec"):
        _check_spec(json.loads(value))
    elif not _NAME.fullmatch(value):
        raise ValueError(f"{key or 'a key'} in it is {value[:80]!r}, which is no name")


def _check_call(target: str) -> None:
    """Refuses a call of anything but an operator of torch."""
    if _CALLS.fullmatch(target):
        return
    namespace, _, name = target.removeprefix("torch.ops.").partition(".")
    operator: Any = torch.ops
    for part in [namespace, *name.split(".")] if target.startswith("torch.ops.") else []:
        operator = getattr(operator, part, None)
    if isinstance(operator, torch._ops.OpOverload) and namespace != "higher_order" and "from_file" not in name:
        return
    if not (isinstance(operator, torch._ops.HigherOrderOperator) and name in _HIGHER_ORDER):
        raise ValueError(f"it calls {target[:80]!r}, which is no operator of torch or of what is imported here")


def _check_expression(text: str) -> None:
    """Refuses an expression of sizes that is more than arithmetic: torch evaluates its text."""
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None or not (token["word"] is None or _WORD.fullmatch(token["word"])):
            raise ValueError(f"a size in it is {text[:80]!r}, which is no arithmetic")
        position = token.end()


def _check_spec(spec: Any) -> None:
    """Refuses inputs and outputs of other kinds than tuples, lists and dicts, whose classes torch would import."""
    if isinstance(spec, list):
        for entry in spec:
            _check_spec(entry)
    elif isinstance(spec, dict):
        context = spec.get("context")
        keys = json.loads(context) if isinstance(context, str) else context
        if spec.get("type") not in _SPECS or not (keys is None or (isinstance(keys, list) and all(isinstance(key, str) for key in keys))):
            raise ValueError("it takes or gives objects of a class of its own")
        _check_spec(spec.get("children_spec"))
