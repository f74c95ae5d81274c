"""A sample of `make fuzz`, and that it finds the faults that are planted."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz import verdicts
from tests.fuzz.case import TARGETS, build, run_case, target_of
from tests.fuzz.pool import run_cases
from tests.fuzz.report import bad_cases, compare

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are read from /proc")
SAMPLE = (*range(160, 180), *range(1000, 1020))


def test_a_sample_of_mutations_of_every_target_has_no_bad_verdict(tmp_path: Path) -> None:
    assert {target_of(number)[0] for number in SAMPLE} == set(TARGETS)
    results = list(run_cases(0, SAMPLE, tmp_path.resolve(), workers=1, limit=120.0))
    assert len(results) == len(SAMPLE)
    assert bad_cases(results) == []
    assert {result["verdict"] for result in results} == set(verdicts.GOOD)


def hang_or_die(pipe: Connection, seed: int, root: Path, scratch: Path) -> None:
    """What a worker does in place of cases: the first never ends, the second kills the process."""
    pipe.send("ready")
    if pipe.recv() == 0:
        time.sleep(600)
    os.kill(os.getpid(), signal.SIGSEGV)


def test_cases_that_hang_or_kill_their_process_are_found_and_the_next_one_runs(tmp_path: Path) -> None:
    results = list(run_cases(0, (0, 4), tmp_path.resolve(), workers=1, limit=0.5, work=hang_or_die))
    assert [result["verdict"] for result in results] == [verdicts.HANG, verdicts.CRASH]
    assert "SIGSEGV" in results[1]["message"]
    assert len(bad_cases(results)) == 2
    before = [{**results[0], "verdict": verdicts.RAN_CODE}]
    table = compare(*({"cases": cases, "seed": 0, "date": "", "hardware": ""} for cases in (before, results)))
    assert "| world | 0 → 1 | 1 → 0 |" in table


def planted_faults(root: Path) -> dict[str, Any]:
    """What a world's opening might do and must not, by the verdict on it."""
    return {
        verdicts.UNCLEAR: lambda: {}["config"],
        verdicts.DIFFERENT: lambda: {"weights": 2.0},
        verdicts.NETWORK: lambda: socket.create_connection(("127.0.0.1", 9), 1),
        verdicts.OUTSIDE_WRITE: lambda: (root / "usercustomize.py").touch(),
        verdicts.OUTSIDE_READ: lambda: Path("../forbidden/evil.pth").read_bytes() and None,
        verdicts.RAN_CODE: lambda: pickle.loads(Path("../forbidden/evil.pth").read_bytes()) and None,
    }


def main(root: Path) -> None:
    """Run a mutated world with each fault planted; in a process of its own, for a sandbox is for good."""
    from unittest import mock

    from tests.fuzz import sandbox
    from tests.fuzz.targets import worlds

    root.mkdir()
    build(root, ("world",))
    sandbox.enter()
    for verdict, fault in planted_faults(root.parent).items():

        def observe(folder: Path, *, card: bool, fault: Any = fault) -> Any:
            return (fault() if "scratch" in str(folder) else None) or {}

        with mock.patch.object(worlds, "observe", observe):
            result = run_case(0, 0, root, root.parent / "scratch")
        assert result.verdict == verdict, result
        print(verdict)


def test_planted_faults_of_every_kind_are_found(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        f"import pathlib, tests.test_fuzz as t; t.main(pathlib.Path({str(tmp_path)!r}, 'root'))",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) >= set(verdicts.VERDICTS) - {*verdicts.GOOD, verdicts.HANG, verdicts.CRASH}
