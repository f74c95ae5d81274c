"""Where the time of a call goes: the share of each of torch's operators, by its profiler."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # else a machine without a GPU logs an error

from torch.profiler import ProfilerActivity, profile

CALLS = 3
"""Calls that are profiled, after one that is not."""
SMALL = 0.02
"""Operators that take less than this share are added up as ``other``."""


def operator_shares(call: Callable[[], Any], device: str) -> dict[str, float]:
    """Shares of the time spent in operators themselves, largest first, ``other`` last; they add up to 1.

    Args:
        call: what is profiled.
        device: ``cpu``, or else a GPU, whose time then counts.
    """
    call()
    on_cpu = device == "cpu"
    with profile(activities=[ProfilerActivity.CPU] if on_cpu else None) as profiler:
        for _ in range(CALLS):
            call()
    spent = {
        event.key.removeprefix("aten::"): event.self_cpu_time_total if on_cpu else event.self_device_time_total
        for event in profiler.key_averages()
        if on_cpu or event.key.startswith("aten::")  # else each kernel would count again under a name of its own
    }
    total = sum(spent.values())
    shares = {name: time / total for name, time in sorted(spent.items(), key=lambda one: -one[1])}
    large = {name: share for name, share in shares.items() if share >= SMALL}
    return {**large, "other": 1.0 - sum(large.values())}
