"""A small LeRobot dataset of a square that moves as its actions say: enough for a world to learn something."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from world_models.data.episodes import EpisodeDataset, EpisodeWriter


def write_moving_square(
    root: Path, *, episodes: int = 20, length: int = 24, size: int = 32, simulator: bool = True
) -> EpisodeDataset:
    """Write the dataset; the square's position rides along in the columns that evaluation reads.

    Without ``simulator`` it has only the columns of a robot's own recordings.
    """
    columns: dict[str, tuple[int, ...]] = {"observation.state": (2,), "next.success": (1,)}
    if simulator:
        columns |= {
            "simulator.cube_position": (3,), "simulator.eef_position": (3,), "simulator.gripper_opening": (1,),
        }  # fmt: skip
    writer = EpisodeWriter(
        root, fps=20, instruction="move the square", camera="observation.images.front", image_size=size,
        action_names=("x", "y", "z", "gripper"), columns=columns, robot_type="square",
    )  # fmt: skip
    for index in range(episodes):
        rng = np.random.default_rng(index)
        actions = np.clip(rng.normal(0, 0.5, (length, 4)) + rng.uniform(-1, 1, 4), -1, 1).astype(np.float32)
        place = rng.uniform(4, size - 10, 2)
        frames, places = [], []
        for action in actions:
            frame = np.full((size, size, 3), 120, np.uint8)
            x, y = place.astype(int)
            frame[y : y + 6, x : x + 6] = (200, 30, 30)
            frames.append(frame)
            places.append([place[0], place[1], 0.1 * (place[0] > size / 2)])
            place = np.clip(place + action[:2] * 2, 0, size - 7)
        success = index % 2 == 0
        position = np.array(places, np.float32)
        recorded = {
            "observation.state": position[:, :2],
            "next.success": np.repeat([[False], [success]], [length - 1, 1], axis=0),
            "simulator.cube_position": position,
            "simulator.eef_position": position,
            "simulator.gripper_opening": position[:, :1],
        }
        writer.write(
            index, np.stack(frames), actions, {name: recorded[name] for name in columns},
            kind="expert" if success else "near_miss", success=success, seed=index,
        )  # fmt: skip
    writer.finish()
    return EpisodeDataset(root)
