"""Data in other formats become a dataset that trains: what is kept, what is refused, and that it goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from agents.video import write_frames
from rla_gym.data import convert
from rla_gym.data.convert import ConvertConfig, convert_data
from rla_gym.data.readers import open_source
from tests.foreign_dataset import foreign_actions, foreign_frames, write_foreign
from world_models.data.episodes import EpisodeDataset

LENGTH = 20


def _episode(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures ``(T, 32, 48, 3)`` and actions ``(T, 5)``."""
    return foreign_frames(index, LENGTH, "front"), foreign_actions(index, LENGTH)


def write_robomimic(path: Path, episodes: int = 3) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Can", "env_kwargs": {"control_freq": 20}})
        for index in range(episodes):
            frames, actions = _episode(index)
            demo = data.create_group(f"demo_{index}")
            demo["actions"] = actions
            demo["states"] = np.zeros((LENGTH, 71))
            demo["obs/agentview_image"] = frames
            demo["obs/robot0_eef_pos"] = actions[:, :3]
            demo["obs/robot0_gripper_qpos"] = actions[:, 3:]
    return path


def write_aloha(folder: Path, episodes: int = 3, *, compressed: bool = False) -> Path:
    folder.mkdir()
    for index in range(episodes):
        frames, actions = _episode(index)
        with h5py.File(folder / f"episode_{index}.hdf5", "w") as file:
            file["action"] = actions
            file["observations/qpos"] = actions[:, :4]
            file["observations/qvel"] = actions[:, :4]
            for camera in ("top", "left_wrist"):
                pictures = frames if camera == "top" else frames // 3
                file[f"observations/images/{camera}"] = _packed(pictures, folder) if compressed else pictures
    return folder


def write_npz(folder: Path, episodes: int = 3) -> Path:
    folder.mkdir()
    for index in range(episodes):
        frames, actions = _episode(index)
        success = np.arange(LENGTH) == (LENGTH - 1 if index else -1)
        np.savez(folder / f"pick_{index}.npz", image=frames, actions=actions, state=actions[:, :2], success=success)
    return folder


def write_videos(folder: Path, episodes: int = 3, *, tables: bool = True) -> Path:
    folder.mkdir()
    for index in range(episodes):
        frames, actions = _episode(index)
        write_frames(folder / f"pick_{index}.mp4", list(frames), 10)
        if tables:
            rows = "\n".join(",".join(map(repr, row)) for row in np.hstack([actions, actions[:, :2]]).tolist())
            header = "shoulder,elbow,broken,idle,hand,state_shoulder,state_elbow"
            (folder / f"pick_{index}.csv").write_text(f"{header}\n{rows}\n")
    return folder


def _packed(frames: np.ndarray, folder: Path) -> np.ndarray:
    """Pictures as PNG files in rows of bytes, padded with zeros to one length."""
    rows = []
    for frame in frames:
        Image.fromarray(frame).save(folder / "picture.png")
        rows.append((folder / "picture.png").read_bytes())
    (folder / "picture.png").unlink()
    longest = max(map(len, rows))
    return np.stack([np.frombuffer(row.ljust(longest, b"\0"), np.uint8) for row in rows])


@pytest.mark.parametrize(
    ("write", "name", "arguments", "camera", "fps", "states"),
    [
        (write_robomimic, "demo.hdf5", {}, "agentview", 20, 5),
        (write_aloha, "aloha", {"camera": "top", "fps": 50}, "top", 50, 4),
        (lambda path: write_aloha(path, compressed=True), "packed", {"camera": "top", "fps": 50}, "top", 50, 4),
        (write_npz, "npz", {"fps": 5}, "image", 5, 2),
        (write_videos, "videos", {}, "video", 10, 2),
    ],
)
def test_a_format_becomes_a_dataset_with_the_same_numbers(
    tmp_path: Path, write: Any, name: str, arguments: dict[str, Any], camera: str, fps: int, states: int
) -> None:
    source = write(tmp_path / name)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    out = convert_data(ConvertConfig(source, tmp_path / "out", task="pick it", **arguments))
    assert {path: path.stat().st_mtime_ns for path in before} == before  # the source is left as it was
    dataset = EpisodeDataset(out)
    dataset.check(("observation.state",))
    assert (len(dataset), dataset.fps, dataset.instruction) == (3, fps, "pick it")
    assert dataset.views == (f"observation.images.{camera}",)
    for index in range(3):
        frames, actions = _episode(index)
        episode = dataset.episode(index)
        np.testing.assert_array_equal(episode.actions, actions.astype(np.float32))
        assert episode.columns["observation.state"].shape == (LENGTH, states)
        assert np.abs(dataset.frames(index).astype(int) - frames).mean() < 10
    if name == "npz":
        assert dataset.labelled
        assert dataset.successes.tolist() == [False, True, True]
    else:
        assert not dataset.labelled
    if name == "videos":
        assert dataset.action_names == ("shoulder", "elbow", "broken", "idle", "hand")
    assert json.loads((out / "meta/provenance.json").read_text())["source"] == name


