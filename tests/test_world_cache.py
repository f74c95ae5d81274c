"""Rendering, closing, and one set of weights for all environments over a world."""

from __future__ import annotations

import gc
import shutil
import threading
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rewards import SuccessDetector
from rla_gym import RLAWMVectorEnv, world_cache
from tests.dreams import Make


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
    observed, _ = pixels.reset(seed=0)
    assert observed in pixels.observation_space
    assert np.array_equal(observed, np.stack(frames))
    assert env.metadata["render_fps"] == 2.5
    with pytest.warns(UserWarning, match="render_mode='rgb_array'"):
        assert pixels.render() is None


def test_an_environment_that_is_collected_while_a_world_loads_is_released(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = world_cache.open_worlds()
    cycle: list[Any] = [RLAWMVectorEnv(1, world=make(1).world, dynamics="regression")]
    cycle.append(cycle)
    del cycle
    load = world_cache.load_world

    def load_and_collect(*arguments: Any, **named: Any) -> Any:
        gc.collect()
        return load(*arguments, **named)

    monkeypatch.setattr(world_cache, "load_world", load_and_collect)
    made: list[RLAWMVectorEnv] = []
    thread = threading.Thread(target=lambda: made.append(make(1, precision="bfloat16")), daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert made, "loading waits for the lock that it holds"
    assert world_cache.open_worlds() == before + 2  # not the collected one


def test_a_reduced_precision_is_another_dream(make: Make) -> None:
    before = world_cache.open_worlds()
    full, reduced = make(4, output="torch"), make(4, output="torch", precision="bfloat16")
    assert world_cache.open_worlds() == before + 2
    predicted = []
    for env in (full, reduced):
        env.reset(seed=0)
        predicted.append(env.step(np.full(env.action_space.shape, 0.3, np.float32))[0])
    assert predicted[1].dtype == predicted[0].dtype
    assert 0 < float((predicted[1] - predicted[0]).abs().max()) < 0.1


def test_a_chunk_of_several_predictions_is_as_many_short_chunks(make: Make) -> None:
    arguments = {"dynamics": "regression", "output": "torch", "terminate_on_success": False, "initial_states": "first"}
    several, short = make(4, prediction_length=4, **arguments), make(4, chunk_length=4, **arguments)
    actions = np.random.default_rng(0).uniform(-1, 1, several.action_space.shape).astype(np.float32)
    several.reset(seed=0)
    predicted, *_, info = several.step(actions)
    short.reset(seed=0)
    for half in np.split(actions, 2, axis=1):
        expected, *_, last = short.step(half)
    np.testing.assert_allclose(predicted, expected, atol=1e-5)
    np.testing.assert_allclose(info["uncertainty"], last["uncertainty"], rtol=1e-4)
    single = make(4, **arguments)
    single.reset(seed=0)
    assert np.abs(single.step(actions)[0] - predicted).max() > 1e-3
    with pytest.raises(ValueError, match="the same files and the same dynamics"):
        several.set_state(single.get_state())


def test_worlds_are_shared_and_freed(world: str, tmp_path: Path) -> None:
    world = str(shutil.copytree(world, tmp_path / "copy"))
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


def test_a_world_whose_files_changed_is_loaded_anew(world: str, tmp_path: Path) -> None:
    folder = tmp_path / "growing"
    shutil.copytree(world, folder)
    old = RLAWMVectorEnv(1, world=folder)
    detector = SuccessDetector(16, 8, threshold=0.123)
    detector.imagined_thresholds["residual_flow"] = 0.456
    detector.save(folder)
    new = RLAWMVectorEnv(1, world=folder)
    assert new.success_threshold == 0.456
    assert old.success_threshold not in (0.123, 0.456)
    old.close()
    new.close()


def test_single_environments_share_one_world(world: str, tmp_path: Path) -> None:
    world = str(shutil.copytree(world, tmp_path / "copy"))
    gc.collect()
    before = world_cache.open_worlds()
    envs = gym.make_vec("RLAWM-Lift-v0", num_envs=8, vectorization_mode="sync", world=world)
    assert world_cache.open_worlds() == before + 1
    envs.close()
    assert world_cache.open_worlds() == before


def test_a_bad_argument_leaves_no_world_behind(world: str, tmp_path: Path) -> None:
    world = str(shutil.copytree(world, tmp_path / "copy"))
    gc.collect()
    before = world_cache.open_worlds()
    with pytest.raises(ValueError, match="chunk_length=9"):
        RLAWMVectorEnv(1, world=world, chunk_length=9)
    gc.collect()
    assert world_cache.open_worlds() == before
