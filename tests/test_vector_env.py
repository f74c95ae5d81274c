"""The dream as a Gymnasium environment: spaces, rewards, initial states, settings, and clear errors."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import FrozenInstanceError, fields
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence

import rla_gym
from rewards import SuccessDetector, make_reward
from rla_gym import RLAWMEnv, RLAWMVectorEnv
from rla_gym.dream_config import DreamConfig
from tests.dreams import A, K, Make, actions_for, assert_same, rollout
from world_models.data.demonstrations import Demonstrations

INFO_KEYS = {
    "success", "is_success", "success_probability", "uncertainty", "reward_alignment", "reward_success",
    "control_steps", "demonstration",
}  # fmt: skip


# Uncertainty


def test_uncertainty_adds_up_within_an_episode_and_may_truncate_it(make: Make) -> None:
    free = make(6, max_chunks=50, terminate_on_success=False)
    actions = actions_for(free, 8)
    outputs = rollout(free, actions, seed=1)
    uncertainties = np.stack([step[-1]["uncertainty"] for step in outputs[1:]])
    limit = float(np.median(uncertainties[0]))
    limited = make(6, max_chunks=50, terminate_on_success=False, max_uncertainty=limit, autoreset_mode="Disabled")
    assert_same(limited.reset(seed=1)[0], outputs[0][0])
    truncated = limited.step(actions[0])[3]
    np.testing.assert_array_equal(truncated, uncertainties[0] > limit)
    assert 0 < truncated.sum() < 6
    # The same state is less certain where it was itself imagined.
    state = free.get_state()
    imagined = free.step(actions[0])[-1]["uncertainty"]
    state.slots["error"][:] = 0.0
    free.set_state(state)
    assert not np.array_equal(free.step(actions[0])[-1]["uncertainty"], imagined)
    with pytest.raises(ValueError, match="max_uncertainty=-1 must be at least 0"):
        make(2, max_uncertainty=-1)


# Spaces and shapes


def test_spaces_and_what_a_step_returns(make: Make) -> None:
    env = make(3)
    assert env.single_action_space == gym.spaces.Box(-1, 1, (K * A,), np.float32)
    assert env.single_observation_space == gym.spaces.Box(-np.inf, np.inf, (16, 8), np.float32)
    obs, info = env.reset(seed=0)
    assert obs in env.observation_space
    obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert obs in env.observation_space
    assert obs.dtype == np.float32
    assert reward.shape == terminated.shape == truncated.shape == (3,)
    assert reward.dtype == np.float64
    assert terminated.dtype == truncated.dtype == np.bool_
    assert set(info) == {prefix + key for prefix in ("", "_") for key in INFO_KEYS}
    assert all(values.shape == (3,) for values in info.values())
    np.testing.assert_allclose(info["reward_alignment"] + info["reward_success"], reward, rtol=1e-5)
    assert info["control_steps"].tolist() == [K] * 3
    assert info["_success"].all()


def test_torch_output_is_tensors_that_autograd_takes(make: Make) -> None:
    env = make(3, output="torch", autoreset_mode="SameStep")
    obs, info = env.reset(seed=0)
    everything = [obs, *info.values()]
    for _ in range(7):
        weight = torch.zeros(obs.shape[1] * obs.shape[2], K * A, requires_grad=True)
        action = obs.flatten(1) @ weight
        action.sum().backward()
        obs, reward, terminated, truncated, info = env.step(action)
        final = info.pop("final_info")
        everything += [obs, reward, terminated, truncated, *info.values(), *final.values()]
    assert all(isinstance(value, torch.Tensor) and not value.is_inference() for value in everything)
    assert obs.dtype == reward.dtype == torch.float32
    assert terminated.dtype == truncated.dtype == torch.bool
    assert info["final_obs"].shape == obs.shape


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_torch_and_numpy_give_the_same_outputs(make: Make, mode: str) -> None:
    arrays, tensors = make(4, autoreset_mode=mode), make(4, autoreset_mode=mode, output="torch")
    actions = actions_for(arrays, 14)
    for one, other in zip(
        rollout(arrays, actions, seed=5), rollout(tensors, torch.from_numpy(actions), seed=5), strict=True
    ):
        assert_same(one[:-1], other[:-1])
        for key, mask in one[-1].items():
            if not key.startswith("_"):
                assert_same(one[-1]["_" + key], other[-1]["_" + key], key)
                if key == "final_obs":
                    rows = np.flatnonzero(one[-1]["_final_obs"])
                    assert_same(np.stack(mask[rows].tolist()), other[-1][key][rows], key)
                else:
                    assert_same(mask, other[-1][key], key)


def test_editing_an_observation_does_not_edit_the_dream(make: Make) -> None:
    for output in ("numpy", "torch"):
        env = make(2, output=output)
        actions = actions_for(env, 1)
        expected = rollout(env, actions, seed=1)[-1][0]
        obs, _ = env.reset(seed=1)
        obs[:] = 0
        assert_same(env.step(actions[0])[0], expected)


# Reward, success and time


@pytest.mark.parametrize("reward", ["corresponding", "goal", "progress", "success_probability", "sparse"])
@pytest.mark.parametrize("length", [None, 5])
def test_reward_and_success_follow_their_definitions(make: Make, reward: str, length: int | None) -> None:
    env = make(4, reward=reward, success_bonus=3.0, chunk_length=length, terminate_on_success=False, output="torch")
    world = rla_gym.load_world(env.world)
    detector = SuccessDetector.load(world.folder)
    distance = make_reward(reward, world.demonstrations, detector)
    demonstration, start = torch.tensor([0, 3, 5, 5]), torch.tensor([0, 7, 25, 29])
    chunk = length or K
    obs, info = env.reset(seed=0, options={"demo": demonstration, "t": start})
    torch.testing.assert_close(obs, world.demonstrations.at(demonstration, start))
    assert torch.equal(info["demonstration"], demonstration)
    for taken in range(1, 7):
        obs, total, terminated, truncated, info = env.step(torch.rand(4, chunk * A) * 2 - 1)
        success = detector.success(obs)
        torch.testing.assert_close(info["reward_alignment"], distance(obs, demonstration, start + taken * chunk))
        torch.testing.assert_close(info["reward_success"], 3.0 * success)
        torch.testing.assert_close(total, info["reward_alignment"] + info["reward_success"])
        assert torch.equal(info["success"], success)
        assert (info["control_steps"] == taken * chunk).all()
        torch.testing.assert_close(info["success_probability"], detector.probability(obs))
        assert not terminated.any()
        assert truncated.all() == (taken == 6)


def test_success_ends_the_episode(make: Make) -> None:
    env = make(32)
    env.reset(seed=0)
    ended = []
    for action in actions_for(env, 5):
        _, _, terminated, truncated, info = env.step(action)
        assert np.array_equal(terminated, info["success"])
        assert not truncated.any()
        ended.append(terminated)
    assert np.any(ended)
    assert not np.all(ended)


def test_initial_states(make: Make) -> None:
    assert (make(600, initial_states="first").reset(seed=0)[1]["control_steps"] == 0).all()
    env = make(3000, output="torch")
    obs, info = env.reset(seed=0)
    demonstrations = rla_gym.load_world(env.world).demonstrations
    counts = torch.bincount(info["demonstration"], minlength=6)
    assert counts.min() > 400  # of 500 each
    is_first = (obs == demonstrations.at(info["demonstration"], torch.zeros(3000, dtype=torch.int64))).all(2).all(1)
    # a chunk is left before the goal in each, where the demonstration has one
    choices = (SuccessDetector.load(env.world).first_success(demonstrations) - K).clamp_min(1)
    expected = 3000 * (0.5 + 0.5 * float((1 / choices).mean()))
    assert abs(int(is_first.sum()) - expected) < 100
    longest = int(choices.argmax())
    assert choices[longest] > 1
    frames = torch.stack(
        [
            (demonstrations.features[longest].float() == one).all(2).all(1)
            for one in obs[info["demonstration"] == longest]
        ]
    )
    assert set(frames.nonzero()[:, 1].tolist()) == set(range(int(choices[longest])))


def test_everywhere_starts_in_first_states_of_other_episodes_too(make: Make, tmp_path: Path) -> None:
    env = make(600, initial_states="everywhere")
    obs, info = env.reset(seed=0)
    demonstrations = Demonstrations.load(Path(env.world))
    elsewhere = demonstrations.first_states.float().numpy()
    nearest = np.abs(obs[:, None] - elsewhere[None]).mean(axis=(2, 3)).argmin(axis=1)
    begins = (obs == elsewhere[nearest]).all(axis=(1, 2))
    assert 0.4 < begins.mean() < 0.6
    assert len(set(nearest[begins])) == len(elsewhere)
    first = demonstrations.features[:, 0].float().numpy()
    distance = np.abs(obs[begins][:, None] - first[None]).mean(axis=(2, 3))
    np.testing.assert_array_equal(distance.argmin(axis=1), info["demonstration"][begins])
    poor = shutil.copytree(env.world, tmp_path / "poor")
    Demonstrations(demonstrations.features, demonstrations.actions, demonstrations.lengths).save(poor)
    with pytest.raises(ValueError, match="train it with --first-states"):
        make(2, world=poor, initial_states="everywhere")


# Making


def test_gym_make_and_make_vec(world: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("RLAWM-Lift-v0", world=world)
        obs, info = env.reset(seed=0)
        assert obs in env.observation_space
        assert isinstance(info["success"], bool)
        for _ in range(6):
            obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
            assert isinstance(reward, float)
            assert isinstance(terminated, bool)
            assert isinstance(truncated, bool)
            if terminated or truncated:
                break
        env.close()
        dream = gym.make_vec("RLAWM-Lift-v0", num_envs=5, world=world, output="torch")
        assert dream.reset(seed=0)[0].shape == (5, 16, 8)
        dream.close()
        workers = gym.make_vec("RLAWM-Lift-v0", num_envs=2, vectorization_mode="sync", world=world)
        assert workers.reset(seed=0)[0].shape == (2, 16, 8)
        workers.close()
    assert gym.spec("Robosuite-Lift-v0").vector_entry_point == "rla_gym.ground_truth.vector:RobosuiteVectorEnv"


@pytest.mark.parametrize("obs", ["features", "rgb"])
def test_gymnasiums_checker(world: str, obs: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings(
            "ignore", message=".*(minimum|maximum) value is (-|)infinit.*"
        )  # features have no bound
        check_env(gym.make("RLAWM-Lift-v0", world=world, obs=obs, render_mode="rgb_array").unwrapped)


def test_single_env_errors_and_slots(world: str) -> None:
    env = RLAWMEnv(world=world)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(env.action_space.sample())
    env.reset()
    assert data_equivalence(env.reset(seed=env.np_random_seed), env.reset(seed=env.np_random_seed), exact=True)
    with pytest.raises(ValueError, match=r"action has shape \(4,\): give \(32,\)"):
        env.step(np.zeros(4, np.float32))
    env.close()
    env.close()


def test_settings_are_flat_arguments_of_every_way_to_make_one(world: str) -> None:
    env = gym.make("RLAWM-Lift-v0", world=world, reward="goal", max_chunks=3)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    envs = gym.make_vec("RLAWM-Lift-v0", num_envs=1, world=world, reward="goal", max_chunks=3)
    action = np.full(env.action_space.shape, 0.3, np.float32)
    for one in (env, again, envs):
        one.reset(seed=0)
    expected = env.step(action)
    assert data_equivalence(again.step(action), expected, exact=True)
    assert envs.step(action[None])[1][0] == expected[1]
    for one in (env, again, envs):
        one.close()


def test_an_unknown_argument_is_named_beside_the_known_ones(make: Make, world: str) -> None:
    for build in (make, lambda **arguments: RLAWMEnv(world=world, **arguments), partial(gym.make, "RLAWM-Lift-v0")):
        with pytest.raises(
            TypeError, match=r"no argument 'rewards': it takes num_envs, task, .*settings dynamics, .*reward"
        ):
            build(rewards="goal")


def test_the_settings_are_documented_where_they_are_typed() -> None:
    for environment in (RLAWMEnv, RLAWMVectorEnv):
        assert "rla_gym.dream_config.DreamConfig" in environment.__doc__
    assert all(f"``{field.name}``" in RLAWMVectorEnv.__doc__ for field in fields(DreamConfig))
    with pytest.raises(FrozenInstanceError):
        DreamConfig().reward = "goal"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "Juggle"}, "unknown task 'Juggle'"),
        ({"obs": "depth"}, "obs='depth': choose one of 'features', 'pooled', 'rgb'"),
        ({"obs": ("rgb", "depth")}, "obs='depth': choose one of"),
        ({"obs": ()}, r"obs=\(\): give one name, or several"),
        ({"obs": ("rgb", "rgb")}, "several different ones"),
        ({"out_of_bounds": "wrap"}, "out_of_bounds='wrap': choose one of 'clip', 'raise'"),
        ({"output": "jax"}, "output='jax'"),
        ({"reward": "dense"}, "unknown reward 'dense'"),
        ({"initial_states": "last"}, "initial_states='last': choose one of 'mixed', 'first', 'everywhere'"),
        ({"dynamics": "ode"}, "unknown dynamics 'ode'"),
        ({"precision": "int8"}, "unknown precision 'int8'"),
        ({"render_mode": "human"}, "render_mode='human'"),
        ({"num_envs": 0}, "num_envs=0 must be at least 1"),
        ({"chunk_length": 9}, "chunk_length=9 must be between 1 and 8"),
        ({"prediction_length": 9}, "prediction_length=9 must be between 1 and 8"),
        ({"max_chunks": 0}, "max_chunks=0 must be at least 1"),
        ({"solver_steps": 0}, "solver_steps=0 must be at least 1"),
        ({"device": "cuda:99"}, "device='cuda:99' is not usable here"),
        ({"autoreset_mode": "Never"}, "Never"),
    ],
)
def test_bad_arguments_get_one_clear_error(make: Make, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_missing_worlds_and_detectors(make: Make, tiny_world_folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_world_folder, bare)
    for name in ("success.json", "success.safetensors"):
        (bare / name).unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match=r"no success detector.*rla-gym train"):
        make(world=bare)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        make(world=tmp_path / "nowhere")
    text = (tiny_world_folder / "config.json").read_text().replace('"Lift"', '"Fold"')
    other = tmp_path / "other"
    shutil.copytree(make(1).world, other)
    (other / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"shows task 'Fold', not 'Lift': .*RLAWM-v0"):
        make(world=other)
    make(world=other, task=None).reset(seed=0)
    gym.make_vec("RLAWM-v0", 2, world=other).close()


def test_an_episode_is_as_long_as_its_task(make: Make, tiny_world_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "stacking"
    shutil.copytree(make(1).world, other)
    (other / "config.json").write_text((other / "config.json").read_text().replace('"Lift"', '"Stack"'))
    for task, chunks in (("Lift", 6), ("Stack", 9)):
        worlds = {} if task == "Lift" else {"world": other}
        env = make(1, task=task, terminate_on_success=False, autoreset_mode="Disabled", **worlds)
        env.reset(seed=0)
        action = np.zeros(env.action_space.shape, np.float32)
        assert [bool(env.step(action)[3][0]) for _ in range(chunks)] == [False] * (chunks - 1) + [True]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"gripper"', '"fingers"', r"actions \('x', 'y', 'z', 'fingers'\), this version of the environment has \('x'"),
        ('"fps": 20', '"fps": 10', "control steps per second 10, this version of the environment has 20"),
        ('"format": 6', '"format": 9', "format 9, .* reads format 6"),
        (
            '"format": 6',
            '"format": 5',
            r"format 5 \(rla-gym 0.1\); convert its folder by `rla-gym convert FOLDER --out",
        ),
    ],
)
def test_a_world_of_another_version_is_refused(
    make: Make, tiny_world_folder: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    other = shutil.copytree(make(1).world, tmp_path / "other")
    text = (other / "config.json").read_text()
    assert old in text
    (other / "config.json").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        make(world=other)
