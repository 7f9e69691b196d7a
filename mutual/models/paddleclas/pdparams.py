"""read_pdparams: what is in a file that paddle.save wrote, with tensors in place of its arrays; and the way back.

Such a file is a pickle, and a pickle is a program. Ours runs a part of its instructions by itself: those that make dicts, lists, tuples,
texts, numbers and arrays of numbers. It imports nothing and calls nothing that a file names, and needs no more memory than a few times the
file's size.
"""

from __future__ import annotations

import math
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from mutual.recipe import printable

_MAX_OPCODES = 1_000_000
"""A file of a thousand tensors has about 40,000."""
_DTYPES = frozenset(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "b1"])
"""Kinds of arrays; `u2` is how Paddle keeps bfloat16."""
_MAX_LINE = 2**16
"""Bytes of a line: names of functions, and what the text form of a pickle writes as lines."""
_CUTS = "UnpackBigParamInfor@@"
"""With protocol 2 and 3, paddle.save cuts what is larger than a gigabyte, and says here how it belongs together."""
_VALUES = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINSTRING", "SHORT_BINSTRING", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Global:
    """A function or class that the file names; one of those below."""

    def __init__(self, name: str, call: Callable[..., Any] | None) -> None:
        self.name = name
        self.call = call


class _Dtype:
    """A kind of numbers, as `numpy.dtype`; `swapped`: big-endian."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.swapped = False


class _Array:
    """An array, whose numbers come after it."""

    tensor: Tensor | None = None


def read_pdparams(stream: IO[bytes], size: int) -> dict[str, Any]:
    """Returns the dict in a file, with tensors in place of arrays, and of the pairs of a name and an array that Paddle makes of tensors.

    Args:
        stream: the file, from its beginning; it must not read beyond its end, whatever length it is asked for.
        size: its bytes.

    Raises:
        ValueError: it holds something else than dicts, lists, texts and arrays of numbers; the line names it.
        LookupError, TypeError, OverflowError: it is damaged.
    """
    content = _Machine(size).run(stream)
    if not isinstance(content, dict):
        raise ValueError("it holds no tensors by name, but something else; save the model's state_dict()")
    return _joined(content)


def pdparams_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Returns the contents of a file as paddle.save writes it (protocol 4) with `tensors`, which `paddle.load` reads."""
    pieces = [b"\x80\x04}("]
    for name, tensor in tensors.items():
        array = tensor.detach().cpu().contiguous().numpy()
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        data = array.tobytes()
        pieces += [
            _text(name),
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR",  # any numpy reads it; the earlier have no _core
            b"(K\x01(" + b"".join(b"\x8a\x08" + struct.pack("<q", length) for length in array.shape) + b"t",
            b"cnumpy\ndtype\n" + _text(array.dtype.str[1:]) + b"\x89\x88\x87R(K\x03" + _text(array.dtype.str[0]),
            b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
            b"\x8e" + struct.pack("<Q", len(data)) + data,
            b"tb",
        ]
    return b"".join([*pieces, b"u."])


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


