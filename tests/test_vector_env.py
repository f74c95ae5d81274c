"""The dream as a Gymnasium environment: same seed, same dream; autoreset as Gymnasium's own; clear errors."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import rla_gym
from rewards import SuccessDetector, make_reward
from rla_gym import RLAWMEnv, RLAWMVectorEnv, world_cache
from rla_gym.actions import ActionReader

K, A = 8, 4
Make = Callable[..., RLAWMVectorEnv]


@pytest.fixture(scope="module")
def world(tiny_world_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny world with a success detector that fires now and then."""
    folder = tmp_path_factory.mktemp("world") / "tiny"
    shutil.copytree(tiny_world_folder, folder)
    torch.manual_seed(3)
    detector = SuccessDetector(16, 8).requires_grad_(False)
    states = rla_gym.load_world(folder).demonstrations.features.float().flatten(0, 1)
    detector.threshold = detector.probability(states).quantile(0.8).item()
    detector.save(folder)
    return str(folder)


@pytest.fixture
def make(world: str) -> Iterator[Make]:
    opened: list[RLAWMVectorEnv] = []

    def make_vector_env(num_envs: int = 3, **arguments: Any) -> RLAWMVectorEnv:
        opened.append(RLAWMVectorEnv(num_envs, **{"world": world, **arguments}))
        return opened[-1]

    yield make_vector_env
    for env in opened:
        env.close()


def actions_for(env: Any, steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)


def rollout(env: Any, actions: Any, **reset: Any) -> list[tuple[Any, ...]]:
    first = env.reset(**reset)
    return [first, *(env.step(action) for action in actions)]


