"""Worlds of the Hugging Face hub: fetched by an explicit name alone, and read from the cache from then on."""

from __future__ import annotations

import re
import sys
from pathlib import Path

PREFIX = "hf://"
NAME = re.compile(r"hf://([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w./-]*))?", re.ASCII)
FILES = (
    "config.json", "model.safetensors", "demonstrations.safetensors", "success.json", "success.safetensors",
    "training.json", "fidelity.json", "README.md",
)  # fmt: skip
"""What a world's folder may hold; nothing else is fetched."""
NEEDED = ("config.json", "model.safetensors")


def hub_world(name: str) -> Path:
    """The folder in the hub's cache of a world ``hf://owner/name[@revision]``.

    A cached copy is taken as it is, without the network; ``hf download owner/name`` brings it up to date. Otherwise one
    line on the standard error stream says what is fetched, and the world's own files are.

    Raises:
        ValueError: the name has another form.
        FileNotFoundError: the hub cannot be reached or has no such world.
    """
    folder = cached_world(name)
    if folder is not None:
        return folder
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    owner_and_name, revision = _parts(name)
    print(
        f"rla-gym: fetching the world {owner_and_name} (revision {revision or 'main'}) from {constants.ENDPOINT}",
        file=sys.stderr,
    )
    # The hub's client wraps errors of the connection in part only: the others have its own error's base classes.
    errors: tuple[type[Exception], ...] = (
        ValueError,
        *(base for base in HfHubHTTPError.__mro__ if issubclass(base, Exception) and base is not Exception),
    )
    try:
        folder = Path(snapshot_download(owner_and_name, revision=revision, allow_patterns=list(FILES)))
    except errors as error:
        raise FileNotFoundError(
            f"the world {name} cannot be fetched ({' '.join(str(error).split())[:300]}); check the name and the "
            "connection, and that HF_HUB_OFFLINE is not set, or copy its folder here and give the path"
        ) from error
    if not _is_complete(folder):
        raise FileNotFoundError(f"{name} is no world: it has no {' and '.join(NEEDED)}; check the name")
    return folder


def cached_world(name: str) -> Path | None:
    """The same where the cache has it, None where it does not; without the network.

    Raises:
        ValueError: the name has another form.
    """
    owner_and_name, revision = _parts(name)
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(owner_and_name, revision=revision, allow_patterns=list(FILES), local_files_only=True)
        )
    except (OSError, ValueError):  # not there, or an interrupted download
        return None
    return folder if _is_complete(folder) else None


def _parts(name: str) -> tuple[str, str | None]:
    match = NAME.fullmatch(name)
    if match is None or ".." in name:
        raise ValueError(f"{name[:200]!r} names no world of the hub: give hf://owner/name or hf://owner/name@revision")
    return match[1], match[2]


def _is_complete(folder: Path) -> bool:
    return all((folder / file).is_file() for file in NEEDED)
