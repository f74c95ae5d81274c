"""Moments at which a gripper closes or opens near the cube, and their exchange with others of the same sort."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.moments import Moment, exchanged, find_moments
from tests.synthetic_dataset import write_moving_square
from world_models.data.episodes import EpisodeDataset, EpisodeWriter


def write_grasps(root: Path, closes: list[int], apart: list[float], length: int = 40) -> EpisodeDataset:
    """Episodes whose gripper closes at a frame, that far from the cube, and opens ten frames later."""
    shapes = {"next.success": (1,), "simulator.cube_position": (3,), "simulator.eef_position": (3,)}
    writer = EpisodeWriter(
        root, fps=20, instruction="grasp", camera="observation.images.front", image_size=16,
        action_names=("x", "y", "z", "gripper"), columns={**shapes, "simulator.state": (5,)}, robot_type="none",
    )  # fmt: skip
    for index, (frame, distance) in enumerate(zip(closes, apart, strict=True)):
        actions = np.full((length, 4), -1, np.float32)
        actions[frame : frame + 10, 3] = 0.3
        columns = {name: np.zeros((length, *shape), np.float32) for name, shape in writer.columns.items()}
        columns["simulator.eef_position"][:, 0] = distance
        columns["next.success"] = np.zeros((length, 1), bool)
        writer.write(index, np.zeros((length, 16, 16, 3), np.uint8), actions, columns, kind="grasp", success=False,
                     seed=index)  # fmt: skip
    writer.finish()
    return EpisodeDataset(root)


def test_moments_are_where_the_gripper_changes_near_the_cube(tmp_path: Path) -> None:
    dataset = write_grasps(tmp_path, closes=[5, 12, 20, 1, 30], apart=[0.02, 0.01, 0.3, 0.02, 0.0])
    # The third is far off, before the fourth there are no two frames, after the fifth no 16.
    assert find_moments(dataset, "all", 16) == [
        Moment(0, 3, "closes"), Moment(0, 13, "opens"),
        Moment(1, 10, "closes"), Moment(1, 20, "opens"),
        Moment(3, 9, "opens"),
    ]  # fmt: skip
    # With one of a sort there is nothing to exchange.
    assert {moment.gripper for moment in find_moments(dataset, "all", 28)} == {"closes"}
    with pytest.raises(ValueError, match="collect more"):
        find_moments(dataset, "all", 38)


def test_what_cannot_be_replayed_is_refused(tmp_path: Path) -> None:
    dataset = write_moving_square(tmp_path, episodes=2)
    with pytest.raises(ValueError, match=r"no column simulator\.state"):
        find_moments(dataset, "all", 16)
    with pytest.raises(ValueError, match="'test'; choose one of train, validation, report, all"):
        find_moments(dataset, "test", 16)


@pytest.mark.parametrize("seed", range(20))
def test_every_moment_gets_the_actions_of_another_one_of_its_sort(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 12))
    moments = [Moment(k, 0, "closes") for k in range(count)] + [Moment(k, 9, "opens") for k in range(3)]
    moments = [moments[k] for k in rng.permutation(len(moments))]
    others = exchanged(moments, rng)
    assert sorted(others, key=repr) == sorted(moments, key=repr)
    for moment, other in zip(moments, others, strict=True):
        assert moment.gripper == other.gripper
        assert moment != other
