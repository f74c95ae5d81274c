"""Policies, behaviour cloning, the blind policy and PPO, on a tiny world of random weights."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from safetensors.torch import load_file

from agents.bc import BCConfig, train_bc
from agents.blind import BlindConfig, make_blind
from agents.cloning_data import choose_demonstrations, chunk_samples
from agents.evaluate import EvaluateConfig, evaluate
from agents.play import PlayConfig, play
from agents.policies.gaussian import gaussian_kl, gaussian_log_prob
from agents.policies.io import load_policy
from agents.policies.token_policy import TokenPolicy
from agents.ppo import PPOConfig, train_ppo
from agents.ppo_checkpoint import load_checkpoint
from rewards.success import SuccessDetector
from rla_gym.tasks import dream_id
from world_models.data.demonstrations import Demonstrations
from world_models.devices import choose_device


@pytest.fixture(scope="module")
def world(tiny_world_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world with a success detector that some of its dreams satisfy."""
    folder = tmp_path_factory.mktemp("agents") / "world"
    shutil.copytree(tiny_world_folder, folder)
    torch.manual_seed(0)
    SuccessDetector(16, 8, threshold=0.56).save(folder)
    return folder


@pytest.fixture(scope="module")
def clone(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clone")
    config = BCConfig(
        world=str(world), out=out, demonstrations=3, gradient_steps=40, width=32, device="cpu", progress=False
    )
    return train_bc(config)


@pytest.fixture
def ppo(clone: Path, tmp_path: Path) -> PPOConfig:
    return PPOConfig(
        policy=clone,
        out=tmp_path / "ppo",
        num_envs=8,
        iterations=4,
        warmup_iterations=1,
        checkpoint_every=2,
        device="cpu",
        progress=False,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "policy.safetensors")


def largest_difference(one: Path, other: Path) -> float:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def history(folder: Path) -> list[dict[str, float]]:
    from safetensors import safe_open

    with safe_open(folder / "checkpoint.safetensors", "pt") as file:
        return json.loads(file.metadata()["state"])["history"]


# ---- policies


@pytest.mark.parametrize("num_tokens", [16, 12])  # a square grid, and tokens without one
def test_policy_comes_back_from_its_folder(tmp_path: Path, num_tokens: int) -> None:
    policy = TokenPolicy(num_tokens, 8, chunk_length=3, action_dim=4, width=32, queries=2)
    policy.facts = {"method": "bc", "world": "lift"}
    loaded = load_policy(policy.save(tmp_path))
    features = torch.randn(5, num_tokens, 8)
    assert torch.equal(loaded.act(features, torch.zeros(5, dtype=torch.int64)), policy.act(features))
    assert loaded.act(features).shape == (5, 12)
    assert loaded.act(features).abs().max() <= 1
    assert loaded.method == "bc"
    assert loaded.facts["world"] == "lift"
    assert not loaded.training


def test_a_policys_action_depends_on_where_a_token_is() -> None:
    """Attention pooling must not lose positions: the same content elsewhere is another action."""
    torch.manual_seed(0)
    policy = TokenPolicy(16, 8, 2, 4, width=32)
    features = torch.zeros(2, 16, 8)
    features[0, 3], features[1, 12] = 1.0, 1.0
    one, other = policy.act(features)
    assert (one - other).abs().max() > 1e-3


def test_policy_errors_name_the_fix(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="rla-gym agent bc"):
        load_policy(tmp_path)
    policy = TokenPolicy(16, 8, 2, 4, width=32)
    policy.save(tmp_path)
    with pytest.raises(ValueError, match=r"\(B, 16, 8\), got \(1, 16, 9\)"):
        policy.act(torch.zeros(1, 16, 9))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "kind": "oracle"}))
    with pytest.raises(ValueError, match="kind"):
        load_policy(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "channels": 9}))
    with pytest.raises(ValueError, match="does not fit"):
        load_policy(tmp_path)
    with pytest.raises(ValueError, match="'auto', 'cpu'"):
        choose_device("gpu")


# ---- behaviour cloning and the blind policy