def test_it_goes_on_after_an_interruption_and_not_in_another_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_npz(tmp_path / "npz")
    straight = convert_data(ConvertConfig(source, tmp_path / "straight", fps=5, task="pick"))
    whole, calls = convert._write, []

    def interrupted(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        whole(*arguments)

    monkeypatch.setattr(convert, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_data(ConvertConfig(source, tmp_path / "out", fps=5, task="pick"))
    out = convert_data(ConvertConfig(source, tmp_path / "out", fps=5, task="pick"))
    assert len(calls) == 4  # one, the one that was interrupted, and the two that were left
    assert EpisodeDataset(out).fingerprint() == EpisodeDataset(straight).fingerprint()
    with pytest.raises(ValueError, match="was converted from other data"):
        convert_data(ConvertConfig(write_npz(tmp_path / "more", 4), tmp_path / "out", fps=5, task="pick"))


def test_all_that_stops_it_is_said_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    aloha = write_aloha(tmp_path / "aloha")
    with h5py.File(aloha / "episode_2.hdf5", "a") as file:
        del file["observations/images/top"]
    with pytest.raises(ValueError, match=r"episode_2.*choose one by --camera: left_wrist, top.*by --fps"):
        convert_data(ConvertConfig(aloha, tmp_path / "out"))
    with pytest.raises(ValueError, match="no camera is called 'front': pass one of left_wrist, top by --camera"):
        convert_data(ConvertConfig(aloha, tmp_path / "out", camera="front", fps=50))
    bare = write_videos(tmp_path / "bare", tables=False)
    with pytest.raises(ValueError, match="there are no actions"):
        convert_data(ConvertConfig(bare, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "notes").mkdir()
    with pytest.raises(ValueError, match=r"of no format that is known: LeRobotDataset, .*folder of videos"):
        open_source(tmp_path / "notes")


def test_rows_and_pictures_must_be_as_many(tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "videos")
    lines = (videos / "pick_1.csv").read_text().splitlines()
    (videos / "pick_1.csv").write_text("\n".join(lines[:-3]) + "\n")
    with pytest.raises(ValueError, match=f"episode pick_1 has {LENGTH} pictures and {LENGTH - 3} rows of actions"):
        convert_data(ConvertConfig(videos, tmp_path / "out"))


def test_a_table_of_words_is_refused_by_name(tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "videos")
    (videos / "pick_2.csv").write_text("x,y\n1,up\n")
    with pytest.raises(ValueError, match=r"pick_2\.csv is no table of numbers"):
        convert_data(ConvertConfig(videos, tmp_path / "out"))


def test_files_elsewhere_and_pickles_are_not_followed(tmp_path: Path) -> None:
    secret = write_robomimic(tmp_path / "secret.hdf5", 1)
    with h5py.File(tmp_path / "data.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((LENGTH, 2))
        file["data/demo_0/obs/a_image"] = np.zeros((LENGTH, 8, 8, 3), np.uint8)
        file["data/demo_0/obs/b_image"] = h5py.ExternalLink(str(secret), "data/demo_0/obs/agentview_image")
    assert open_source(tmp_path / "data.hdf5").facts().cameras == ("a",)
    folder = tmp_path / "npz"
    folder.mkdir()
    np.savez(folder / "a.npz", actions=np.array([{"code": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"a\.npz cannot be read|Object arrays cannot be loaded"):
        open_source(folder).facts()


def test_a_lerobot_folder_can_be_converted_too(tmp_path: Path) -> None:
    source = write_foreign(tmp_path / "arm", version="v2.1")
    out = convert_data(ConvertConfig(source, tmp_path / "out", camera="front", size=32, fit="crop"))
    dataset = EpisodeDataset(out)
    assert dataset.image_size == (32, 32)
    np.testing.assert_array_equal(dataset.episode(1).actions, foreign_actions(1, 24).astype(np.float32))


def test_states_of_the_simulator_are_drawn_by_the_twin(tmp_path: Path) -> None:
    pytest.importorskip("robosuite")
    from rla_gym.ground_truth.env import RobosuiteEnv

    env = RobosuiteEnv("Lift", obs="rgb")
    env.reset(seed=4)
    states, actions, frames = [], [], []
    for step in range(6):
        states.append(env.simulator_state()["state"])
        frames.append(env.render_frame())
        actions.append(np.sin(np.arange(4) + step).astype(np.float32))
        env.control_step(actions[-1])
    env.close()
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        file.create_group("data").attrs["env"] = "Lift"
        file["data/demo_1/states"], file["data/demo_1/actions"] = np.stack(states), np.stack(actions)
        file["data/demo_1"].attrs["model_file"] = "<mujoco><include file='/etc/passwd'/></mujoco>"  # never read
    dataset = EpisodeDataset(convert_data(ConvertConfig(tmp_path / "demo.hdf5", tmp_path / "out")))
    assert dataset.fps == 20
    assert dataset.successes.tolist() == [False]
    np.testing.assert_array_equal(dataset.episode(0).actions, np.stack(actions))
    assert np.abs(dataset.frames(0).astype(int) - np.stack(frames)).mean() < 3
    with h5py.File(tmp_path / "demo.hdf5", "a") as file:
        file["data"].attrs["env"] = "Door"
    with pytest.raises(ValueError, match="the states are those of 'Door', and Lift, Stack can be drawn here"):
        convert_data(ConvertConfig(tmp_path / "demo.hdf5", tmp_path / "other"))


def test_human_demonstrations_end_in_success(tmp_path: Path) -> None:
    pytest.importorskip("robosuite")
    path = Path(os.environ.get("RLA_GYM_HUMAN_DEMONSTRATIONS", "none"))
    if not path.is_file():
        pytest.skip("RLA_GYM_HUMAN_DEMONSTRATIONS names no file of robosuite's demonstrations")
    dataset = EpisodeDataset(convert_data(ConvertConfig(path, tmp_path / "out")))
    assert dataset.successes.all()
