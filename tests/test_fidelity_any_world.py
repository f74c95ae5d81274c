"""Fidelity and interventions of a world on data without simulator columns, as a robot's own recordings are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from benchmarks.exchanged_actions import CHOICES, Futures, distance_rows, distances, dreams, find_windows, futures
from benchmarks.held_out import possible_chunks, recorded_episodes
from benchmarks.picture_errors import MOST_DECIBEL, background_of, picture_errors, psnr, sized, ssim
from benchmarks.proprioception_errors import measured_values
from benchmarks.results import Row
from benchmarks.success_agreement import last_states, real_last_states
from rewards import SuccessDetector
from tests.conftest import add_detector, save_tiny_world
from tests.media import picture_width
from tests.synthetic_dataset import write_moving_square
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import cache_features, episode_offsets
from world_models.io import load_encoder, load_model, save_model

Rows = dict[tuple[str, str, str], dict[str, Any]]
"""Rows by method, metric and setting."""
BENCHES = """
import sys
from pathlib import Path
from benchmarks import fidelity, interventions

data, world, out = map(Path, sys.argv[1:])
fidelity.run(fidelity.FidelityConfig(data, (str(world),), solver_steps=(2,), out=world / "fidelity.json"))
interventions.run(
    interventions.InterventionsConfig(data, str(world), split="all", chunks=2, out=out / "interventions.json")
)
print("simulators:", sorted({name.split(".")[0] for name in sys.modules} & {"robosuite", "mujoco"}))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    """Twenty episodes of 26 frames: two report episodes, three chunks."""
    return write_moving_square(tmp_path_factory.mktemp("data"), length=26, simulator=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of random weights with two proprioceptive values; its decoder shows a grey background alone."""
    folder = add_detector(save_tiny_world(tmp_path_factory.mktemp("world"), spread=0.4, proprioception=2))
    for name in ("residual_flow", "regression"):
        model = load_model(folder, name)
        with torch.no_grad():
            last = model.rgb_decoder.layers[-2]
            last.weight.zero_()
            last.bias.fill_(-100.0)
            model.rgb_decoder.background.fill_(120 / 255)
        save_model(folder, model)
    detector = SuccessDetector.load(folder)
    detector.metrics = {"calibrated_on": 2, "balanced_accuracy": 0.5}
    detector.save(folder)
    (folder / "training.json").write_text(json.dumps({"metrics": {}, "hardware": "none", "settings": {}, "data": {
        "episodes": 20, "frames": 520, "kinds": {}, "successful": 10, "splits": {}}}))  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def printed(data: EpisodeDataset, world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What both benchmarks print, in a process of their own, and the folder of what the second one writes."""
    out = tmp_path_factory.mktemp("out")
    command = [sys.executable, "-c", BENCHES, data.root, world, out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, out


def rows_of(path: Path) -> Rows:
    """The rows of a file; their intervals hold their values."""
    rows = json.loads(path.read_text())
    for row in rows:
        if row["low"] is not None:
            assert row["low"] - 1e-6 <= row["value"] <= row["high"] + 1e-6, row
    return {(row["method"], row["metric"], row["setting"]): row for row in rows}


def test_fidelity_measures_tokens_pictures_proprioception_and_success_at_every_horizon(
    printed: tuple[str, Path], world: Path
) -> None:
    rows = rows_of(world / "fidelity.json")
    for chunk in (1, 2, 3):
        for method in ("residual_flow", "regression", "persistence"):
            for metric in ("token_l1_vs_persistence", "pixel_l1_vs_persistence", "pixel_l1_vs_background", "ssim",
                           "psnr_db", "proprioception_vs_persistence", "proprioception_0_error",
                           "proprioception_1_error"):  # fmt: skip
                assert (method, metric, f"chunks={chunk}") in rows
        for metric in ("token_l1_vs_persistence", "pixel_l1_vs_persistence", "proprioception_vs_persistence"):
            assert rows["persistence", metric, f"chunks={chunk}"]["value"] == pytest.approx(1.0)
        assert rows["regression", "success_agreement", f"chunks={chunk}"]["n"] == 2
    assert rows["commoner label", "success_agreement", "last frame"]["value"] == 0.5
    assert {row["n"] for row in rows.values() if row["metric"] == "ssim"} == {2}
    assert not [metric for _, metric, _ in rows if "_cm" in metric or "lift" in metric]
    assert picture_width(world / "fidelity.png") > 1500
    assert picture_width(world / "fidelity_film_strip.png") > 500
    assert "| ssim | regression |" in (world / "README.md").read_text()


def test_a_decoder_that_shows_the_background_alone_is_named(printed: tuple[str, Path], world: Path) -> None:
    row = rows_of(world / "fidelity.json")["rgb_decoder", "pixel_l1_vs_background", "real frames"]
    assert row["value"] == pytest.approx(1.0, abs=0.02)
    assert f"{world}: the RGB decoder shows hardly more than the background" in printed[0]


def test_interventions_exchange_and_zero_the_actions(printed: tuple[str, Path]) -> None:
    rows = rows_of(printed[1] / "interventions.json")
    for method in ("residual_flow", "regression"):
        for chunk in (1, 2):
            for choice in ("exchanged", "zero"):
                setting = f"actions={choice},chunks={chunk}"
                assert 0 <= rows[method, "own_actions_nearer", setting]["value"] <= 1
                assert rows[method, "action_effect", setting]["value"] > 0
            assert rows[method, "other_actions_nearer", f"actions=exchanged,chunks={chunk}"]["n"] == 20
            assert rows[method, "token_l1_vs_persistence", f"actions=own,chunks={chunk}"]["unit"] == "1"
    assert picture_width(printed[1] / "interventions.png") > 500
    assert picture_width(printed[1] / "interventions_film_strip.png") > 300


def test_no_simulator_is_imported(printed: tuple[str, Path]) -> None:
    assert "simulators: []" in printed[0]


def test_a_perfect_picture_has_no_error() -> None:
    real = torch.randint(256, (2, 4, 32, 32, 3), dtype=torch.uint8)
    errors = picture_errors(real[:, 1:], real, background=real[0, 0])
    assert (errors.pixel == 0).all()
    np.testing.assert_allclose(errors.ssim, 1.0, atol=1e-6)
    np.testing.assert_allclose(errors.psnr, MOST_DECIBEL)
    assert errors.persistence.min() > 0
    assert errors.background.min() > 0
    still = picture_errors(real[:, :1].expand(2, 3, 32, 32, 3), real, background=real[0, 0])
    np.testing.assert_array_equal(still.pixel, still.persistence)


def test_ssim_and_psnr_are_those_of_the_books() -> None:
    # Of constant images only luminance differs: (2 a b + C1) / (a^2 + b^2 + C1) with C1 = 0.01^2.
    dark, bright = torch.full((1, 3, 16, 16), 0.25), torch.full((1, 3, 16, 16), 0.75)
    assert float(ssim(dark, bright)) == pytest.approx((2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4), abs=1e-5)
    assert float(psnr(dark, bright)) == pytest.approx(20 * np.log10(1 / 0.5), abs=1e-4)
    rng = np.random.default_rng(0)
    first = rng.random((32, 40))
    second = np.clip(first + 0.2 * rng.normal(size=first.shape), 0, 1)
    pair = [torch.from_numpy(image).float().expand(1, 3, -1, -1) for image in (first, second)]
    assert float(ssim(*pair)) == pytest.approx(reference_ssim(first, second), abs=1e-4)


def reference_ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Wang et al.'s SSIM of grey images, by SciPy's Gaussian filter of radius 5, without the border."""

    def local_mean(image: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(image, 1.5, truncate=3.5)[5:-5, 5:-5]

    m1, m2 = local_mean(first), local_mean(second)
    v1, v2 = local_mean(first**2) - m1**2, local_mean(second**2) - m2**2
    covariance = local_mean(first * second) - m1 * m2
    scores = (2 * m1 * m2 + 0.01**2) * (2 * covariance + 0.03**2)
    return float((scores / ((m1**2 + m2**2 + 0.01**2) * (v1 + v2 + 0.03**2))).mean())


def test_recorded_pictures_are_compared_at_the_worlds_own_size(data: EpisodeDataset) -> None:
    frames = np.concatenate([data.frames(index) for index in range(len(data))])
    background = background_of(data, frames)
    assert np.abs(background.astype(int) - 120).max() <= 2  # the square is nowhere most of the time
    assert sized(frames[:6].reshape(2, 3, 32, 32, 3), (16, 16)).shape == (2, 3, 16, 16, 3)
    assert sized(background, (16, 16)).shape == (16, 16, 3)
    np.testing.assert_array_equal(sized(background, (32, 32)).numpy(), background)


def test_last_states_lead_to_the_last_frame(data: EpisodeDataset, world: Path, tmp_path: Path) -> None:
    features = torch.from_numpy(cache_features(data, load_encoder(world), tmp_path))
    recorded = recorded_episodes(data, "report", features, chunks=2, length=8)
    offsets, model = episode_offsets(data.lengths), load_model(world, "regression")
    index, end = int(recorded.episodes[0]), torch.from_numpy(offsets[recorded.episodes + 1] - 1)
    actions = np.stack([data.episode(int(episode)).actions[25 - 8 : 25] for episode in recorded.episodes])
    expected = model.predict(features[end - 8].float(), torch.from_numpy(actions)).features
    torch.testing.assert_close(last_states(model, data, features, recorded, 1, 0), expected)
    torch.testing.assert_close(real_last_states(data, features, recorded), features[end].float())
    measured = measured_values(data, recorded)
    np.testing.assert_allclose(measured[0, 2, :2], data.episode(index).columns["observation.state"][16])
    assert possible_chunks(data, "report", 6, 8) == 3


def shares(windows: Futures, imagined: dict[str, torch.Tensor]) -> dict[tuple[str, str], Row]:
    found = distances(windows, imagined)
    rest = dict.fromkeys(("bench", "task", "method", "seeds", "hardware", "date", "command"), "")
    rows = distance_rows(found, np.arange(len(windows.start)), 0, "", **rest)
    return {(row.metric, row.setting): row for row in rows}


@pytest.fixture(scope="module")
def windows(data: EpisodeDataset, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Futures:
    """Those of twenty episodes, of one chunk."""
    features = torch.from_numpy(cache_features(data, load_encoder(world), tmp_path_factory.mktemp("cache")))
    found = find_windows(data, "all", 24, np.random.default_rng(0))
    assert not (found.episodes == found.others).any()
    assert sorted(found.episodes) == sorted(found.others) == list(range(20))
    return next(futures(data, features, found, chunks=3, length=8))


def test_a_dream_that_ignores_actions_is_as_near_under_any(windows: Futures) -> None:
    rows = shares(windows, dict.fromkeys(CHOICES, windows.own + 0.1))
    for metric in ("own_actions_nearer", "other_actions_nearer"):
        assert rows[metric, "actions=exchanged,chunks=3"].value == 0.5
    assert rows["action_effect", "actions=zero,chunks=3"].value < 1e-3
    generator = torch.Generator().manual_seed(0)
    noise = {name: windows.own + torch.randn(windows.own.shape, generator=generator) for name in CHOICES}
    low, high = rows_interval(shares(windows, noise)["own_actions_nearer", "actions=exchanged,chunks=3"])
    assert low <= 0.5 <= high


def rows_interval(row: Row) -> tuple[float, float]:
    assert row.low is not None
    assert row.high is not None
    return row.low, row.high


def test_a_dream_that_follows_actions_is_nearest_under_the_right_ones(windows: Futures) -> None:
    still = windows.start[:, None].expand_as(windows.own)
    rows = shares(windows, {"own": windows.own, "exchanged": windows.other, "zero": still})
    for chunk in (1, 2, 3):
        exchanged = f"actions=exchanged,chunks={chunk}"
        assert rows["token_l1_vs_persistence", f"actions=own,chunks={chunk}"].value < 1e-3
        # Two squares in the same corner are equally near.
        assert rows["own_actions_nearer", exchanged].value > 0.95
        assert rows["other_actions_nearer", exchanged].value > 0.95
        assert rows["action_effect", f"actions=zero,chunks={chunk}"].value == pytest.approx(1.0)


def test_the_same_actions_are_dreamed_alike(windows: Futures, world: Path) -> None:
    assert (windows.actions["zero"] == 0).all()
    same = Futures(
        windows.start, windows.own, windows.other, dict.fromkeys(CHOICES, windows.actions["own"]), windows.rows
    )
    imagined = dreams(load_model(world, "residual_flow"), same, seed=3)
    torch.testing.assert_close(imagined["own"], imagined["exchanged"], rtol=0, atol=0)


def test_actions_of_one_episode_cannot_be_exchanged(data: EpisodeDataset) -> None:
    with pytest.raises(ValueError, match="0 report episodes longer than 40 frames, and two"):
        find_windows(data, "report", 40, np.random.default_rng(0))
