"""`bench training` times what a training does, on a small dataset."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.training import TrainingConfig, run
from tests.synthetic_dataset import write_moving_square
from tests.test_train import tiny_training
from world_models.train import train


def test_every_stage_has_its_rates_and_its_cost(tmp_path: Path) -> None:
    dataset = write_moving_square(tmp_path / "data")
    train(tiny_training(dataset.root, tmp_path / "world", 2))
    config = TrainingConfig(dataset.root, str(tmp_path / "world"), rounds=2, batch_size=8, out=tmp_path / "rows.json")
    run(replace(config, threads=1))
    found = {
        (row["method"], row["setting"], row["metric"]): row["value"]
        for row in json.loads((tmp_path / "rows.json").read_text())
    }
    at = "batch=8,device=cpu"
    for stage in ("rla", "flow", "regression", "rgb_decoder", "flow_errors"):
        assert found[stage, at, "samples_per_second"] > 0
        assert 0 < found[stage, at, "share_of_peak"] < 1.5
        assert 0 <= found[stage, at, "input_share"] < 1
        assert found[stage, "whole training", "training_minutes"] > 0
    assert found["rla", at, "input_share"] > 0
    assert found["features", "batch=16,device=cpu", "samples_per_second"] > 0
    hours = dataset.num_frames / dataset.fps / 3600
    assert found["dataset", "data", "hours"] == pytest.approx(hours)
    frame_bytes = 17 * 8 * 2
    assert found["features", "data", "megabytes_per_hour"] == pytest.approx(frame_bytes * 20 * 3600 / 1e6)


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rounds=1"):
        run(TrainingConfig(tmp_path, rounds=1))
