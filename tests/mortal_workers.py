"""Workers and policies that a process is killed over, once. Little is imported, for every worker imports it too."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np


class Squares:
    """A worker; the first that is given 5 is killed over it."""

    def __init__(self, killed: Path) -> None:
        self.killed = killed

    def __call__(self, item: int) -> tuple[int, int]:
        if item == 5 and not self.killed.exists():
            self.killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if item < 0:
            raise ValueError(f"{item} is negative")
        return item**2, os.getpid()


class DeadlyPolicy:
    """Opens the hand; the first process that asks for a third chunk is killed."""

    def __init__(self, killed: Path) -> None:
        self.killed = killed

    def __call__(self, rgb: np.ndarray, proprioception: np.ndarray, step: int) -> np.ndarray:
        if step == 2 and not self.killed.exists():
            self.killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return np.full(32, -0.5)
