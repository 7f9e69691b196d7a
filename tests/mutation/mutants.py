"""The mutants of a source file: small faults, each in one function, that some test should notice.

They are made of the parsed source. Left alone are strings, annotations, the arguments of exceptions, what stands outside of functions,
and what no test can notice here: assertions (`zip(strict=True)` is one) and, on a machine with a CPU alone, devices.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_COMPARISONS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_FUNCTIONS = {"any": "all", "all": "any", "amin": "amax", "amax": "amin", "minimum": "maximum", "maximum": "minimum"}
_DROPPED_METHODS = {"detach", "clamp", "float", "double", "clone", "contiguous", "abs", "relu", "flatten", "mean", "removesuffix", "copy"}
_SKIPPED_FIELDS = {"annotation", "returns", "decorator_list", "type_params", "ctx"}
_SKIPPED_KEYWORDS = {"strict", "device", "devices", "non_blocking"}
_SKIPPED_NODES = (ast.Assert, ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)


@dataclass
class Mutant:
    """One fault: `replacement` stands where `original` stood in its parent."""

    path: Path
    function: str
    statement: ast.AST = field(repr=False)
    operator: str
    original: ast.AST = field(repr=False)
    replacement: ast.AST = field(repr=False)
    parent: ast.AST = field(repr=False)
    name: str
    index: int | None

    @property
    def change(self) -> str:
        """The fault as one line, "before -> after", without whole bodies."""
        return f"{_line(self.original)} -> {_line(self.replacement)}"

    @property
    def line(self) -> int:
        """Where it stands."""
        return getattr(self.original, "lineno", 0) or self.statement.lineno  # type: ignore[attr-defined]

    @property
    def lines(self) -> range:
        """A test that can notice it executes one of these lines."""
        statement = self.statement
        first, last = statement.lineno, statement.end_lineno  # type: ignore[attr-defined]
        body = getattr(statement, "body", None)
        if isinstance(statement, ast.FunctionDef):
            return range(statement.body[0].lineno, last + 1)
        if isinstance(body, list) and not isinstance(statement, ast.Try):
            last = max(first, body[0].lineno - 1)
        return range(first, last + 1)

    def apply(self) -> None:
        """Puts the fault into the tree."""
        new = ast.fix_missing_locations(ast.copy_location(self.replacement, self.original))
        if self.index is None:
            setattr(self.parent, self.name, new)
        else:
            getattr(self.parent, self.name)[self.index] = new


def find_mutants(path: Path, tree: ast.Module) -> list[Mutant]:
    """Returns all mutants of the functions in `tree`, in the order of the source."""
    return list(_in_scope(path, tree, ()))


def _in_scope(path: Path, scope: ast.AST, names: tuple[str, ...]) -> Iterator[Mutant]:
    for node in scope.body:  # type: ignore[attr-defined]
        if isinstance(node, ast.ClassDef):
            yield from _in_scope(path, node, (*names, node.name))
        elif isinstance(node, ast.FunctionDef) and node.name != "__repr__":
            yield from _Search(path, ".".join((*names, node.name)), node).inside(node, node)


class _Search:
    def __init__(self, path: Path, function: str, root: ast.FunctionDef) -> None:
        self.path, self.function = path, function
        arguments = (*root.args.posonlyargs, *root.args.args, *root.args.kwonlyargs)
        self.bound = {argument.arg for argument in arguments}

    def inside(self, parent: ast.AST, statement: ast.AST) -> Iterator[Mutant]:
        for name, value in ast.iter_fields(parent):
            if name in _SKIPPED_FIELDS:
                continue
            for index, node in enumerate(value) if isinstance(value, list) else ((None, value),):
                if not isinstance(node, ast.AST) or _is_skipped(node):
                    continue
                own = node if isinstance(node, ast.stmt | ast.ExceptHandler) else statement
                for operator, replacement in self._replacements(node, parent):
                    yield Mutant(self.path, self.function, own, operator, node, replacement, parent, name, index)
                yield from self.inside(node, own)
                if isinstance(node, ast.Assign):
                    self.bound |= {target.id for target in node.targets if isinstance(target, ast.Name)}

    def _replacements(self, node: ast.AST, parent: ast.AST) -> Iterator[tuple[str, ast.AST]]:
        if isinstance(node, ast.stmt | ast.ExceptHandler):
            yield from self._of_statement(node)
        elif isinstance(node, ast.Call):
            yield from _of_call(node)
        elif isinstance(node, ast.expr | ast.comprehension):
            yield from _of_expression(node, parent)

    def _of_statement(self, node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
        if self._can_be_deleted(node):
            yield "delete", ast.Pass()
        if isinstance(node, ast.If | ast.While):
            for value in (True, False):
                if not (value and isinstance(node, ast.While)):
                    yield "condition", type(node)(ast.Constant(value), node.body, node.orelse)
        elif isinstance(node, ast.With) and not any(item.optional_vars for item in node.items):
            yield "without", ast.If(ast.Constant(True), node.body, [])
        elif isinstance(node, ast.Try) and node.finalbody:
            yield "finally", ast.Try(node.body, node.handlers, node.orelse, [ast.Pass()])
        elif isinstance(node, ast.ExceptHandler):
            yield "handler", ast.ExceptHandler(node.type, node.name, [ast.Raise()])
        elif isinstance(node, ast.AugAssign) and type(node.op) in _OPERATORS:
            yield "operator", ast.AugAssign(node.target, _OPERATORS[type(node.op)](), node.value)
        elif isinstance(node, ast.Break | ast.Continue):
            yield "jump", ast.Continue() if isinstance(node, ast.Break) else ast.Break()

    def _can_be_deleted(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Expr):
            return isinstance(node.value, ast.Call) and "super()" not in ast.unparse(node)
        if isinstance(node, ast.Assign):
            target = node.targets[0]
            if isinstance(target, ast.Name):
                return target.id in self.bound
            return not isinstance(target, ast.Tuple) and not self.function.endswith("__init__")
        return isinstance(node, ast.AugAssign | ast.Delete)


def _of_call(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""
    if name in ("min", "max") and len(node.args) == 2 and not any(isinstance(each, ast.Starred) for each in node.args):
        for operand in node.args:
            yield "operand", operand
    elif name in ("min", "max"):
        yield "function", _renamed(node, "max" if name == "min" else "min")
    elif name in _FUNCTIONS:
        yield "function", _renamed(node, _FUNCTIONS[name])
    if isinstance(node.func, ast.Attribute) and name in _DROPPED_METHODS:
        yield "method", node.func.value
    for index, keyword in enumerate(node.keywords):
        if keyword.arg is not None and not _is_skipped(keyword):
            kept = [*node.keywords[:index], *node.keywords[index + 1 :]]
            yield "keyword", ast.Call(node.func, node.args, kept)


def _of_expression(node: ast.AST, parent: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.IfExp):
        yield from (("condition", each) for each in (node.body, node.orelse))
    elif isinstance(node, ast.Compare):
        yield from _of_comparison(node, parent)
    elif isinstance(node, ast.BoolOp):
        for index in range(len(node.values)):
            kept = [*node.values[:index], *node.values[index + 1 :]]
            yield "operand", kept[0] if len(kept) == 1 else ast.BoolOp(node.op, kept)
    elif isinstance(node, ast.UnaryOp | ast.BinOp):
        yield from _of_operator(node, parent)
    elif isinstance(node, ast.Constant):
        yield from _of_constant(node.value)
    elif isinstance(node, ast.comprehension) and node.ifs:
        yield "filter", ast.comprehension(node.target, node.iter, node.ifs[1:], node.is_async)
    elif isinstance(node, ast.Slice):
        bounds = (ast.Slice(None, node.upper, node.step), ast.Slice(node.lower, None, node.step))
        yield from (("slice", each) for each, bound in zip(bounds, (node.lower, node.upper), strict=True) if bound is not None)


def _of_comparison(node: ast.Compare, parent: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for index, operator in enumerate(node.ops):
        if isinstance(operator, ast.Is | ast.IsNot | ast.Eq | ast.NotEq) and isinstance(parent, ast.If | ast.IfExp):
            continue  # the whole condition is replaced by either constant, which says more
        changed = [*node.ops[:index], _COMPARISONS[type(operator)](), *node.ops[index + 1 :]]
        yield "comparison", ast.Compare(node.left, changed, node.comparators)


def _of_operator(node: ast.UnaryOp | ast.BinOp, parent: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.BinOp):
        if type(node.op) in _OPERATORS:
            yield "operator", ast.BinOp(node.left, _OPERATORS[type(node.op)](), node.right)
    elif isinstance(node.op, ast.USub) or (isinstance(node.op, ast.Not) and not isinstance(parent, ast.If | ast.IfExp)):
        yield "operator", node.operand


def _of_constant(value: object) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(value, bool):
        yield "constant", ast.Constant(not value)
    elif isinstance(value, int):
        yield "constant", ast.Constant(value + 1)
    elif isinstance(value, float):
        yield "constant", ast.Constant(value * 2 if value else 1.0)


def _renamed(call: ast.Call, name: str) -> ast.Call:
    function = call.func
    new = ast.Name(name, ast.Load()) if isinstance(function, ast.Name) else ast.Attribute(function.value, name, ast.Load())  # type: ignore[attr-defined]
    return ast.Call(new, call.args, call.keywords)


def _is_skipped(node: ast.AST) -> bool:
    if isinstance(node, ast.keyword):
        return node.arg in _SKIPPED_KEYWORDS or isinstance(node.value, ast.JoinedStr)
    return isinstance(node, _SKIPPED_NODES) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _line(node: ast.AST) -> str:
    """Returns the source of an expression, or the first line of a statement with its length where it has more."""
    if isinstance(node, ast.comprehension):
        return ast.unparse(node).strip()
    first, *more = ast.unparse(ast.fix_missing_locations(node)).splitlines()
    return f"{first} ..." if more else first
