"""Rewards follow the demonstration's clock; the success detector learns from episode labels."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rewards import (
    CorrespondingReward,
    GoalReward,
    ProgressReward,
    SuccessDetector,
    SuccessProbabilityReward,
    fit_success_detector,
    make_reward,
)
from world_models.data.demonstrations import Demonstrations

TOKENS, CHANNELS = 9, 6


@pytest.fixture(scope="module")
def demonstrations() -> Demonstrations:
    torch.manual_seed(0)
    lengths = (5, 8)
    features = [torch.randn(length, TOKENS, CHANNELS) for length in lengths]
    return Demonstrations.stack(features, [torch.zeros(length, 4) for length in lengths])


@pytest.fixture(scope="module")
def detector() -> SuccessDetector:
    torch.manual_seed(0)
    return SuccessDetector(TOKENS, CHANNELS).requires_grad_(False)


def test_corresponding_reward_is_minus_token_l1_at_that_frame(
    demonstrations: Demonstrations, detector: SuccessDetector
) -> None:
    reward = make_reward("corresponding", demonstrations, detector)
    state = torch.randn(3, TOKENS, CHANNELS)
    index, time = torch.tensor([0, 1, 1]), torch.tensor([2, 7, 0])
    expected = [-(state[i] - demonstrations.features[d, t].float()).abs().mean() for i, (d, t) in
                enumerate(zip(index, time, strict=True))]  # fmt: skip
    torch.testing.assert_close(reward(state, index, time), torch.stack(expected))
    assert isinstance(reward, CorrespondingReward)


def test_beyond_its_end_a_demonstrations_last_frame_counts(
    demonstrations: Demonstrations, detector: SuccessDetector
) -> None:
    reward = make_reward("corresponding", demonstrations, detector)
    last = demonstrations.features[:1, 4].float()
    assert reward(last, torch.tensor([0]), torch.tensor([400])) == 0
    assert reward(last, torch.tensor([0]), torch.tensor([3])) < 0


def test_goal_reward_does_not_depend_on_the_time(demonstrations: Demonstrations, detector: SuccessDetector) -> None:
    reward = make_reward("goal", demonstrations, detector)
    goal = torch.stack([demonstrations.features[0, 4], demonstrations.features[1, 7]]).float()
    for time in (0, 3, 99):
        assert torch.equal(reward(goal, torch.tensor([0, 1]), torch.tensor([time, time])), torch.zeros(2))
    assert (reward(goal.flip(0), torch.tensor([0, 1]), torch.tensor([0, 0])) < 0).all()
    assert isinstance(reward, GoalReward)


def test_progress_rises_along_a_demonstration_at_any_speed(
    demonstrations: Demonstrations, detector: SuccessDetector
) -> None:
    line = torch.linspace(0, 1, 200)[:, None, None] * torch.randn(1, TOKENS, CHANNELS)
    straight = Demonstrations.stack([line, line[::2]], [torch.zeros(200, 4), torch.zeros(100, 4)])
    reward = make_reward("progress", straight, detector)
    assert isinstance(reward, ProgressReward)
    for clock in (0, 50):
        rewards = reward(line[::10], torch.zeros(20, dtype=torch.int64), torch.full((20,), clock))
        assert (rewards.diff() > 0).all()
        torch.testing.assert_close(rewards, torch.linspace(-1, -9 / 199, 20), atol=0.03, rtol=0)


def test_success_probability_reward_is_the_detectors_probability_minus_one(
    demonstrations: Demonstrations, detector: SuccessDetector
) -> None:
    reward = make_reward("success_probability", demonstrations, detector)
    state = 3 * torch.randn(4, TOKENS, CHANNELS)
    rewards = [reward(state, torch.tensor(d), torch.tensor(t)) for d, t in (([0] * 4, [0] * 4), ([1] * 4, [7] * 4))]
    torch.testing.assert_close(rewards[0], detector.probability(state) - 1)
    assert torch.equal(*rewards)
    assert ((rewards[0] > -1) & (rewards[0] < 0)).all()
    assert isinstance(reward, SuccessProbabilityReward)


def test_sparse_reward_is_zero(demonstrations: Demonstrations, detector: SuccessDetector) -> None:
    reward = make_reward("sparse", demonstrations, detector)
    rewards = reward(demonstrations.features[:, 0].float(), torch.tensor([0, 1]), torch.tensor([0, 3]))
    assert torch.equal(rewards, torch.zeros(2))


def test_an_unknown_reward_names_the_known_ones(demonstrations: Demonstrations, detector: SuccessDetector) -> None:
    with pytest.raises(
        ValueError,
        match=r"unknown reward 'shaped'.*'corresponding', 'goal', 'progress', 'success_probability', 'sparse'",
    ):
        make_reward("shaped", demonstrations, detector)


def episodes(count: int, *, seed: int = 0) -> tuple[list[torch.Tensor], np.ndarray, np.ndarray]:
    """Noise, in which an object appears in one token; in successes it changes near the end, in failures it does not."""
    generator = torch.Generator().manual_seed(seed)
    successes = np.arange(count) % 2 == 0
    splits = np.array(
        [("train", "train", "train", "validation", "validation", "report")[i // 2 % 6] for i in range(count)]
    )
    features = []
    for index in range(count):
        frames = torch.randn(20, TOKENS, CHANNELS, generator=generator)
        frames[:, 4, 0] += 3.0
        if successes[index]:
            frames[14:, 4, 1] += 5.0
        features.append(frames)
    return features, successes, splits


@pytest.fixture(scope="module")
def fitted() -> tuple[SuccessDetector, dict]:
    return fit_success_detector(*episodes(480), batch_size=64)


def test_the_detector_learns_success_from_episode_labels(fitted: tuple[SuccessDetector, dict]) -> None:
    detector, metrics = fitted
    assert metrics["calibrated_on"] == "validation"
    assert metrics["balanced_accuracy"] > 0.95
    assert metrics["false_positive_rate_failed_frames"] < 0.05
    assert metrics["threshold"] == detector.threshold
    assert metrics["positive_frames"] > 0
    features, successes, _ = episodes(20, seed=1)
    last = torch.stack([frames[-1] for frames in features])
    assert (detector.success(last).numpy() == successes).mean() > 0.9
    assert not detector.success(torch.stack([frames[0] for frames in features])).any()
    probability = detector.probability(last)
    assert probability.shape == (20,)
    assert ((probability >= 0) & (probability <= 1)).all()


def test_what_occurs_in_the_middle_of_failures_is_no_success() -> None:
    features, successes, splits = episodes(480)
    for frames, success in zip(features, successes, strict=True):
        frames[14:, 4, 1] -= 1.5 * success  # the object is less informative
        frames[14:, 2, 0] += 6.0  # the gripper opens in successes and failures,
        if not success:
            frames[18:, 2, 0] -= 6.0  # and in failures closes again at the end
    detector, _ = fit_success_detector(features, successes, splits, batch_size=64)
    opened = torch.stack([frames[15] for frames, success in zip(features, successes, strict=True) if not success])
    assert detector.success(opened).float().mean() < 0.4


def test_the_same_seed_fits_the_same_detector(fitted: tuple[SuccessDetector, dict]) -> None:
    before = torch.random.get_rng_state()
    again, metrics = fit_success_detector(*episodes(480), batch_size=64)
    assert metrics == fitted[1]
    for one, other in zip(again.parameters(), fitted[0].parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())  # and leaves the caller's randomness alone


def test_report_episodes_are_never_read() -> None:
    features, successes, splits = episodes(48)
    read: list[int] = []

    def features_of_episode(index: int) -> np.ndarray:
        read.append(index)
        return features[index].numpy()

    fit_success_detector(features_of_episode, successes, splits, steps=2)
    assert set(read) == set(np.flatnonzero(splits != "report").tolist())


def test_saving_and_loading(fitted: tuple[SuccessDetector, dict], tmp_path: Path) -> None:
    detector, metrics = fitted
    detector.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"success.safetensors", "success.json"}
    assert json.loads((tmp_path / "success.json").read_text())["metrics"] == metrics
    loaded = SuccessDetector.load(tmp_path)
    states = torch.randn(7, TOKENS, CHANNELS)
    assert torch.equal(loaded.probability(states), detector.probability(states))
    assert loaded.threshold == detector.threshold
    assert loaded.metrics == metrics


def test_imagined_states_have_a_threshold_of_their_own(fitted: tuple[SuccessDetector, dict], tmp_path: Path) -> None:
    detector = copy.deepcopy(fitted[0])
    assert detector.imagined_threshold("residual_flow") == detector.threshold
    features, _, _ = episodes(40, seed=2)
    real = torch.stack(features)[:, [5, 12, 19]]
    # States that look half like success where there is none.
    imagined = real.clone()
    imagined[..., 4, 1] += 2.5
    succeeded = detector.success(real.flatten(0, 1)).view(40, 3).any(1)
    uncalibrated = detector.success(imagined.flatten(0, 1)).view(40, 3).any(1)
    assert uncalibrated[~succeeded].float().mean() > 0.3
    rates = detector.calibrate_imagined("residual_flow", [imagined], real)
    flagged = detector.imagined_success(imagined.flatten(0, 1), "residual_flow").view(40, 3).any(1)
    assert rates["false_success_rate"] == float(flagged[~succeeded].float().mean()) < 0.1
    assert rates["missed_success_rate"] == float((~flagged)[succeeded].float().mean()) < 0.1
    threshold = detector.imagined_threshold("residual_flow")
    assert threshold > detector.threshold == detector.imagined_threshold("regression")
    detector.save(tmp_path)
    assert SuccessDetector.load(tmp_path).imagined_threshold("residual_flow") == threshold
    # Where nothing fails there is nothing to choose by.
    assert detector.calibrate_imagined("regression", [imagined[succeeded]], real[succeeded]) == {}
    assert detector.imagined_threshold("regression") == detector.threshold


def test_bad_input_gets_one_clear_error(fitted: tuple[SuccessDetector, dict], tmp_path: Path) -> None:
    features, successes, splits = episodes(12)
    with pytest.raises(FileNotFoundError, match=r"no success detector.*rla-gym train"):
        SuccessDetector.load(tmp_path)
    with pytest.raises(ValueError, match=r"none of the 6 training episodes succeeded.*rla-gym collect"):
        fit_success_detector(features, np.zeros(12, bool), splits)
    with pytest.raises(ValueError, match="unknown split 'test'"):
        fit_success_detector(features, successes, ["test"] * 12)
    with pytest.raises(ValueError, match=r"shapes \(12,\) and \(3,\)"):
        fit_success_detector(features, successes, splits[:3])
    with pytest.raises(ValueError, match=r"made for features \(B, 9, 6\), not \(2, 4, 6\)"):
        fitted[0].success(torch.zeros(2, 4, 6))


def test_without_validation_episodes_it_calibrates_on_training_episodes() -> None:
    features, successes, _ = episodes(4)
    detector, metrics = fit_success_detector(features, successes, ["train"] * 4, steps=60)
    assert metrics["calibrated_on"] == "train"
    assert 0 < detector.threshold < 1
    _, metrics = fit_success_detector(features[:1], [True], ["train"], steps=5)
    assert metrics["false_positive_rate_failed_frames"] is None


def test_several_draws_are_to_succeed_as_often_as_it_is_likely(fitted: tuple[SuccessDetector, dict]) -> None:
    """Draws that hold look like success, others only half; the threshold comes to lie between the two."""
    detector = copy.deepcopy(fitted[0])
    generator = torch.Generator().manual_seed(3)
    features, _, _ = episodes(60, seed=4)
    real = torch.stack(features)[:, [5, 12, 19]]
    succeeded = detector.success(real.flatten(0, 1)).view(60, 3).any(1)
    likely = torch.where(succeeded, 0.7, 0.2)
    failed_state, solved_state = (real[succeeded == solved][:1] for solved in (False, True))

    def drawn() -> torch.Tensor:
        holds = torch.rand(60, generator=generator) < likely
        blurred = 0.7 * failed_state + 0.3 * solved_state
        return torch.where(holds[:, None, None, None], solved_state, blurred)

    rates = detector.calibrate_imagined("score_sampler", [drawn() for _ in range(8)], real)
    assert rates["false_success_rate"] == pytest.approx(0.2, abs=0.06)
    assert rates["missed_success_rate"] == pytest.approx(0.3, abs=0.06)
    assert rates["brier_score"] < 0.16
    threshold = detector.imagined_threshold("score_sampler")
    blurred = detector.probability(0.7 * failed_state[0] + 0.3 * solved_state[0]).max()
    assert float(blurred) < threshold < float(detector.probability(solved_state[0]).max())
