"""Whether folders can be written and have room for what is to come, asked before work starts."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE_OPTION = "--cache FOLDER"
OUT_OPTION = "--out"
"""The command line's options that choose another place."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CANNOT_WRITE = (errno.EROFS, errno.EACCES, errno.EPERM)
_CANNOT_RESERVE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def check_writable(folder: Path, option: str = OUT_OPTION) -> None:
    """Check that files can be written into a folder, or that the folder can be made; nothing is left there.

    Args:
        folder: may be missing yet.
        option: of the command line, which chooses another place.

    Raises:
        OSError: a PermissionError, a NotADirectoryError and so on that says why not and names ``option``.
    """
    place = nearest_folder(folder)
    if not place.is_dir():
        raise NotADirectoryError(f"{place} is a file, where a folder is needed: choose another place by {option}")
    with clear_disk_errors(folder, option), tempfile.TemporaryFile(dir=place):
        pass


def check_file_writable(path: Path, option: str = OUT_OPTION) -> None:
    """Check that a file can be written (over what may be there); see :func:`check_writable`.

    Raises:
        OSError: it cannot, or is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, where a file is to be written: choose another name by {option}")
    check_writable(path.parent, option)


def check_room(folder: Path, size: int, what: str, option: str = OUT_OPTION) -> None:
    """Check that ``size`` bytes are free where a folder lies or will lie.

    Args:
        folder: may be missing yet.
        size: bytes.
        what: the words for what needs them.
        option: of the command line, which chooses another place.

    Raises:
        OSError: there are fewer; its ``errno`` is ``ENOSPC``.
    """
    free = shutil.disk_usage(nearest_folder(folder)).free
    if size > free:
        raise _error(
            errno.ENOSPC,
            f"{folder} has {megabytes(free)} free, and {megabytes(size)} are needed there for {what}: free space, or "
            f"choose another place by {option}",
        )


def reserve(descriptor: int, size: int, path: Path, option: str = OUT_OPTION) -> None:
    """Take the space of an open file before it is written, where the system can, so that it does not run out later.

    Args:
        descriptor: of the file, open for writing.
        size: of the whole file in bytes; it has that size then.
        path: of the file, for messages.
        option: of the command line, which chooses another place.

    Raises:
        OSError: there is not so much space; its ``errno`` is ``ENOSPC``.
    """
    taken = getattr(os.fstat(descriptor), "st_blocks", 0) * 512
    check_room(path.parent, size - taken, path.name, option)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except AttributeError:  # not on macOS, nor on Windows
        os.ftruncate(descriptor, size)
    except OSError as error:
        if error.errno in _FULL:
            raise _full(path, size, option, error) from error
        if error.errno not in _CANNOT_RESERVE:
            raise
        os.ftruncate(descriptor, size)


@contextmanager
def clear_disk_errors(path: Path, option: str = OUT_OPTION) -> Iterator[None]:
    """Turn the bare errors of full and of read-only disks inside this context into ones that say where, and what to do.

    Args:
        path: what is written.
        option: of the command line, which chooses another place.

    Raises:
        OSError: the same errors, of the same ``errno``, with a message of one line.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.strerror is None:  # it has a message of its own
            raise
        if error.errno in _FULL:
            raise _full(path, None, option, error) from error
        if error.errno in _CANNOT_WRITE:
            message = f"{path} cannot be written ({error.strerror}): choose another place by {option}"
            raise _error(error.errno, message) from error
        raise


def megabytes(size: int) -> str:
    """A number of bytes in words: ``"0.5 MB"``, ``"120 GB"``."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size / 1e6:.1g} MB"


def _full(path: Path, size: int | None, option: str, error: OSError) -> OSError:
    free = megabytes(shutil.disk_usage(nearest_folder(path.parent)).free)
    needed = "" if size is None else f", {megabytes(size)},"
    message = (
        f"{path}{needed} does not fit ({error.strerror}): {free} are free; free space, or choose another place by "
        f"{option}"
    )
    return _error(error.errno or errno.ENOSPC, message)


def _error(number: int, message: str) -> OSError:
    """An error of the class that Python has for this number, with a message that does not begin with the number."""
    error = type(OSError(number, ""))(message)
    error.errno = number
    return error


def nearest_folder(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = Path(os.path.abspath(path))
    return next(place for place in (path, *path.parents) if os.path.lexists(place) and place.exists())
