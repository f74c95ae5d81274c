"""Stable-Baselines3 over the dream: its own checker, its conventions at an episode's end, and PPO."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rla_gym
from rewards import SuccessDetector

pytest.importorskip("stable_baselines3")
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

from rla_gym import DreamVecEnv, RLAWMEnv, RLAWMVectorEnv


@pytest.fixture(scope="module")
def world(tiny_world_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny world with a success detector that fires now and then."""
    folder = tmp_path_factory.mktemp("world") / "tiny"
    shutil.copytree(tiny_world_folder, folder)
    torch.manual_seed(3)
    detector = SuccessDetector(16, 8).requires_grad_(False)
    states = rla_gym.load_world(folder).demonstrations.features.float().flatten(0, 1)
    detector.threshold = detector.probability(states).quantile(0.5).item()
    detector.save(folder)
    return str(folder)


@pytest.fixture
def make(world: str) -> Iterator[Callable[..., DreamVecEnv]]:
    opened: list[DreamVecEnv] = []

    def make_dream(num_envs: int = 4, **arguments: Any) -> DreamVecEnv:
        opened.append(DreamVecEnv(RLAWMVectorEnv(num_envs, world=world, autoreset_mode="SameStep", **arguments)))
        return opened[-1]

    yield make_dream
    for env in opened:
        env.close()