def test_bc_learns_demonstrations_by_heart(world: Path, tmp_path: Path) -> None:
    # frames and actions of pure noise: only memory helps, and without augmentation it must be complete
    shutil.copytree(world, tmp_path / "noise")
    torch.manual_seed(0)
    frames, moves = [torch.randn(25, 16, 8) for _ in range(3)], [torch.rand(25, 4) * 2 - 1 for _ in range(3)]
    demonstrations = Demonstrations.stack(frames, moves)
    demonstrations.save(tmp_path / "noise")
    config = BCConfig(
        world=str(tmp_path / "noise"),
        out=tmp_path / "bc",
        demonstrations=2,
        gradient_steps=250,
        feature_noise=0.0,
        token_dropout=0.0,
        initial_std=0.2,
        device="cpu",
        progress=False,
    )
    folder = train_bc(config)
    facts = json.loads((folder / "config.json").read_text())
    assert facts["method"] == "bc"
    assert facts["task"] == "Lift"
    assert Path(facts["world"]) == tmp_path / "noise"
    assert facts["training"]["last_loss"] < 0.2 * facts["training"]["first_loss"]
    assert facts["training"]["training_error"] < 0.1 < facts["training"]["held_out_error"]
    policy = load_policy(folder)
    assert isinstance(policy, TokenPolicy)
    assert torch.allclose(policy.log_std.exp(), torch.tensor(0.2))

    index = facts["training"]["demonstration_indices"][0]
    action = policy.act(demonstrations.at(torch.tensor([index]), torch.tensor([5])))
    assert (action.view(8, 4) - demonstrations.actions[index, 5:13]).abs().mean() < 0.1


def test_bc_is_reproducible(world: Path, tmp_path: Path, clone: Path) -> None:
    torch.manual_seed(123)  # what other code does to torch's generator must not matter
    config = BCConfig(world=str(world), out=tmp_path, demonstrations=3, gradient_steps=40, width=32, device="cpu")
    again = train_bc(dataclasses.replace(config, progress=False))
    assert largest_difference(clone, again) == 0.0


def test_of_videos_the_frames_alone_are_used(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "world")
    demonstrations = Demonstrations.load(world)
    config = BCConfig(world=str(tmp_path / "world"), out=tmp_path / "bc", demonstrations=2, videos=3, gradient_steps=30,
                      width=32, device="cpu", progress=False)  # fmt: skip
    policies = []
    for unknown in (0.0, 0.7):
        actions = demonstrations.actions.clone()
        actions[choose_demonstrations(demonstrations, 5, config.seed)[2:]] = unknown
        dataclasses.replace(demonstrations, actions=actions).save(tmp_path / "world")
        policies.append(train_bc(dataclasses.replace(config, out=tmp_path / f"bc_{unknown}")))
    assert largest_difference(*policies) == 0.0
    assert load_policy(policies[0]).method == "bc_videos"
    without = train_bc(dataclasses.replace(config, out=tmp_path / "without", videos=0))
    assert largest_difference(policies[0], without) > 1e-3
    with pytest.raises(ValueError, match="videos must be >= 0"):
        train_bc(dataclasses.replace(config, videos=-1))


def test_demonstrations_are_nested_and_checked(world: Path) -> None:
    demonstrations = Demonstrations.load(world)
    six, three = (choose_demonstrations(demonstrations, count, seed=1) for count in (6, 3))
    assert torch.equal(six[:3], three)
    assert sorted(six.tolist()) == list(range(6))
    with pytest.raises(ValueError, match="between 1 and 6"):
        choose_demonstrations(demonstrations, 7, seed=1)
    with pytest.raises(ValueError, match="chunks of 1 to 8"):
        train_bc(BCConfig(world=str(world), chunk_length=9, demonstrations=1, progress=False))


def test_chunks_repeat_the_last_action_past_the_end(world: Path) -> None:
    demonstrations = Demonstrations.load(world)
    features, actions = chunk_samples(demonstrations, torch.tensor([1]), chunk_length=4)
    length = int(demonstrations.lengths[1])
    assert features.shape == (length, 16, 8)
    assert torch.equal(actions[0].view(4, 4), demonstrations.actions[1, :4])
    assert torch.equal(actions[-1].view(4, 4), demonstrations.actions[1, length - 1].expand(4, 4))


