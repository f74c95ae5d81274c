"""Training of all stages on a small dataset: caches, resuming after a kill, refusing what does not fit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import tiny_config
from tests.synthetic_dataset import write_moving_square
from world_models.data.demonstrations import Demonstrations
from world_models.data.episodes import EpisodeDataset
from world_models.io import load_encoder, load_world
from world_models.training.feature_encoder import DistillationConfig
from world_models.training.optimisation import OptimisationConfig
from world_models.training.train import TrainConfig, train


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    return write_moving_square(tmp_path_factory.mktemp("data"))


def tiny_training(data: Path, out: Path, iterations: int = 12) -> TrainConfig:
    config = tiny_config()
    schedule = OptimisationConfig(iterations, batch_size=8, warmup=2, validate_every=5, bf16=False)
    return TrainConfig(
        data, out, task="Lift", demonstrations=4, device="cpu", threads=1, dynamics=("regression", "residual_flow"),
        encoder=config.encoder,
        distillation=DistillationConfig(optimisation=schedule), residual_flow=config.dynamics["residual_flow"],
        regression=config.dynamics["regression"], rgb_decoder=config.rgb_decoder, residual_flow_optimisation=schedule,
        regression_optimisation=schedule, rgb_optimisation=schedule, error_optimisation=schedule, pushed_chunks=1,
    )  # fmt: skip


def test_training_goes_on_from_a_world_and_leaves_stages_of_no_iterations_alone(
    dataset: EpisodeDataset, tmp_path: Path
) -> None:
    config = replace(tiny_training(dataset.root, tmp_path / "first", 3), dynamics=("residual_flow",))
    first = train(config)
    none = OptimisationConfig(0)
    later = replace(
        config, out=tmp_path / "later", start_from=str(tmp_path / "first"),
        rgb_optimisation=none, error_optimisation=none,
        residual_flow_optimisation=replace(config.residual_flow_optimisation, iterations=5),
    )  # fmt: skip
    metrics = train(later)
    assert metrics["rgb_decoder"] == first["rgb_decoder"]
    assert metrics["residual_flow"]["iterations"] == 3 + 5
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "later"))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"residual_flow"}
    with pytest.raises(ValueError, match="other sizes"):
        train(replace(later, out=tmp_path / "wider", residual_flow=replace(config.residual_flow, width=32)))
    for name, value, fix in (
        ("task", "Stack", "--task Lift"),
        ("proprioception", False, "train anew"),
        ("dynamics", ("regression",), "--dynamics residual_flow"),
    ):
        with pytest.raises(ValueError, match=fix):
            train(replace(later, out=tmp_path / "refused", **{name: value}))
    assert not (tmp_path / "refused").exists()
    # What is taught about errors changes no dream.
    taught = replace(
        later, out=tmp_path / "taught", residual_flow_optimisation=none,
        error_optimisation=replace(config.error_optimisation, iterations=5),
    )  # fmt: skip
    assert -1 <= train(taught)["residual_flow_errors"]["error_correlation"] <= 1
    after = load_file(tmp_path / "taught" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[2] for name in changed} == {"expected_error"}
    assert "residual_flow.base.expected_error.out.weight" in changed


def test_a_world_may_have_the_residual_flow_alone(dataset: EpisodeDataset, tmp_path: Path) -> None:
    metrics = train(replace(tiny_training(dataset.root, tmp_path, 2), dynamics=("residual_flow",)))
    assert "regression" not in metrics
    assert load_world(tmp_path).model.noise_shape is not None
    with pytest.raises(ValueError, match="regression"):
        load_world(tmp_path, dynamics="regression")


def test_train_writes_a_world_that_loads_and_a_second_run_changes_nothing(
    dataset: EpisodeDataset, tmp_path: Path
) -> None:
    config = tiny_training(dataset.root, tmp_path / "world")
    metrics = train(config)
    assert {"encoder", "latent_projection", "residual_flow", "regression", "rgb_decoder"} <= set(metrics)
    for dynamics in ("residual_flow", "regression"):
        world = load_world(tmp_path / "world", dynamics=dynamics)
        assert len(world.demonstrations) == 4
        assert world.model.config.instruction == "move the square"
        assert world.model.num_tokens == 17
        assert not torch.equal(world.model.base_predictor.expected_error.calibration, torch.ones(2))
    card = (tmp_path / "world" / "README.md").read_text()
    assert "20 episodes" in card
    assert "| residual_flow | 12 |" in card
    events = list((tmp_path / "world" / "stages" / "tensorboard").rglob("events.*"))
    assert {event.parent.name for event in events} >= {
        "encoder",
        "residual_flow",
        "regression",
        "rgb_decoder",
        "residual_flow_errors",
        "open_loop",
    }
    before = load_file(tmp_path / "world" / "model.safetensors")
    assert train(config) == metrics
    after = load_file(tmp_path / "world" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(ValueError, match="other settings"):
        train(replace(config, rgb_optimisation=replace(config.rgb_optimisation, learning_rate=1.0)))


def test_demonstrations_are_successes_of_the_training_split(dataset: EpisodeDataset, tmp_path: Path) -> None:
    train(tiny_training(dataset.root, tmp_path, iterations=2))
    world = load_world(tmp_path)
    chosen = [i for i in dataset.split("train") if dataset.successes[i]][:4]
    for row, index in enumerate(chosen):
        np.testing.assert_allclose(world.demonstrations.actions[row].numpy(), dataset.episode(int(index)).actions)


def test_training_survives_kill_minus_nine(dataset: EpisodeDataset, tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from dataclasses import replace; from tests.test_train import tiny_training; "
        "from world_models.training.train import train; "
        f"config = tiny_training(Path({str(dataset.root)!r}), Path({str(tmp_path)!r}), 40); "
        "fast = replace(config.residual_flow_optimisation, checkpoint_seconds=0.0); "
        "train(replace(config, residual_flow_optimisation=fast))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "stages" / "residual_flow.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.is_file() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.is_file()
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True)
    assert json.loads((tmp_path / "training.json").read_text())["metrics"]["residual_flow"]["iterations"] == 40
    load_world(tmp_path)


def test_a_world_can_do_without_proprioception(dataset: EpisodeDataset, tmp_path: Path) -> None:
    train(replace(tiny_training(dataset.root, tmp_path, iterations=2), proprioception=False, pushed_chunks=0))
    assert load_world(tmp_path).model.num_tokens == 16


def test_data_without_success_is_refused_before_work_starts(tmp_path: Path) -> None:
    write_moving_square(tmp_path / "data", episodes=1)
    with pytest.raises(FileNotFoundError, match="rla-gym collect"):
        train(tiny_training(tmp_path / "nothing", tmp_path / "world"))
    with pytest.raises(ValueError, match="validation split"):
        train(tiny_training(tmp_path / "data", tmp_path / "world"))
    with pytest.raises(ValueError, match=r"first_frame_share=1.5 must be between 0 and 1"):
        train(replace(tiny_training(tmp_path / "data", tmp_path / "world"), first_frame_share=1.5))
    assert not (tmp_path / "world").exists()


def test_an_encoder_can_stand_alone_and_serve_a_second_world(dataset: EpisodeDataset, tmp_path: Path) -> None:
    first = tiny_training(dataset.root, tmp_path / "first", iterations=2)
    train(replace(first, encoder_only=True))
    encoder = load_encoder(tmp_path / "first")
    assert len(Demonstrations.load(tmp_path / "first")) == 4
    with pytest.raises(ValueError, match="but an encoder alone"):
        load_world(tmp_path / "first")
    grown = write_moving_square(tmp_path / "grown", episodes=22)
    train(replace(first, data=grown.root, out=tmp_path / "second", encoder_from=str(tmp_path / "first")))
    assert load_world(tmp_path / "second").model.encoder.fingerprint() == encoder.fingerprint()
    assert not (tmp_path / "second" / "stages" / "encoder.safetensors").exists()


def test_every_stage_lowers_a_held_out_error(dataset: EpisodeDataset, tmp_path: Path) -> None:
    """What each stage is measured by on validation episodes, after one iteration and after many."""
    config = tiny_training(dataset.root, tmp_path)
    encoder_schedule = config.distillation.optimisation

    def measured(iterations: int, encoder_iterations: int = 30) -> dict[str, dict[str, float]]:
        schedule = OptimisationConfig(
            iterations, batch_size=16, warmup=2, validate_every=1000, bf16=False, learning_rate=3e-3
        )
        distillation = replace(encoder_schedule, iterations=encoder_iterations)
        return train(
            replace(
                config, out=tmp_path / f"{iterations}-{encoder_iterations}",
                encoder_only=encoder_iterations == 1, distillation=DistillationConfig(optimisation=distillation),
                residual_flow=replace(config.residual_flow, solver_steps=1, width=32),
                regression=replace(config.regression, width=32), residual_flow_optimisation=schedule,
                regression_optimisation=schedule, rgb_optimisation=schedule, error_optimisation=schedule,
            )
        )  # fmt: skip

    few, many, untrained = measured(1), measured(120), measured(1, 1)
    for metric in ("distillation", "pixel", "inverse_dynamics"):
        assert many["encoder"][metric] < untrained["encoder"][metric], metric
    for stage in ("residual_flow", "regression"):
        for metric in ("token_l1_vs_persistence", "token_l1_vs_persistence_2_chunks"):
            assert many[stage][metric] < min(1.0, few[stage][metric]), (stage, metric)
    assert many["rgb_decoder"]["pixel_l1"] < 0.5 * few["rgb_decoder"]["pixel_l1"]
    # Sixteen numbers of a state's hundred cannot hold every change, but hold more than none.
    assert many["latent_projection"]["token_l1_vs_persistence"] < 0.9
    for stage in ("residual_flow_errors", "regression_errors"):
        assert many[stage]["error_correlation"] > 0.2  # expected errors rank the actual ones
