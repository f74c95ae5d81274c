"""Arrays that are made once, block by block, and read by every later run: whole, or not there under their name."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from world_models.disk_space import CACHE_OPTION, check_writable, clear_disk_errors, reserve
from world_models.file_lock import only_maker
from world_models.files import read_json, save_json

SAVE_SECONDS = 10.0
"""Seconds between two notes of how far a file has come."""
_END = b"rla-gym: whole\n"

Blocks = Callable[[int], Iterator[np.ndarray]]
"""Gives the rows of one block after the other, from the one with this number on."""


class ArrayFile:
    """An ``.npy`` file of blocks of rows.

    It is made under another name, in space that was reserved, by one process at a time, and gets its name when it is
    whole. Behind the array it has an end mark. A process that was interrupted or killed leaves what is to go on from:
    the file so far, and a note of the checksum of each block that is done.

    Args:
        path: of the file; whatever the content depends on is in its name.
        offsets: ``(N + 1,)`` row at which each of the N blocks begins, and the number of rows.
        row_shape: shape of one row.
        dtype: of the array.
        option: of the command line, which chooses another place.
    """

    def __init__(
        self, path: Path, offsets: np.ndarray, row_shape: tuple[int, ...], dtype: type, option: str = CACHE_OPTION
    ) -> None:
        self.path, self.offsets, self._option = path, offsets, option
        self._dtype: np.dtype = np.dtype(dtype)
        self._shape = (int(offsets[-1]), *row_shape)
        header = io.BytesIO()
        described = {"descr": self._dtype.str, "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(header, described)
        self._header = header.getvalue()

    @cached_property
    def _digest(self) -> str:
        """Of all that the file's bytes are laid out by."""
        digest = hashlib.blake2b(self.path.name.encode() + self._header, digest_size=16)
        digest.update(np.ascontiguousarray(self.offsets, np.int64).tobytes())
        return digest.hexdigest()

    @property
    def _end(self) -> bytes:
        return _END + self._digest.encode()

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self._start(len(self.offsets) - 1) + len(self._end)

    def whole(self) -> bool:
        """Whether the file is there, of the right size and with its end mark."""
        if not self.path.is_file() or self.path.stat().st_size != self.size:
            return False
        with self.path.open("rb") as file:
            started = file.read(len(self._header)) == self._header
            file.seek(-len(self._end), os.SEEK_END)
            return started and file.read() == self._end

    def read(self) -> np.ndarray:
        """The whole file as a memory-mapped array; what is written into it stays in memory."""
        array: np.ndarray = np.load(self.path, mmap_mode="c")
        return array

    def fill(self, made: Blocks, title: str, unit: str, earlier: Sequence[ArrayFile] = ()) -> np.ndarray:
        """Make the file, unless it is whole, and read it.

        Args:
            made: what it consists of.
            title: of the progress bar.
            unit: of the progress bar, what a row is.
            earlier: files of the first block alone, of the first two and so on, in the order of their lengths: the
                longest that is whole is copied.

        Raises:
            OSError: the file cannot be written, or does not fit, or a folder is in its place; nothing is left then.
        """
        if self.path.is_dir():
            raise IsADirectoryError(f"{self.path} is a folder, where a file is to be made: remove or rename it")
        if not self.whole():
            check_writable(self.path.parent, self._option)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with clear_disk_errors(self.path, self._option), only_maker(self.path) as locked:
                if not self.whole():  # nor did another process make it, while this one waited
                    self._make(made, title, unit, earlier, locked)
        return self.read()

    def _make(self, made: Blocks, title: str, unit: str, earlier: Sequence[ArrayFile], locked: bool) -> None:
        if self.path.exists():
            print(f"rla-gym: {self.path} is not whole, so it is made anew", file=sys.stderr)
        name = self.path.stem if locked else f"{self.path.stem}.{uuid.uuid4().hex[:8]}"
        partial, note = (self.path.with_name(f"{name}.{suffix}") for suffix in ("partial", "progress"))
        # Written, not memory-mapped: a full disk is an error then, and not the end of the process.
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            sums = self._done(descriptor, note)
            if os.fstat(descriptor).st_size > self.size:
                os.ftruncate(descriptor, self.size)
            try:
                reserve(descriptor, self.size, partial, self._option)
            except OSError:
                if not sums:
                    partial.unlink()
                raise
            self._write(descriptor, self._header, 0)
            self._write_blocks(descriptor, self._blocks(made, len(sums), earlier), sums, note, title, unit)
            self._write(descriptor, self._end, self.size - len(self._end))
            os.fsync(descriptor)
            partial.replace(self.path)
            note.unlink(missing_ok=True)
        finally:
            os.close(descriptor)
            if not locked:  # a name that no later run looks for
                partial.unlink(missing_ok=True)
                note.unlink(missing_ok=True)

    def _write_blocks(
        self, descriptor: int, blocks: Iterator[np.ndarray], sums: list[int], note: Path, title: str, unit: str
    ) -> None:
        """Write the blocks that are left; ``sums`` grows with them."""
        saved, number = time.monotonic(), len(sums)
        try:
            with tqdm(total=self._shape[0], initial=int(self.offsets[number]), desc=title, unit=unit) as bar:
                for rows in blocks:
                    content = np.ascontiguousarray(rows, self._dtype).data.cast("B")
                    if len(content) != self._start(len(sums) + 1) - self._start(len(sums)):
                        raise ValueError(f"{self.path}: block {len(sums)} has shape {rows.shape}")
                    self._write(descriptor, content, self._start(len(sums)))
                    sums.append(zlib.crc32(content))
                    bar.update(len(rows))
                    if time.monotonic() - saved > SAVE_SECONDS:
                        self._note(descriptor, sums, note)
                        saved = time.monotonic()
        finally:
            if number < len(sums) < len(self.offsets) - 1:
                self._note(descriptor, sums, note)

    def _blocks(self, made: Blocks, first: int, earlier: Sequence[ArrayFile]) -> Iterator[np.ndarray]:
        """The blocks from number ``first`` on, those that another file has from there."""
        longest = next((file for file in reversed(earlier[first:]) if file.path.is_file() and file.whole()), None)
        if longest is not None:
            array = longest.read()
            for begin, end in zip(longest.offsets[first:-1], longest.offsets[first + 1 :], strict=True):
                yield array[begin:end]
            first = len(longest.offsets) - 1
        if first < len(self.offsets) - 1:
            yield from made(first)

    def _note(self, descriptor: int, sums: list[int], note: Path) -> None:
        os.fsync(descriptor)  # what the note says is done must be on the disk before it
        save_json(note, {"array": self._digest, "checksums": sums})

    def _done(self, descriptor: int, note: Path) -> list[int]:
        """Checksums of the blocks at the file's beginning that are done: of those that the file has as noted."""
        if not note.is_file() or os.fstat(descriptor).st_size != self.size:
            return []
        try:
            content: dict[str, Any] = read_json(note, fix="")
        except (ValueError, OSError):  # what was done is made again
            return []
        noted = content.get("checksums") if content.get("array") == self._digest else []
        if not isinstance(noted, list):
            return []
        sums: list[int] = []
        with os.fdopen(os.dup(descriptor), "rb") as file:
            file.seek(self._start(0))
            for block, checksum in enumerate(noted[: len(self.offsets) - 1]):
                if zlib.crc32(file.read(self._start(block + 1) - self._start(block))) != checksum:
                    break
                sums.append(checksum)
        return sums

    def _start(self, block: int) -> int:
        """Place in the file at which a block begins."""
        row = int(np.prod(self._shape[1:], dtype=np.int64)) * self._dtype.itemsize
        return len(self._header) + int(self.offsets[block]) * row

    @staticmethod
    def _write(descriptor: int, content: bytes | memoryview, place: int) -> None:
        os.lseek(descriptor, place, os.SEEK_SET)
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