def test_blind_policy_plays_the_mean_demonstration(world: Path, tmp_path: Path) -> None:
    policy = load_policy(make_blind(BlindConfig(world=str(world), out=tmp_path, demonstrations=2, seed=3)))
    assert policy.method == "blind"
    demonstrations = Demonstrations.load(world)
    chosen = choose_demonstrations(demonstrations, 2, seed=3)
    features = torch.randn(3, 16, 8)
    actions = policy.act(features, torch.tensor([0, 1, 99])).view(3, 8, 4)
    mean = demonstrations.actions[chosen].mean(0)
    assert torch.allclose(actions[:2].flatten(0, 1), mean[:16])
    last = torch.stack([demonstrations.actions[i, demonstrations.lengths[i] - 1] for i in chosen]).mean(0)
    assert torch.allclose(actions[2, -1], last)
    with pytest.raises(ValueError, match="chunk index"):
        policy.act(features)


# ---- PPO


def test_gaussians_agree_with_torch() -> None:
    torch.manual_seed(0)
    mean_p, mean_q, action = torch.randn(3, 5, 4)
    log_std_p, log_std_q = 0.3 * torch.randn(2, 4)
    p = torch.distributions.Normal(mean_p, log_std_p.exp())
    q = torch.distributions.Normal(mean_q, log_std_q.exp())
    kl = torch.distributions.kl_divergence(p, q).sum(-1)
    assert torch.allclose(gaussian_kl(mean_p, log_std_p, mean_q, log_std_q), kl, atol=1e-5)
    assert torch.allclose(gaussian_log_prob(action, mean_p, log_std_p), p.log_prob(action).sum(-1), atol=1e-5)


def test_ppo_logs_and_resumes_to_the_same_policy(ppo: PPOConfig, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    whole = train_ppo(ppo)
    parts = dataclasses.replace(ppo, out=tmp_path / "parts", iterations=2)
    train_ppo(parts)
    assert largest_difference(whole, parts.out) > 0.0
    resumed = train_ppo(dataclasses.replace(parts, iterations=4, resume=True))
    assert largest_difference(whole, resumed) == 0.0
    drop = {"charts/env_steps_per_second", "charts/rollout_share"}
    assert [{k: v for k, v in row.items() if k not in drop} for row in history(whole)] == [
        {k: v for k, v in row.items() if k not in drop} for row in history(resumed)
    ]

    events = EventAccumulator(str(whole / "tensorboard"))
    events.Reload()
    assert {
        "charts/dream_return",
        "charts/dream_success_rate",
        "charts/kl_to_bc",
        "charts/env_steps_per_second",
        "losses/policy",
        "losses/value",
        "losses/approx_kl",
    } <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("charts/kl_to_bc")] == [1, 2, 3, 4]
    policy = load_policy(whole)
    assert policy.method == "ppo"
    assert policy.facts["training"]["clone"]["demonstrations"] == 3


def test_ppo_stops_when_its_time_is_over(ppo: PPOConfig) -> None:
    ppo.seconds = 1e-3
    out = train_ppo(ppo)
    assert len(history(out)) == 1
    training = load_policy(out).facts["training"]
    assert training["env_steps"] == ppo.num_envs * ppo.num_steps
    assert training["trained_seconds"] > 0


def test_ppo_warm_up_leaves_the_clone_alone(ppo: PPOConfig, clone: Path) -> None:
    folder = train_ppo(dataclasses.replace(ppo, iterations=2, warmup_iterations=2))
    assert largest_difference(clone, folder) == 0.0
    assert [row["charts/kl_to_bc"] for row in history(folder)] == [0.0, 0.0]


def test_a_stronger_anchor_bounds_the_kl_to_the_clone(ppo: PPOConfig, tmp_path: Path) -> None:
    free = dataclasses.replace(ppo, iterations=12, learning_rate=1e-4, kl_coefficient=0.0, out=tmp_path / "free")
    anchored = dataclasses.replace(free, kl_coefficient=1.0, out=tmp_path / "anchored")
    distances = [history(train_ppo(config))[-1]["charts/kl_to_bc"] for config in (free, anchored)]
    assert distances[1] < 0.5 * distances[0]


