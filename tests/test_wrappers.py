"""Gymnasium's own wrappers and checker over the dream, single and vector."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import wrappers
from gymnasium.wrappers import vector as vector_wrappers

from tests.dreams import Make, actions_for

ENV = "RLAWM-Lift-v0"
ENDLESS: dict[str, Any] = {"terminate_on_success": False, "max_chunks": 2}


def test_episode_statistics_wrapper(make: Make) -> None:
    env = vector_wrappers.RecordEpisodeStatistics(make(3, terminate_on_success=False, max_chunks=2))
    actions = actions_for(env, 2)
    env.reset(seed=0)
    rewards = [env.step(action) for action in actions]
    assert rewards[1][4]["episode"]["l"].tolist() == [2, 2, 2]
    np.testing.assert_allclose(rewards[1][4]["episode"]["r"], rewards[0][1] + rewards[1][1], rtol=1e-5)
    env.reset(options={"reset_mask": np.array([True, False, False])})


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_vector_reward_normalisation(make: Make, mode: str) -> None:
    env = vector_wrappers.NormalizeReward(make(4, autoreset_mode=mode, max_chunks=2), gamma=0.9)
    env.reset(seed=0)
    rewards = np.array([env.step(action)[1] for action in actions_for(env, 30)])
    assert np.isfinite(rewards).all()
    assert 0.1 < np.std(rewards) < 10


def test_vector_observation_normalisation(make: Make) -> None:
    env = make(4, autoreset_mode="NextStep", obs="pooled", max_chunks=2)  # what Gymnasium's wrapper takes
    env = vector_wrappers.NormalizeObservation(env)
    observation, _ = env.reset(seed=0)
    raw = env.unwrapped.reset(seed=0)[0]
    assert observation.shape == raw.shape
    assert not np.allclose(observation, raw)
    for action in actions_for(env, 30):
        observation = env.step(action)[0]
        assert observation in env.observation_space
    assert 0.1 < np.std(observation) < 10


def test_vector_numpy_to_torch(make: Make) -> None:
    pytest.importorskip("array_api_compat", reason="Gymnasium converts arrays by array-api-compat")
    env = vector_wrappers.NumpyToTorch(make(3, autoreset_mode="NextStep", obs=("pooled", "last_action"), **ENDLESS))
    observation, info = env.reset(seed=0)
    assert isinstance(observation["pooled"], torch.Tensor)
    for _ in range(3):
        observation, reward, terminated, truncated, info = env.step(torch.ones(3, 32))
    values = [*observation.values(), reward, terminated, truncated, *info.values()]
    assert all(isinstance(value, torch.Tensor) for value in values)
    assert torch.equal(observation["last_action"], torch.zeros(3, 32))  # just reset


def test_vector_dict_info_to_list(make: Make) -> None:
    env = vector_wrappers.DictInfoToList(make(2, autoreset_mode="SameStep", **ENDLESS))
    env.reset(seed=0)
    for action in actions_for(env, 2):
        infos = env.step(action)[4]
    assert [info["control_steps"] for info in infos] == [0, 0]
    assert [info["final_info"]["control_steps"] for info in infos] == [16, 16]


def test_single_wrappers(world: str) -> None:
    env = gym.make(ENV, world=world, obs="pooled", **ENDLESS)
    env = wrappers.RecordEpisodeStatistics(env)
    env = wrappers.NormalizeReward(wrappers.NormalizeObservation(env))
    env = wrappers.FrameStackObservation(env, 2)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (2, 128)
    env.step(env.action_space.sample())
    *_, truncated, info = env.step(env.action_space.sample())
    assert truncated
    assert info["episode"]["l"] == 2
    env.close()
    flat = wrappers.FlattenObservation(gym.make(ENV, world=world, obs=("pooled", "remaining_time")))
    assert flat.reset(seed=0)[0].shape == (129,)
    flat.close()


def test_single_numpy_to_torch(world: str) -> None:
    pytest.importorskip("array_api_compat", reason="Gymnasium converts arrays by array-api-compat")
    env = wrappers.NumpyToTorch(gym.make(ENV, world=world, obs=("rgb", "remaining_time")))
    observation, _ = env.reset(seed=0)
    assert observation["rgb"].dtype == torch.uint8
    assert isinstance(env.step(torch.zeros(32))[0]["remaining_time"], torch.Tensor)
    env.close()


@pytest.mark.parametrize("vector", [False, True])
def test_videos(world: str, tmp_path: Path, vector: bool) -> None:
    pytest.importorskip("moviepy", reason="Gymnasium records videos by moviepy")
    arguments: dict[str, Any] = {"world": world, "render_mode": "rgb_array", **ENDLESS}
    env: Any
    if vector:
        envs = gym.make_vec(ENV, num_envs=3, **arguments)
        env = vector_wrappers.RecordVideo(envs, str(tmp_path / "films"), episode_trigger=lambda episode: True)
    else:
        env = wrappers.RecordVideo(
            gym.make(ENV, **arguments), str(tmp_path / "films"), episode_trigger=lambda episode: True
        )
    env.reset(seed=0)
    for action in actions_for(env, 4):
        env.step(action)
        if not vector:
            env.reset()
    env.close()
    films = list((tmp_path / "films").glob("*.mp4"))
    assert films
    assert all(film.stat().st_size > 0 for film in films)


@pytest.mark.parametrize("obs", ["features", "pooled", "rgb", "last_action", ("features", "last_action", "rgb")])
def test_the_passive_checker_is_silent(world: str, obs: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(ENV, world=world, obs=obs, render_mode="rgb_array")
        env.reset(seed=0)
        env.render()
        for _ in range(3):
            env.step(env.action_space.sample())
        env.close()
