"""Stable-Baselines3's algorithms start as the clone, learn in the dream, and are kept in both forms."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.bc import BCConfig, train_bc
from agents.policies.io import load_policy
from agents.policies.token_policy import TokenPolicy
from rla_gym.vector_env import RLAWMVectorEnv

stable_baselines3 = pytest.importorskip("stable_baselines3", reason='pip install "rla-gym[agents]"')

from agents.sb3_ppo import SB3PPOConfig, make_sb3_ppo, train_sb3_ppo  # noqa: E402
from agents.sb3_sac import SB3SACConfig, make_sb3_sac, train_sb3_sac  # noqa: E402
from rla_gym.clients.sb3 import DreamVecEnv  # noqa: E402


@pytest.fixture(scope="module")
def clone(world: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clone")
    return train_bc(
        BCConfig(world=world, out=out, demonstrations=2, gradient_steps=40, width=32, device="cpu", progress=False)
    )


@pytest.fixture
def cloned(clone: Path) -> TokenPolicy:
    policy = load_policy(clone)
    assert isinstance(policy, TokenPolicy)
    return policy


def dream(world: str, **arguments: int) -> DreamVecEnv:
    return DreamVecEnv(RLAWMVectorEnv(4, world=world, autoreset_mode="SameStep", **arguments))


def largest_difference(one: Path, other: Path) -> float:
    first, second = (load_file(folder / "policy.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_ppo_starts_as_the_clone(cloned: TokenPolicy, world: str, tmp_path: Path) -> None:
    envs = dream(world)
    model = make_sb3_ppo(cloned, envs, SB3PPOConfig(out=tmp_path, batch_size=16, device="cpu"))
    observations = envs.reset()
    actions, _ = model.predict(observations, deterministic=True)
    assert np.abs(actions - cloned.act(torch.from_numpy(observations)).numpy()).max() < 1e-6
    assert torch.equal(model.policy.log_std, cloned.log_std)
    envs.close()


def test_sac_starts_as_the_clone_up_to_the_curvature_of_its_tanh(
    cloned: TokenPolicy, world: str, tmp_path: Path
) -> None:
    envs = dream(world)
    model = make_sb3_sac(cloned, envs, SB3SACConfig(out=tmp_path, env_steps=64, device="cpu"))
    observations = envs.reset()
    clone_actions = cloned.act(torch.from_numpy(observations)).numpy()
    actions, _ = model.predict(observations, deterministic=True)
    assert np.abs(clone_actions).max() > 0.1
    assert np.abs(actions.clip(-1, 1) - clone_actions).max() < 0.04
    drawn = np.stack([model.predict(observations)[0] for _ in range(300)])
    spread, wanted = drawn.std(axis=0).mean(), float(cloned.log_std.detach().exp().mean())
    assert spread == pytest.approx(wanted, rel=0.1)
    envs.close()


@pytest.mark.parametrize(("make", "config"), [(make_sb3_ppo, SB3PPOConfig), (make_sb3_sac, SB3SACConfig)])
def test_a_dream_of_other_spaces_is_refused(make, config, cloned: TokenPolicy, world: str, tmp_path: Path) -> None:
    narrow = dream(world, chunk_length=4)
    with pytest.raises(ValueError, match="chunk length"):
        make(cloned, narrow, config(out=tmp_path, device="cpu"))
    narrow.close()


def test_ppo_trains_and_saves_both_forms(clone: Path, tmp_path: Path) -> None:
    config = SB3PPOConfig(
        policy=clone, out=tmp_path, num_envs=8, batch_size=32, iterations=3, warmup_iterations=2, device="cpu",
        initial_states="mixed", progress=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="must divide"):
        train_sb3_ppo(dataclasses.replace(config, batch_size=33))
    warm = train_sb3_ppo(dataclasses.replace(config, out=tmp_path / "warm", iterations=2))
    assert largest_difference(clone, warm) == 0.0
    folder = train_sb3_ppo(config)
    assert largest_difference(clone, folder) > 0.0
    policy = load_policy(folder)
    assert policy.method == "sb3_ppo"
    assert policy.facts["training"]["env_steps"] == 3 * 8 * config.num_steps
    model = stable_baselines3.PPO.load(folder / "model.zip", device="cpu")
    features = np.random.default_rng(0).normal(size=(3, 16, 8)).astype(np.float32)
    actions, _ = model.predict(features, deterministic=True)
    assert np.abs(actions - policy.act(torch.from_numpy(features)).numpy()).max() < 1e-6


def test_sac_trains_and_saves_both_forms(clone: Path, tmp_path: Path) -> None:
    config = SB3SACConfig(
        policy=clone, out=tmp_path, num_envs=8, batch_size=16, env_steps=48, warmup_env_steps=32, device="cpu",
        initial_states="mixed", progress=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="at least one"):
        train_sb3_sac(dataclasses.replace(config, env_steps=4))
    warm = train_sb3_sac(dataclasses.replace(config, out=tmp_path / "warm", env_steps=32))
    assert largest_difference(clone, warm) < 1e-6
    folder = train_sb3_sac(config)
    assert largest_difference(clone, folder) > 1e-5
    policy = load_policy(folder)
    assert policy.method == "sb3_sac"
    assert policy.facts["training"]["env_steps"] == 48
    model = stable_baselines3.SAC.load(folder / "model.zip", device="cpu")
    features = np.random.default_rng(0).normal(size=(3, 16, 8)).astype(np.float32)
    actions, _ = model.predict(features, deterministic=True)
    assert np.abs(actions.clip(-1, 1) - policy.act(torch.from_numpy(features)).numpy()).max() < 0.04


@pytest.mark.parametrize(
    ("train", "config", "more"),
    [
        (train_sb3_ppo, SB3PPOConfig, {"iterations": 3, "warmup_iterations": 1, "batch_size": 32}),
        (
            train_sb3_sac,
            SB3SACConfig,
            {"env_steps": 64 * 8, "warmup_env_steps": 32 * 8, "batch_size": 16, "gradient_steps": 2},
        ),
    ],
)
def test_every_run_logs_uncertainty_and_distance_from_the_clone(
    train, config, more, clone: Path, tmp_path: Path
) -> None:
    settings = {
        "policy": clone,
        "out": tmp_path,
        "num_envs": 8,
        "max_chunks": 2,
        "initial_states": "mixed",
        "device": "cpu",
    }
    train(config(**settings, learning_rate=1e-2, progress=False, **more))
    (log,) = (tmp_path / "tensorboard").iterdir()
    events = EventAccumulator(str(log)).Reload()
    uncertainty, distance = (
        [scalar.value for scalar in events.Scalars(f"charts/{name}")] for name in ("uncertainty", "distance_to_bc")
    )
    assert min(uncertainty) > 0
    assert distance[0] < 0.02
    assert distance[-1] > distance[0]


def test_a_policy_that_cannot_learn_is_refused(world: str, tmp_path: Path) -> None:
    from agents.blind import BlindConfig, make_blind

    blind = make_blind(BlindConfig(world=world, out=tmp_path / "blind", demonstrations=2))
    for train, config in ((train_sb3_ppo, SB3PPOConfig), (train_sb3_sac, SB3SACConfig)):
        with pytest.raises(ValueError, match="'blind' policy"):
            train(config(policy=blind, out=tmp_path / "out", progress=False))
