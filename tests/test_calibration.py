"""Scores of sampled predictions against values by hand, and hidden causes in the simulator."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from benchmarks.calibration import CalibrationConfig, run
from benchmarks.ensemble_regression import EnsembleRegression
from benchmarks.hidden_truth import read_truth, replays_of
from benchmarks.moments import Moment
from benchmarks.probes import ProbeConfig
from benchmarks.proper_scores import (
    brier_score,
    energy_score,
    energy_score_floor,
    energy_score_of_replays,
    expected_calibration_error,
    ranks,
    spread_skill,
)
from benchmarks.results import read_rows
from rla_gym.ground_truth.behaviours import make_behaviour
from rla_gym.ground_truth.env import RobosuiteEnv
from rla_gym.ground_truth.hidden_causes import DrawnCauses, HiddenCauses
from rla_gym.ground_truth.recording import EpisodeRecorder, record_episode
from rla_gym.ground_truth.recording_config import RecordingConfig
from tests.synthetic_dataset import write_moving_square
from world_models.files import save_json
from world_models.io import load_model
from world_models.mixer.dynamics import RegressionWorldModel
from world_models.open_loop import open_loop


def test_scores_by_hand() -> None:
    samples, truth = torch.tensor([[[0.0], [2.0]]]), torch.tensor([[1.0]])
    assert energy_score(samples, truth).tolist() == [0.0]  # 1 - 2 / 2
    probability, happened = torch.tensor([0.25, 0.25, 1.0]), torch.tensor([True, False, True])
    assert brier_score(probability, happened).tolist() == [0.5625, 0.0625, 0.0]
    assert expected_calibration_error(probability, happened) == pytest.approx(0.5 / 3)


def test_a_calibrated_sampler_has_flat_ranks_and_an_overconfident_one_scores_worse() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, draws = torch.randn(4000, 1, generator=generator), torch.randn(4000, 7, 1, generator=generator)
    counts = torch.bincount(ranks(draws[..., 0], truth[:, 0], generator), minlength=8)
    assert (counts - 500).abs().max() < 100
    assert spread_skill(draws, truth) == pytest.approx(1.0, abs=0.05)
    assert spread_skill(draws * 0.3, truth) < 0.5
    assert energy_score(draws * 0.3, truth).mean() > 1.05 * energy_score(draws, truth).mean()


def _replay(env: RobosuiteEnv, causes: DrawnCauses | None) -> np.ndarray:
    env.reset(seed=3)
    actions = np.random.default_rng(0).uniform(-1, 1, (6, env.task.action_dim)).astype(np.float32)
    if causes is None:
        for action in actions:
            env.control_step(action)
    else:
        with env.hidden(causes):
            for action in actions:
                env.control_step(action)
    return env.simulator_state()["state"]


def test_hidden_causes_change_a_replay_and_leave_no_trace() -> None:
    pytest.importorskip("robosuite")
    causes = HiddenCauses()
    with closing(RobosuiteEnv("Lift", obs="rgb")) as env:
        before = _replay(env, None)
        first, again, other = (_replay(env, causes.draw(np.random.default_rng(seed))) for seed in (1, 1, 2))
        after = _replay(env, None)
    assert np.array_equal(before, after)
    assert np.array_equal(first, again)
    assert not np.allclose(first, before)
    assert not np.allclose(first, other)


def test_hidden_causes_decide_whether_a_firm_grasp_holds() -> None:
    pytest.importorskip("robosuite")
    causes, held = HiddenCauses(), []
    with closing(RobosuiteEnv("Lift", obs="rgb")) as env:
        for friction, mass in zip(causes.friction, reversed(causes.mass), strict=True):  # the worst, and the best
            env.reset(seed=0)
            drawn = DrawnCauses(friction, mass, 0.0, np.zeros((1, 2)), 0)
            with env.hidden(drawn):
                expert = make_behaviour("expert", np.random.default_rng(0))
                held.append(record_episode(env, expert, 56).success)
    assert held == [False, True]


def test_an_impossible_range_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden friction"):
        HiddenCauses(friction=(2.0, 1.0))
    with pytest.raises(ValueError, match="hidden offset"):
        HiddenCauses(offset=-1.0)


class _Recording:
    """One recorded episode, by the names that replays read."""

    def __init__(self, env: RobosuiteEnv) -> None:
        env.reset(seed=3)
        self.seeds = [3]
        self.actions = np.random.default_rng(0).uniform(-1, 1, (6, env.task.action_dim)).astype(np.float32)
        self.columns = {"simulator.state": env.simulator_state()["state"][None]}

    def episode(self, index: int) -> _Recording:
        return self


class _Encoder:
    """Proprioception as the only token."""

    proprioception_dim = 8

    def __call__(self, frames: torch.Tensor, proprioception: torch.Tensor) -> torch.Tensor:
        return proprioception[:, None]


def test_truth_differs_between_replays_only_under_hidden_causes() -> None:
    pytest.importorskip("robosuite")
    settings: dict[str, Any] = {
        "chunk_length": 2, "chunks": 2, "replays": 3, "seed": 0, "causes": asdict(HiddenCauses()),
    }  # fmt: skip
    with closing(RobosuiteEnv("Lift", obs="rgb")) as env:
        recording: Any = _Recording(env)
        encoder: Any = _Encoder()
        moment = Moment(0, 2, "closes")
        same = replays_of(env, encoder, recording, moment, {**settings, "causes": None})
        hidden, again = (replays_of(env, encoder, recording, moment, settings) for _ in range(2))
    assert same is not None
    assert hidden is not None
    assert again is not None
    assert same["read"].shape == (3, 2, 7)
    assert all(np.array_equal(same["read"][0], other) for other in same["read"])
    assert not np.allclose(hidden["read"][0], hidden["read"][1])
    assert all(np.array_equal(hidden[name], again[name]) for name in hidden)
    assert np.array_equal(hidden["first"], same["first"])


def test_a_folder_of_replays_is_read_back_and_one_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="bench hidden-truth"):
        read_truth(tmp_path)
    arrays = {
        "start": np.zeros((4, 3), np.float16), "actions": np.zeros((2, 8, 4), np.float32),
        "states": np.zeros((5, 2, 4, 3), np.float16), "read": np.ones((5, 2, 7), np.float32), "first": np.zeros(7),
        "episode": np.array(3),
    }  # fmt: skip
    for name, causes in (("a", None), ("b", {"friction": [1, 1]})):
        (tmp_path / name).mkdir()
        save_json(tmp_path / name / "truth.json", {"causes": causes})
        for number in range(3):
            np.savez_compressed(tmp_path / name / f"{number}.npz", **arrays)
    truths = read_truth(tmp_path)
    assert set(truths) == {"deterministic", "hidden"}
    assert truths["hidden"].read.shape == (3, 5, 2, 7)


def test_an_interval_is_over_episodes_however_many_moments_each_has(tmp_path: Path, world: str) -> None:
    data, rng = write_moving_square(tmp_path / "data").root, np.random.default_rng(0)
    moments = [
        {
            "start": rng.normal(size=(16, 8)), "actions": rng.uniform(-1, 1, (2, 8, 4)),
            "states": rng.normal(size=(4, 2, 16, 8)), "read": rng.normal(size=(4, 2, 7)), "first": np.zeros(7),
            "episode": np.array(number),
        }
        for number in range(6)
    ]  # fmt: skip
    found = []
    for name, repeated in (("once", 1), ("twice", 2)):
        folder = tmp_path / name
        folder.mkdir()
        save_json(folder / "truth.json", {"causes": {}})
        for number, moment in enumerate(moments * repeated):
            np.savez(folder / f"{number}.npz", **moment)
        config = CalibrationConfig(
            data, (world,), split="validation", truth=folder, draws=3, chunks=2, cache=tmp_path / "cache",
            out=tmp_path / f"{name}.json", probe=ProbeConfig(iterations=3),
        )  # fmt: skip
        found.append({(row.method, row.metric, row.setting): row for row in run(config)})
    once, twice = found
    for method in ("regression", "other replays", "other replays, probed"):
        key = method, "energy_score_cm", "hidden,chunks=2,cube"
        assert (once[key].n, twice[key].n) == (6, 12)
        assert (twice[key].low, twice[key].high) == pytest.approx((once[key].low, once[key].high))
    key = "other replays", "energy_score_ratio_vs_regression", "hidden,chunks=2,cube"
    assert (twice[key].low, twice[key].high) == pytest.approx((once[key].low, once[key].high))


def test_the_bench_prints_rows_and_a_picture_of_a_world(tmp_path: Path, world: str) -> None:
    data = write_moving_square(tmp_path / "data").root
    config = CalibrationConfig(
        data, (world,), split="validation", draws=3, chunks=2, cache=tmp_path / "cache", out=tmp_path / "rows.json",
        probe=ProbeConfig(iterations=3),
    )  # fmt: skip
    rows = {(row.method, row.metric, row.setting): row for row in run(config)}
    assert (tmp_path / "rows.png").stat().st_size > 10_000
    assert read_rows(tmp_path / "rows.json") == list(rows.values())
    assert rows["regression", "brier_lifted", "validation"].n > 0
    assert rows["Gaussian regression", "spread_skill", "validation,chunks=2,cube"].value > 0
    ratio = rows["residual_flow", "energy_score_ratio_vs_regression", "validation,chunks=2,cube"]
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.low <= ratio.value <= ratio.high
    shares = [
        row.value for (method, metric, _), row in rows.items() if (method, metric) == ("residual_flow", "rank_share")
    ]
    assert sum(shares) == pytest.approx(2.0)  # of cube and gripper
    with pytest.raises(ValueError, match="draws=1 must be at least 2"):
        run(replace(config, draws=1))


def test_a_sampler_of_the_truth_scores_as_the_floor_and_its_mean_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    replays, samples = (torch.randn(400, 8, 2, generator=generator) for _ in range(2))
    floor = energy_score_floor(replays, replays).mean()
    assert energy_score_of_replays(samples, replays).mean() / floor == pytest.approx(1.0, abs=0.05)
    assert energy_score_of_replays(torch.zeros(400, 1, 2), replays).mean() / floor > 1.3


def test_recordings_under_hidden_causes_are_others_and_reproducible() -> None:
    pytest.importorskip("robosuite")
    plain = RecordingConfig(length=12)
    recorders = [EpisodeRecorder(config, None) for config in (plain, replace(plain, hidden=True))]
    without, hidden = (recorder(3).recording for recorder in recorders)
    again = recorders[1](3).recording
    assert np.array_equal(hidden.frames, again.frames)
    assert np.array_equal(without.columns["simulator.state"][0], hidden.columns["simulator.state"][0])
    assert not np.allclose(without.columns["simulator.state"][-1], hidden.columns["simulator.state"][-1])
    assert without.columns.keys() == hidden.columns.keys()  # nothing tells


def test_an_ensemble_keeps_to_one_member_through_a_rollout(tiny_world_folder: Path) -> None:
    one, other = (cast(RegressionWorldModel, load_model(tiny_world_folder, "regression")) for _ in range(2))
    torch.manual_seed(1)
    for parameter in other.regression.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ensemble = EnsembleRegression.of([one, other])
    start = torch.randn(1, one.num_tokens, one.channels).expand(64, -1, -1)
    actions = torch.rand(1, 3, 8, one.action_dim).expand(64, -1, -1, -1)
    drawn = open_loop(ensemble, start, actions).features
    futures = [open_loop(member, start[:1], actions[:1]).features for member in (one, other)]
    of_member = torch.stack([(drawn - future).abs().amax(dim=(2, 3)) < 1e-4 for future in futures])  # (2, B, M)
    assert of_member.any(dim=0).all()
    assert of_member.eq(of_member[:, :, :1]).all()  # whose it is after the first chunk, it stays
    assert 16 < int(of_member[0, :, 0].sum()) < 48
    with pytest.raises(ValueError, match="two regressions"):
        EnsembleRegression.of([one])
