"""Worlds that other installed packages bring, by entry points of the group ``rla_gym.worlds``.

Such a package names its world in its ``pyproject.toml`` and ships the world's files beside its modules::

    [project.entry-points."rla_gym.worlds"]
    my_world = "my_package.my_world"

    [tool.setuptools.package-data]
    my_package = ["my_world/*"]

The value is the dotted path of the world's folder: a package, or a folder within one. It is found without importing
anything, so that opening a world runs no code.
"""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

GROUP = "rla_gym.worlds"
VALUE = re.compile(r"[\w-]+(\.[\w-]+)*")
"""The dotted path of a folder: no slash leads out of the package."""


def packaged_worlds() -> tuple[str, ...]:
    """Names of the worlds that installed packages bring, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


def packaged_world(name: str) -> Path | None:
    """The folder of an installed package's world; None where no package brings one of this name.

    Raises:
        ValueError: two packages bring a world of this name.
        FileNotFoundError: the package lacks the folder, or the folder is no world's.
    """
    entries = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if not entries:
        return None
    if len(entries) > 1:
        packages = " and ".join(sorted(map(_package, entries)))
        raise ValueError(
            f"{packages} both bring a world {name!r}: give the path of its folder, or uninstall one of them"
        )
    folder = _folder(entries[0].value)
    if folder is None:
        raise FileNotFoundError(
            f"the package {_package(entries[0])} names {entries[0].value!r} as the folder of its world {name!r}, which "
            "holds no config.json: install it again, or ask its authors"
        )
    return folder


def _folder(value: str) -> Path | None:
    """The folder of a dotted path that has a ``config.json``, found without running code of the package."""
    if not VALUE.fullmatch(value):
        return None
    top, *below = value.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    places = (spec.submodule_search_locations if spec else None) or []
    folders = (Path(place, *below) for place in places)
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unnamed package"
