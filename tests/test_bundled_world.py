"""The worlds that ship: they load offline, are small, and predict held-out episodes better than no change."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from safetensors import safe_open

import rla_gym  # noqa: F401  registers the environments
from rewards.success import SuccessDetector
from tests.held_out import FOLDER, load_held_out
from world_models.io import World, dynamics_in, load_model, load_world, world_folder
from world_models.open_loop import open_loop


@pytest.fixture(scope="module", params=["lift", "stack"])
def world(request: pytest.FixtureRequest) -> World:
    return load_world(request.param)


@pytest.mark.parametrize("name", ["lift", "stack"])
def test_it_is_small_and_complete(name: str) -> None:
    folder = world_folder(name)
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sum(files.values()) < 40e6  # both in one wheel: the package index takes 100 MB
    wanted = {"config.json", "model.safetensors", "demonstrations.safetensors", "success.json", "README.md"}
    assert wanted <= set(files)
    assert "one bit an episode" in (folder / "README.md").read_text()


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


def test_it_holds_no_weight_that_no_prediction_uses(world: World) -> None:
    with safe_open(world.folder / "model.safetensors", "pt") as file:
        stored = set(file.keys())
    used = {name for dynamics in dynamics_in(world.folder) for name in load_model(world.folder, dynamics).state_dict()}
    assert stored == used


@pytest.mark.parametrize("name", ["Lift residual_flow", "Lift regression", "Stack residual_flow"])
def test_the_converted_world_predicts_what_it_did_before_its_conversion(name: str) -> None:
    """Against numbers that rla-gym 0.1 gave from the same initial states; another processor rounds differently."""
    task, dynamics = name.split()
    expected = json.loads((FOLDER / "dreams_of_version_0_1.json").read_text())[name]
    env = gym.make_vec(f"RLAWM-{task}-v0", num_envs=4, dynamics=dynamics)
    observation, _ = env.reset(seed=0)
    random = np.random.default_rng(0)
    for number, step in enumerate(expected):
        if number:
            actions = random.uniform(-1, 1, env.action_space.shape or ()).astype(np.float32)
            observation, reward, _, _, info = env.step(actions)
            np.testing.assert_allclose(reward, step["reward"], atol=2e-3)
            np.testing.assert_allclose(observation[:, ::13, ::17], step["first_numbers"], atol=2e-3)
            for key in ("success_probability", "uncertainty"):
                np.testing.assert_allclose(info[key], step[key], atol=2e-3)
        np.testing.assert_allclose(np.abs(observation).mean(axis=(1, 2)), step["features"], atol=1e-4)
    env.close()


def test_it_beats_persistence_on_held_out_episodes_at_every_horizon(world: World) -> None:
    held_out = load_held_out(world.model.config.task)
    start, real = held_out.states[:, 0], held_out.states[:, 1:]
    persistence = (start[:, None] - real).abs().mean(dim=(0, 2, 3))
    for dynamics in dynamics_in(world.folder):
        predicted = open_loop(load_model(world.folder, dynamics), start, held_out.actions).features
        error = (predicted - real).abs().mean(dim=(0, 2, 3))
        assert bool((error < 0.7 * persistence).all()), (dynamics, (error / persistence).tolist())


def test_a_prediction_in_bfloat16_differs_by_less_than_its_error(world: World) -> None:
    held_out = load_held_out(world.model.config.task)
    reduced = load_model(world.folder, precision="bfloat16")
    predicted, faster = (
        open_loop(model, held_out.states[:, 0], held_out.actions).features for model in (world.model, reduced)
    )
    assert faster.dtype == torch.float32
    difference, error = (faster - predicted).abs().mean(), (predicted - held_out.states[:, 1:]).abs().mean()
    assert 0 < float(difference) < 0.1 * float(error)


def test_predicted_outcomes_of_held_out_episodes_are_mostly_right_and_resting_fails(world: World) -> None:
    held_out = load_held_out(world.model.config.task)
    detector = SuccessDetector.load(world.folder)
    real = detector.success(held_out.states[:, -1])
    assert float((real == held_out.succeeded).float().mean()) > 0.9
    start = held_out.states[:, 0]
    predicted = open_loop(world.model, start, held_out.actions).features[:, -1]
    success = detector.imagined_success(predicted, world.model.name)
    right = [(success == held_out.succeeded)[held_out.succeeded == outcome].float().mean() for outcome in (True, False)]
    assert sum(map(float, right)) / 2 > 0.7, right
    rested = open_loop(world.model, start, torch.zeros_like(held_out.actions)).features[:, -1]
    assert float(detector.imagined_success(rested, world.model.name).float().mean()) < 0.1


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
