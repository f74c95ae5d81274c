"""Training in several processes: the same loss curves and weights as in one, and errors that name the fix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.policies.token_policy import TokenPolicy
from agents.ppo import PPOConfig, train_ppo
from tests.synthetic_dataset import write_moving_square
from tests.test_train import tiny_training
from world_models.data.episodes import EpisodeDataset
from world_models.devices import choose_device
from world_models.training.optimisation import OptimisationConfig
from world_models.training.train import TrainConfig, train

STAGES = ("residual_flow", "regression", "rgb_decoder")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    return write_moving_square(tmp_path_factory.mktemp("data"))


def in_parts(config: TrainConfig, parts: int) -> TrainConfig:
    def split(schedule: OptimisationConfig) -> OptimisationConfig:
        return replace(schedule, micro_batches=parts)

    return replace(
        config,
        distillation=replace(config.distillation, optimisation=split(config.distillation.optimisation)),
        residual_flow_optimisation=split(config.residual_flow_optimisation),
        regression_optimisation=split(config.regression_optimisation),
        rgb_optimisation=split(config.rgb_optimisation),
        error_optimisation=split(config.error_optimisation),
    )


def losses(world: Path, stage: str) -> list[float]:
    events = EventAccumulator(str(world / "stages" / "tensorboard" / stage)).Reload()
    return [scalar.value for scalar in events.Scalars(f"losses/{stage}")]


def launch_two(folder: Path, *lines: str) -> None:
    """Run a script in two processes."""
    script = folder / "launched.py"
    script.write_text("\n".join(["from pathlib import Path", *lines]))
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}, check=True, capture_output=True,
    )  # fmt: skip


def test_two_processes_train_as_one_with_the_same_batches(dataset: EpisodeDataset, tmp_path: Path) -> None:
    launch_two(
        tmp_path,
        "from tests.test_train import tiny_training",
        "from world_models.training.train import train",
        f"train(tiny_training(Path({str(dataset.root)!r}), Path({str(tmp_path / 'two')!r}), 41))",
    )
    one_process = in_parts(tiny_training(dataset.root, tmp_path / "one", 41), 2)
    train(replace(one_process, encoder_only=True))
    assert losses(tmp_path / "two", "encoder") == pytest.approx(losses(tmp_path / "one", "encoder"), rel=1e-3)
    # The latent actions' basis turns with the last bits of the features, so the other stages start from the same ones.
    train(replace(one_process, encoder_from=str(tmp_path / "two")))
    for stage in STAGES:
        one, two = losses(tmp_path / "one", stage), losses(tmp_path / "two", stage)
        assert len(one) == 3
        assert two == pytest.approx(one, rel=1e-3)
        assert one[0] != one[1]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name].float(), tensor.float(), atol=5e-3, rtol=5e-3)
    facts = [
        json.loads((tmp_path / name / "training.json").read_text())["metrics"]["residual_flow"]
        for name in ("one", "two")
    ]
    assert facts[0]["training_petaflop"] == pytest.approx(facts[1]["training_petaflop"])


def test_a_batch_that_cannot_be_shared_is_refused(dataset: EpisodeDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="micro_batches=3 cannot be shared evenly by 1 processes"):
        train(in_parts(tiny_training(dataset.root, tmp_path, 2), 3))


def test_ppo_in_two_processes_is_ppo_in_one(world: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    clone = TokenPolicy(16, 8, 8, 4, width=32)
    clone.facts = {"method": "bc", "world": world, "task": "Lift"}
    config = PPOConfig(
        clone.save(tmp_path / "clone"), tmp_path / "two", num_envs=6, num_steps=3, iterations=5, warmup_iterations=2,
        minibatches=2, learning_rate=1e-3, target_kl=1.0, progress=False, precision="float32",
        device="cpu" if torch.cuda.is_available() else "auto",
    )  # fmt: skip
    settings = {**vars(config), "policy": str(config.policy), "out": str(config.out)}
    launch_two(
        tmp_path,
        "from agents.ppo import PPOConfig, train_ppo",
        f"settings = {settings!r}",
        "train_ppo(PPOConfig(**settings | {name: Path(settings[name]) for name in ('policy', 'out')}))",
    )
    train_ppo(replace(config, out=tmp_path / "one"))
    one, two = (EventAccumulator(str(tmp_path / name / "tensorboard")).Reload() for name in ("one", "two"))
    tags = set(one.Tags()["scalars"])
    assert {"charts/kl_to_bc", "losses/value", "losses/explained_variance"} <= tags
    for tag in tags - {"charts/env_steps_per_second", "charts/rollout_share"}:
        curves = [[scalar.value for scalar in events.Scalars(tag)] for events in (one, two)]
        assert curves[1] == pytest.approx(curves[0], rel=1e-2, abs=1e-4), tag
    weights = [load_file(tmp_path / name / "policy.safetensors") for name in ("clone", "one", "two")]
    for name, tensor in weights[1].items():
        torch.testing.assert_close(weights[2][name], tensor, atol=1e-4, rtol=1e-3)
    assert any(not torch.allclose(weights[0][name], tensor, atol=1e-3) for name, tensor in weights[1].items())


def test_choosing_a_device_rids_its_arithmetic_of_denormals() -> None:
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot take denormals as zero")
    tiny = torch.full((8,), 1e-39)
    assert bool((tiny * 1.0 != 0).all())
    try:
        choose_device("cpu")
        assert bool((tiny * 1.0 == 0).all())
    finally:
        torch.set_flush_denormal(False)
