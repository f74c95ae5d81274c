"""Mutations of any file: gone, cut, doubled, replaced, encoded otherwise."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

OF_ALL_FILES = (
    "missing", "empty", "truncated", "doubled", "directory", "dangling symlink", "symlink out of the folder",
    "symlink to another file", "named pipe", "random bytes", "zeros",
)  # fmt: skip
OF_TEXT = ("bytes flipped", "UTF-16", "latin-1", "byte order mark", "not UTF-8")


class UnfitError(Exception):
    """This mutation does not apply, or gives another valid input: draw again."""


def damage_file(rng: np.random.Generator, path: Path, kind: str, elsewhere: Path) -> str:
    """Apply a mutation of :data:`OF_ALL_FILES` or :data:`OF_TEXT`; returns what was done.

    Args:
        rng: of all choices.
        path: the file.
        kind: of the mutation.
        elsewhere: an existing folder outside the input, for what links lead to.
    """
    content = path.read_bytes()
    size = len(content)
    if kind in ("missing", "directory", "dangling symlink", "symlink out of the folder", "symlink to another file",
                "named pipe"):  # fmt: skip
        return _replace_by_other(path, kind, elsewhere)
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        kept = int(rng.integers(1, size)) if rng.random() < 0.7 else size - 1
        if not content[kept:].strip():
            raise UnfitError
        path.write_bytes(content[:kept])
        return f"{kept} of {size} bytes kept"
    elif kind == "doubled":
        path.write_bytes(content * 2)
    elif kind == "random bytes":
        path.write_bytes(rng.bytes(size))
    elif kind == "zeros":
        path.write_bytes(bytes(size))
    elif kind == "UTF-16":
        path.write_bytes(content.decode().encode("utf-16"))
    elif kind == "latin-1":
        path.write_bytes((content.decode().replace("lift the cube", "lève le cube") + "é").encode("latin-1"))
    elif kind == "byte order mark":
        path.write_bytes(b"\xef\xbb\xbf" + content)
    elif kind == "not UTF-8":
        place = int(rng.integers(0, size))
        path.write_bytes(content[:place] + b"\xff\xfe\xc0" + content[place:])
        return f"at byte {place}"
    elif kind == "bytes flipped":
        return flip_bytes(rng, path, 0, size)
    else:
        raise ValueError(kind)
    return ""


def flip_bytes(rng: np.random.Generator, path: Path, first: int, last: int) -> str:
    """Flip a bit in each of one to four bytes from ``first`` to before ``last``."""
    content = bytearray(path.read_bytes())
    places = sorted({int(place) for place in rng.integers(first, max(first + 1, last), rng.integers(1, 5))})
    for place in places:
        content[place] ^= 1 << int(rng.integers(0, 8))
    path.write_bytes(bytes(content))
    return f"at {places}"


def _replace_by_other(path: Path, kind: str, elsewhere: Path) -> str:
    moved = elsewhere / path.name
    shutil.move(path, moved)
    if kind == "directory":
        path.mkdir()
    elif kind == "dangling symlink":
        path.symlink_to(elsewhere / "nothing")
    elif kind == "symlink out of the folder":
        path.symlink_to(moved)
    elif kind == "symlink to another file":
        path.symlink_to("/etc/hostname")
    elif kind == "named pipe":
        os.mkfifo(path)
    return ""
