"""Files and names in the order that people number them."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts "demo_2" before "demo_10"."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def numbered_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Files of a folder with one of these lower-case suffixes, by their numbers; none where there is no folder."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith(".")]
    return sorted(found, key=lambda path: natural(path.name))
