"""collect -> train -> agent -> evaluate -> bench, by the commands a user types, at the smallest settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from agents.policy import load_policy
from rla_gym import cli
from tests.synthetic_dataset import write_moving_square
from world_models.data.episodes import EpisodeDataset

pytest.importorskip("robosuite", reason='the simulator is not installed: pip install "rla-gym[robosuite]"')


def rla_gym_command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["rla-gym", *map(str, arguments)])
    cli.main()


@pytest.fixture(autouse=True)
def _tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLA_GYM_TRACEBACK", "1")


def small(stage: str) -> list[object]:
    return [f"--{stage}.iterations", 6, f"--{stage}.batch-size", 8, f"--{stage}.warmup", 2, f"--{stage}.no-bf16"]


def test_from_videos_to_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, world, clone, agent = (tmp_path / name for name in ("data", "world", "bc", "ppo"))
    rla_gym_command(monkeypatch, "collect", "Lift", "--episodes", 12, "--out", data, "--workers", 2, "--expert", 1,
                    "--near-miss", 0.5, "--noisy", 0, "--play", 0)  # fmt: skip
    dataset = EpisodeDataset(data)
    assert len(dataset) == 12
    assert dataset.successes.any()

    settings = [
        "--demonstrations", 3, "--threads", 2,
        "--encoder.backbone", "vit_tiny_patch16_224", "--encoder.no-pretrained", "--encoder.image-size", 32,
        "--encoder.channels", 16,
        "--encoder.backbone-arguments", "depth", 1, "patch_size", 8,
        "--rla.width", 24, "--rla.latents", 4, "--rla.latent-dim", 4,
        "--flow.width", 24, "--regression.width", 24,
        "--rgb-decoder.width", 24,
        *small("distillation.optimisation"), *small("rla-optimisation"), *small("flow-optimisation"),
        *small("regression-optimisation"), *small("rgb-optimisation"),
        *small("error-optimisation"),
    ]  # fmt: skip
    rla_gym_command(monkeypatch, "train", data, "--out", world, *settings)
    assert (world / "success.json").is_file()

    rla_gym_command(monkeypatch, "agent", "bc", "--world", world, "--out", clone, "--demonstrations", 2, "--steps", 20)
    rla_gym_command(monkeypatch, "agent", "ppo", "--policy", clone, "--out", agent, "--iterations", 3,
                    "--warmup-iterations", 1, "--num-envs", 4)  # fmt: skip
    rla_gym_command(monkeypatch, "agent", "ppo", "--policy", clone, "--out", tmp_path / "online", "--iterations", 2,
                    "--train-in", "simulator", "--warmup-iterations", 1, "--num-envs", 2, "--steps", 2,
                    "--minibatches", 1)  # fmt: skip
    rows = tmp_path / "rows.json"
    video = tmp_path / "video.mp4"
    rla_gym_command(monkeypatch, "evaluate", agent, "--env", "Robosuite-Lift-v0", "--episodes", 2, "--out", rows,
                    "--video", video, "--video-episodes", 1)  # fmt: skip
    (row,) = json.loads(rows.read_text())
    assert row["metric"] == "success_rate"
    assert row["n"] == 2
    assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
    assert video.stat().st_size > 10_000

    fidelity = tmp_path / "results" / "fidelity.json"
    rla_gym_command(
        monkeypatch, "bench", "fidelity", data, "--world", world, "--out", fidelity, "--probe.iterations", 20
    )
    measured = {(row["method"], row["metric"], row["setting"]): row for row in json.loads(fidelity.read_text())}
    assert measured["persistence", "token_l1_vs_persistence", "chunks=6"]["value"] == pytest.approx(1.0)
    for method in ("flow", "regression", "persistence"):
        for chunk in range(1, 7):
            assert measured[method, "cube_error_cm", f"chunks={chunk}"]["value"] > 0
    assert fidelity.with_suffix(".png").stat().st_size > 10_000
    assert fidelity.with_name("fidelity_film_strip.png").stat().st_size > 10_000

    varied, table = tmp_path / "varied", tmp_path / "ablation.json"
    rla_gym_command(
        monkeypatch, "train", data, "--out", varied, *settings, "--encoder-from", world, "--pushed-chunks", 0
    )
    rla_gym_command(monkeypatch, "bench", "ablation", world, varied, "--out", table, "--data", data,
                    "--probe.iterations", 5)  # fmt: skip
    compared = {(row["method"], row["setting"], row["metric"]): row for row in json.loads(table.read_text())}
    assert compared["recipe", "flow", "training_petaflop"]["value"] > 0
    assert "--pushed-chunks 0" in compared["pushed_chunks 0", "flow", "token_l1_vs_persistence"]["command"]
    for method in ("recipe", "pushed_chunks 0"):
        dreamed = compared[method, "chunks=6", "cube_error_cm"]
        assert 0 < dreamed["low"] <= dreamed["value"] <= dreamed["high"]
        assert {"false_lift_rate", "missed_lift_rate"} & {key[2] for key in compared if key[0] == method}
    for picture in ("ablation.png", "ablation_dreams.png"):
        assert (tmp_path / picture).stat().st_size > 10_000

    rewards = tmp_path / "results" / "reward_alignment.json"
    rla_gym_command(monkeypatch, "bench", "reward-alignment", data, "--world", world, "--split", "train",
                    "--resamples", 20, "--out", rewards)  # fmt: skip
    told = {(row["method"], row["metric"], row["setting"]): row["value"] for row in json.loads(rewards.read_text())}
    assert told["progress", "progress_spearman", "real frames"] > 0
    assert ("sparse", "success_auroc", "dreamed, flow") in told
    assert told["time_warping", "success_auroc", "real frames"] > 0
    assert ("transport", "progress_spearman", "real frames") not in told
    assert rewards.with_suffix(".png").stat().st_size > 10_000

    branched = tmp_path / "interventions.json"
    rla_gym_command(monkeypatch, "bench", "interventions", data, "--world", world, "--split", "all", "--out", branched,
                    "--prediction-lengths", 4, "--no-progress")  # fmt: skip
    assert branched.with_suffix(".png").stat().st_size > 10_000
    outcomes = [row for row in json.loads(branched.read_text()) if row["metric"].endswith("success_rate")]
    closings = {(row["method"], row["setting"]): 0 for row in outcomes}
    for row in outcomes:
        closings[row["method"], row["setting"]] += row["n"]
    # Every moment is judged under both choices of actions, by every method: none is lost in the replay.
    assert closings["flow", "gripper closes,actions=own"] >= 6
    assert len({n for (_, setting), n in closings.items() if "closes" in setting}) == 1

    readouts = tmp_path / "latent_actions.json"
    rla_gym_command(monkeypatch, "bench", "latent-actions", data, "--world", world, "--out", readouts)
    assert {row["metric"] for row in json.loads(readouts.read_text())} >= {"cube_motion_r2", "elapsed_frames_r2"}

    encoders = tmp_path / "encoders.json"
    rla_gym_command(monkeypatch, "bench", "encoders", data, "--worlds", world, "--out", encoders,
                    "--probe.iterations", 5)  # fmt: skip
    assert encoders.with_suffix(".png").stat().st_size > 10_000
    seen = {(row["metric"], row["setting"]): row["value"] for row in json.loads(encoders.read_text())}
    assert seen["cube_error_cm", "real frames"] > 0
    assert seen["cube_error_cm", "chunks=6"] > 0

    more = ["collect", "Lift", "--episodes", 13, "--out", data, "--workers", 1, "--policy-folder", clone, "--expert", 0,
            "--near-miss", 0, "--noisy", 0, "--play", 0, "--policy", 1]  # fmt: skip
    rla_gym_command(monkeypatch, *more)
    assert EpisodeDataset(data).kinds[-1] == "policy"


def test_transfer_pairs_policies_on_the_same_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the bundled world, whose policies the demo trains; reuses finished policies."""
    out, runs = tmp_path / "transfer.json", tmp_path / "runs"
    arguments = ["bench", "transfer", "--methods", "blind", "bc", "cem", "ppo", "--training-seeds", 0,
                 "--iterations", 2, "--episodes", 2, "--demonstrations", 2, "--runs", runs, "--out", out,
                 "--no-progress"]  # fmt: skip
    rla_gym_command(monkeypatch, *arguments)
    first = json.loads(out.read_text())
    written = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    assert sum(path.name.startswith("outcomes-") for path in written) == 2 * 4
    rla_gym_command(monkeypatch, *arguments)
    # Neither trained nor judged again.
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()} == written
    assert [row["value"] for row in json.loads(out.read_text())] == [row["value"] for row in first]
    table = {(row["method"], row["metric"]): row for row in first if "seed=" not in row["setting"]}
    gain = table["ppo", "success_rate"]["value"] - table["bc", "success_rate"]["value"]
    assert table["ppo", "success_gain_over_bc"]["value"] == pytest.approx(gain)
    assert table["ppo", "dream_control_steps"]["value"] == 2 * 256 * 8
    assert table["ppo", "training_seconds"]["value"] > 0
    assert {("blind", "success_rate"), ("cem", "success_gain_over_bc")} <= set(table)
    assert out.with_suffix(".png").is_file()
    # Other dreams: another policy, and another judge of the clone, but the simulator's verdict on the clone stands.
    rla_gym_command(monkeypatch, *arguments[:2], "--methods", "bc", "ppo", "--prediction-length", 4, *arguments[7:])
    added = [path for path in runs.rglob("outcomes-*.json") if path not in written]
    assert sorted(path.parent.parent.name[:3] for path in added) == ["bc_", "ppo", "ppo"]
    (other,) = runs.glob("*/ppo_*_prediction_length_4")
    assert load_policy(other).facts["training"]["prediction_length"] == 4
    told = {(row["method"], row["metric"]): row for row in json.loads(out.read_text())}
    assert told["ppo", "success_rate"]["setting"].endswith(",prediction_length=4")
    assert told["bc", "success_rate"]["value"] == table["bc", "success_rate"]["value"]


