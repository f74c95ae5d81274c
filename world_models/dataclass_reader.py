"""Configs from JSON: every key and type checked against the dataclass that it becomes."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")


def read_dataclass(cls: type[Config], content: Any, *, source: str, fix: str, optional: Collection[str] = ()) -> Config:
    """An instance of a dataclass from what JSON holds of it; a ``__post_init__`` checks ranges.

    Args:
        cls: a dataclass whose fields are numbers, texts, booleans, Literals, lists, tuples, mappings, other
            dataclasses, or unions of these. A field of a type ``Any`` takes what there is.
        content: of the JSON.
        source: the file, for messages.
        fix: what the user can do about a damaged file; messages end with it.
        optional: names of fields that may be missing, and then have their defaults.

    Raises:
        ValueError: a key is missing or additional, a value has another type, is not finite, or is out of range.
    """
    try:
        return _dataclass(cls, content, "", optional)
    except _FieldError as error:
        raise ValueError(f"{source}: {error}; {fix}") from error


def check_ranges(config: Any, **bounds: tuple[float, float]) -> None:
    """Raise ValueError unless fields of a config are None or within bounds, both included."""
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            raise ValueError(f"{name}={_shown(value)} must be between {low} and {high}")


class _FieldError(Exception):
    """What is wrong with a content, and where."""


def _dataclass(cls: type[Config], content: Any, place: str, optional: Collection[str]) -> Config:
    if not isinstance(content, dict):
        raise _FieldError(f"{place or 'the content'} is {_shown(content)}, not an object")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    prefix = f"{place}." if place else ""
    for name in content:
        if name not in fields:
            raise _FieldError(f"key {_shown(prefix + name)} is unknown")
    for name in fields:
        if name not in content and name not in optional:
            raise _FieldError(f"key {prefix + name!r} is missing")
    hints = get_type_hints(cls)
    values = {name: _value(hints[name], value, prefix + name) for name, value in content.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise _FieldError(f"{place + ': ' if place else ''}{error}") from error


def _value(kind: Any, value: Any, place: str) -> Any:
    """``value`` as the type ``kind``."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return value if isinstance(value, kind) else _dataclass(kind, value, place, ())
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, place)
    if origin in (tuple, list) and isinstance(value, list | tuple):
        items = [_value(arguments[0], item, f"{place}[{index}]") for index, item in enumerate(value)]
        return tuple(items) if origin is tuple else items
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        return {key: _value(arguments[1], item, f"{place}.{key}"[:100]) for key, item in value.items()}
    if not _is_plain(kind, value):
        raise _FieldError(f"{place} is {_shown(value)}, not {_named(kind)}")
    return value


def _one_of(kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    for kind in kinds:
        try:
            return _value(kind, value, place)
        except _FieldError:
            continue
    raise _FieldError(f"{place} is {_shown(value)}, not {' or '.join(map(_named, kinds))}")


def _is_plain(kind: Any, value: Any) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return kind in (bool, str, types.NoneType) and isinstance(value, kind)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _named(kind: Any) -> str:
    names = {
        bool: "true or false", int: "a whole number", float: "a number", str: "a text", types.NoneType: "null",
        tuple: "a list", list: "a list",
    }  # fmt: skip
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    return names.get(get_origin(kind) or kind, "an object")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