def assert_same(one: Any, other: Any, path: str = "") -> None:
    """The same structure, shapes and kinds of dtype, values equal up to rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, tuple):
        assert len(one) == len(other), path
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{path}[{index}]")
    elif one is None:
        assert other is None, path
    else:
        one, other = np.asarray(one), np.asarray(other)
        assert (one.shape, one.dtype.kind) == (other.shape, other.dtype.kind), path
        if one.dtype == object:
            for index, pair in enumerate(zip(one, other, strict=True)):
                assert_same(*pair, f"{path}[{index}]")
        else:
            # Matmuls round differently in batches of another size; a pixel may come out one brighter.
            atol = 1 if one.dtype == np.uint8 else 1e-4
            np.testing.assert_allclose(one.astype(float), other.astype(float), rtol=1e-4, atol=atol, err_msg=path)


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
    assert set(info) == {p + k for p in ("", "_") for k in
                         ("success", "success_probability", "control_steps", "demonstration")}  # fmt: skip
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
def test_torch_and_numpy_tell_the_same(make: Make, mode: str) -> None:
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


# Same seed, same dream


def test_the_same_seed_dreams_the_same_and_another_seed_does_not(make: Make) -> None:
    env = make(3)
    actions = actions_for(env, 15)
    first, again, other = (rollout(env, actions, seed=seed) for seed in (7, 7, 8))
    assert data_equivalence(first, again, exact=True)
    assert not data_equivalence(first[1], other[1])
    assert data_equivalence(first, rollout(make(3), actions, seed=7), exact=True)


def test_reset_without_a_seed_goes_on_to_the_next_episode(make: Make) -> None:
    env, twin = make(3, starts="first"), make(3, starts="first")
    action = actions_for(env, 1)
    one = [rollout(env, action, seed=4), rollout(env, action), rollout(env, action)]
    two = [rollout(twin, action, seed=4), rollout(twin, action), rollout(twin, action)]
    assert data_equivalence(one, two, exact=True)
    assert not data_equivalence(one[0], one[1])
    assert not data_equivalence(one[1], one[2])
    unseeded, other = make(3), make(3)
    assert not data_equivalence(rollout(unseeded, action), rollout(other, action))
    assert data_equivalence(rollout(make(3), action), rollout(make(3), action, seed=None)) is False
    assert unseeded.np_random_seed != other.np_random_seed
    repeat = rollout(other, action, seed=unseeded.np_random_seed)
    unseeded.reset(seed=unseeded.np_random_seed)
    assert data_equivalence(repeat[-1], unseeded.step(action[0]), exact=True)


@pytest.fixture(scope="module")
def crowds(world: str) -> Iterator[dict[int, RLAWMVectorEnv]]:
    envs = {n: RLAWMVectorEnv(n, world=world, autoreset_mode=AutoresetMode.SAME_STEP, max_chunks=3) for n in (1, 7)}
    yield envs
    for env in envs.values():
        env.close()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**63), action_seed=st.integers(0, 999), steps=st.integers(1, 5))
def test_slot_zero_dreams_the_same_alone_and_in_a_crowd(
    crowds: dict[int, RLAWMVectorEnv], seed: int, action_seed: int, steps: int
) -> None:
    actions = actions_for(crowds[7], steps, action_seed)
    alone = rollout(crowds[1], actions[:, :1], seed=seed)
    crowd = rollout(crowds[7], actions, seed=seed)
    for one, other in zip(alone, crowd, strict=True):
        for value, values in zip(one[:-1], other[:-1], strict=True):
            assert_same(value, values[:1])
        for key in one[-1].keys() & other[-1].keys() - {"final_info", "_final_info"}:
            assert_same(one[-1][key], other[-1][key][:1], key)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**40), slot=st.integers(0, 6))
def test_any_slot_can_be_dreamed_by_another_worker(
    crowds: dict[int, RLAWMVectorEnv], world: str, seed: int, slot: int
) -> None:
    actions = actions_for(crowds[7], 4)
    crowd = rollout(crowds[7], actions, seed=seed)
    worker = RLAWMVectorEnv(1, world=world, first_slot=slot, autoreset_mode=AutoresetMode.SAME_STEP, max_chunks=3)
    for one, other in zip(rollout(worker, actions[:, slot : slot + 1], seed=seed), crowd, strict=True):
        for value, values in zip(one[:-1], other[:-1], strict=True):
            assert_same(value, values[slot : slot + 1])
    worker.close()


def test_slots_dream_different_things(make: Make) -> None:
    env = make(16)
    env.reset(seed=0, options={"demo": 0})
    obs = env.step(np.zeros(env.action_space.shape, np.float32))[0]
    assert len(np.unique(obs[:, 0, 0])) == 16
    regression = make(16, dynamics="regression")
    regression.reset(seed=0, options={"demo": 0})
    obs = regression.step(np.zeros(env.action_space.shape, np.float32))[0]
    np.testing.assert_allclose(obs, obs[:1].repeat(16, 0), atol=1e-5)


# Autoreset: the vector environment against Gymnasium's own over single environments


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("arguments", [{}, {"terminate_on_success": False, "max_chunks": 2}, {"obs": "rgb"}])
def test_autoreset_is_gymnasiums_own(make: Make, world: str, mode: AutoresetMode, arguments: dict[str, Any]) -> None:
    count = 3
    env = make(count, autoreset_mode=mode, **arguments)
    reference = SyncVectorEnv(
        [lambda slot=slot: RLAWMEnv(slot=slot, world=world, **arguments) for slot in range(count)], autoreset_mode=mode
    )
    assert env.metadata == reference.metadata
    assert env.observation_space == reference.observation_space
    assert env.action_space == reference.action_space
    actions = actions_for(env, 20)
    ours, theirs = rollout(env, actions, seed=11), rollout(reference, actions, seed=[11] * count)
    for step, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert_same(one, other, f"step {step} ")
    ends = np.array([[step[2], step[3]] for step in ours[1:]])
    assert ends[:, 1].any()
    assert arguments.get("terminate_on_success") is False or ends[:, 0].any()

    mask = np.array([False, True, False])
    assert_same(
        env.reset(options={"reset_mask": mask}), reference.reset(options={"reset_mask": mask.copy()}), "masked reset"
    )
    assert_same(env.step(actions[0]), reference.step(actions[0]), "after masked reset")
    assert_same(
        env.reset(seed=[None, 3, None], options={"reset_mask": mask}),
        reference.reset(seed=[None, 3, None], options={"reset_mask": mask.copy()}),
    )
    assert_same(env.step(actions[0]), reference.step(actions[0]), "after seeded masked reset")
    reference.close()


def test_next_step_reset_ignores_the_action_and_pays_nothing(make: Make) -> None:
    env = make(2, max_chunks=1, terminate_on_success=False, starts="first")
    actions = actions_for(env, 2)
    env.reset(seed=0)
    assert env.step(actions[0])[3].all()
    obs, reward, terminated, truncated, info = env.step(actions[1])
    assert not reward.any()
    assert not terminated.any()
    assert not truncated.any()
    assert not info["control_steps"].any()
    first = rla_gym.load_world(env.world).demonstrations.features[info["demonstration"], 0].float()
    np.testing.assert_allclose(obs, first)


def test_episode_statistics_wrapper(make: Make) -> None:
    env = RecordEpisodeStatistics(make(3, terminate_on_success=False, max_chunks=2))
    actions = actions_for(env, 2)
    env.reset(seed=0)
    rewards = [env.step(action) for action in actions]
    assert rewards[1][4]["episode"]["l"].tolist() == [2, 2, 2]
    np.testing.assert_allclose(rewards[1][4]["episode"]["r"], rewards[0][1] + rewards[1][1], rtol=1e-5)
    env.reset(options={"reset_mask": np.array([True, False, False])})


# Reward, success and time


@pytest.mark.parametrize("reward", ["corresponding", "goal"])
@pytest.mark.parametrize("length", [None, 5])
def test_reward_and_success_follow_their_definitions(make: Make, reward: str, length: int | None) -> None:
    env = make(4, reward=reward, success_bonus=3.0, chunk_length=length, terminate_on_success=False, output="torch")
    world = rla_gym.load_world(env.world)
    detector, distance = SuccessDetector.load(world.folder), make_reward(reward, world.demonstrations)
    demonstration, start = torch.tensor([0, 3, 5, 5]), torch.tensor([0, 7, 25, 29])
    chunk = length or K
    obs, info = env.reset(seed=0, options={"demo": demonstration, "t": start})
    torch.testing.assert_close(obs, world.demonstrations.at(demonstration, start))
    assert torch.equal(info["demonstration"], demonstration)
    for taken in range(1, 7):
        obs, paid, terminated, truncated, info = env.step(torch.rand(4, chunk * A) * 2 - 1)
        success = detector.success(obs)
        torch.testing.assert_close(paid, distance(obs, demonstration, start + taken * chunk) + 3.0 * success)
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


def test_starts(make: Make) -> None:
    assert (make(600, starts="first").reset(seed=0)[1]["control_steps"] == 0).all()
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


# Options


def test_dreaming_on_from_ones_own_picture(make: Make) -> None:
    env = make(2, output="torch")
    model = rla_gym.load_world(env.world).model
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    obs, info = env.reset(seed=0, options={"rgb": picture})
    torch.testing.assert_close(obs, model.encode(torch.from_numpy(picture)[None]).expand(2, -1, -1))
    first = rla_gym.load_world(env.world).demonstrations.features[:, 0].float()
    nearest = (obs[0] - first).abs().mean((1, 2)).argmin()
    assert info["demonstration"].tolist() == [int(nearest)] * 2
    pictures = np.stack([picture, 255 - picture])
    obs, info = env.reset(options={"rgb": pictures, "demo": 4})
    torch.testing.assert_close(obs, model.encode(torch.from_numpy(pictures)))
    assert info["demonstration"].tolist() == [4, 4]
    before = env.reset(seed=1)[0]
    after, info = env.reset(options={"rgb": torch.from_numpy(pictures), "reset_mask": torch.tensor([False, True])})
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1], obs[1])
    assert info["_demonstration"].tolist() == [False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"demos": 1}, "unknown reset option 'demos': use 'demo', 't', 'rgb', 'reset_mask'"),
        ({"t": 3}, "t=3 needs 'demo'"),
        ({"demo": 6}, "demo=6: this world has demonstrations 0 to 5"),
        ({"demo": -1}, "demo=-1"),
        ({"demo": 0.5}, "demo=0.5: give one integer"),
        ({"demo": [0, 1, 2]}, r"integer array \(2,\)"),
        ({"demo": [0, 5], "t": 20}, "t=20: demonstration 0 has frames 0 to 19"),
        ({"rgb": np.zeros((32, 32), np.uint8)}, r"rgb has shape \(32, 32\): give one frame \(H, W, 3\)"),
        ({"rgb": np.zeros((3, 32, 32, 3), np.uint8)}, r"rgb has shape \(3, 32, 32, 3\)"),
        ({"rgb": np.zeros((32, 32, 3), np.float32)}, "rgb has dtype float32: give uint8"),
        ({"reset_mask": np.ones(3, bool)}, "reset_mask has dtype bool"),
        ({"reset_mask": np.ones(2, int)}, "reset_mask has dtype int64"),
        ({"reset_mask": np.zeros(2, bool)}, "at least one slot"),
        ({"reset_mask": np.array([True, False])}, "every slot the first time"),
    ],
)
def test_bad_options_change_nothing(make: Make, options: dict[str, Any], message: str) -> None:
    env = make(2)
    with pytest.raises(ValueError, match=message):
        env.reset(seed=0, options=options)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(actions_for(env, 1)[0])


# Actions


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


# Rendering, closing, sharing


def test_rendering_decodes_the_present_state(make: Make) -> None:
    env = make(2, render_mode="rgb_array", output="torch")
    with pytest.raises(gym.error.ResetNeeded):
        env.render()
    _obs, _ = env.reset(seed=0)
    frames = env.render()
    assert isinstance(frames, tuple)
    assert [frame.shape for frame in frames] == [(32, 32, 3)] * 2
    assert frames[0].dtype == np.uint8
    pixels = make(2, obs="rgb")
    assert pixels.single_observation_space == gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)
    seen, _ = pixels.reset(seed=0)
    assert seen in pixels.observation_space
    assert np.array_equal(seen, np.stack(frames))
    assert env.metadata["render_fps"] == 2.5
    with pytest.warns(UserWarning, match="render_mode='rgb_array'"):
        assert pixels.render() is None


def test_worlds_are_shared_and_freed(world: str, tmp_path: Path) -> None:
    world = str(shutil.copytree(world, tmp_path / "own"))
    gc.collect()
    before = world_cache.open_worlds()
    one, two = RLAWMVectorEnv(1, world=world), RLAWMVectorEnv(2, world=world)
    other = RLAWMVectorEnv(1, world=world, dynamics="regression")
    assert world_cache.open_worlds() == before + 2
    one.close()
    one.close()
    other.close()
    assert world_cache.open_worlds() == before + 1
    with pytest.raises(gym.error.ClosedEnvironmentError):
        one.reset()
    two.reset(seed=0)
    del two  # nobody closed it
    gc.collect()
    assert world_cache.open_worlds() == before


def test_a_world_that_was_trained_on_is_loaded_afresh(world: str, tmp_path: Path) -> None:
    folder = tmp_path / "growing"
    shutil.copytree(world, folder)
    old = RLAWMVectorEnv(1, world=folder)
    SuccessDetector(16, 8, threshold=0.123).save(folder)
    new = RLAWMVectorEnv(1, world=folder)
    assert new.success_threshold == 0.123
    assert old.success_threshold != 0.123
    old.close()
    new.close()


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "Juggle"}, "unknown task 'Juggle'"),
        ({"obs": "depth"}, "obs='depth': choose one of 'features', 'rgb'"),
        ({"output": "jax"}, "output='jax'"),
        ({"reward": "dense"}, "unknown reward 'dense'"),
        ({"starts": "last"}, "starts='last': choose one of 'mixed', 'first'"),
        ({"dynamics": "ode"}, "unknown dynamics 'ode'"),
        ({"render_mode": "human"}, "render_mode='human'"),
        ({"num_envs": 0}, "num_envs=0 must be at least 1"),
        ({"chunk_length": 9}, "chunk_length=9 must be between 1 and 8"),
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
    with pytest.raises(ValueError, match=r"shows task 'Fold', not 'Lift': .*task=None"):
        make(world=other)
    make(world=other, task=None).reset(seed=0)


# Importing


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    home = Path(rla_gym.__file__).parent.parent
    code = f"import sys; sys.path.append({str(home)!r})\n{code}"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)


def test_import_is_light(tmp_path: Path) -> None:
    heavy = "('torch', 'timm', 'robosuite', 'mujoco', 'stable_baselines3', 'pyarrow')"
    done = run_python(f"import rla_gym; print([m for m in {heavy} if m in sys.modules])", tmp_path)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("file", ["world_models.py", "rewards/__init__.py", "agents/__init__.py"])
def test_a_shadowed_package_is_named(tmp_path: Path, file: str) -> None:
    package, shadow = file.removesuffix(".py").split("/")[0], tmp_path / file
    shadow.parent.mkdir(exist_ok=True)
    shadow.write_text("")
    done = run_python("import rla_gym", tmp_path)
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith(f"ImportError: rla-gym needs its own package '{package}'")
    assert str(tmp_path) in message


# No waiting for the device


class Questions(TorchDispatchMode):
    """Records every operation whose result the host must wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2"):
            self.asked.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
