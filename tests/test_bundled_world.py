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
from rla_gym.tasks import episode_chunks
from world_models.open_loop import open_loop
from world_models.world_model import World, dynamics_in, load_model, load_world, world_folder


@pytest.fixture(scope="module", params=["lift", "stack"])
def world(request: pytest.FixtureRequest) -> World:
    return load_world(request.param)


def in_chunks(world: World) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """First states (N, L, C) of the demonstrations, their actions (N, M, K, A) and states (N, M, L, C) after them."""
    chunks, length = episode_chunks(world.model.config.task), world.model.chunk_length
    features = world.demonstrations.features.float()
    # The frame after the last action of an episode is not recorded; the one before stands in for it.
    frames = (length * torch.arange(1, chunks + 1)).clamp_max(features.shape[1] - 1)
    actions = world.demonstrations.actions[:, : chunks * length].unflatten(1, (chunks, length))
    return features[:, 0], actions, features[:, frames]


@pytest.mark.parametrize("name", ["lift", "stack"])
def test_it_is_small_and_complete(name: str) -> None:
    folder = world_folder(name)
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sum(files.values()) < 52e6
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


def test_it_beats_persistence_at_every_horizon(world: World) -> None:
    for dynamics in dynamics_in(world.folder):
        model = load_model(world.folder, dynamics)
        start, actions, real = in_chunks(world)
        error = (open_loop(model, start, actions).features - real).abs().mean(dim=(0, 2, 3))
        persistence = (start[:, None] - real).abs().mean(dim=(0, 2, 3))
        assert bool((error < 0.6 * persistence).all()), (error / persistence).tolist()


def test_a_dream_in_bfloat16_differs_by_less_than_it_errs(world: World) -> None:
    reduced = load_model(world.folder, precision="bfloat16")
    start, actions, real = in_chunks(world)
    imagined, faster = (open_loop(model, start, actions).features for model in (world.model, reduced))
    assert faster.dtype == torch.float32
    difference, error = (faster - imagined).abs().mean(), (imagined - real).abs().mean()
    assert 0 < float(difference) < 0.1 * float(error)


def test_demonstrated_actions_succeed_in_the_dream_and_resting_does_not(world: World) -> None:
    detector = SuccessDetector.load(world.folder)
    start, actions, _ = in_chunks(world)
    succeeded = detector.success(open_loop(world.model, start, actions).features[:, -1])
    rested = detector.success(open_loop(world.model, start, torch.zeros_like(actions)).features[:, -1])
    assert float(succeeded.float().mean()) > 0.8
    assert float(rested.float().mean()) < 0.1


@pytest.mark.parametrize("task", ["Lift", "Stack"])
def test_dream_and_simulator_have_the_same_spaces(task: str) -> None:
    pytest.importorskip("robosuite", reason='the simulator is not installed: pip install "rla-gym[robosuite]"')
    for obs in ("features", "rgb"):
        dream, real = (gym.make(name, obs=obs) for name in (f"RLAWM-{task}-v0", f"Robosuite-{task}-v0"))
        assert dream.observation_space == real.observation_space
        assert dream.action_space == real.action_space
        dream.close()
        real.close()


@pytest.mark.parametrize("task", ["Lift", "Stack"])
def test_a_real_frame_starts_a_dream_near_itself(task: str) -> None:
    pytest.importorskip("robosuite", reason='the simulator is not installed: pip install "rla-gym[robosuite]"')
    real = gym.make(f"Robosuite-{task}-v0", obs=("rgb", "proprioception"))
    seen, _ = real.reset(seed=7)
    real.close()
    dream = gym.make(f"RLAWM-{task}-v0", obs="rgb")
    imagined, _ = dream.reset(options=seen)
    dream.close()
    assert np.abs(imagined.astype(float) - seen["rgb"]).mean() < 12
