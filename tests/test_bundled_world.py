"""The world that ships: loads offline, is small, and dreams better than standing still."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import rla_gym  # noqa: F401  registers the environments
from rewards.success import SuccessDetector
from world_models.open_loop import open_loop
from world_models.world_model import World, load_world, world_folder


@pytest.fixture(scope="module")
def world() -> World:
    return load_world("lift")


def test_it_is_small_and_complete() -> None:
    folder = world_folder("lift")
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sum(files.values()) < 50e6
    assert {"config.json", "model.safetensors", "starts.safetensors", "success.json", "README.md"} <= set(files)
    assert "No simulator state entered any training" in (folder / "README.md").read_text()


def test_the_first_line_of_the_readme_works_without_a_network(tmp_path: Path) -> None:
    code = (
        "import socket; socket.socket.connect = lambda *a: (_ for _ in ()).throw(OSError('network is off'))\n"
        "import gymnasium as gym, rla_gym\n"
        "env = gym.make('RLAWM-Lift-v0')\n"
        "print(env.reset(seed=0)[0].shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == "(65, 64)"


def test_gymnasium_and_stable_baselines_accept_it() -> None:
    sb3 = pytest.importorskip("stable_baselines3.common.env_checker", reason='pip install "rla-gym[agents]"')
    env = gym.make("RLAWM-Lift-v0")
    check_env(env.unwrapped, skip_render_check=True)
    sb3.check_env(env.unwrapped, warn=False)
    env.close()


@pytest.mark.parametrize("dynamics", ["flow", "regression"])
def test_it_beats_persistence_at_every_horizon(world: World, dynamics: str) -> None:
    model = load_world("lift", dynamics=dynamics).model
    chunks, length = 6, model.chunk_length
    features = world.demonstrations.features.float()
    actions = world.demonstrations.actions[:, : chunks * length].unflatten(1, (chunks, length))
    imagined = open_loop(model, features[:, 0], actions).features
    real = features[:, length : chunks * length + 1 : length]
    error = (imagined - real).abs().mean(dim=(0, 2, 3))
    persistence = (features[:, :1] - real).abs().mean(dim=(0, 2, 3))
    assert bool((error < 0.6 * persistence).all()), (error / persistence).tolist()


def test_a_dream_in_bfloat16_differs_by_less_than_it_errs(world: World) -> None:
    reduced = load_world("lift", precision="bfloat16").model
    features = world.demonstrations.features.float()
    actions = world.demonstrations.actions[:, :48].unflatten(1, (6, 8))
    imagined, faster = (open_loop(model, features[:, 0], actions).features for model in (world.model, reduced))
    assert faster.dtype == torch.float32
    difference, error = (faster - imagined).abs().mean(), (imagined - features[:, 8:49:8]).abs().mean()
    assert 0 < float(difference) < 0.1 * float(error)


def test_demonstrated_actions_succeed_in_the_dream_and_resting_does_not(world: World) -> None:
    detector = SuccessDetector.load(world.folder)
    features = world.demonstrations.features.float()
    actions = world.demonstrations.actions[:, :48].unflatten(1, (6, 8))
    succeeded = detector.success(open_loop(world.model, features[:, 0], actions).features[:, -1])
    rested = detector.success(open_loop(world.model, features[:, 0], torch.zeros_like(actions)).features[:, -1])
    assert float(succeeded.float().mean()) > 0.8
    assert float(rested.float().mean()) < 0.1


def test_dream_and_simulator_have_the_same_spaces() -> None:
    pytest.importorskip("robosuite", reason='the simulator is not installed: pip install "rla-gym[robosuite]"')
    for obs in ("features", "rgb"):
        dream, real = (gym.make(name, obs=obs) for name in ("RLAWM-Lift-v0", "Robosuite-Lift-v0"))
        assert dream.observation_space == real.observation_space
        assert dream.action_space == real.action_space
        dream.close()
        real.close()


def test_a_real_frame_starts_a_dream_near_itself() -> None:
    pytest.importorskip("robosuite", reason='the simulator is not installed: pip install "rla-gym[robosuite]"')
    real = gym.make("Robosuite-Lift-v0", obs=("rgb", "proprioception"))
    seen, _ = real.reset(seed=7)
    real.close()
    dream = gym.make("RLAWM-Lift-v0", obs="rgb")
    imagined, _ = dream.reset(options=seen)
    dream.close()
    assert np.abs(imagined.astype(float) - seen["rgb"]).mean() < 12
