"""Implicit Q-learning prefers what led to success in the data, and an interrupted run goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from agents.iql import IQLConfig, train_iql, transitions
from agents.policies.io import load_policy
from rewards import SuccessDetector
from rewards.fit_success import fit_world_success
from tests.conftest import save_tiny_world
from world_models.data.episodes import EpisodeDataset, EpisodeWriter
from world_models.data.feature_cache import cache_features
from world_models.io import load_encoder
from world_models.training.optimisation import OptimisationConfig

CHUNK = 8
SUCCEEDS, FAILS = 0.6, -0.6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One action makes the picture lighter, then white, which is success; the other one darker, then black."""
    root = tmp_path_factory.mktemp("iql") / "data"
    columns: dict[str, tuple[int, ...]] = {"next.success": (1,)}
    writer = EpisodeWriter(
        root, fps=20, instruction="turn white", camera="observation.images.front", image_size=32,
        action_names=("x", "y", "z", "gripper"), columns=columns, robot_type="lamp",
    )  # fmt: skip
    length = 2 * CHUNK + 8
    for index in range(60):
        rng = np.random.default_rng(index)
        # Fewer than half of the episodes succeed: plain cloning would do what fails.
        success = index % 3 == 0
        frames = rng.integers(110, 146, (length, 32, 32, 3)).astype(np.uint8)
        # Between grey and white nothing is achieved yet: what the first chunk is worth, only later states tell.
        frames[CHUNK : 2 * CHUNK] += np.uint8(50 if success else 206)
        frames[2 * CHUNK :] = 250 if success else 10
        actions = (SUCCEEDS if success else FAILS) + 0.05 * rng.standard_normal((length, 4))
        solved = np.arange(1, length + 1)[:, None] >= 2 * CHUNK
        writer.write(index, frames, actions.astype(np.float32), {"next.success": solved & success},
                     kind="lamp", success=success, seed=index)  # fmt: skip
    writer.finish()
    return root


@pytest.fixture(scope="module")
def world(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny_world(tmp_path_factory.mktemp("iql_world"), spread=0.2)
    fit_world_success(folder, data)
    return folder


@pytest.fixture
def config(data: Path, world: Path, tmp_path: Path) -> IQLConfig:
    optimisation = OptimisationConfig(iterations=150, batch_size=32, learning_rate=3e-3, warmup=10)
    return IQLConfig(data, str(world), tmp_path / "iql", width=16, queries=2, device="cpu", optimisation=optimisation)


def test_transitions_are_chunks_that_begin_unsolved(data: Path, world: Path) -> None:
    dataset = EpisodeDataset(data)
    features = cache_features(dataset, load_encoder(world), data / "cache")
    first_rows, chunks, solved = transitions(dataset, features, SuccessDetector.load(world), CHUNK)
    assert chunks.shape == (len(first_rows), 4 * CHUNK)
    assert len(solved) == len(first_rows)
    # An episode gives every chunk inside it; in a successful one those end in success whose end is white.
    assert 0.1 < solved.mean() < 0.4
    assert (chunks[solved].mean(axis=1) > 0.4).mean() > 0.95


def test_an_episode_shorter_than_a_chunk_has_none(data: Path, world: Path) -> None:
    dataset = EpisodeDataset(data)
    features = cache_features(dataset, load_encoder(world), data / "cache")
    first_rows, chunks, solved = transitions(dataset, features, SuccessDetector.load(world), 40)
    assert len(first_rows) == len(solved) == 0
    assert chunks.shape == (0, 160)


def test_the_policy_does_what_led_to_success(config: IQLConfig) -> None:
    policy = load_policy(train_iql(config))
    assert policy.method == "iql"
    dataset = EpisodeDataset(config.data)
    features = cache_features(dataset, load_encoder(Path(config.world)), config.data / "cache")
    first = torch.from_numpy(np.array(features[:CHUNK])).float()
    assert policy.act(first).mean() > 0.3


def test_an_interrupted_run_goes_on(config: IQLConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(config, optimisation=replace(config.optimisation, iterations=12, checkpoint_seconds=0.0))
    whole = load_file(train_iql(replace(short, out=tmp_path / "whole")) / "policy.safetensors")

    import agents.iql

    calls = 0
    augment = agents.iql.augment

    def killed(*arguments: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise KeyboardInterrupt
        return augment(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(agents.iql, "augment", killed)
        with pytest.raises(KeyboardInterrupt):
            train_iql(short)
    assert not (config.out / "policy.safetensors").exists()
    resumed = load_file(train_iql(short) / "policy.safetensors")
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor)
    assert json.loads((config.out / "config.json").read_text())["training"]["expectile"] == 0.8


def test_settings_are_checked(config: IQLConfig) -> None:
    with pytest.raises(ValueError, match=r"expectile must be above 0 and at most 1, got 1\.5"):
        train_iql(replace(config, expectile=1.5))
    with pytest.raises(ValueError, match="inverse_temperature must be positive"):
        train_iql(replace(config, inverse_temperature=0))
