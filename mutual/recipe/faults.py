"""From pydantic's validation errors to faults: the user's own key path, plain words, the nearest valid choice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError

from mutual.recipe.base import Spec
from mutual.recipe.errors import Fault, did_you_mean
from mutual.recipe.limits import MAX_FAULTS
from mutual.recipe.text import format_value

_Path = tuple[str | int, ...]
_KEY = "[key]"  # pydantic's mark of a key that is wrong itself
_NO_MAPPING = "{value} is no mapping"
_NO_LIST = "{value} is no list"
_PHRASES = {
    "missing": "required, but not given",
    "int_type": "{value} is no whole number",
    "float_type": "{value} is no number",
    "bool_type": "{value} is neither true nor false",
    "string_type": "{value} is no text; quotes would make it text",
    "string_pattern_mismatch": "{value} may hold letters, digits, _, - and . only, and begins with a letter, a digit or _",
    "finite_number": "{value} is no finite number",
    "dict_type": _NO_MAPPING,
    "model_type": f"{_NO_MAPPING}; write its keys, or leave it out",
    "model_attributes_type": _NO_MAPPING,
    "list_type": _NO_LIST,
    "tuple_type": _NO_LIST,
    "greater_than": "{value} must be greater than {gt}",
    "greater_than_equal": "{value} must be at least {ge}",
    "less_than": "{value} must be less than {lt}",
    "less_than_equal": "{value} must be at most {le}",
    "value_error": "{value} {error}",  # of our own validators
    "too_short": "{value} has too few entries; write at least {min_length}",
    "too_long": "{value} has too many entries; write at most {max_length}",
}
_MOST_DETAILS = 8 * MAX_FAULTS  # a value of no member of a union gives one for each member
_NOUNS = {"loss": "loss", "name": "transform"}  # what a section's key chooses


def faults_of(error: ValidationError, section: type[Spec], document: Any) -> list[Fault]:
    """Returns one fault for each mistake that `error` found in `document`, which should have been a `section`."""
    mistakes = [_mistake(section, details, document) for details in error.errors(include_url=False)[:_MOST_DETAILS]]
    # a value fits its kind where the mistake lies deeper, or is none of kind
    fitting = {mistake.path[:length] for mistake in mistakes for length in range(len(mistake.path) + (not mistake.misfit))}
    inner = {mistake.path[:length] for mistake in mistakes for length in range(len(mistake.path))}
    faults: dict[_Path, Fault] = {}
    for mistake in mistakes:
        if mistake.is_count and mistake.path in inner:
            continue  # only entries that are right were counted
        if not (mistake.misfit and mistake.path in fitting):
            faults.setdefault(mistake.path, Fault(".".join(map(str, mistake.path)), mistake.message))
    return list(faults.values())


@dataclass(frozen=True)
class _Mistake:
    """One of pydantic's errors, in the user's terms."""

    path: _Path
    message: str
    misfit: bool
    """The value is of another kind than this member of a union: reported only where it fits no member better."""
    is_count: bool = False
    """A list has too few entries; reported only where each of them is right."""


def _mistake(section: type[Spec], details: Any, document: Any) -> _Mistake:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    wrong_key = kind.startswith("string_") and details["loc"][-1:] == (_KEY,)
    location = _locate(section, details["loc"][:-1] if wrong_key else details["loc"])
    path, last = location.path, location.path[-1] if location.path else ""
    misfit = location.at_member and (kind.endswith("_type") or (kind == "literal_error" and isinstance(value, dict | list)))
    if wrong_key:
        return _Mistake((*path[:-1], format_value(value)), f"the key {format_value(value)} is no text; quotes would make it text", misfit)
    if kind == "union_tag_not_found" and not isinstance(value, Mapping):
        return _Mistake(path, _NO_MAPPING.format(value=format_value(value)), misfit)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        key = context["discriminator"].strip("'_()")  # a key, or a function that is called as it is
        bare_name = isinstance(_value_at(document, path), str)
        return _Mistake(path if bare_name else (*path, key), _tag_message(location, key, value), misfit)
    if kind == "missing" and isinstance(last, int):  # pydantic's word for a pair with one entry
        return _Mistake(path[:-1], f"{format_value(value)} has too few entries; write {len(get_args(location.holder))}", misfit)
    if kind == "extra_forbidden":
        message = f"unknown key {format_value(last)}{did_you_mean(last, location.section.model_fields)}"
    elif kind == "literal_error":
        choices = [choice.strip("'") for choice in re.split(r", | or ", context["expected"])]
        noun = "entry" if isinstance(last, int) else last
        message = f"{format_value(value)} is no valid {noun}{did_you_mean(value, choices)}"
    else:
        words = {name: _number(bound) for name, bound in context.items()} | {"value": format_value(value), "otherwise": details["msg"]}
        message = _PHRASES.get(kind, "{value}: {otherwise}").format_map(words)
    return _Mistake(path, message, misfit, is_count=kind == "too_short")


def _number(bound: Any) -> Any:
    if isinstance(bound, float):
        return f"{int(bound):,}" if bound.is_integer() else f"{bound:g}"
    return f"{bound:,}" if isinstance(bound, int) else bound


def _tag_message(location: _Location, key: str, section: Any) -> str:
    choices = [tag for member in _members(location.annotation) for tag in _tags(member)]
    if not isinstance(section, Mapping) or key not in section:
        return f"required, but not given{did_you_mean('', choices)}"
    own = f"; a {_NOUNS[key]} of yours is named package.module:name" if "." in str(section[key]) else ""
    return f"{format_value(section[key])} is no {_NOUNS[key]}{own or did_you_mean(section[key], choices)}"


@dataclass(frozen=True)
class _Location:
    """Where in the schema a mistake stands."""

    path: _Path
    """The user's key path: pydantic's location without the members of unions that it names on the way."""
    annotation: Any
    holder: Any
    """Annotation of the section, mapping or list that holds the last part of `path`."""
    section: type[Spec]
    """The innermost section around it."""
    at_member: bool
    """The location ends at a member of a union."""


def _locate(section: type[Spec], loc: _Path) -> _Location:
    path: list[str | int] = []
    annotation: Any = section
    holder: Any = section
    at_member = False
    for step in loc:
        members = _members(annotation)
        at_member = len(members) > 1
        if at_member:
            annotation = _member(members, str(step))
        else:
            holder = members[0]
            path.append(step)
            annotation = _child(holder, step)
            section = holder if _is_section(holder) else section
    return _Location(tuple(path), annotation, holder, section, at_member)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types that a value may have besides null: one, or the members of a union."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(member for choice in get_args(annotation) if choice is not NoneType for member in _members(choice))
    return (annotation,)


def _member(members: tuple[Any, ...], label: str) -> Any:
    """The member that pydantic calls `label`: a section by its tag or class, other types by name; Any where none is."""
    for member in members:
        name = (get_origin(member) or member).__name__
        if label == name or label.startswith(f"{name}[") or label in _tags(member):
            return member
    return Any


def _tags(member: Any) -> tuple[str, ...]:
    """The values of the key that chooses this section of a union: its one required literal."""
    if not _is_section(member):
        return ()
    keys = (entry for entry in member.model_fields.values() if entry.is_required() and get_origin(entry.annotation) is Literal)
    return tuple(tag for key in keys for tag in get_args(key.annotation))


def _child(holder: Any, key: str | int) -> Any:
    if _is_section(holder):
        return holder.model_fields[key].annotation if key in holder.model_fields else Any
    arguments = get_args(holder)
    return arguments[-1 if get_origin(holder) is dict else 0] if arguments else Any


def _is_section(annotation: Any) -> bool:
    # Python 3.10 takes list[int] for a type
    return get_origin(annotation) is None and isinstance(annotation, type) and issubclass(annotation, Spec)


def _value_at(document: Any, path: _Path) -> Any:
    """What stands at `path`; None where sections are objects or were brought into another form on the way."""
    for key in path:
        indices = document if isinstance(document, Mapping) else range(len(document)) if isinstance(document, list | tuple) else ()
        if key not in indices:
            return None
        document = document[key]
    return document
