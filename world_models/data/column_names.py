"""What people call the columns of actions and of proprioception, best guess first."""

from __future__ import annotations

from collections.abc import Collection

ACTION_COLUMNS = ("action", "actions")
"""Names of the column of actions."""
STATE_COLUMNS = ("observation.state", "observation.states", "state", "states", "observation.proprio", "proprio")
"""Names of the column of proprioception."""


def guess(candidates: tuple[str, ...], present: Collection[str]) -> str | None:
    """The first of the candidates that is there; None where none is."""
    return next((name for name in candidates if name in present), None)
