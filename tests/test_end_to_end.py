"""collect -> train -> agent -> evaluate -> bench, by the commands a user types, at the smallest settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from agents.policies.io import load_policy
from rla_gym import cli
from tests.media import picture_width, video_shapes
from tests.synthetic_dataset import write_moving_square
from world_models.data.episodes import EpisodeDataset

pytest.importorskip("robosuite", reason='the simulator is not installed: pip install "rla-gym[robosuite]"')

Results = dict[tuple[str, str, str], dict[str, Any]]
"""Rows by method, metric and setting."""


def rla_gym_command(*arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["rla-gym", *map(str, arguments)])
        patch.setenv("RLA_GYM_TRACEBACK", "1")
        cli.main()


def results(path: Path) -> Results:
    """The rows of a file; their intervals hold their values."""
    rows = json.loads(path.read_text())
    for row in rows:
        if row["low"] is not None:  # of a single episode, up to rounding, the interval is the value
            assert row["low"] - 1e-6 <= row["value"] <= row["high"] + 1e-6, row
    return {(row["method"], row["metric"], row["setting"]): row for row in rows}


def small(stage: str) -> list[object]:
    return [f"--{stage}.iterations", 6, f"--{stage}.batch-size", 8, f"--{stage}.warmup", 2, f"--{stage}.no-bf16"]


TRAINING = [
    "--demonstrations", 3, "--threads", 1, "--dynamics", "residual_flow", "regression", "score_sampler",
    "--encoder.backbone", "vit_tiny_patch16_224", "--encoder.no-pretrained", "--encoder.image-size", 32,
    "--encoder.channels", 16,
    "--encoder.backbone-arguments", "depth", 1, "patch_size", 8,
    "--residual-flow.width", 24, "--residual-flow.latents", 4, "--residual-flow.latent-dim", 4,
    "--regression.width", 24, "--score-sampler.width", 24, "--score-sampler.depth", 1,
    "--rgb-decoder.width", 24,
    *small("distillation.optimisation"), *small("residual-flow-optimisation"), *small("regression-optimisation"),
    *small("score-sampler-optimisation"), *small("rgb-optimisation"), *small("error-optimisation"),
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve episodes of Lift, collected in the simulator."""
    folder = tmp_path_factory.mktemp("collected") / "data"
    rla_gym_command("collect", "Lift", "--episodes", 12, "--out", folder, "--workers", 2, "--expert", 1,
                    "--near-miss", 0.5, "--noisy", 0, "--play", 0)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def world(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of few and small layers, trained on them for a few iterations."""
    folder = tmp_path_factory.mktemp("trained") / "world"
    rla_gym_command("train", data, "--out", folder, *TRAINING)
    return folder


@pytest.fixture(scope="module")
def clone(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Behaviour cloned from two of its demonstrations."""
    folder = tmp_path_factory.mktemp("cloned") / "bc"
    rla_gym_command("agent", "bc", "--world", world, "--out", folder, "--demonstrations", 2, "--gradient-steps", 20)
    return folder


def test_a_policy_trains_in_the_dream_and_is_evaluated_in_the_simulator(
    world: Path, clone: Path, tmp_path: Path
) -> None:
    assert (world / "success.json").is_file()
    agent, rows, video = tmp_path / "ppo", tmp_path / "rows.json", tmp_path / "video.mp4"
    rla_gym_command("agent", "ppo", "--policy", clone, "--out", agent, "--iterations", 3,
                    "--warmup-iterations", 1, "--num-envs", 4)  # fmt: skip
    rla_gym_command("agent", "ppo", "--policy", clone, "--out", tmp_path / "online", "--iterations", 2,
                    "--train-in", "simulator", "--warmup-iterations", 1, "--num-envs", 2, "--num-steps", 2,
                    "--minibatches", 1)  # fmt: skip
    assert load_policy(tmp_path / "online").facts["training"]["train_in"] == "simulator"
    rla_gym_command("evaluate", agent, "--env", "Robosuite-Lift-v0", "--episodes", 2, "--out", rows, "--video", video,
                    "--video-episodes", 1)  # fmt: skip
    (row,) = results(rows).values()
    assert (row["metric"], row["n"]) == ("success_rate", 2)
    assert row["low"] >= 0
    assert row["high"] <= 1
    first, _ = json.loads(rows.with_suffix(".episodes.json").read_text())
    # The first frame, one after each control step, the verdict, and a second of it at 20 frames a second.
    assert video_shapes(video) == [(464, 768, 3)] * (1 + first["control_steps"] + 1 + 20)


def test_a_clone_collects_episodes_for_the_same_data(data: Path, clone: Path, tmp_path: Path) -> None:
    grown = tmp_path / "data"
    shutil.copytree(data, grown, ignore=shutil.ignore_patterns("cache"))
    rla_gym_command("collect", "Lift", "--episodes", 13, "--out", grown, "--workers", 1, "--policy-folder", clone,
                    "--expert", 0, "--near-miss", 0, "--noisy", 0, "--play", 0, "--policy", 1)  # fmt: skip
    before, after = EpisodeDataset(data), EpisodeDataset(grown)
    assert before.successes.any()
    assert len(before) == 12
    assert after.kinds == [*before.kinds, "policy"]


def test_fidelity_compares_dynamics_and_variants_of_the_residual_flow(data: Path, world: Path, tmp_path: Path) -> None:
    out = tmp_path / "results" / "fidelity.json"
    rla_gym_command("bench", "fidelity", data, "--world", world, "--out", out, "--probe.iterations", 5,
                    "--solver-steps", 2)  # fmt: skip
    measured = results(out)
    assert measured["persistence", "token_l1_vs_persistence", "chunks=6"]["value"] == pytest.approx(1.0)
    methods = ("residual_flow", "residual_flow, base predictor alone", "residual_flow, 2 solver steps", "regression")
    for method in (*methods, "persistence", "real frames"):
        for chunk in range(1, 7):
            assert measured[method, "cube_error_cm", f"chunks={chunk}"]["value"] > 0
    base, sampled = (measured[methods[k], "token_l1_vs_persistence", "chunks=1"]["value"] for k in (1, 0))
    assert base != sampled
    projected = measured["latent_projection", "token_l1_vs_persistence", "one chunk, encoded"]
    assert 0 < projected["value"] < 1
    assert picture_width(out.with_suffix(".png")) > 1500
    assert picture_width(out.with_name("fidelity_film_strip.png")) > 500


def test_fidelity_in_a_worlds_folder_goes_into_its_card(data: Path, world: Path, tmp_path: Path) -> None:
    copied = tmp_path / "world"
    shutil.copytree(world, copied, ignore=shutil.ignore_patterns("stages"))
    rla_gym_command("bench", "fidelity", data, "--world", copied, "--out", copied / "fidelity.json",
                    "--probe.iterations", 2, "--solver-steps", 1)  # fmt: skip
    card = (copied / "README.md").read_text()
    assert "| metric | method | chunks=1 |" in card
    assert "| token_l1_vs_persistence | regression |" in card


def test_ablation_names_what_varies_from_the_recipe(data: Path, world: Path, tmp_path: Path) -> None:
    varied, out = tmp_path / "varied", tmp_path / "ablation.json"
    changes = ["--pushed-chunks", 0, "--dynamics", "residual_flow"]
    rla_gym_command("train", data, "--out", varied, *TRAINING, "--encoder-from", world, *changes)
    rla_gym_command("bench", "ablation", world, varied, "--out", out, "--data", data, "--probe.iterations", 5)
    compared, method = results(out), "pushed_chunks 0, dynamics residual_flow"
    assert compared["recipe", "training_petaflop", "residual_flow"]["value"] > 0
    assert "--pushed-chunks 0" in compared[method, "token_l1_vs_persistence", "residual_flow"]["command"]
    assert ("recipe", "token_l1_vs_persistence", "latent_projection") in compared
    for name in ("recipe", method):
        assert compared[name, "cube_error_cm", "chunks=6"]["value"] > 0
        assert {"false_lift_rate", "missed_lift_rate"} & {key[1] for key in compared if key[0] == name}
    assert picture_width(out.with_suffix(".png")) > 500
    assert picture_width(tmp_path / "ablation_dreams.png") > 500


def test_rewards_are_scored_on_real_and_imagined_episodes(data: Path, world: Path, tmp_path: Path) -> None:
    out = tmp_path / "results" / "reward_alignment.json"
    rla_gym_command("bench", "reward-alignment", data, "--world", world, "--split", "train", "--resamples", 20,
                    "--out", out)  # fmt: skip
    rows = {(row["method"], row["metric"], row["setting"]): row["value"] for row in json.loads(out.read_text())}
    assert rows["progress", "progress_spearman", "real frames"] > 0
    assert ("sparse", "success_auroc", "imagined, residual_flow") in rows
    assert rows["time_warping", "success_auroc", "real frames"] > 0
    assert ("transport", "progress_spearman", "real frames") not in rows
    assert picture_width(out.with_suffix(".png")) > 500


def test_interventions_judge_every_moment_under_both_choices_of_actions(
    data: Path, world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "interventions.json"
    rla_gym_command("bench", "interventions", data, "--world", world, "--split", "all", "--out", out,
                    "--prediction-lengths", 4, "--no-progress")  # fmt: skip
    closings: dict[tuple[str, str], int] = {}
    for (method, metric, setting), row in results(out).items():
        if metric.endswith("success_rate") and "closes" in setting:
            closings[method, setting] = closings.get((method, setting), 0) + row["n"]
    assert closings["residual_flow", "gripper closes,actions=own"] >= 6
    assert ("regression", "gripper closes,actions=exchanged,prediction_length=4") in closings
    # None is lost in the replay.
    assert len(set(closings.values())) == 1
    assert picture_width(out.with_suffix(".png")) > 500


def test_latent_actions_and_encoders_are_read_out(data: Path, world: Path, tmp_path: Path) -> None:
    readouts, encoders = tmp_path / "latent_actions.json", tmp_path / "encoders.json"
    rla_gym_command("bench", "latent-actions", data, "--world", world, "--out", readouts)
    assert {metric for _, metric, _ in results(readouts)} >= {"cube_motion_r2", "elapsed_frames_r2"}
    rla_gym_command("bench", "encoders", data, "--worlds", world, "--out", encoders, "--probe.iterations", 5)
    errors = {(metric, setting): row["value"] for (_, metric, setting), row in results(encoders).items()}
    assert errors["cube_error_cm", "real frames"] > 0
    assert errors["cube_error_cm", "chunks=6"] > 0
    assert picture_width(encoders.with_suffix(".png")) > 500


def test_transfer_pairs_policies_on_the_same_states(tmp_path: Path) -> None:
    """On the bundled world, whose policies the demo trains; reuses finished policies."""
    out, runs = tmp_path / "transfer.json", tmp_path / "runs"
    common = ["--training-seeds", 0, "--iterations", 2, "--episodes", 2, "--demonstrations", 2,
              "--clone-gradient-steps", 20, "--runs", runs, "--out", out, "--no-progress"]  # fmt: skip
    compared = ["bench", "transfer", "--methods", "blind", "bc", "cem", "ppo", *common]
    with pytest.raises(ValueError, match="clone_gradient_steps must be at least 1, got 0"):
        rla_gym_command(*compared, "--clone-gradient-steps", 0)
    rla_gym_command(*compared)
    first = json.loads(out.read_text())
    written = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    assert sum(path.name.startswith("outcomes-") for path in written) == 2 * 4
    (clone,) = runs.glob("*/bc_*")
    assert clone.name == "bc_2_demonstrations_seed0_clone_gradient_steps_20"
    assert load_policy(clone).facts["training"]["gradient_steps"] == 20
    rla_gym_command(*compared)
    # Neither trained nor evaluated again.
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()} == written
    assert [row["value"] for row in json.loads(out.read_text())] == [row["value"] for row in first]
    table = {(row["method"], row["metric"]): row for row in first if "seed=" not in row["setting"]}
    gain = table["ppo", "success_rate"]["value"] - table["bc", "success_rate"]["value"]
    assert table["ppo", "success_gain_over_bc"]["value"] == pytest.approx(gain)
    assert table["ppo", "dream_control_steps"]["value"] == 2 * 256 * 8
    assert table["ppo", "training_seconds"]["value"] > 0
    assert table["ppo", "success_rate"]["setting"].endswith(",clone_gradient_steps=20")
    assert "clone_gradient_steps" not in table["blind", "success_rate"]["setting"]
    assert ("cem", "success_gain_over_bc") in table
    assert picture_width(out.with_suffix(".png")) > 500
    # Other dreams: another policy, another success rate of the clone in the dream, the same one in the simulator.
    rla_gym_command("bench", "transfer", "--methods", "bc", "ppo", "--prediction-length", 4, *common)
    added = [path for path in runs.rglob("outcomes-*.json") if path not in written]
    assert sorted(path.parent.parent.name[:3] for path in added) == ["bc_", "ppo", "ppo"]
    (other,) = runs.glob("*/ppo_*_prediction_length_4")
    assert load_policy(other).facts["training"]["prediction_length"] == 4
    again = {(row["method"], row["metric"]): row for row in json.loads(out.read_text())}
    assert again["ppo", "success_rate"]["setting"].endswith(",prediction_length=4")
    assert again["bc", "success_rate"]["value"] == table["bc", "success_rate"]["value"]


def test_ppo_goes_on_from_what_all_episodes_taught(tmp_path: Path) -> None:
    data, runs, out = write_moving_square(tmp_path / "data"), tmp_path / "runs", tmp_path / "transfer.json"
    arguments = ["bench", "transfer", "--training-seeds", 1, "--iterations", 1, "--episodes", 2, "--runs", runs,
                 "--clone-gradient-steps", 20, "--out", out, "--no-progress"]  # fmt: skip
    rla_gym_command(*arguments, "--methods", "bc", "bc_videos", "--videos", 3)
    (watching,) = runs.glob("*/bc_3_videos_*")
    assert load_policy(watching).facts["training"]["videos"] == 3
    assert load_policy(watching).facts["training"]["seed"] == 1
    (clone,) = runs.glob("*/bc_10_*")
    cloned = load_policy(clone).facts["training"]
    assert (cloned["videos"], cloned["seed"]) == (0, 1)
    # A finished policy is used again: the clone stands for what a long training would give.
    shutil.copytree(clone, clone.with_name(f"iql_{data.fingerprint()[:8]}_seed1"))
    rla_gym_command(*arguments, "--methods", "iql", "iql_ppo", "--data", data.root)
    table = {(row["method"], row["metric"]): row for row in json.loads(out.read_text())}
    assert table["iql_ppo", "success_rate"]["setting"] == "placement=standard,demonstrations=all"
    gain = table["iql_ppo", "success_rate"]["value"] - table["iql", "success_rate"]["value"]
    assert table["iql_ppo", "success_gain_over_iql"]["value"] == pytest.approx(gain)
    (trained,) = runs.glob("*/iql_ppo_*")
    training = load_policy(trained).facts["training"]
    assert training["reward"] == "sparse"
    assert Path(training["policy"]).name.startswith("iql_")
