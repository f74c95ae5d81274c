"""Settings of the agents: as JSON for the folders of policies, and checks of their ranges."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any


def json_settings(config: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a config dataclass as JSON can hold them, paths as strings; those in ``without`` are left out."""
    values = {name: value for name, value in asdict(config).items() if name not in without}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def check_positive(config: Any, *names: str) -> None:
    """ValueError unless each of these settings is above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be positive, got {getattr(config, name)}")


def check_at_least_one(config: Any, *names: str) -> None:
    """ValueError unless each of these settings is None or at least 1."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def check_unit_interval(config: Any, *names: str) -> None:
    """ValueError unless each of these settings is between 0 and 1, both included."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {getattr(config, name)}")