@pytest.mark.parametrize("obs", ["features", "rgb", "pooled", ("pooled", "last_action", "remaining_time")])
def test_stable_baselines_own_checker(world: str, obs: str | tuple[str, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if obs == "features":
            warnings.filterwarnings("ignore", message=".*unconventional shape.*")  # tokens x channels, flattened by SB3
        elif obs == "rgb":
            warnings.filterwarnings("ignore", message=".*minimal resolution for an image is 36x36.*")  # the tiny world
        env = RLAWMEnv(world=world, obs=obs)
        check_env(env)
        env.close()


def test_what_an_episode_ends_with(make: Callable[..., DreamVecEnv], world: str) -> None:
    env, plain = make(4, max_chunks=3), RLAWMVectorEnv(4, world=world, autoreset_mode="SameStep", max_chunks=3)
    env.seed(9)
    assert np.array_equal(env.reset(), plain.reset(seed=9)[0])
    assert [info["control_steps"] for info in env.reset_infos] == [0] * 4
    seen = set()
    for actions in np.random.default_rng(0).uniform(-1, 1, (20, 4, 32)).astype(np.float32):
        observations, rewards, dones, infos = env.step(actions)
        expected, plain_rewards, terminated, truncated, batch = plain.step(actions)
        assert np.array_equal(observations, expected)
        assert np.array_equal(dones, terminated | truncated)
        assert rewards.dtype == np.float32
        assert np.allclose(rewards, plain_rewards)
        for slot, info in enumerate(infos):
            assert info["TimeLimit.truncated"] == (truncated[slot] and not terminated[slot])
            assert ("terminal_observation" in info) == dones[slot]
            if dones[slot]:
                assert np.array_equal(info["terminal_observation"], batch["final_obs"][slot])
                assert info["is_success"] is bool(terminated[slot])
                assert info["control_steps"] > 0
                assert env.reset_infos[slot]["control_steps"] == 0
                seen.add(info["is_success"])
    assert seen == {True, False}
    plain.close()


def test_observations_are_copied_once_and_kept(make: Callable[..., DreamVecEnv]) -> None:
    env = make(2)
    first = env.reset()
    kept = first.copy()
    second = env.step(np.ones((2, 32), np.float32))[0]
    assert np.array_equal(first, kept)
    assert not np.shares_memory(first, second)


def test_the_adapter_itself_copies_no_observation(
    make: Callable[..., DreamVecEnv], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is copied once, by the environment; what it hands out is what Stable-Baselines3 gets."""
    env = make(4, max_chunks=2)
    copies: list[torch.Tensor] = []
    observe = env.vector_env._observe
    monkeypatch.setattr(env.vector_env, "_observe", lambda: copies.append(observe()) or copies[-1])
    assert np.shares_memory(env.reset(), copies[-1].numpy())
    assert len(copies) == 1
    for _ in range(4):
        copies.clear()
        observations, _, dones, infos = env.step(np.ones((4, 32), np.float32))
        assert np.shares_memory(observations, copies[-1].numpy())
        assert len(copies) == 1 + dones.any()  # the finished episodes' last observations are apart
        for slot in np.flatnonzero(dones):
            assert np.shares_memory(infos[slot]["terminal_observation"], copies[0][slot].numpy())


def test_options_and_rendering(make: Callable[..., DreamVecEnv]) -> None:
    env = make(4, render_mode="rgb_array")
    env.set_options({"demo": 2})
    env.reset()
    assert [info["demonstration"] for info in env.reset_infos] == [2] * 4
    assert env.render().shape == (64, 64, 3)
    assert env.get_attr("render_mode") == ["rgb_array"] * 4
    env.set_options([{"demo": slot} for slot in range(4)])
    with pytest.raises(ValueError, match="options differ between slots"):
        env.reset()


def test_another_autoreset_mode_or_output_is_refused(world: str) -> None:
    for arguments in ({}, {"autoreset_mode": "SameStep", "output": "torch"}):
        env = RLAWMVectorEnv(2, world=world, **arguments)
        with pytest.raises(ValueError, match="make it with output='numpy', autoreset_mode='SameStep'"):
            DreamVecEnv(env)
        env.close()


@pytest.mark.parametrize("observation", ["features", "rgb"])
def test_ppo_runs_in_the_dream(make: Callable[..., DreamVecEnv], observation: str) -> None:
    arguments: dict[str, bool] = {}
    if observation == "features":
        env, steps = VecMonitor(make(8)), 512
    else:  # the tiny world's frames are too small for Stable-Baselines3's CNN, so pixels stay flat
        env, steps, arguments = VecMonitor(make(4, obs="rgb")), 64, {"normalize_images": True}
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=64, n_epochs=2, seed=0, device="cpu", policy_kwargs=arguments)
    model.learn(steps)
    assert model.num_timesteps == steps
    assert len(model.ep_info_buffer) > 0
    assert all(torch.isfinite(parameter).all() for parameter in model.policy.parameters())
    assert len(model.ep_success_buffer) > 0
    mean, _ = evaluate_policy(model, env, n_eval_episodes=4)
    assert np.isfinite(mean)


def test_dict_observations_reach_a_multi_input_policy(make: Callable[..., DreamVecEnv]) -> None:
    env = make(4, obs=("pooled", "remaining_time"), max_chunks=2, terminate_on_success=False)
    model = PPO("MultiInputPolicy", env, n_steps=8, batch_size=32, n_epochs=1, seed=0, device="cpu").learn(64)
    assert all(torch.isfinite(parameter).all() for parameter in model.policy.parameters())
    env.reset()
    for _ in range(2):
        observations, _, dones, infos = env.step(np.zeros((4, 32), np.float32))
    assert dones.all()
    assert (observations["remaining_time"] == 1).all()
    for info in infos:
        assert info["terminal_observation"] in env.observation_space


def test_ppo_is_reproducible(make: Callable[..., DreamVecEnv]) -> None:
    weights = []
    for _ in range(2):
        model = PPO("MlpPolicy", make(4), n_steps=8, batch_size=32, n_epochs=1, seed=5, device="cpu").learn(64)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.policy.parameters()]))
    assert torch.equal(*weights)


def test_it_is_what_make_vec_env_over_single_environments_is(
    make: Callable[..., DreamVecEnv], world: str, tmp_path: Path
) -> None:
    """Infos at an episode's end, and the rate of recorded films."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecVideoRecorder

    ours = make(num_envs=1, max_chunks=2, render_mode="rgb_array")
    theirs = make_vec_env("RLAWM-Lift-v0", 1, seed=0, env_kwargs={"world": world, "max_chunks": 2})
    action = np.zeros((1, 32), np.float32)
    for envs in (ours, theirs):
        envs.seed(0)
        envs.reset()
        envs.step(action)
    end, expected = ours.step(action)[3][0], theirs.step(action)[3][0]
    assert end["is_success"] == expected["is_success"] == end["success"]
    assert expected.keys() - end.keys() == {"episode"}  # VecMonitor's, which make_vec_env has put around it
    assert end["TimeLimit.truncated"] == expected["TimeLimit.truncated"]
    recorder = VecVideoRecorder(ours, str(tmp_path), record_video_trigger=lambda step: step == 0, video_length=2)
    assert recorder.frames_per_sec == 2.5
    theirs.close()
