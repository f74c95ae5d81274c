"""A script that guesses acts the same whatever the outcome of its grasp; one that reads the outcome does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rla_gym.ground_truth.behaviours import make_behaviour
from rla_gym.ground_truth.collect import CollectConfig, collect
from rla_gym.ground_truth.experts import CLOSE, CUBE_Z

BASE = np.array([0.08, 0.0, CUBE_Z])


def actions_until_it_retries(
    kind: str, task: str, seed: int, *, holds: bool, stands: bool, guessing: bool
) -> np.ndarray:
    """Actions on a table without physics: a closed hand near the cube holds it or not, a cube let go stands or falls.

    They end where the script begins another attempt, for which even one that guesses reads the cube's place.
    """
    behaviour = make_behaviour(kind, np.random.default_rng(seed), task, guessing=guessing)
    eef, cube, in_hand, phases, actions = np.array([0.0, 0.0, 0.95]), np.array([0.01, 0.02, CUBE_Z]), False, [], []
    for _ in range(70):
        action = behaviour.act({"eef_position": eef, "cube_position": cube, "base_position": BASE})
        phases.append(behaviour.phase)  # type: ignore[attr-defined]
        if phases[-1] == "reach" and "lift" in phases:
            break
        actions.append(action)
        if in_hand and action[3] < 0:  # let go
            cube = np.array([*cube[:2], cube[2] if stands else CUBE_Z])
        in_hand = holds and action[3] > 0 and (in_hand or phases[-1] == "lift")
        motion = 0.02 * action[:3]
        eef, cube = eef + motion, cube + in_hand * motion
    return np.array(actions)


@pytest.mark.parametrize("guessing", [True, False])
@pytest.mark.parametrize(("kind", "task"), [("grasp", "Lift"), ("hasty_grasp", "Lift"), ("noisy", "Stack")])
def test_actions_after_a_grasp_reveal_its_outcome_only_where_the_script_reads_it(
    kind: str, task: str, guessing: bool
) -> None:
    different = 0
    for seed in range(30):
        arguments = {"stands": True, "guessing": guessing}
        one, other = (actions_until_it_retries(kind, task, seed, holds=holds, **arguments) for holds in (True, False))
        assert (one[:, 3] >= 0.2 * CLOSE).any()  # it did close
        different += not np.array_equal(one, other)
    assert different == 0 if guessing else different > 3


@pytest.mark.parametrize("guessing", [True, False])
def test_actions_after_a_placement_reveal_its_outcome_only_where_the_script_reads_it(guessing: bool) -> None:
    different = 0
    for seed in range(30):
        arguments = {"holds": True, "guessing": guessing}
        one, other = (
            actions_until_it_retries("noisy", "Stack", seed, stands=stands, **arguments) for stands in (True, False)
        )
        different += not np.array_equal(one, other)
    assert different == 0 if guessing else different > 3


def test_demonstrations_never_guess() -> None:
    config = CollectConfig(expert=1, noisy=1, near_miss=0, play=0, guessing=1.0)
    guessed = {(config.kind(index), config.guesses(index)) for index in range(40)}
    assert guessed == {("expert", False), ("noisy", True)}
    half = CollectConfig(expert=0, noisy=1, near_miss=0, play=0, guessing=0.5)
    assert 60 < sum(half.guesses(index) for index in range(200)) < 140


def test_a_share_beyond_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"guessing is a share of the scripted episodes, from 0 to 1, got 1\.5"):
        collect(CollectConfig(episodes=1, guessing=1.5, out=tmp_path / "data"))
