"""Frozen config dataclasses from plain values, such as YAML holds, and back to plain values."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import operator
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

from hptransfer.errors import UserError, abbreviate
from hptransfer.system.text import nearest

Record = TypeVar("Record")
TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def plain(value: Any) -> Any:
    """A record as mappings, lists, text, numbers, booleans and None, with every field."""
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by their dotted keys."""
    values: dict[str, Any] = {}
    for name, item in tree.items():
        nested = isinstance(item, Mapping)
        values |= flat(item, f"{prefix}{name}.") if nested else {f"{prefix}{name}": item}
    return values


def read_record(cls: type[Record], values: Any, where: str) -> Record:
    """An instance of a dataclass from a mapping of its fields; a missing field has its default.

    Args:
        where: the dotted key of the mapping, for messages.

    Raises:
        UserError: `values` is no mapping, names a field that `cls` lacks, or holds a value of
            another type than its field's.
    """
    require_mapping(where, values)
    hints = field_types(cls)
    for name in values:
        if name not in hints:
            keys = [f"{where}.{known}" for known in hints]
            key = f"{where}.{name}"
            raise UserError(f"There is no config key {abbreviate(key)}. {nearest(key, keys)}")
    fields = {
        name: read_value(hints[name], value, f"{where}.{name}") for name, value in values.items()
    }
    return cls(**fields)


def require_mapping(where: str, value: Any) -> None:
    """Refuse a value where a section of `key: value` lines belongs."""
    if not isinstance(value, Mapping):
        raise UserError(
            f"`{where}` must be a section of `key: value` lines, but got {abbreviate(value)}. Give "
            "its keys, or leave it out."
        )


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """The type of every field of a dataclass by name, class variables left out."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def is_list(kind: Any) -> bool:
    """Whether a field of this type holds a list."""
    return typing.get_origin(kind) in (list, tuple)


def may_be_list(kind: Any) -> bool:
    """Whether a field of this type holds one value or a list."""
    return isinstance(kind, types.UnionType) and any(map(is_list, typing.get_args(kind)))


def is_text(kind: Any) -> bool:
    """Whether a field of this type holds text."""
    return _without_none(kind) is str


def read_value(kind: Any, value: Any, where: str) -> Any:
    """A value converted to a field's type: whole numbers to floats, names to enum members, ...

    Raises:
        UserError: the value is of another type, which the message names.
    """
    if value is None and type(None) in typing.get_args(kind):
        return None
    kind = _without_none(kind)
    if may_be_list(kind) and isinstance(value, list | tuple):
        kind = next(part for part in typing.get_args(kind) if is_list(part))
    origin: Any = typing.get_origin(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return read_record(typing.cast(type, kind), value, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        require_mapping(where, value)
        assert isinstance(value, Mapping)
        of_items = typing.get_args(kind)[1]
        return {key: read_value(of_items, item, f"{where}.{key}") for key, item in value.items()}
    if is_list(kind) and isinstance(value, list | tuple):
        of_items = typing.get_args(kind)[0]
        return origin(
            read_value(of_items, item, f"{where}[{index}]") for index, item in enumerate(value)
        )
    try:
        return _read_single(kind, value)
    except (ValueError, KeyError, OverflowError, TypeError):
        raise UserError(
            f"`{where}` must be {_described(kind)}, but got {_given(value)}.{_closest(kind, value)}"
        ) from None


def _without_none(kind: Any) -> Any:
    """X for the type `X | None`, `X | Y` for `X | Y | None`, any other type itself."""
    if isinstance(kind, types.UnionType):
        parts = (part for part in typing.get_args(kind) if part is not type(None))
        return functools.reduce(operator.or_, parts)
    return kind


def _read_single(kind: Any, value: Any) -> Any:
    """A number, text or choice; of `X | Y` by the first that takes the value."""
    if isinstance(kind, types.UnionType):
        first, *others = typing.get_args(kind)
        try:
            return _read_single(first, value)
        except (ValueError, TypeError):
            return _read_single(functools.reduce(operator.or_, others), value)
    return _READERS.get(kind, functools.partial(_member, kind))(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    return float(value)


def _truth(value: Any) -> bool:
    return value if isinstance(value, bool) else TRUTH[str(value).lower()]


def _text(value: Any) -> str:
    if not isinstance(value, str | int | float):
        raise ValueError
    return str(value)


def _member(kind: Any, value: Any) -> Enum:
    if not (isinstance(kind, type) and issubclass(kind, Enum)):
        raise ValueError
    return kind(value)


_READERS: Mapping[Any, Any] = {int: _whole, float: _number, bool: _truth, str: _text}
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _given(value: Any) -> str:
    return "null" if value is None else abbreviate(value)


def _described(kind: Any) -> str:
    if is_list(kind):
        return "a list [a, b]"
    if isinstance(kind, types.UnionType):
        return " or ".join(map(_described, typing.get_args(kind)))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(member.value for member in kind)}"
    return _NAMES[kind]


def _closest(kind: Any, value: Any) -> str:
    if not (isinstance(kind, type) and issubclass(kind, Enum) and isinstance(value, str)):
        return ""
    names = [member.value for member in kind]
    close = difflib.get_close_matches(value[:100], names, n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""
