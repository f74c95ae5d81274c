"""Every client's example learns: its return in a dream rises beyond the noise of three training seeds."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.learning import Learning, evaluate, keep_rows, train_seeds
from benchmarks.results import read_rows
from tests.learnable_world import HIDDEN_ACTION, save_learnable_world
from tests.result_rows import row

CLIENTS = {
    # example: (package, extra, settings that learn in seconds)
    "sb3_ppo": ("stable_baselines3", "agents", {"total_timesteps": 6144, "learning_rate": 3e-3}),
    "sb3_sac": ("stable_baselines3", "agents", {"total_timesteps": 2048}),
    "cleanrl_ppo": ("tensorboard", "agents", {"total_timesteps": 6144, "learning_rate": 3e-3}),
    "torchrl_ppo": ("torchrl", "torchrl", {"total_timesteps": 6144, "learning_rate": 3e-3}),
    "skrl_ppo": ("skrl", "skrl", {"total_timesteps": 24576, "learning_rate": 3e-3}),
    "rllib_ppo": ("ray.rllib", "rllib", {"total_timesteps": 6144, "learning_rate": 3e-3}),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_learnable_world(tmp_path_factory.mktemp("learnable") / "world"))


@pytest.mark.parametrize("name", CLIENTS)
def test_the_client_learns(name: str, world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, extra, settings = CLIENTS[name]
    pytest.importorskip(package, reason=f'{name} needs {package}: pip install "rla-gym[{extra}]"')
    monkeypatch.chdir(tmp_path)  # clients that log write to runs/
    example = importlib.import_module(f"examples.{name}")
    learning = train_seeds(example.train, replace(example.Args(), world=world, chunk_length=None, **settings))
    assert learning.before.shape == learning.after.shape == (3, 64)
    assert learning.learned, f"gain {learning.gain}, by seed {(learning.after - learning.before).mean(axis=1)}"


def test_the_hidden_action_is_worth_finding(world: str) -> None:
    arguments = {"world": world, "dynamics": "regression"}
    hidden = np.float32(HIDDEN_ACTION)
    still = evaluate(lambda observations: np.zeros((len(observations), 4)), "RLAWM-Lift-v0", **arguments)
    best = evaluate(lambda observations: np.tile(hidden, (len(observations), 1)), "RLAWM-Lift-v0", **arguments)
    assert best.mean() > -0.4  # not 0, for demonstrations are rounded to eight bits
    assert still.mean() < 4 * best.mean()
    again = evaluate(lambda observations: np.zeros((len(observations), 4)), "RLAWM-Lift-v0", **arguments)
    assert np.array_equal(still, again)


def test_learning_means_more_than_the_noise_of_the_seeds() -> None:
    before = np.zeros((3, 8))
    assert Learning(before, before + np.array([[0.9], [1.0], [1.1]])).learned
    # all three rose, but by amounts so different that chance could have done it
    assert not Learning(before, before + np.array([[0.1], [0.1], [3.0]])).learned
    assert not Learning(before, before).learned


def test_rows_of_other_clients_stay(tmp_path: Path) -> None:
    path = tmp_path / "clients.json"
    keep_rows(path, [row(method="skrl", value=1.0)])
    keep_rows(path, [row(method="rllib", value=2.0)])
    keep_rows(path, [row(method="skrl", value=3.0)])
    assert [(kept.method, kept.value) for kept in read_rows(path)] == [("rllib", 2.0), ("skrl", 3.0)]
