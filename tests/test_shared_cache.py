"""One cache, several processes: each ends with the right bytes, whoever is killed, whatever is left behind."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from world_models.data.array_file import ArrayFile

BLOCKS, ROWS = 12, 5
OFFSETS = np.arange(0, BLOCKS * ROWS + 1, ROWS)
RIGHT = np.arange(1, BLOCKS * ROWS + 1, dtype=np.int32)[:, None] * np.array([1, 1000], np.int32)


def array_file(folder: Path) -> ArrayFile:
    return ArrayFile(folder / "numbers-1.npy", OFFSETS, (2,), np.int32)


def blocks(first: int) -> Iterator[np.ndarray]:
    return iter(np.split(RIGHT, BLOCKS)[first:])


def made_by(folder: Path) -> list[int]:
    """Numbers of the blocks that a call to fill had to make; its result must be right."""
    numbers: list[int] = []

    def counted(first: int) -> Iterator[np.ndarray]:
        for number, block in enumerate(blocks(first), first):
            numbers.append(number)
            yield block

    read = array_file(folder).fill(counted, "make", "row")
    np.testing.assert_array_equal(read, RIGHT)
    return numbers


def work(folder: Path, stop_at: int | None, messages: Connection) -> None:
    """Take part in a process of its own: sends the number of each block before it is made, and whether all is right."""

    def slowly(first: int) -> Iterator[np.ndarray]:
        for number, block in enumerate(blocks(first), first):
            messages.send(number)
            time.sleep(60 if number == stop_at else 0.03)
            yield block

    read = array_file(folder).fill(slowly, "make", "row")
    messages.send(bool((read == RIGHT).all()))


def start(folder: Path, stop_at: int | None = None) -> tuple[BaseProcess, Connection]:
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(folder, stop_at, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def received(messages: Connection) -> list[object]:
    """All messages of a process until its end."""
    items: list[object] = []
    while messages.poll(60):
        try:
            items.append(messages.recv())
        except EOFError:
            return items
    raise TimeoutError(f"a process has gone silent after {items}")


@pytest.mark.parametrize(("count", "killed_at"), [(2, None), (2, 0), (3, BLOCKS // 2), (3, BLOCKS - 1)])
def test_processes_that_share_a_cache_end_with_the_right_bytes(
    tmp_path: Path, count: int, killed_at: int | None
) -> None:
    first, messages = start(tmp_path, killed_at)
    for number in range((killed_at or 0) + 1):  # the first is at work before the others come
        assert messages.poll(60)
        assert messages.recv() == number
    others = [start(tmp_path)[1] for _ in range(count - 1)]
    made = []
    if killed_at is None:
        made.append([0, *received(messages)])
    else:
        first.kill()
    made += [received(other) for other in others]
    assert all(items[-1] is True for items in made)
    assert sum(len(items) > 1 for items in made) == 1  # one of them made it; the others waited
    assert made_by(tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == {"numbers-1.npy", ".numbers-1.npy.lock"}


def interrupt(folder: Path, after: int) -> None:
    """Leave what a run leaves that is interrupted after so many blocks."""

    def failing(first: int) -> Iterator[np.ndarray]:
        yield from list(blocks(first))[:after]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        array_file(folder).fill(failing, "make", "row")
    assert not list(folder.glob("*.npy"))


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    interrupt(tmp_path, 7)
    assert made_by(tmp_path) == list(range(7, BLOCKS))


def test_content_is_checked_before_a_run_goes_on(tmp_path: Path) -> None:
    interrupt(tmp_path, 7)
    partial = tmp_path / "numbers-1.partial"
    content = bytearray(partial.read_bytes())
    content[content.index(next(blocks(4)).tobytes())] ^= 1
    partial.write_bytes(content)
    assert made_by(tmp_path) == list(range(4, BLOCKS))


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"array": 1}', b'{"array": "", "checksums": [1, 2]}', b"\xff"])
def test_a_note_of_something_else_is_not_believed(tmp_path: Path, note: bytes) -> None:
    interrupt(tmp_path, 7)
    (tmp_path / "numbers-1.progress").write_bytes(note)
    assert made_by(tmp_path) == list(range(BLOCKS))


def test_wrong_checksums_are_not_believed(tmp_path: Path) -> None:
    interrupt(tmp_path, 7)
    path = tmp_path / "numbers-1.progress"
    content = json.loads(path.read_text(encoding="utf-8"))
    for checksums in (["a"], [None], {"0": 1}, 3):
        path.write_text(json.dumps({**content, "checksums": checksums}), encoding="utf-8")
        interrupt(tmp_path, 7)
    assert made_by(tmp_path)[-1] == BLOCKS - 1


@pytest.mark.parametrize("size", [0, 100, 10_000])
def test_what_another_program_left_is_overwritten(tmp_path: Path, size: int) -> None:
    (tmp_path / "numbers-1.partial").write_bytes(b"\1" * size)
    assert made_by(tmp_path) == list(range(BLOCKS))
    assert made_by(tmp_path) == []


def test_a_finished_looking_file_without_its_end_is_made_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "numbers-1.npy"
    np.save(path, np.zeros_like(RIGHT))  # as a run that was cancelled left it in earlier versions
    assert made_by(tmp_path) == list(range(BLOCKS))
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole + b"\0", whole[:-1] + b"\0", b"", b"\0" * len(whole)):
        path.write_bytes(damaged)
        assert made_by(tmp_path) == list(range(BLOCKS))
        assert path.read_bytes() == whole
    assert f"{path} is not whole, so it is made anew" in capsys.readouterr().err


def test_blocks_of_other_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"numbers-1\.npy: block 0 has shape \(4, 2\)"):
        array_file(tmp_path).fill(lambda _: iter([np.zeros((4, 2), np.int32)]), "make", "row")
    assert made_by(tmp_path) == list(range(BLOCKS))
