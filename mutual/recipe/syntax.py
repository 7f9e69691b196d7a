"""The YAML of recipes: text to plain values and back.

Safe YAML without its traps: a key that stands twice is refused, `4e-5` is a number, a date or `010` is text, and every
alias gets a copy of its anchor, so that a change to one never shows in the other. What a text stands for is measured while it
is composed, and nothing is built of one that is beyond the limits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from mutual.recipe.limits import MAX_DEPTH, MAX_DIGITS, MAX_RECIPE_BYTES, TOO_DEEP, TOO_MANY_DIGITS, Extent
from mutual.recipe.text import format_value, printable

_PREFIX = "tag:yaml.org,2002:"
_KEPT = {_PREFIX + name for name in ("null", "bool", "merge")}
_INT_TAG = _PREFIX + "int"
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # no file name, no file and no terminal takes these
_BREAK = re.compile("[\n\r\x85\u2028\u2029]")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"(?:[-+]?(?:[0-9][0-9_]*\.[0-9]*|\.[0-9]+|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


class YamlError(ValueError):
    """Text that is no YAML; `str(error)` is one line with line and column."""


def parse_yaml(text: str) -> Any:
    """Returns the value that `text` says: mappings, lists, text, numbers, true, false and null; None for empty text.

    Raises:
        YamlError: the text is no YAML, has a key twice in one mapping, uses tags, or is beyond a limit.
    """
    if len(text) > MAX_RECIPE_BYTES:
        raise YamlError(f"more than {MAX_RECIPE_BYTES:,} characters; a recipe has fewer")
    try:
        return yaml.load(text, _Loader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(f"line {line}: character #x{ord(text[error.position]):04x} is not allowed") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        assert mark is not None, "each error of the scanner, the parser, the composer and the constructor has a mark"
        message = ", ".join(
            printable(part, max_length=160) for part in (error.context, error.problem) if part
        )  # they quote names, however long
        raise YamlError(f"line {mark.line + 1}, column {mark.column + 1}: {message}") from error


def dump_yaml(value: Any) -> str:
    """Returns `value` as text which `parse_yaml` reads back, keys in their order.

    Raises:
        yaml.YAMLError: there is a value in it which YAML cannot say.
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._total = Extent()  # of what has been composed so far
        self._extents: dict[yaml.Node | None, Extent] = {}  # of each whole node

    # One rule for tags, whatever they name: values are typed by how they look.
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            raise _error(f"a recipe has no tags such as {event.tag}", event.start_mark)
        self._depth += 1
        if isinstance(event, yaml.CollectionStartEvent):  # counted before it is entered: a recursion of its own for each
            self._count(Extent(1, 0, self._depth), event.start_mark)
        node = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent):
            if node not in self._extents:
                raise _error(f"alias {event.anchor!r} stands inside its own anchor", event.start_mark)
            self._count(self._extents[node].inside(self._depth - 1), event.start_mark)
        elif isinstance(node, yaml.CollectionNode):
            children = (child for entry in node.value for child in (entry if isinstance(node, yaml.MappingNode) else (entry,)))
            self._extents[node] = sum((self._extents[child] for child in children), Extent()).wrapped()
        self._depth -= 1
        return node

    def compose_scalar_node(self, anchor: dict[Any, yaml.Node]) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if node.tag == _INT_TAG and len(node.value) > MAX_DIGITS:
            raise _error(TOO_MANY_DIGITS, node.start_mark)
        wrong = _NO_TEXT.search(node.value)
        if wrong is not None:  # an escape: the reader refuses the character itself
            raise _error(f"character #x{ord(wrong[0]):04x} is not allowed", node.start_mark)
        self._extents[node] = Extent(1, len(node.value))
        self._count(self._extents[node], node.start_mark)
        return node

    # Checked here, before merge keys are resolved: a key beside a merged one of the same name is the way to override it.
    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in lines:
                raise _error(f"key {format_value(key.value)} stands in line {lines[key.value]} already", key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return node

    # Known here already: where a key may begin, the scanner reads a thousand brackets ahead, in a time that grows with their square.
    def fetch_flow_collection_start(self, TokenClass: type[yaml.Token]) -> None:
        if self.flow_level >= MAX_DEPTH:
            raise _error(TOO_DEEP, self.get_mark())
        super().fetch_flow_collection_start(TokenClass)

    # The escape \U takes numbers that are no character's.
    def scan_flow_scalar_non_spaces(self, double: bool, start_mark: yaml.Mark) -> list[str]:
        try:
            return super().scan_flow_scalar_non_spaces(double, start_mark)
        except (ValueError, OverflowError) as error:
            raise _error("there is no character of this number", self.get_mark()) from error

    def _count(self, extent: Extent, mark: Any) -> None:
        self._total += extent
        excess = self._total.excess()
        if excess is not None:
            raise _error(excess, mark)

    # Anew for each alias: this is what makes copies of them. An anchor inside itself is an error of the constructor.
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        self.constructed_objects.pop(node, None)
        return super().construct_object(node, deep=True)


def _error(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.composer.ComposerError(None, None, problem, mark)


class _Dumper(yaml.SafeDumper):
    # Other styles write line breaks as they are, and the reader makes others of YAML's rarer ones.
    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar(_PREFIX + "str", data, style='"' if _BREAK.search(data) else None)

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Iterable[Any], flow_style: bool | None = None) -> yaml.SequenceNode:
        items = list(sequence)
        return super().represent_sequence(tag, items, flow_style=not any(isinstance(item, dict | list | tuple) for item in items))

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        return super().represent_mapping(tag, mapping, flow_style=not mapping)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _KEPT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INT_TAG, _INT, list("-+0123456789"))
_Dumper.add_representer(str, _Dumper.represent_str)
for _style in (_Loader, _Dumper):  # the dumper quotes what either YAML 1.1 or our loader would take for something else than text
    _style.add_implicit_resolver(_PREFIX + "float", _FLOAT, list("-+.0123456789"))
