"""Observations by name: spaces, contents, and the same pooling for any number of tokens."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from rla_gym.observations import OBSERVATIONS, pool, pooled_size
from tests.dreams import Make, actions_for, assert_same


@pytest.mark.parametrize("output", ["numpy", "torch"])
@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_each_name_is_that_part_of_the_dict(make: Make, proprioceptive_world: str, output: str, mode: str) -> None:
    arguments = {"world": proprioceptive_world, "output": output, "autoreset_mode": mode, "max_chunks": 3}
    everything = make(2, obs=OBSERVATIONS, **arguments)
    single = {name: make(2, obs=name, **arguments) for name in OBSERVATIONS}
    assert isinstance(everything.single_observation_space, gym.spaces.Dict)
    observations = everything.reset(seed=4)[0]
    for name, env in single.items():
        assert everything.single_observation_space[name] == env.single_observation_space
        assert_same(observations[name], env.reset(seed=4)[0])
    for action in actions_for(everything, 5):
        observations, *_, info = everything.step(action)
        for name, env in single.items():
            observation, *_, its_info = env.step(action)
            assert_same(observations[name], observation, name)
            if output == "torch" and "final_obs" in info:
                assert_same(info["final_obs"][name], its_info["final_obs"], name)
        if output == "numpy":
            assert observations in everything.observation_space
            for slot in np.flatnonzero(info.get("_final_obs", [])):
                assert info["final_obs"][slot] in everything.single_observation_space


def test_last_action_and_remaining_time(make: Make) -> None:
    env = make(2, obs=["remaining_time", "last_action"], max_chunks=4, terminate_on_success=False)
    actions = actions_for(env, 5) * 1.5
    obs, _ = env.reset(seed=0)
    assert not obs["last_action"].any()
    assert obs["remaining_time"].tolist() == [[1.0], [1.0]]
    for taken in range(1, 5):
        obs, _, _, truncated, _ = env.step(actions[taken])
        np.testing.assert_array_equal(obs["last_action"], actions[taken].clip(-1, 1))  # as executed
        np.testing.assert_allclose(obs["remaining_time"], 1 - taken / 4)
        obs["last_action"][:] = 0  # must not reach the dream
    assert truncated.all()
    obs, *_ = env.step(actions[0])  # only resets
    assert not obs["last_action"].any()
    assert (obs["remaining_time"] == 1).all()


def test_a_world_from_video_alone_has_no_proprioception(make: Make) -> None:
    with pytest.raises(ValueError, match="video alone"):
        make(2, obs="proprioception")


def test_pooling_keeps_the_place_and_every_token_beyond_the_picture() -> None:
    features = torch.zeros(2, 64, 3)
    features[0, 0], features[1, 63] = 1.0, 1.0  # two corners of an 8 x 8 picture
    pooled = pool(features)
    assert pooled.shape == (2, pooled_size(64, 3)) == (2, 48)
    assert pooled[0, :3].tolist() == pooled[1, -3:].tolist() == [0.25] * 3
    assert not torch.equal(pooled[0], pooled[1])
    torch.testing.assert_close(pooled.unflatten(1, (16, 3)).mean(1), features.mean(1))
    more = torch.cat((features, torch.full((2, 1, 3), 7.0)), dim=1)
    assert torch.equal(pool(more), torch.cat((pooled, torch.full((2, 3), 7.0)), dim=1))
    assert pool(more).shape[1] == pooled_size(65, 3)
    assert pool(torch.zeros(1, 196, 5)).shape == (1, pooled_size(196, 5)) == (1, 80)  # 14 x 14: cells of 3 or 4 tokens
    assert pool(features[:, :4]).shape == (2, pooled_size(4, 3)) == (2, 12)  # 2 x 2 stays as it is


def test_pooled_is_pooled_features(make: Make) -> None:
    features, pooled = make(2), make(2, obs="pooled")
    expected = pool(torch.from_numpy(features.reset(seed=0)[0]))
    np.testing.assert_allclose(pooled.reset(seed=0)[0], expected.numpy())
    assert pooled.single_observation_space.shape == (128,)
