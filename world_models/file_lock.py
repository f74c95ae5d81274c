"""Locks between processes: who makes a file, while the others wait for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]


@contextmanager
def only_maker(path: Path) -> Iterator[bool]:
    """Inside this context no other process makes the file ``path``; whoever comes second waits, and says so.

    The kernel takes the lock back when a process ends, however it ends. The empty file ``.<name>.lock`` beside ``path``
    stays: if it were deleted, one process could lock the old file and another a new one.

    Yields:
        Whether there is a lock. Some file systems have none: then files that are being made need names of their own.

    Raises:
        OSError: the lock's file cannot be made.
    """
    if fcntl is None:
        yield False
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield _lock(descriptor, path)
    finally:
        with suppress(OSError):  # closing alone does not give it back where a child process has the descriptor, too
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"rla-gym: waiting for another process that makes {path}", file=sys.stderr, flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:  # a network file system without locks
        return False
    return True
