"""What a worker may do while a case runs: its own folder, no network, no code from files, so much memory."""

from __future__ import annotations

import os
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MEMORY = 6 << 30
"""Bytes of address space that a case may take beyond what the libraries have."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.rename": (0, 1), "os.remove": (0,), "os.rmdir": (0,), "os.mkdir": (0,), "os.symlink": (1,), "os.link": (1,),
    "os.truncate": (0,), "os.chmod": (0,), "os.utime": (0,), "shutil.rmtree": (0,), "shutil.move": (0, 1),
    "shutil.copyfile": (1,), "shutil.make_archive": (0,), "shutil.unpack_archive": (1,),
}  # fmt: skip
"""Audit events that change files, and which of their arguments are paths."""
_OF_LINKS = {"os.rename", "os.remove", "os.symlink", "os.link", "shutil.move"}
_PROCESSES = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn"}


class Watch:
    """What a case did that it must not: lines of ``network``, ``outside read``, ``outside write`` and ``ran code``.

    Args:
        work: the one folder that may be written to; code in it must not run.
        forbidden: a folder beside it that must not even be read.
    """

    def __init__(self, work: Path, forbidden: Path) -> None:
        self.work, self.forbidden = os.path.realpath(work), os.path.realpath(forbidden)
        self.trespasses: list[tuple[str, str]] = []
        self._modules = set(sys.modules)
        self._listing = self._files()

    def note(self, kind: str, what: object) -> None:
        """Remember a trespass."""
        self.trespasses.append((kind, str(what)[:300]))

    def finish(self) -> list[tuple[str, str]]:
        """All trespasses, those included that only their traces show."""
        for name in set(sys.modules) - self._modules:
            file = getattr(sys.modules[name], "__file__", None)
            if file and self.inside(file):
                self.note("ran code", f"imported {name} from {file}")
        if self._files() != self._listing:
            self.note("outside write", f"{self.forbidden} changed")
        return self.trespasses

    def inside(self, path: Any) -> bool:
        """Whether a path lies in the case's folder or in the forbidden one."""
        real = os.path.realpath(os.fsdecode(path))
        return any(real == folder or real.startswith(folder + os.sep) for folder in (self.work, self.forbidden))

    def event(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Judge one audit event."""
        if name == "open":
            path, mode, flags = (*arguments, None, None)[:3]
            if isinstance(path, str | bytes | os.PathLike):
                self._opened(path, mode, flags)
        elif name in _CHANGES:
            for index in _CHANGES[name]:
                if index < len(arguments) and isinstance(arguments[index], str | bytes | os.PathLike):
                    self._changed(arguments[index], name)
        elif name in _PROCESSES or name == "pickle.find_class":
            self.note("ran code", f"{name} {arguments}")
        elif name == "exec":
            file = getattr(arguments[0], "co_filename", "")
            if file and not file.startswith("<") and self.inside(file):
                self.note("ran code", f"exec of {file}")
        elif name == "ctypes.dlopen" and os.sep in str(arguments[0]) and self.inside(arguments[0]):
            self.note("ran code", f"dlopen {arguments[0]}")
        elif name in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
            self.note("network", f"{name} {arguments}")

    def _opened(self, path: Any, mode: Any, flags: Any) -> None:
        writes = (isinstance(mode, str) and any(letter in mode for letter in "wax+")) or (
            isinstance(flags, int) and bool(flags & _WRITING)
        )
        real = os.path.realpath(os.fsdecode(path))
        if writes:
            self._changed(path, "open")
        elif real.startswith(self.forbidden + os.sep):
            self.note("outside read", real)

    def _changed(self, path: Any, by: str) -> None:
        path = os.fsdecode(path)
        real = os.path.realpath(path)
        if by in _OF_LINKS:  # these change a link itself, not what it leads to
            real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        allowed = real == self.work or real.startswith((self.work + os.sep, "/dev/", "/proc/"))
        if not allowed:
            self.note("outside write", f"{by} {real}")

    def _files(self) -> list[tuple[str, int]]:
        return sorted((str(path), path.stat().st_mtime_ns) for path in Path(self.forbidden).rglob("*"))


_watch: Watch | None = None


def _hook(name: str, arguments: tuple[Any, ...]) -> None:
    global _watch
    if _watch is not None:
        watch, _watch = _watch, None  # what the judging itself opens is no trespass
        try:
            watch.event(name, arguments)
        finally:
            _watch = watch


class NetworkError(BaseException):
    """Ends a case that asks for the network; an OSError would be tried again for longer than a case may take."""


def enter() -> None:
    """Make this process a sandbox, for good."""
    sys.dont_write_bytecode = True
    sys.addaudithook(_hook)
    connect = socket.socket.connect

    def watched_connect(self: socket.socket, address: Any) -> Any:
        if self.family == socket.AF_UNIX:
            return connect(self, address)
        _hook("socket.connect", (address,))
        raise NetworkError("the fuzzer has no network")

    def watched_resolve(host: Any, *arguments: Any, **named: Any) -> Any:
        _hook("socket.getaddrinfo", (host, *arguments))
        raise NetworkError("the fuzzer has no network")

    socket.socket.connect = watched_connect  # type: ignore[method-assign]
    socket.getaddrinfo = watched_resolve
    try:
        # Offline, the hub's client refuses by itself, and nobody would see that it was asked.
        from huggingface_hub import constants

        constants.HF_HUB_OFFLINE = False
    except ImportError:
        pass
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (pages + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextmanager
def watching(work: Path, forbidden: Path) -> Iterator[Watch]:
    """Watch what happens inside; nothing is forbidden but the network, which :func:`enter` has closed."""
    global _watch
    watch = Watch(work, forbidden)
    _watch = watch
    try:
        yield watch
    finally:
        _watch = None
