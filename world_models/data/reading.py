"""How somebody's dataset is read: recorded in a world, so that every later reading is the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from world_models.data.action_scale import ActionScale
from world_models.dataclass_reader import check_ranges

FitName = Literal["letterbox", "crop", "stretch"]
SuccessName = Literal["labels", "goal_frames"]


@dataclass(frozen=True)
class DataReading:
    """What is read of a dataset, and how.

    Attributes:
        action_column: name of the column of actions; None for the first of
            :data:`world_models.data.column_names.ACTION_COLUMNS` that is there.
        state_column: the same of proprioception and :data:`world_models.data.column_names.STATE_COLUMNS`.
        action_scale: how actions come into [-1, 1]; None for data that are there already.
        state_dimensions: which proprioceptive values are read; None for all.
        fit: how frames become squares; None for frames that are squares already, and keep their size.
        frame_size: side of these squares in pixels, 4 to 2048.
        success: "labels" takes an episode's label (False where the dataset has none), "goal_frames" takes every episode
            for a demonstration that ends in success.
        skip_missing: leave out episodes whose files are missing.
        instruction: the task in words whose episodes are read, of a dataset with several; None for all.

    Raises:
        ValueError: the size is out of its range, or there is no way to fit frames to it.
    """

    action_column: str | None = None
    state_column: str | None = None
    action_scale: ActionScale | None = None
    state_dimensions: tuple[int, ...] | None = None
    fit: FitName | None = None
    frame_size: int | None = None
    success: SuccessName = "labels"
    skip_missing: bool = False
    instruction: str | None = None

    def __post_init__(self) -> None:
        check_ranges(self, frame_size=(4, 2048))
        if (self.fit is None) != (self.frame_size is None):
            raise ValueError(f"fit={self.fit!r} and frame_size={self.frame_size} go together: give both or none")

    def changes(self) -> dict[str, Any]:
        """What is read otherwise than by default, as plain content for JSON; empty where nothing is."""
        content = dataclasses.asdict(self)
        default = dataclasses.asdict(DataReading())
        return {name: value for name, value in content.items() if value != default[name]}


def names_of(camera: str | Sequence[str] | None) -> tuple[str, ...]:
    """Names of cameras from one, several or none."""
    return () if camera is None else (camera,) if isinstance(camera, str) else tuple(camera)