@pytest.mark.parametrize("arguments", [{}, {"obs": "rgb", "reward": "goal", "dynamics": "regression"}])
def test_a_step_asks_no_tensor_for_its_value(make: Make, mode: str, arguments: dict[str, Any]) -> None:
    env = make(4, output="torch", autoreset_mode=mode, **arguments)
    env.reset(seed=0)
    actions = torch.zeros(env.action_space.shape)
    with Questions() as about_actions:  # on the CPU they are looked at before the step begins
        ActionReader(4, K, A, torch.device("cpu"))(actions)
    for _ in range(8):
        with Questions() as questions:
            env.step(actions)
        assert questions.asked == about_actions.asked


# On a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("obs", ["features", "rgb"])
def test_a_step_never_waits_for_the_gpu(make: Make, mode: str, obs: str) -> None:
    env = make(4, device="cuda", output="torch", autoreset_mode=mode, obs=obs)
    env.reset(seed=0)
    actions = torch.zeros(env.action_space.shape, device="cuda")
    env.step(actions)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(9):
            env.step(actions)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with pytest.raises(ValueError, match="this or a recent step hold NaN"):  # noqa: PT012
        env.step(actions * torch.nan)
        torch.cuda.synchronize()
        env.step(actions)
    env.step(actions)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_dreams_what_the_cpu_dreams(make: Make) -> None:
    actions = actions_for(make(3), 3)
    gpu = make(3, device="cuda", terminate_on_success=False)
    for one, other in zip(
        rollout(gpu, actions, seed=2), rollout(make(3, terminate_on_success=False), actions, seed=2), strict=True
    ):
        np.testing.assert_allclose(one[0], other[0], rtol=0.02, atol=0.02)
