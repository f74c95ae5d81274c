"""Data of others, as they are: read in place, trained on by one command, and in the robot's own units."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agents.bc import BCConfig, train_bc
from agents.policies.io import load_policy
from benchmarks import fidelity, interventions
from rewards.fit_success import fit_world_success
from rla_gym.trained_world import describe_trained_world
from tests.foreign_dataset import ACTION_NAMES, CAMERAS, HEIGHT, WIDTH, foreign_actions, foreign_frames, write_foreign
from tests.test_train import tiny_training
from world_models.data.action_scale import ActionScale, fit_action_scale
from world_models.data.episodes import EpisodeDataset
from world_models.data.frame_fit import fit_frames
from world_models.data.motion import moving_dimensions
from world_models.data.reading import DataReading
from world_models.io import load_model, read_config
from world_models.training.train import train


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_foreign(tmp_path_factory.mktemp("foreign") / "arm")


# ---- reading


@pytest.mark.parametrize("version", ["v3.0", "v2.1", "v2.0"])
def test_every_version_is_read_in_place(version: str, tmp_path: Path) -> None:
    dataset = EpisodeDataset(write_foreign(tmp_path / "arm", version=version, episodes=9), camera="front")
    dataset.check(("observation.state",))
    assert (len(dataset), dataset.fps, dataset.instruction) == (9, 10, "press")
    assert dataset.action_names == ACTION_NAMES
    assert not dataset.labelled
    episode = dataset.episode(8)
    np.testing.assert_allclose(episode.actions, foreign_actions(8, 24), rtol=1e-6)
    np.testing.assert_allclose(episode.columns["observation.state"], foreign_actions(8, 24)[:, :3], rtol=1e-6)
    difference = dataset.frames(8).astype(int) - foreign_frames(8, 24, "front")
    assert np.abs(difference).mean() < 8


def test_of_several_cameras_none_is_taken_silently(foreign: Path) -> None:
    with pytest.raises(ValueError, match="has 2 cameras: choose one or more by --camera: front, wrist"):
        EpisodeDataset(foreign)
    dark = [EpisodeDataset(foreign, camera=camera).frames(0).mean() for camera in CAMERAS]
    assert dark[1] < 0.6 * dark[0]


def test_a_column_can_be_named_and_one_that_is_not_there_is_refused(foreign: Path) -> None:
    dataset = EpisodeDataset(foreign, camera="front", reading=DataReading(action_column="state"))
    np.testing.assert_allclose(dataset.episode(0).actions, foreign_actions(0, 24)[:, :3], rtol=1e-6)
    with pytest.raises(ValueError, match=r"no column 'torque': pass one of actions, state,.* by --action-column"):
        EpisodeDataset(foreign, camera="front", reading=DataReading(action_column="torque"))


def test_missing_episodes_can_be_left_out_and_the_others_stay_where_they_are(tmp_path: Path) -> None:
    root = write_foreign(tmp_path / "arm", version="v2.1", episodes=10)
    whole = EpisodeDataset(root, camera="front")
    (root / "videos/chunk-000/front/episode_000004.mp4").unlink()
    with pytest.raises(FileNotFoundError, match=r"episode_000004\.mp4 is missing; .*--skip-missing"):
        EpisodeDataset(root, camera="front").check()
    rest = EpisodeDataset(root, camera="front", reading=DataReading(skip_missing=True))
    rest.check()
    assert rest.numbers == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    np.testing.assert_array_equal(rest.episode(4).actions, whole.episode(5).actions)
    np.testing.assert_array_equal(rest.frames(4), whole.frames(5))
    for split in ("train", "validation", "report"):
        before = set(whole.split(split).tolist()) - {4}
        assert {rest.numbers[index] for index in rest.split(split)} == before


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_one_task_of_several_can_be_read_alone(version: str, tmp_path: Path) -> None:
    root = write_foreign(tmp_path / "arm", version=version, episodes=10, tasks=("press", "wave"))
    both = EpisodeDataset(root, camera="front")
    assert (both.instructions, len(both)) == (["press", "wave"], 10)
    wave = EpisodeDataset(root, camera="front", reading=DataReading(instruction="wave"))
    assert (wave.instruction, wave.numbers) == ("wave", [1, 3, 5, 7, 9])
    np.testing.assert_array_equal(wave.episode(2).actions, both.episode(5).actions)
    np.testing.assert_array_equal(wave.frames(2), both.frames(5))
    with pytest.raises(ValueError, match="no episode of the task 'push', but of 'press', 'wave'"):
        EpisodeDataset(root, camera="front", reading=DataReading(instruction="push"))


# ---- actions


@given(
    arrays(np.float64, (12, 4), elements=st.floats(-500, 500, allow_subnormal=False)),
    st.sampled_from(["minmax", "quantile"]),
    arrays(np.float64, (3, 4), elements=st.floats(-1, 1, allow_subnormal=False)),
)
def test_a_scale_goes_there_and_back(actions: np.ndarray, method: str, asked: np.ndarray) -> None:
    if not moving_dimensions([actions]):
        with pytest.raises(ValueError, match="none of the 4 action dimensions moves"):
            fit_action_scale([actions], method)  # type: ignore[arg-type]
        return
    scale = fit_action_scale([actions], method)  # type: ignore[arg-type]
    assert scale is not None
    scaled = scale.from_robot(actions)
    assert scaled.dtype == np.float32
    assert np.abs(scaled).max() <= 1
    chosen = list(scale.dimensions)
    if method == "minmax":
        np.testing.assert_allclose(scale.to_robot(scaled)[:, chosen], actions[:, chosen], atol=2e-4)
    asked = asked[:, : len(chosen)]
    np.testing.assert_allclose(scale.from_robot(scale.to_robot(asked)), asked, atol=1e-4)


def test_what_hardly_moves_is_left_out_and_rests(foreign: Path) -> None:
    actions = [foreign_actions(index, 24) for index in range(12)]
    scale = fit_action_scale(actions, "minmax")
    assert scale is not None
    assert scale.dimensions == (0, 1, 4)
    robot = scale.to_robot(np.zeros((5, 3)))
    assert robot.shape == (5, 5)
    np.testing.assert_allclose(robot[:, [2, 3, 4]], [[7.0, 12.0, 125.0]] * 5, atol=0.1)
    assert fit_action_scale(actions, "none") is None


def test_an_impossible_scale_is_refused() -> None:
    for fields, message in (
        (((0, 1), (0.0,), (1.0,), (0.0, 0.0)), "as many of each"),
        (((1, 0), (0.0, 0.0), (1.0, 1.0), (0.0, 0.0)), "ascend"),
        (((0,), (1.0,), (1.0,), (0.0,)), "empty"),
    ):
        with pytest.raises(ValueError, match=message):
            ActionScale(*fields)  # type: ignore[arg-type]


# ---- frames


def test_frames_of_any_shape_become_squares() -> None:
    frames = torch.zeros(2, 32, 48, 3, dtype=torch.uint8)
    frames[:, 10:22, 18:30] = 255  # a square in the middle
    frames[:, :, :4] = 90  # a stripe at the left
    boxed, cropped, stretched = (fit_frames(frames, fit, 48) for fit in ("letterbox", "crop", "stretch"))  # type: ignore[arg-type]
    assert boxed.shape == cropped.shape == stretched.shape == (2, 48, 48, 3)
    assert torch.equal(boxed[:, 8:40], frames)
    assert int(boxed[:, :8].max()) == int(boxed[:, 40:].max()) == 0
    assert int(cropped[:, :, 0].max()) == 0  # the stripe is cut off
    wide, high = (int((stretched[0, ..., 0] > 200).any(dim=side).sum()) for side in (0, 1))
    assert wide < high
    square = torch.zeros(1, 48, 48, 3, dtype=torch.uint8)
    assert fit_frames(square, "crop", 48) is square


# ---- from the folder to an environment


def test_a_world_of_nobodys_task_must_be_named() -> None:
    with pytest.raises(ValueError, match="RLAWM-v0 is for a world of one's own: name it by world="):
        gym.make_vec("RLAWM-v0", num_envs=2)


def test_one_command_makes_an_environment_of_it(
    foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(
        tiny_training(foreign, tmp_path / "world", 3), task=None, camera=("front",), frame_size=32,
        dynamics=("regression",), cache=tmp_path / "cache",
    )  # fmt: skip
    begun = replace(config, encoder_only=True)
    train(begun)
    with pytest.raises(ValueError, match="its training is under way, or was interrupted"):
        load_model(tmp_path / "world")
    train(config)
    said = capsys.readouterr().err
    for words in (
        "frames of 48 x 32 pixels become 32 x 32", "3 action dimensions are scaled to [-1, 1] by minmax",
        "2 that hardly move are left out and rest at their median: broken, idle", "no episode has a label of success",
        "1 of 3 proprioceptive values hardly move",
    ):  # fmt: skip
        assert words in said
    fit_world_success(tmp_path / "world", foreign, tmp_path / "cache", chunks=2)
    verdict = describe_trained_world(tmp_path / "world")
    assert f'gym.make_vec("RLAWM-v0", num_envs=64, world="{tmp_path / "world"}")' in verdict
    for words in ("After 1 chunk a state is", "Decoded pictures show", "Random actions succeed in", "not calibrated"):
        assert words in verdict
    card = (tmp_path / "world/README.md").read_text()
    assert "# World: arm" in card
    assert "from goal frames" in card
    assert "succeed with random actions" in card
    with pytest.warns(UserWarning, match="is not calibrated"):
        env = gym.make_vec("RLAWM-v0", num_envs=2, world=str(tmp_path / "world"))
    env.reset(seed=0)
    assert env.unwrapped.max_chunks == (24 - 1) // 8  # type: ignore[attr-defined]
    env.step(env.action_space.sample())
    picture = foreign_frames(0, 24, "front")[0]
    observation, _ = env.reset(options={"rgb": picture, "proprioception": np.zeros(4, np.float32)})
    model = load_model(tmp_path / "world", "regression")
    fitted = fit_frames(torch.from_numpy(picture)[None], "letterbox", 32)
    expected = model.encoder(fitted, torch.zeros(1, 4))
    np.testing.assert_allclose(observation[0], expected[0].numpy(), atol=1e-5)
    robot = model.to_robot(np.zeros((8, 3)))
    assert robot.shape == (8, 5)
    np.testing.assert_allclose(model.from_robot(robot), 0, atol=1e-6)
    env.close()


def test_a_training_goes_on_with_the_scale_of_its_world(foreign: Path, tmp_path: Path) -> None:
    config = replace(
        tiny_training(foreign, tmp_path / "world", 2), task="arm", camera=("front",), frame_size=32, fit="crop",
        dynamics=("regression",), cache=tmp_path / "cache",
    )  # fmt: skip
    train(config)
    more = write_foreign(tmp_path / "more", episodes=14)
    again = replace(config, data=more, out=tmp_path / "later", camera=(), fit=None, start_from=str(tmp_path / "world"))
    train(again)
    first, later = (load_model(tmp_path / name, "regression").config for name in ("world", "later"))
    assert later.reading == first.reading
    assert (later.camera, later.reading.fit) == ("front", "crop")


def test_a_clone_acts_in_the_robots_own_units(foreign: Path, tmp_path: Path) -> None:
    config = replace(
        tiny_training(foreign, tmp_path / "world", 2), task="arm", camera=("front",), frame_size=32, encoder_only=True,
        cache=tmp_path / "cache",
    )  # fmt: skip
    train(config)
    train_bc(BCConfig(world=str(tmp_path / "world"), out=tmp_path / "bc", gradient_steps=2, demonstrations=2))
    policy = load_policy(tmp_path / "bc")
    actions = policy.act(torch.zeros(2, policy.num_tokens, policy.channels))
    robot = policy.to_robot(actions)
    assert robot.shape == (2, policy.chunk_length, 5)
    np.testing.assert_allclose(robot[..., 2], 7.0)
    scale = read_config(tmp_path / "world").reading.action_scale
    assert policy.action_scale == scale


def test_two_cameras_are_seen_side_by_side(foreign: Path, tmp_path: Path) -> None:
    both = EpisodeDataset(foreign, camera=CAMERAS)
    assert both.image_size == (HEIGHT, 2 * WIDTH)
    alone = [EpisodeDataset(foreign, camera=camera).frames(3) for camera in CAMERAS]
    np.testing.assert_array_equal(both.frames(3), np.concatenate(alone, axis=2))
    config = replace(
        tiny_training(foreign, tmp_path / "world", 3), task="arm", camera=CAMERAS, frame_size=32,
        dynamics=("regression",), cache=tmp_path / "cache",
    )  # fmt: skip
    train(config)
    fit_world_success(tmp_path / "world", foreign, tmp_path / "cache", chunks=2)
    model = load_model(tmp_path / "world", "regression")
    tokens = model.encoder.visual.num_tokens
    assert model.num_tokens == 2 * tokens + 1
    # Each view has tokens of its own: another wrist picture changes the second half alone.
    pictures = [foreign_frames(0, 24, camera)[5] for camera in CAMERAS]
    wide = torch.from_numpy(np.concatenate(pictures, axis=1))[None].repeat(2, 1, 1, 1)
    wide[1, :, WIDTH:] = 0
    states = model.encode(wide, torch.zeros(2, 4))
    assert torch.equal(states[0, :tokens], states[1, :tokens])
    assert not torch.allclose(states[0, tokens:-1], states[1, tokens:-1])
    with pytest.raises(ValueError, match="this world sees 2 cameras side by side: give frames of 2 pictures"):
        model.encode(wide[:, :, 1:], torch.zeros(2, 4))
    with pytest.warns(UserWarning, match="is not calibrated"):
        env = gym.make_vec(
            "RLAWM-v0", num_envs=3, world=str(tmp_path / "world"), obs=("rgb", "pooled"), render_mode="rgb_array"
        )
    observation, _ = env.reset(options={"rgb": wide[0].numpy(), "proprioception": np.zeros(4, np.float32)})
    assert observation["rgb"].shape == (3, 32, 64, 3)
    assert env.observation_space.contains(observation)
    left, right = env.render()[0][:, :32], env.render()[0][:, 32:]  # type: ignore[index]
    assert left.mean() > 1.5 * right.mean()  # the wrist is dark
    env.close()
    again = replace(config, out=tmp_path / "later", camera=(), start_from=str(tmp_path / "world"))
    train(again)
    assert load_model(tmp_path / "later", "regression").config.cameras == CAMERAS
    rows = fidelity.run(
        fidelity.FidelityConfig(
            foreign, (str(tmp_path / "world"),), split="validation", chunks=2, cache=tmp_path / "cache",
            out=tmp_path / "fidelity.json",
        )
    )  # fmt: skip
    assert {"token_l1_vs_persistence", "pixel_l1_vs_background", "ssim"} <= {row.metric for row in rows}
    rows = interventions.run(
        interventions.InterventionsConfig(
            foreign, world=str(tmp_path / "world"), split="all", chunks=1, cache=tmp_path / "cache",
            out=tmp_path / "interventions.json",
        )
    )  # fmt: skip
    assert {"own_actions_nearer", "action_effect"} <= {row.metric for row in rows}
