"""Worker processes that run cases one after another; one that hangs or dies is replaced."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tests.fuzz.verdicts import CRASH, HANG

LIMIT = 25.0
"""Seconds after which a case hangs."""
_FIRST = 120.0
"""Seconds for a worker's start: it imports everything."""
Work = Callable[[Connection, int, Path, Path], None]


def run_cases(
    seed: int, numbers: Sequence[int], root: Path, workers: int, *, limit: float = LIMIT, work: Work | None = None
) -> Iterator[dict[str, Any]]:
    """Results of cases as they come, by :meth:`tests.fuzz.case.Result.to_dict`; the order is that of their ends.

    Args:
        seed: of the run.
        numbers: of the cases.
        root: an empty folder, for the pristine inputs and for the workers.
        workers: processes.
        limit: seconds after which a case hangs.
        work: what a worker does: sends "ready", and then for each number that it receives the result.
    """
    from tests.fuzz.case import target_of

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.fuzz.case"])
    builder = context.Process(target=_build, args=(root / "pristine", {target_of(number)[0] for number in numbers}))
    builder.start()
    builder.join()
    if builder.exitcode:
        raise RuntimeError(f"the pristine inputs could not be made (exit code {builder.exitcode})")
    pending = list(reversed(numbers))
    team = [_Worker(context, seed, root, index, limit, work or _work) for index in range(min(workers, len(numbers)))]
    try:
        while team:
            for worker in team:
                if worker.number is None and pending:
                    worker.give(pending.pop())
            for worker in [worker for worker in team if worker.number is None]:
                worker.end()
                team.remove(worker)
            wait([worker.pipe for worker in team], timeout=0.5)
            for worker in team:
                result = worker.result()
                if result is not None:
                    yield result
    finally:
        for worker in team:
            worker.end()


class _Worker:
    def __init__(self, context: Any, seed: int, root: Path, index: int, limit: float, work: Work) -> None:
        self._context, self._seed, self._root, self._index = context, seed, root, index
        self._usual_limit, self._work = limit, work
        self.number: int | None = None
        self._start()

    def give(self, number: int) -> None:
        self.number, self._given = number, time.monotonic()
        self.pipe.send(number)

    def result(self) -> dict[str, Any] | None:
        """The result of the case in hand; None while it runs."""
        if self.number is None:
            return None
        try:
            if self.pipe.poll():
                result: dict[str, Any] = self.pipe.recv()
                self.number, self._limit = None, self._usual_limit
                return result
        except (EOFError, ConnectionResetError):
            self._process.join(5)
            code = self._process.exitcode or 0
            cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return self._replaced(CRASH, f"the process ended by {cause}")
        if time.monotonic() - self._given > self._limit:
            return self._replaced(HANG, f"no end after {self._limit:.0f} s")
        return None

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()

    def _start(self) -> None:
        self.pipe, theirs = self._context.Pipe()
        scratch = self._root / f"worker_{self._index}"
        self._process = self._context.Process(
            target=self._work, args=(theirs, self._seed, self._root, scratch), daemon=True
        )
        self._process.start()
        theirs.close()
        if not self.pipe.poll(_FIRST) or self.pipe.recv() != "ready":
            raise RuntimeError("a worker did not start")
        self._limit = self._usual_limit

    def _replaced(self, verdict: str, message: str) -> dict[str, Any]:
        from tests.fuzz.case import target_of

        number, self.number = self.number, None
        assert number is not None
        note = self._root / f"worker_{self._index}.case"
        kind, _, mutation = note.read_text().partition("\n") if note.is_file() else ("", "", "")
        self.end()
        self._start()
        return {
            "number": number, "seed": self._seed, "target": target_of(number)[0], "kind": kind, "mutation": mutation,
            "verdict": verdict, "message": message, "seconds": round(time.monotonic() - self._given, 1),
        }  # fmt: skip


def _quiet() -> None:
    if not os.environ.get("FUZZ_LOUD"):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)


def _prepare(home: Path) -> None:
    """Caches and temporary files of libraries go to a folder of the worker's, where they do no harm."""
    import torch

    torch.set_num_threads(1)
    home.mkdir(parents=True, exist_ok=True)
    for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR", "HF_HOME", "TORCH_HOME"):
        os.environ[name] = str(home)
    tempfile.tempdir = str(home)


def _build(root: Path, names: set[str]) -> None:
    from tests.fuzz.case import build

    _quiet()
    _prepare(root.parent / "home_of_builder")
    root.mkdir(parents=True)
    build(root, names)


def _work(pipe: Connection, seed: int, root: Path, scratch: Path) -> None:
    from tests.fuzz import sandbox
    from tests.fuzz.case import run_case

    _quiet()
    _prepare(scratch.with_name(f"home_of_{scratch.name}"))
    sandbox.enter()
    note: Callable[[str], Any] = scratch.with_name(f"{scratch.name}.case").write_text
    pipe.send("ready")
    while True:
        number = pipe.recv()
        pipe.send(
            run_case(
                seed, number, root / "pristine", scratch, note=note, loud=bool(os.environ.get("FUZZ_LOUD"))
            ).to_dict()
        )
