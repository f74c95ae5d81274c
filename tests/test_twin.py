"""The twin's observations and rewards are the dream's, of real pictures; and its processes never outlive it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import rla_gym
from rewards import SuccessDetector, make_reward
from rla_gym.ground_truth.env import RobosuiteEnv
from rla_gym.ground_truth.vector import RobosuiteVectorEnv
from rla_gym.observations import OBSERVATIONS, pool
from tests.dreams import assert_same
from world_models.io import load_world

EVERYTHING: dict[str, Any] = {"obs": OBSERVATIONS, "reward": "corresponding"}


@pytest.fixture(scope="module")
def world(proprioceptive_world: str) -> str:
    return proprioceptive_world


@pytest.fixture(scope="module")
def env(world: str) -> Iterator[RobosuiteEnv]:
    """Observes everything, is rewarded by the demonstrations, and never ends early."""
    try:
        made = RobosuiteEnv(world=world, max_chunks=2, terminate_on_success=False, success_bonus=3.0, **EVERYTHING)
    except ImportError as error:
        pytest.skip(f"no simulator here: {error}")
    yield made
    made.close()


def test_observations_are_those_of_the_dream(env: RobosuiteEnv, world: str) -> None:
    dream = gym.make("RLAWM-Lift-v0", world=world, obs=OBSERVATIONS)
    spaces, dream_spaces = env.observation_space, dream.observation_space
    assert isinstance(spaces, gym.spaces.Dict)
    assert isinstance(dream_spaces, gym.spaces.Dict)
    assert list(spaces) == list(dream_spaces)
    for name in set(OBSERVATIONS) - {"rgb"}:  # the tiny world's frames are smaller than the camera's
        assert spaces[name] == dream_spaces[name]
    assert env.action_space == dream.action_space
    dream.close()
    obs, _ = env.reset(seed=0)
    action = np.full(32, 0.1, np.float32)
    for remaining in (1.0, 0.5, 0.0):
        assert obs in spaces
        assert obs["remaining_time"] == remaining
        features = torch.from_numpy(obs["features"])[None]
        encode = load_world(world).model.encode
        encoded = encode(torch.from_numpy(obs["rgb"])[None], torch.from_numpy(obs["proprioception"])[None])
        torch.testing.assert_close(features, encoded, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(obs["pooled"], pool(features)[0])
        assert (obs["last_action"] == (0 if remaining == 1 else action)).all()
        if remaining:
            obs, *_ = env.step(action)


def test_the_checker_accepts_every_observation(env: RobosuiteEnv) -> None:
    check_env(env, skip_render_check=True)


@pytest.mark.parametrize("reward", ["corresponding", "goal", "success_probability"])
def test_video_aligned_reward_is_that_of_real_features(env: RobosuiteEnv, world: str, reward: str) -> None:
    opened = load_world(world)
    demonstrations = opened.demonstrations
    distance = make_reward(reward, demonstrations, SuccessDetector.load(opened.folder))
    vector = RobosuiteVectorEnv(1, world=world, reward=reward, success_bonus=3.0)
    obs, info = vector.reset(seed=5)
    first = demonstrations.features[:, 0].float()
    nearest = int((torch.from_numpy(obs) - first).abs().mean((1, 2)).argmin())
    assert info["demonstration"].tolist() == [nearest]
    assert info["reward_alignment"].tolist() == [0.0]
    for taken in (1, 2):
        obs, rewards, _, _, info = vector.step(np.full((1, 32), 0.2, np.float32))
        place = torch.tensor([nearest]), torch.tensor([8 * taken])
        expected = float(distance(torch.from_numpy(obs), *place))
        assert rewards[0] == pytest.approx(expected, rel=1e-4)
        assert info["reward_alignment"][0] == pytest.approx(expected, rel=1e-4)
        assert info["reward_success"].tolist() == [0.0]
        assert info["demonstration"].tolist() == [nearest]
    vector.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_autoreset_is_gymnasiums_own(env: RobosuiteEnv, world: str, mode: AutoresetMode) -> None:
    """Encoding in one batch in the parent changes nothing: single environments that encode their pictures agree."""
    arguments: dict[str, Any] = {"world": world, "max_chunks": 2, "success_bonus": 3.0, **EVERYTHING}
    vector = RobosuiteVectorEnv(2, autoreset_mode=mode, **arguments)
    reference = SyncVectorEnv([lambda: RobosuiteEnv(**arguments)] * 2, autoreset_mode=mode)
    assert vector.observation_space == reference.observation_space
    assert_same(vector.reset(seed=3), reference.reset(seed=3))
    rng = np.random.default_rng(0)
    for step in range(4):
        actions = rng.uniform(-1, 1, (2, 32)).astype(np.float32)
        assert_same(vector.step(actions), reference.step(actions), f"step {step} ")
        if step == 0:
            mask = np.array([False, True])
            assert_same(
                vector.reset(options={"reset_mask": mask}), reference.reset(options={"reset_mask": mask.copy()})
            )
    reference.close()
    vector.close()


def test_torch_output_of_a_dict(env: RobosuiteEnv, world: str) -> None:
    obs = ("pooled", "remaining_time")
    vector = RobosuiteVectorEnv(1, world=world, obs=obs, output="torch", autoreset_mode="SameStep", max_chunks=2)
    observation = vector.reset(seed=0)[0]
    assert all(isinstance(value, torch.Tensor) for value in observation.values())
    for ends in (False, True):
        *_, info = vector.step(torch.zeros(1, 32))
        assert info["_final_obs"].tolist() == [ends]
        assert info["final_obs"]["pooled"].shape == (1, 136)
        assert bool(info["final_obs"]["pooled"].any()) == ends
    vector.close()


# Processes


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()


def wait_until_gone(pids: list[int], seconds: float = 60.0) -> list[int]:
    """Who of them is still there after that time."""
    end = time.monotonic() + seconds
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def workers() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")


@needs_proc
def test_processes_end_with_close_with_the_object_and_with_a_failure(env: RobosuiteEnv) -> None:
    before = set(workers())
    for ending in ("close", "garbage collection", "failure"):
        vector = RobosuiteVectorEnv(1, obs="last_action", vectorization="async")
        vector.reset(seed=0)
        started = [pid for pid in workers() if pid not in before]
        assert len(started) == 1
        if ending == "close":
            vector.close()
            vector.close()
        elif ending == "garbage collection":
            del vector
            gc.collect()
        else:
            os.kill(started[0], signal.SIGKILL)
            with pytest.raises((EOFError, ConnectionError)):
                vector.step(np.zeros((1, 32), np.float32))
            with pytest.raises(gym.error.ClosedEnvironmentError):
                vector.step(np.zeros((1, 32), np.float32))
        assert wait_until_gone(started) == [], ending


SCRIPT = """
import multiprocessing, signal
import gymnasium as gym, numpy as np, rla_gym
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background inherits SIG_IGN
    envs = gym.make_vec("Robosuite-Lift-v0", num_envs=2, obs="last_action", vectorization="async")
    envs.reset(seed=0)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    while True:
        envs.step(np.zeros((2, 32), np.float32))
"""


@needs_proc
@pytest.mark.parametrize("to_all", [True, False], ids=["terminal", "parent alone"])
def test_no_process_is_left_after_an_interrupt(env: RobosuiteEnv, tmp_path: Path, to_all: bool) -> None:
    """A terminal's Ctrl-C reaches the whole process group; a job runner's signal the parent alone."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    home = str(Path(rla_gym.__file__).parent.parent)
    parent = subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": home}, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(alive, pids))
    (os.killpg if to_all else os.kill)(parent.pid, signal.SIGINT)
    _, problems = parent.communicate(timeout=120)
    assert wait_until_gone(pids) == []
    assert problems.count("Traceback") == 1  # the parent's own KeyboardInterrupt; the workers keep quiet
    assert "KeyboardInterrupt" in problems