class _ShortLines:
    """The bytes of a file, in which no line is searched for an end that may be gigabytes away."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.read = stream.read
        self.tell = stream.tell

    def readline(self) -> bytes:
        """Returns the bytes up to the next line break, or the first of a line that is too long."""
        start = self.tell()
        line, newline, _ = self.read(_MAX_LINE).partition(b"\n")
        self._stream.seek(start + len(line) + len(newline))
        return line + newline


class _Machine:
    """Runs the instructions of a pickle that make plain data."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._num_made = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._placed: dict[int, dict[str, Any]] = {}
        self._globals: dict[str, Callable[..., Any] | None] = {
            "numpy ndarray": None,
            "numpy dtype": self._dtype,
            "_codecs encode": self._encoded,
            "collections OrderedDict": self._dict,
            **{f"{module} tuple": tuple for module in ("builtins", "__builtin__")},
            "__builtin__ bytes": self._no_bytes,
            **{f"numpy.{core}.multiarray _reconstruct": lambda *_: _Array() for core in ("core", "_core")},
            **{f"numpy.{core}.numeric _frombuffer": self._from_buffer for core in ("core", "_core")},
        }
        self._instructions: dict[str, Callable[[Any], None]] = {
            **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda _: None),
            **dict.fromkeys(_VALUES, self._stack.append),
            **{name: lambda _, value=value: self._stack.append(value) for name, value in _CONSTANTS.items()},  # type: ignore[misc]
            **{name: lambda _, number=number: self._tuple(number) for name, number in _TUPLES.items()},  # type: ignore[misc]
            "EMPTY_DICT": lambda _: self._stack.append({}),
            "EMPTY_LIST": lambda _: self._stack.append([]),
            "MARK": lambda _: self._marks.append(len(self._stack)),
            "TUPLE": lambda _: self._stack.append(tuple(self._since_mark())),
            "APPEND": lambda _: self._extend([self._stack.pop()]),
            "APPENDS": lambda _: self._extend(self._since_mark()),
            "SETITEM": lambda _: self._set([self._stack.pop(-2), self._stack.pop()]),
            "SETITEMS": lambda _: self._set(self._since_mark()),
            "MEMOIZE": lambda _: self._memo.update({len(self._memo): self._stack[-1]}),
            **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda index: self._memo.update({index: self._stack[-1]})),
            **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda index: self._stack.append(self._memo[index])),
            "GLOBAL": self._global,
            "STACK_GLOBAL": lambda _: self._global(" ".join([self._stack.pop(-2), self._stack.pop()])),
            "REDUCE": lambda _: self._reduce(self._stack.pop(-2), self._stack.pop()),
            "BUILD": lambda _: self._build(self._stack.pop(-2), self._stack.pop()),
        }

    def run(self, stream: IO[bytes]) -> Any:
        """Returns what the pickle makes."""
        for number, (opcode, argument, _) in enumerate(pickletools.genops(_ShortLines(stream))):  # type: ignore[arg-type]
            if number > _MAX_OPCODES:
                raise ValueError(f"it has more than {_MAX_OPCODES:,} instructions")
            instruction = self._instructions.get(opcode.name)
            if instruction is None:
                raise ValueError(f"it holds an instruction {opcode.name}, which no file of plain arrays needs")
            instruction(argument)
        return self._stack.pop()

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _tuple(self, number: int) -> None:
        items = [self._stack.pop() for _ in range(number)]
        self._stack.append(tuple(reversed(items)))

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise ValueError("it appends to what is no list")
        self._stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise ValueError("it sets an entry of what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):  # the hash of nested tuples may take for ever
                raise ValueError("it holds a dict with keys that are no names; save the model's state_dict() alone")
            if isinstance(value, dict):
                self._place(value)
            target[key] = _finished(value)

    def _place(self, inner: dict[str, Any]) -> None:
        """Refuses a dict at two places: who looks through them would take as long as there are ways to them."""
        if id(inner) in self._placed:
            raise ValueError("it holds a dict at several places; save the model's state_dict() alone")
        self._placed[id(inner)] = inner  # kept, so that no other has its id

    def _global(self, name: str) -> None:
        name = name.replace("\n", " ")
        if name not in self._globals:
            shown = printable(name.replace(" ", "."), max_length=80)
            raise ValueError(f"it needs the code of {shown}, which does not run here; it may hold arrays of numbers alone")
        self._stack.append(_Global(name, self._globals[name]))

    def _reduce(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, _Global) or function.call is None or not isinstance(arguments, tuple):
            raise ValueError("it calls what is no function of arrays")
        self._stack.append(function.call(*arguments))

    def _build(self, target: Any, state: Any) -> None:
        if isinstance(target, _Dtype) and isinstance(state, tuple) and len(state) >= 5:
            _, order, subarray, names, fields = state[:5]
            if order not in ("<", ">", "|", "=") or not subarray is names is fields is None:
                raise ValueError("it holds an array of records")
            target.swapped = order == ">"
        elif isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, is_fortran, data = state
            target.tensor = self._tensor(data, dtype, shape, "F" if is_fortran is True else "C")
        else:
            raise ValueError("it sets the state of what is no array")
        self._stack.append(target)

    def _dtype(self, code: Any, *_: Any) -> _Dtype:
        if not isinstance(code, str) or code not in _DTYPES:
            kind = printable(code, max_length=20) if isinstance(code, str) else "another kind"
            raise ValueError(f"it holds an array of {kind}, not of numbers")
        return _Dtype(code)

    def _encoded(self, text: Any, encoding: Any) -> bytes:
        """Returns bytes, which protocol 2 writes as a text."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise ValueError("it encodes what are no bytes")
        self._count(len(text))
        return text.encode("latin-1")

    def _no_bytes(self, *arguments: Any) -> bytes:
        if arguments:
            raise ValueError("it makes bytes of something else")
        return b""

    def _dict(self, *arguments: Any) -> dict[str, Any]:
        if arguments:
            raise ValueError("it holds a dict of an unknown kind")
        return {}

    def _from_buffer(self, data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        array = _Array()
        array.tensor = self._tensor(data, dtype, shape, "F" if order == "F" else "C")
        return array

    def _tensor(self, data: Any, dtype: Any, shape: Any, order: Any) -> Tensor:
        if isinstance(data, str):  # of Python 2
            data = data.encode("latin-1")
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray) or not isinstance(shape, tuple):
            raise ValueError("it holds an array without numbers")
        kind = np.dtype(dtype.code).newbyteorder(">" if dtype.swapped else "<")
        if len(shape) > 32 or not all(isinstance(length, int) and 0 <= length < 2**48 for length in shape):
            raise ValueError("it holds an array with a shape that none has")
        if math.prod(shape) * kind.itemsize != len(data):
            raise ValueError(f"it holds an array of the shape {shape} with {len(data):,} bytes")
        self._count(len(data))
        array = np.frombuffer(data, kind).reshape(shape, order=order).astype(kind.newbyteorder("="), order="C")
        if dtype.code == "u2":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    def _count(self, num_bytes: int) -> None:
        """Refuses what makes more than it holds: the same bytes may be named many times."""
        self._num_made += num_bytes
        if self._num_made > 2 * self._size:  # with protocol 2, each byte is encoded, and then part of an array
            raise ValueError("its arrays are larger than the file")


def _finished(value: Any) -> Any:
    """Returns `value`; of an array its tensor, and likewise of a pair of a name and an array, as which Paddle writes its own tensors."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], _Array):
        value = value[1]
    if not isinstance(value, _Array):
        return value
    if value.tensor is None:
        raise ValueError("it holds an array without numbers")
    return value.tensor


def _joined(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the content with the tensors whole that paddle.save has cut."""
    cuts = content.pop(_CUTS, {})
    for name, cut in cuts.items():
        shape = tuple(cut["OriginShape"])
        if not all(isinstance(length, int) for length in shape):
            raise ValueError("it holds an array with a shape that none has")
        slices = [content.pop(part).flatten() for part in cut["slices"]]  # each once
        content[name] = torch.cat(slices).reshape(shape)
    return content