class Reach(VectorEnv):
    """Two-chunk episodes over random features whose best action is known: 0.5, everywhere."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int = 1, **_: Any) -> None:
        self.num_envs = num_envs
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (16, 8), np.float32)
        self.single_action_space = gym.spaces.Box(-1.0, 1.0, (32,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.generator = torch.Generator().manual_seed(seed or 0)
        self.time = torch.zeros(self.num_envs, dtype=torch.int64)
        self.features = torch.randn(self.num_envs, 16, 8, generator=self.generator)
        return self.features, {}

    def step(self, actions: torch.Tensor) -> tuple[Any, ...]:
        reward = -(actions - 0.5).square().mean(1)
        self.time += 1
        truncated = self.time == 2
        self.time[truncated] = 0
        self.features = torch.randn(self.num_envs, 16, 8, generator=self.generator)
        terminated = torch.zeros_like(truncated)
        info = {"uncertainty": torch.zeros(self.num_envs)}
        return (
            self.features,
            reward,
            terminated,
            truncated,
            {"final_obs": self.features.clone(), "final_info": info, **info},
        )


def test_ppo_improves_where_the_optimum_is_known(
    ppo: PPOConfig, clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(clone)
    policy.facts["task"] = "Reach"
    spec = gym.envs.registration.EnvSpec("RLAWM-v0", vector_entry_point=Reach)
    monkeypatch.setitem(gym.registry, dream_id("Reach"), spec)
    config = dataclasses.replace(
        ppo,
        policy=policy.save(tmp_path / "start"),
        num_envs=64,
        iterations=25,
        checkpoint_every=100,
        learning_rate=3e-4,
        target_kl=1.0,
        kl_coefficient=0.0,
    )
    rows = history(train_ppo(config))
    rewards = [row["charts/reward_per_chunk"] for row in rows]
    assert np.mean(rewards[-3:]) > 0.6 * np.mean(rewards[:3])  # rewards are negative


def test_a_world_of_ones_own_task_is_cloned_trained_in_judged_and_played(
    world: Path, ppo: PPOConfig, tmp_path: Path
) -> None:
    folding = tmp_path / "folding"
    shutil.copytree(world, folding)
    config = json.loads((folding / "config.json").read_text())
    (folding / "config.json").write_text(json.dumps({**config, "task": "Fold"}))
    clone = train_bc(BCConfig(world=str(folding), out=tmp_path / "clone", demonstrations=3, gradient_steps=5, width=32,
                              device="cpu", progress=False))  # fmt: skip
    trained = train_ppo(dataclasses.replace(ppo, policy=clone, iterations=2))
    judged = evaluate(EvaluateConfig(trained, env="RLAWM-v0", episodes=4, device="cpu", progress=False))
    assert len(judged.successes) == 4
    assert play(PlayConfig(str(folding), trained, envs=2, chunks=2, out=tmp_path / "play.mp4")).stat().st_size > 1000


def test_ppo_clones_first_and_keeps_policies(world: Path, ppo: PPOConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    import agents.ppo

    def short(config: BCConfig) -> Path:
        return train_bc(dataclasses.replace(config, gradient_steps=5))

    monkeypatch.setattr(agents.ppo, "train_bc", short)
    config = dataclasses.replace(
        ppo, policy=None, world=str(world), demonstrations=2, iterations=2, average_decay=0.0, keep_policies=True
    )
    folder = train_ppo(config)
    assert load_policy(folder / "bc").facts["training"]["demonstrations"] == 2
    assert largest_difference(folder, folder / "policies" / "000002") == 0.0


def test_ppo_refuses_what_would_lose_or_mix_runs(ppo: PPOConfig, world: Path, tmp_path: Path) -> None:
    train_ppo(ppo)
    with pytest.raises(ValueError, match="--resume, --overwrite"):
        train_ppo(ppo)
    with pytest.raises(ValueError, match=r"gamma was 0\.9, is 0\.5"):
        train_ppo(dataclasses.replace(ppo, resume=True, gamma=0.5))
    with pytest.raises(ValueError, match="new_setting was None, is 1"):  # of a run that did not have it yet
        load_checkpoint(ppo.out / "checkpoint.safetensors", {}, {"new_setting": 1})
    train_ppo(dataclasses.replace(ppo, overwrite=True, iterations=1))
    blind = make_blind(BlindConfig(world=str(world), out=tmp_path / "blind"))
    with pytest.raises(ValueError, match="'blind' policy"):
        train_ppo(dataclasses.replace(ppo, policy=blind, out=tmp_path / "other"))
    with pytest.raises(ValueError, match="minibatches"):
        train_ppo(dataclasses.replace(ppo, minibatches=1000, out=tmp_path / "other"))
    with pytest.raises(ValueError, match="target_kl must be positive"):
        train_ppo(dataclasses.replace(ppo, target_kl=0.0, out=tmp_path / "other"))
    assert not (tmp_path / "other").exists()
