"""Mutations of JSON: keys, types, numbers, texts; and whether the result is another valid content."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.fuzz.file_mutations import UnfitError

Path = tuple[str | int, ...]
Valid = Callable[[Path, Any], bool]
"""Whether a value at a place is one that no loader can tell from the original: see :mod:`tests.fuzz`."""

KINDS = (
    "key removed", "key added", "key renamed", "key duplicated", "type changed", "huge number", "negative number",
    "zero", "NaN or infinity", "deep nesting", "long text", "path trick",
)  # fmt: skip
TRICKS = (
    "../../x", "/etc/passwd", "hf-hub:timm/resnet18", "hf_hub:owner/name", "https://example.org/x.bin",
    "local-dir:/tmp", "file:///etc/passwd", "owner/name", "~/x", "x\u0000y", "", ".", "..", "{0.__class__}", "%s%s%s",
    "C:\\x", "nul\n",
)  # fmt: skip
_DEEP, _VAST = "\u0001deep\u0001", "\u0001vast\u0001"
_LITERALS = {_DEEP: "[" * 20_000 + "]" * 20_000, _VAST: "1" + "0" * 6_000}


def damage_json(
    rng: np.random.Generator, text: str, kind: str, valid: Valid, tricks: tuple[str, ...] = TRICKS
) -> tuple[str, str, str]:
    """A mutation of :data:`KINDS` of a JSON text.

    Args:
        rng: of all choices.
        text: to mutate.
        kind: of the mutation.
        valid: which values are no damage at all.
        tricks: texts that look like places.

    Returns:
        The new text, what was done, and the name of the key at which it was done.

    Raises:
        UnfitError: nothing of the kind can be done, or what was drawn is no damage.
    """
    content = json.loads(text)
    if kind in ("key removed", "key renamed", "key duplicated"):
        return _damage_key(rng, content, kind, valid)
    if kind == "key added":
        objects = [path for path, value in nodes(content) if isinstance(value, dict)]
        path = objects[rng.integers(len(objects))]
        name = str(rng.choice(["unknown", "__class__", "pretrained", "path", "self", "config", "0", ""]))
        target = _at(content, path)
        if name in target:
            raise UnfitError
        target[name] = [1, "x", None, {"a": 1}][rng.integers(4)]
        return json.dumps(content), f"{name!r} in {_shown(path)}", name
    places = [(path, value) for path, value in nodes(content) if path and _suits(kind, value)]
    if not places:
        raise UnfitError
    path, old = places[rng.integers(len(places))]
    new = _new_value(rng, kind, old, tricks)
    if new == old and type(new) is type(old):
        raise UnfitError
    if valid(path, new):
        raise UnfitError
    _put(content, path, new)
    return _dumped(content), f"{_shown(path)} = {str(new)[:60]!r}", _name(path)


def nodes(content: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value with its place, containers first."""
    yield path, content
    items: Any = ()
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list):
        items = enumerate(content)
    for key, value in items:
        yield from nodes(value, (*path, key))


def only_valid_changes(before: str, after: bytes, valid: Valid) -> bool:
    """Whether a damaged text still is JSON that differs from the first in valid values alone, or not at all."""
    try:
        old, new = dict(nodes(json.loads(before))), dict(nodes(json.loads(after)))
    except (ValueError, RecursionError):
        return False
    if old.keys() != new.keys():
        return False
    changed = [path for path in old if not isinstance(old[path], dict | list) and old[path] != new[path]]
    return all(valid(path, new[path]) for path in changed)


def _damage_key(rng: np.random.Generator, content: Any, kind: str, valid: Valid) -> tuple[str, str, str]:
    paths = [path for path, _ in nodes(content) if path and isinstance(path[-1], str)]
    if not paths:
        raise UnfitError
    path = paths[rng.integers(len(paths))]
    parent, key = _at(content, path[:-1]), path[-1]
    if kind == "key duplicated":
        old = parent[key]
        new = _new_value(rng, str(rng.choice(["type changed", "huge number", "negative number"])), old, TRICKS)
        # The second counts where nobody looks; a whole number one higher looks well.
        if isinstance(old, int) and not isinstance(old, bool) and rng.random() < 0.5:
            new = old + 1
        mark = "\u0001twice\u0001"
        original = json.dumps({key: old})[1:-1]
        parent[key] = mark
        text = json.dumps(content).replace(json.dumps({key: mark})[1:-1], f"{original}, {_dumped({key: new})[1:-1]}")
        return text, f"{_shown(path)} again as {str(new)[:40]!r}", str(key)
    removed = valid((*path, "removed"), None)
    value = parent.pop(key)
    if kind == "key renamed":
        names = [key + "_", key.upper(), key[:-1], " " + key, key.replace("_", "-")]
        parent[next(name for name in names if name != key and name not in parent)] = value
    if removed:
        raise UnfitError
    return json.dumps(content), _shown(path), str(key)


def _suits(kind: str, value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return {
        "type changed": True, "huge number": number, "negative number": number, "zero": number,
        "NaN or infinity": number, "deep nesting": True, "long text": isinstance(value, str),
        "path trick": isinstance(value, str),
    }[kind]  # fmt: skip


def _new_value(rng: np.random.Generator, kind: str, old: Any, tricks: tuple[str, ...]) -> Any:
    if kind == "type changed":
        others = [str(old), [old], {"value": old}, None, True, False, "", [], {}]
        others += [old + 0.5, [old] * 3] if isinstance(old, int | float) else [1, 0.5]
        return others[rng.integers(len(others))]
    if kind == "deep nesting":
        return _DEEP
    if kind == "long text":
        return ["x" * 200_000, str(old) + " " * 100_000, "é" * 50_000][rng.integers(3)]
    if kind == "path trick":
        return tricks[rng.integers(len(tricks))]
    if kind == "zero":
        return [0, 0.0, -0.0][rng.integers(3)]
    if kind == "NaN or infinity":
        return [float("nan"), float("inf"), float("-inf")][rng.integers(3)]
    if kind == "negative number":
        size = old if isinstance(old, int | float) else 1
        return [-1, -(abs(size) or 1), -(10**9), -1e30][rng.integers(4)]
    return [10**7, 10**9, 1e9, 1e30, 2**63, 2**64, _VAST][rng.integers(7)]


def _dumped(content: Any) -> str:
    text = json.dumps(content)
    for mark, literal in _LITERALS.items():
        text = text.replace(json.dumps(mark), literal)
    return text


def _at(content: Any, path: Path) -> Any:
    for key in path:
        content = content[key]
    return content


def _put(content: Any, path: Path, value: Any) -> None:
    _at(content, path[:-1])[path[-1]] = copy.deepcopy(value)


def _name(path: Path) -> str:
    return next((str(key) for key in reversed(path) if isinstance(key, str)), "")


def _shown(path: Path) -> str:
    return ".".join(map(str, path)) or "the top"
