"""What the name of a world means: the same world from every working directory, and no download by accident."""

from __future__ import annotations

import os
import re
from pathlib import Path

from world_models.hub import PREFIX, cached_world, hub_world
from world_models.world_packages import packaged_world, packaged_worlds

BUNDLED_WORLDS = Path(__file__).parent / "worlds"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
NAME = re.compile(r"[A-Za-z0-9][\w-]*(\.[\w-]+)*", re.ASCII)
"""Names of bundled worlds and of those of installed packages."""


def world_folder(name_or_path: str | Path) -> Path:
    """Folder of a world.

    Args:
        name_or_path: one of

            - a bare name (``lift``): the bundled world, or that of an installed package (see
              :mod:`world_models.world_packages`), whatever lies in the working directory;
            - a path, which is a ``Path``, or a text with a slash (``./lift``, ``runs/lift``, ``/data/lift``): that
              folder;
            - ``hf://owner/name`` or ``hf://owner/name@revision``: a world of the hub, see
              :func:`world_models.hub.hub_world`.

    Raises:
        FileNotFoundError: there is no such world; the message says what there is.
        ValueError: the name is empty or has another form, or two installed packages bring a world of this name.
    """
    if isinstance(name_or_path, str):
        _check_text(name_or_path)
        if name_or_path.startswith(PREFIX):
            return hub_world(name_or_path)
        if not _is_path(name_or_path):
            return _named(name_or_path)
    elif not isinstance(name_or_path, os.PathLike):
        raise TypeError(f"world={name_or_path!r:.80} is no name and no path: give one of them")
    folder = Path(name_or_path)
    if (folder / CONFIG_FILE).is_file():
        return folder
    state = f"is no world's folder: it has no {CONFIG_FILE}" if folder.is_dir() else "does not exist"
    raise FileNotFoundError(f"no world {str(name_or_path)[:200]!r}: this folder {state}. {_choices()}")


def world_reference(name_or_path: str | Path) -> str:
    """How to remember a world: a name as it is, a folder by its absolute path.

    Raises:
        ValueError: the name is empty or has another form.
    """
    if isinstance(name_or_path, str):
        _check_text(name_or_path)
        if name_or_path.startswith(PREFIX) or not _is_path(name_or_path):
            return name_or_path
    return str(Path(name_or_path).resolve())


def remembered_world(reference: str, *, source: str) -> str:
    """A world that a file names, checked: opening it must not reach the network, for nobody asked for that.

    Args:
        reference: what the file holds.
        source: the file, for messages.

    Raises:
        ValueError: the reference is empty or has another form.
        FileNotFoundError: it names a world of the hub that is not in the cache.
    """
    try:
        _check_text(reference)
        cached = not reference.startswith(PREFIX) or cached_world(reference) is not None
    except ValueError as error:
        raise ValueError(f"{source} names no world: {error}; name one by --world") from error
    if not cached:
        raise FileNotFoundError(
            f"{source} names the world {reference}, which is not on this machine; fetch it by naming it yourself: "
            f"--world {reference}"
        )
    return reference


def _check_text(name: str) -> None:
    if not name.strip():
        raise ValueError(f"world={name!r} names no world: {_choices()}")
    if not name.isprintable() or len(name) > 4096:
        raise ValueError(f"world={name[:80]!r} names no world: it is no name and no path. {_choices()}")


def _is_path(name: str) -> bool:
    return os.sep in name or (os.altsep is not None and os.altsep in name) or name in (os.curdir, os.pardir)


def _named(name: str) -> Path:
    """Folder of the bundled or packaged world of a bare name."""
    if NAME.fullmatch(name):
        bundled = BUNDLED_WORLDS / name
        if (bundled / CONFIG_FILE).is_file():
            return bundled
        packaged = packaged_world(name)
        if packaged is not None:
            return packaged
    here = f" The folder ./{name} is one: give it by that path." if (Path(name) / CONFIG_FILE).is_file() else ""
    raise FileNotFoundError(f"no world {name[:200]!r}.{here} {_choices()}")


def _choices() -> str:
    bundled = ", ".join(sorted(path.parent.name for path in BUNDLED_WORLDS.glob(f"*/{CONFIG_FILE}"))) or "none"
    packaged = ", ".join(packaged_worlds()) or "none"
    return (
        f"There are bundled worlds ({bundled}), those of installed packages ({packaged}), folders with {CONFIG_FILE} "
        f"and {WEIGHTS_FILE} by their paths (./{bundled.split(',')[0]}), and worlds of the hub ({PREFIX}owner/name); "
        "`rla-gym train` makes one"
    )
