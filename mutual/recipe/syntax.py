"""The YAML of recipes: text to plain values and back.

Safe YAML without its traps: a key that stands twice is refused, `4e-5` is a number, a date or `010` is text, and every
alias gets a copy of its anchor, so that a change to one never shows in the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

_PREFIX = "tag:yaml.org,2002:"
_KEPT = {_PREFIX + name for name in ("null", "bool", "merge")}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"(?:[-+]?(?:[0-9][0-9_]*\.[0-9]*|\.[0-9]+|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


class YamlError(ValueError):
    """Text that is no YAML; `str(error)` is one line with line and column."""


def parse_yaml(text: str) -> Any:
    """Returns the value that `text` says: mappings, lists, text, numbers, true, false and null; None for empty text.

    Raises:
        YamlError: the text is no YAML, has a key twice in one mapping, or uses tags.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(f"line {line}: character #x{ord(text[error.position]):04x} is not allowed") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        assert mark is not None, "each error of the scanner, the parser, the composer and the constructor has a mark"
        message = ", ".join(part for part in (error.context, error.problem) if part)
        raise YamlError(f"line {mark.line + 1}, column {mark.column + 1}: {message}") from error


def dump_yaml(value: Any) -> str:
    """Returns `value` as text which `parse_yaml` reads back, keys in their order.

    Raises:
        yaml.YAMLError: there is a value in it which YAML cannot say.
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Loader(yaml.SafeLoader):
    # One rule for tags, whatever they name: values are typed by how they look.
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            raise yaml.composer.ComposerError(None, None, f"a recipe has no tags such as {event.tag}", event.start_mark)  # type: ignore[arg-type]
        return super().compose_node(parent, index)

    # Checked here, before merge keys are resolved: a key beside a merged one of the same name is the way to override it.
    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in lines:
                raise yaml.composer.ComposerError(
                    None, None, f"key {key.value!r} stands in line {lines[key.value]} already", key.start_mark
                )
            lines[key.value] = key.start_mark.line + 1
        return node

    # Anew for each alias: this is what makes copies of them. An anchor inside itself is an error of the constructor.
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        self.constructed_objects.pop(node, None)
        return super().construct_object(node, deep=True)


class _Dumper(yaml.SafeDumper):
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
_Loader.add_implicit_resolver(_PREFIX + "int", _INT, list("-+0123456789"))
for _style in (_Loader, _Dumper):  # the dumper quotes what either YAML 1.1 or our loader would take for something else than text
    _style.add_implicit_resolver(_PREFIX + "float", _FLOAT, list("-+.0123456789"))
