"""Actions: any float, within the bounds, and one clear error for the others."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence

from rla_gym import RLAWMEnv
from tests.dreams import Make, actions_for, rollout


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((3, 32), np.float32), r"shape \(3, 32\), but 2 slots .* need \(2, 32\)"),
        (np.zeros((2, 8, 4), np.float32), r"shape \(2, 8, 4\)"),
        (np.zeros((2, 32), int), "dtype int64: convert them to float32"),
        (torch.zeros(2, 32, dtype=torch.bool), "dtype torch.bool"),
        (np.array([[0.0] * 32, [0.0] * 31 + [np.nan]]), "slot 1 hold NaN or infinity: look for a diverged policy"),
        (torch.full((2, 32), torch.inf), r"slot 0 hold NaN or infinity \(and of 1 others\)"),
    ],
)
def test_bad_actions_get_one_clear_error_and_change_nothing(make: Make, actions: Any, message: str) -> None:
    env = make(2)
    good = actions_for(env, 1)[0]
    expected = rollout(env, [good], seed=0)[-1]
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(actions)
    assert data_equivalence(env.step(good), expected, exact=True)


def test_actions_beyond_the_bounds_are_clipped_and_any_float_will_do(make: Make) -> None:
    env = make(2)
    actions = actions_for(env, 1)[0] * 3
    expected = rollout(env, [actions.clip(-1, 1)], seed=0)[-1]
    for same in (actions, actions.astype(np.float64), torch.from_numpy(actions), actions.tolist()):
        assert data_equivalence(rollout(env, [same], seed=0)[-1], expected, exact=True)


def test_actions_beyond_the_bounds_raise_where_they_shall(make: Make, world: str) -> None:
    env = make(2, out_of_bounds="raise")
    good = actions_for(env, 1)[0]
    good[0, :2] = (-1, 1)  # the bounds themselves are within
    expected = rollout(env, [good], seed=0)[-1]
    env.reset(seed=0)
    bad = good.copy()
    bad[1, 5] = -1.25
    message = r"actions of slot 1 reach 1.25: keep them within \[-1, 1\], or .* out_of_bounds='clip'"
    for actions in (bad, torch.from_numpy(bad)):
        with pytest.raises(ValueError, match=message):
            env.step(actions)
    assert data_equivalence(env.step(good), expected, exact=True)
    single = gym.make("RLAWM-Lift-v0", world=world, out_of_bounds="raise")
    single.reset(seed=0)
    with pytest.raises(ValueError, match="slot 0 reach 2"):
        single.step(np.full(32, 2.0, np.float32))
    single.close()


def test_a_single_environment_keeps_the_callers_array(world: str) -> None:
    env = RLAWMEnv(world=world)
    env.reset(seed=0)
    action = np.full(32, 3.0, np.float32)
    env.step(action)
    assert (action == 3.0).all()
    env.close()
