"""Verdicts: what a case must be called, by rules."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import gymnasium as gym
import numpy as np

CLEAR = "refused clearly"
UNCLEAR = "refused unclearly"
SAME = "accepted, same result"
DIFFERENT = "accepted, different result"
HANG, CRASH = "hang", "crash"
NETWORK, OUTSIDE_READ, OUTSIDE_WRITE, RAN_CODE = "network", "outside read", "outside write", "ran code"
GOOD = (CLEAR, SAME)
VERDICTS = (CLEAR, SAME, UNCLEAR, DIFFERENT, HANG, CRASH, NETWORK, OUTSIDE_READ, OUTSIDE_WRITE, RAN_CODE)
EXPECTED = (ValueError, TypeError, OSError, IndexError, FloatingPointError, gym.error.Error)
"""Exceptions that the command line turns into one line, or that Gymnasium raises itself."""
LONGEST = 800
"""Characters of a message that a person will read."""
PACKAGES = ("world_models", "rewards", "rla_gym", "agents", "benchmarks")


def of_error(error: BaseException, names: Collection[Collection[str]]) -> tuple[str, str]:
    """The verdict on a refusal and what is wrong with it.

    It is clear if its type is an expected one, a ``raise`` of the project's own raised it, and its message has one line
    or two, of :data:`LONGEST` characters at most, and names what it is about.

    Args:
        error: what was raised.
        names: alternatives, of each of which all must stand in the message: the file's or the argument's name.
    """
    message = str(error)
    if not isinstance(error, EXPECTED):
        return UNCLEAR, f"a {type(error).__name__}"
    signature = isinstance(error, TypeError) and "unexpected keyword argument" in message  # Python's own words
    if not signature and not raised_by_project(error.__traceback__):
        return UNCLEAR, "raised by a library"
    if message.strip().count("\n") > 1:
        return UNCLEAR, "of many lines"
    if len(message) > LONGEST:
        return UNCLEAR, f"of {len(message)} characters"
    lowered = message.lower()
    if not any(all(part.lower() in lowered for part in alternative) for alternative in names):
        return UNCLEAR, f"names none of {sorted(' + '.join(alternative) for alternative in names)[:4]}"
    return CLEAR, ""


def raised_by_project(traceback: TracebackType | None) -> bool:
    """Whether the innermost frame is of the project's packages and stands at a ``raise``, not at a library's call."""
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    path = Path(traceback.tb_frame.f_code.co_filename)
    if not any(part in PACKAGES for part in path.parts) or "site-packages" in path.parts:
        return False
    return traceback.tb_lineno in _raising_lines(path)


@cache
def _raising_lines(path: Path) -> frozenset[int]:
    lines: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise):
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return frozenset(lines)


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first name whose values differ by more than rounding; empty where all are the same."""
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            return f"{name} in one alone"
        left, right = np.asarray(one[name]), np.asarray(other[name])
        if left.shape != right.shape:
            return f"{name}: shape {left.shape} became {right.shape}"
        if left.dtype.kind in "fc" or right.dtype.kind in "fc":
            try:
                same = np.allclose(left.astype(float), right.astype(float), rtol=1e-4, atol=1e-5, equal_nan=True)
            except (TypeError, ValueError):
                same = False
        else:
            same = bool((left == right).all()) if left.size else True
        if not same:
            return f"{name}: {_short(left)} became {_short(right)}"
    return ""


def _short(array: np.ndarray) -> str:
    return re.sub(r"\s+", " ", str(array.ravel()[:3]))[:80]
