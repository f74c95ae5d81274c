"""A policy judged twice, by the simulator and by the dream: what transfer and ranking compare."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from agents.evaluate import EvaluateConfig, evaluate


class Outcomes(NamedTuple):
    """Success of each episode ``(N,)`` bool, in the simulator and dreamed on from its first picture; and the task."""

    real: np.ndarray
    dream: np.ndarray
    task: str


def real_and_dreamed(config: EvaluateConfig) -> Outcomes:
    """Evaluate a policy as ``config`` says in the simulator, and in the dream from the very same initial states."""
    real = evaluate(config)
    dream = evaluate(replace(config, env=f"RLAWM-{real.row['task']}-v0", starts="simulator"))
    return Outcomes(real.successes, dream.successes, real.row["task"])
