"""`bench training` times what a training does, on a small dataset."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.training import TrainingConfig, run
from tests.synthetic_dataset import write_moving_square
from tests.test_train import tiny_training
from world_models.mixer.score_sampler import ScoreSamplerConfig
from world_models.training.train import train


def test_every_stage_has_its_rates_and_its_cost(tmp_path: Path) -> None:
    dataset = write_moving_square(tmp_path / "data")
    recipe = tiny_training(dataset.root, tmp_path / "world", 2)
    few = replace(recipe.regression_optimisation, iterations=2)
    sampled = {"score_sampler": ScoreSamplerConfig(16, 1), "score_sampler_optimisation": few}
    train(replace(recipe, dynamics=("residual_flow", "regression", "score_sampler"), **sampled))  # type: ignore[arg-type]
    config = TrainingConfig(dataset.root, str(tmp_path / "world"), rounds=2, batch_size=8, out=tmp_path / "rows.json")
    run(replace(config, threads=1))
    measured = {
        (row["method"], row["setting"], row["metric"]): row["value"]
        for row in json.loads((tmp_path / "rows.json").read_text())
    }
    at = "batch=8,device=cpu"
    for stage in ("residual_flow", "regression", "score_sampler", "rgb_decoder", "residual_flow_errors"):
        assert measured[stage, at, "samples_per_second"] > 0
        assert 0 < measured[stage, at, "share_of_peak"] < 1.5
        assert 0 <= measured[stage, at, "input_share"] < 1
        assert measured[stage, "whole training", "training_minutes"] > 0
    assert measured["residual_flow", at, "input_share"] > 0
    # Solved in closed form: what it keeps of changes is reported, and nothing is timed.
    assert 0 <= measured["latent_projection", "whole training", "token_l1_vs_persistence"] < 1
    assert ("latent_projection", at, "samples_per_second") not in measured
    assert measured["features", "batch=16,device=cpu", "samples_per_second"] > 0
    hours = dataset.num_frames / dataset.fps / 3600
    assert measured["dataset", "data", "hours"] == pytest.approx(hours)
    frame_bytes = 17 * 8 * 2
    assert measured["features", "data", "megabytes_per_hour"] == pytest.approx(frame_bytes * 20 * 3600 / 1e6)


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rounds=1"):
        run(TrainingConfig(tmp_path, rounds=1))
