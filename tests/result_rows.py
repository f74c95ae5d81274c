"""A result row to change at will."""

from __future__ import annotations

from benchmarks.results import Row


def row(**changes: object) -> Row:
    """A row with these contents changed."""
    content = {
        "bench": "transfer", "task": "Lift", "method": "ppo", "metric": "success_rate", "setting": "placement=wide",
        "value": 0.0, "low": 0.0, "high": 0.04, "n": 100, "seeds": "0", "unit": "fraction", "hardware": "none",
        "date": "2026-01-01", "command": "rla-gym bench transfer",
    }  # fmt: skip
    return Row(**{**content, **changes})  # type: ignore[arg-type]
