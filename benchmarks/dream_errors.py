"""Errors of a world's imagined held-out episodes, in centimetres and in false and missed lifts, as rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from agents.statistics import bootstrap_mean, wilson_interval
from benchmarks.held_out import HeldOut
from benchmarks.probes import AttentiveProbe
from benchmarks.results import Row
from benchmarks.rollout_errors import rollout_errors
from world_models.io import load_model
from world_models.open_loop import open_loop


def dream_error_rows(folder: Path, held_out: HeldOut, probe: AttentiveProbe, **rest: Any) -> list[Row]:
    """Errors after the last chunk, and lifts at any time that are false or missed; intervals are over episodes.

    Args:
        folder: of a world; its default dynamics are rolled out.
        held_out: the episodes, encoded by that world.
        probe: reads quantities off its states.
        rest: the attributes of :class:`Row` that these rows share: bench, task, method, seeds, hardware, date, command.
    """
    rollout = open_loop(load_model(folder), held_out.start, held_out.actions)
    errors = rollout_errors(rollout.features, held_out.real, held_out.start, held_out.truth, probe)
    episodes, chunks = held_out.lifted.shape
    rows = []
    for name, distances in errors.centimetres.items():
        value, low, high = bootstrap_mean(distances[:, -1])
        rows.append(Row(metric=f"{name}_error_cm", setting=f"chunks={chunks}", value=value, low=low, high=high,
                        n=episodes, unit="cm", **rest))  # fmt: skip
    # Success ends an episode of the environment: a lift that is dropped again counts, too.
    lifted, imagined = held_out.lifted.any(axis=1), errors.lifted.any(axis=1)
    for metric, wrong in (("false_lift_rate", imagined[~lifted]), ("missed_lift_rate", ~imagined[lifted])):
        if len(wrong):
            low, high = wilson_interval(int(wrong.sum()), len(wrong))
            rows.append(Row(metric=metric, setting=f"chunks=1..{chunks}", value=float(np.mean(wrong)), low=low,
                            high=high, n=len(wrong), unit="fraction", **rest))  # fmt: skip
    return rows