def test_ppo_goes_on_from_what_all_episodes_taught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, runs, out = write_moving_square(tmp_path / "data"), tmp_path / "runs", tmp_path / "transfer.json"
    arguments = ["bench", "transfer", "--training-seeds", 1, "--iterations", 1, "--episodes", 2, "--runs", runs,
                 "--out", out, "--no-progress"]  # fmt: skip
    rla_gym_command(monkeypatch, *arguments, "--methods", "bc", "bc_videos", "--videos", 3)
    (watching,) = runs.glob("*/bc_3_videos_*")
    assert load_policy(watching).facts["training"]["videos"] == 3
    assert load_policy(watching).facts["training"]["seed"] == 1
    (clone,) = runs.glob("*/bc_10_*")
    cloned = load_policy(clone).facts["training"]
    assert (cloned["videos"], cloned["seed"]) == (0, 1)
    # A finished policy is used again: the clone stands for what a long training would give.
    shutil.copytree(clone, clone.with_name(f"iql_{data.fingerprint()[:8]}_seed1"))
    rla_gym_command(monkeypatch, *arguments, "--methods", "iql", "iql_ppo", "--data", data.root)
    table = {(row["method"], row["metric"]): row for row in json.loads(out.read_text())}
    assert "demonstrations=all" in table["iql_ppo", "success_rate"]["setting"]
    gain = table["iql_ppo", "success_rate"]["value"] - table["iql", "success_rate"]["value"]
    assert table["iql_ppo", "success_gain_over_iql"]["value"] == pytest.approx(gain)
    (trained,) = runs.glob("*/iql_ppo_*")
    training = load_policy(trained).facts["training"]
    assert training["reward"] == "sparse"
    assert Path(training["policy"]).name.startswith("iql_")
