"""Episodes on disk: round trip, resuming, splits, and the LeRobotDataset v3.0 layout as lerobot itself sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from world_models.data.episodes import EpisodeDataset, EpisodeWriter, split_of

CAMERA = "observation.images.agentview"
PARAMETERS: dict[str, Any] = {
    "fps": 20,
    "instruction": "lift the red cube",
    "camera": CAMERA,
    "image_size": 32,
    "action_names": ("x", "y", "z", "gripper"),
    "columns": {"observation.state": (4,), "simulator.gripper_opening": (1,), "next.success": (1,)},
    "robot_type": "panda",
}
KINDS = ("expert", "play", "near_miss")


def make_episode(index: int, size: int = 32) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Frames of a small red square that moves over a shaded table; actions and columns at random."""
    rng = np.random.default_rng(index)
    length = 5 + index
    frames = np.empty((length, size, size, 3), np.uint8)
    frames[:] = np.linspace(60, 180, size).astype(np.uint8)[None, :, None, None]
    for frame in range(length):
        column = (frame + 3 * index) % (size - 4)
        frames[frame, 10:13, column : column + 3] = (220, 25, 20)
    columns = {
        "observation.state": rng.normal(size=(length, 4)).astype(np.float32),
        "simulator.gripper_opening": rng.random((length, 1)).astype(np.float32),
        "next.success": (np.arange(length) >= length - 2 + index % 2 * 2)[:, None],
    }
    return frames, rng.uniform(-1, 1, (length, 4)).astype(np.float32), columns


def write_episode(root: Path, index: int) -> None:
    writer = EpisodeWriter(root, **PARAMETERS)
    writer.write(index, *make_episode(index), kind=KINDS[index % 3], success=index % 2 == 0, seed=100 + index)


def write_dataset(root: Path, count: int) -> EpisodeDataset:
    for index in range(count):
        write_episode(root, index)
    EpisodeWriter(root, **PARAMETERS).finish()
    return EpisodeDataset(root)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    return write_dataset(tmp_path_factory.mktemp("lift"), 12)


def test_round_trip_keeps_actions_exactly_and_frames_closely(dataset: EpisodeDataset) -> None:
    assert len(dataset) == 12
    for index in range(len(dataset)):
        frames, actions, columns = make_episode(index)
        episode = dataset.episode(index)
        assert (episode.index, len(episode), episode.kind) == (index, 5 + index, KINDS[index % 3])
        assert episode.success == (index % 2 == 0)
        assert episode.split == split_of(index)
        assert episode.actions.dtype == np.float32
        np.testing.assert_array_equal(episode.actions, actions)
        assert set(episode.columns) == set(columns)
        for name, values in columns.items():
            assert episode.columns[name].dtype == values.dtype
            np.testing.assert_array_equal(episode.columns[name], values)
        read = dataset.frames(index)
        assert (read.shape, read.dtype) == (frames.shape, np.uint8)
        error = np.abs(read.astype(int) - frames)
        assert error.mean() < 1.5
        # The small red square keeps its colour: this is what 4:4:4 is for.
        assert error[(frames == (220, 25, 20)).all(-1)].mean() < 8


def test_dataset_says_what_it_holds(dataset: EpisodeDataset) -> None:
    assert (dataset.fps, dataset.instruction, dataset.views) == (20, "lift the red cube", (CAMERA,))
    assert (dataset.action_names, dataset.image_size) == (("x", "y", "z", "gripper"), (32, 32))
    assert dataset.lengths.dtype == np.int64
    assert dataset.lengths.tolist() == [5 + index for index in range(12)]
    assert dataset.num_frames == sum(range(5, 17))
    assert dataset.kinds == [KINDS[index % 3] for index in range(12)]
    assert dataset.successes.tolist() == [True, False] * 6
    splits = [dataset.split(name) for name in ("train", "validation", "report")]
    assert sorted(np.concatenate(splits).tolist()) == list(range(12))
    assert all(len(indices) for indices in splits)
    with pytest.raises(ValueError, match="'test'; choose one of train, validation, report, all"):
        dataset.split("test")
    with pytest.raises(IndexError, match=r"episode 12 .* 0\.\.11"):
        dataset.frames(12)
    with pytest.raises(ValueError, match=f"front.*{CAMERA}"):
        EpisodeDataset(dataset.root, camera="observation.images.front")


def test_statistics_are_those_of_the_data(dataset: EpisodeDataset) -> None:
    statistics = json.loads((dataset.root / "meta/stats.json").read_text())
    actions = np.concatenate([make_episode(index)[1] for index in range(12)]).astype(np.float64)
    for name, value in (("mean", actions.mean(0)), ("std", actions.std(0)), ("min", actions.min(0))):
        np.testing.assert_allclose(statistics["action"][name], value, rtol=1e-6)
    assert statistics["action"]["count"] == [len(actions)]
    index = statistics["index"]
    assert (index["min"], index["max"], index["mean"]) == ([0], [125], pytest.approx([62.5]))
    np.testing.assert_allclose(index["std"], np.arange(126).std(), rtol=1e-6)
    frames = np.concatenate([make_episode(index)[0] for index in range(12)]) / 255.0
    for name, value in (("mean", frames.mean((0, 1, 2))), ("max", frames.max((0, 1, 2)))):
        assert np.shape(statistics[CAMERA][name]) == (3, 1, 1)
        np.testing.assert_allclose(np.ravel(statistics[CAMERA][name]), value, rtol=1e-6)
    np.testing.assert_allclose(np.ravel(statistics[CAMERA]["std"]), frames.std((0, 1, 2)), rtol=1e-6)


def test_collection_resumes_and_grows(tmp_path: Path) -> None:
    for index in (2, 0):
        write_episode(tmp_path, index)
    writer = EpisodeWriter(tmp_path, **PARAMETERS)
    assert [writer.has(index) for index in range(4)] == [True, False, True, False]
    with pytest.raises(FileNotFoundError, match="not finished"):
        EpisodeDataset(tmp_path)
    with pytest.raises(ValueError, match=r"lacks episodes 1 of 0\.\.2"):
        writer.finish()
    with pytest.raises(ValueError, match=r"episode 2 is in .* already"):
        write_episode(tmp_path, 2)
    write_episode(tmp_path, 1)
    writer.finish()
    assert len(EpisodeDataset(tmp_path)) == 3
    first = EpisodeDataset(tmp_path).fingerprint()
    writer.finish()
    assert EpisodeDataset(tmp_path).fingerprint() == first
    write_episode(tmp_path, 3)
    writer.finish()
    grown = EpisodeDataset(tmp_path)
    assert grown.fingerprint() != first
    for index in range(4):
        np.testing.assert_array_equal(grown.episode(index).actions, make_episode(index)[1])


def test_several_processes_write_what_one_writes(tmp_path: Path) -> None:
    alone = write_dataset(tmp_path / "alone", 6)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(write_episode, [tmp_path / "together"] * 6, (5, 3, 1, 4, 2, 0)))
    EpisodeWriter(tmp_path / "together", **PARAMETERS).finish()
    assert EpisodeDataset(tmp_path / "together").fingerprint() == alone.fingerprint()


def test_an_interrupted_write_leaves_no_episode(tmp_path: Path) -> None:
    script = (
        "import numpy as np, test_episodes as t\n"
        "writer = t.EpisodeWriter(__import__('sys').argv[1], **{**t.PARAMETERS, 'columns': {}})\n"
        "frames = np.random.default_rng(0).integers(0, 255, (4000, 32, 32, 3), np.uint8)\n"
        "writer.write(0, frames, np.zeros((4000, 4)), {}, kind='play', success=False, seed=0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=environment)
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("videos/**/.*.tmp")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob("videos/**/.*.tmp"))
    assert not list(tmp_path.glob("videos/**/*.mp4"))
    assert not list(tmp_path.glob("data/**/*.parquet"))

    writer = EpisodeWriter(tmp_path, **{**PARAMETERS, "columns": {}})
    assert not writer.has(0)
    frames, actions, _ = make_episode(0)
    writer.write(0, frames, actions, {}, kind="play", success=False, seed=0)
    writer.finish()
    assert not list(tmp_path.glob("**/.*.tmp"))
    assert EpisodeDataset(tmp_path).lengths.tolist() == [5]


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    writer = EpisodeWriter(tmp_path, **PARAMETERS)
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", fail)
        with pytest.raises(OSError, match="disk full"):
            writer.write(0, *make_episode(0), kind="play", success=False, seed=0)
    assert not writer.has(0)
    assert not list(tmp_path.glob("data/**/*.*"))
    write_episode(tmp_path, 0)
    writer.finish()
    assert EpisodeDataset(tmp_path).lengths.tolist() == [5]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fps": 10}, "fps is 20, not 10"),
        ({"instruction": "push"}, "instruction is 'lift the red cube', not 'push'"),
        ({"camera": "observation.images.front"}, "observation.images"),
        ({"image_size": 64}, "features"),
        ({"action_names": ("a", "b", "c", "d")}, "features"),
        ({"columns": {}}, "features"),
        ({"pixel_format": "yuv420p"}, "features"),
    ],
)
def test_other_parameters_do_not_continue_a_dataset(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    EpisodeWriter(tmp_path, **PARAMETERS)
    with pytest.raises(ValueError, match=message) as error:
        EpisodeWriter(tmp_path, **{**PARAMETERS, **changed})
    assert "same parameters" in str(error.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fps": 0}, "fps is 0"),
        ({"instruction": ""}, "instruction is empty"),
        ({"camera": "agentview"}, "'observation.images.agentview'"),
        ({"image_size": (32, 0)}, "image_size"),
        ({"image_size": 33, "pixel_format": "yuv420p"}, "even sides"),
        ({"pixel_format": "rgb9"}, "pixel_format is 'rgb9'.*yuv444p"),
        ({"action_names": ()}, "action_names is empty"),
        ({"columns": {"timestamp": (1,)}}, "timestamp"),
        ({"columns": {"observation.state": (2, 2)}}, "one positive dimension"),
    ],
)
def test_malformed_parameters_are_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EpisodeWriter(tmp_path / "new", **{**PARAMETERS, **changed})
    assert not (tmp_path / "new").exists()


def test_an_episode_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path, **PARAMETERS)
    frames, actions, columns = make_episode(0)
    labels: dict[str, Any] = {"kind": "play", "success": False, "seed": 0}
    with pytest.raises(ValueError, match="frames of episode 0 are float64"):
        writer.write(0, frames / 255, actions, columns, **labels)
    with pytest.raises(ValueError, match=r"'action' of episode 0 has shape \(4, 4\); \(5, 4\)"):
        writer.write(0, frames, actions[:-1], columns, **labels)
    with pytest.raises(ValueError, match="'action' of episode 0 holds NaN"):
        writer.write(0, frames, np.full_like(actions, np.nan), columns, **labels)
    with pytest.raises(ValueError, match="columns of episode 0"):
        writer.write(0, frames, actions, {}, **labels)
    with pytest.raises(ValueError, match="kind of episode 0"):
        writer.write(0, frames, actions, columns, **{**labels, "kind": ""})
    with pytest.raises(ValueError, match="seed of episode 0"):
        writer.write(0, frames, actions, columns, **{**labels, "seed": 2**64})
    with pytest.raises(ValueError, match="index is -1"):
        writer.write(-1, frames, actions, columns, **labels)
    with pytest.raises(ValueError, match="holds no episode"):
        writer.finish()


def test_a_folder_that_is_no_dataset_is_named_with_the_fix(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"{root} is no dataset.*rla-gym collect"):
            EpisodeDataset(root)
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text(json.dumps({"codebase_version": "v1.6", "features": {}}))
    with pytest.raises(ValueError, match=r"v1\.6.*v2\.1 and v3\.0 are read"):
        EpisodeDataset(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, 2)
    video = tmp_path / f"videos/{CAMERA}/chunk-000/file-001.mp4"
    video.unlink()
    with pytest.raises(FileNotFoundError, match=r"file-001\.mp4 is missing"):
        dataset.frames(1)
    with pytest.raises(FileNotFoundError, match=r"file-001\.mp4 is missing"):
        EpisodeWriter(tmp_path, **PARAMETERS).finish()


def test_splits_are_stable_and_in_proportion() -> None:
    # Written down: a split that moved would leak validation episodes into the training of existing worlds.
    first = ["train", "train", "validation", "report", "train", "train", "train", "train", "train", "train"]
    assert [split_of(index) for index in range(10)] == first
    assert Counter(map(split_of, range(10_000))) == {"train": 8000, "validation": 1000, "report": 1000}
    places = Counter(index % 10 for index in range(10_000) if split_of(index) == "validation")
    assert len(places) == 10, "validation keeps off some places"
    assert max(places.values()) < 150, "validation prefers a place"
    with pytest.raises(ValueError, match="-1"):
        split_of(-1)


def test_fingerprint_changes_with_any_episode_file(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, 3)
    before = dataset.fingerprint()
    for path in (tmp_path / f"videos/{CAMERA}/chunk-000/file-001.mp4", tmp_path / "data/chunk-000/file-002.parquet"):
        content = path.read_bytes()
        os.utime(path)
        assert dataset.fingerprint() == before
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert dataset.fingerprint() != before
        path.write_bytes(content)
    assert dataset.fingerprint() == before == EpisodeDataset(tmp_path).fingerprint()


def write_foreign(root: Path, lengths: list[int], with_success: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """A dataset as others lay it out: all episodes in one parquet and one mp4, rectangular frames, no labels."""
    height, width, total = 24, 32, sum(lengths)
    frames = np.full((total, height, width, 3), 90, np.uint8)
    for time_step in range(total):
        frames[time_step, 4:12, 5 * time_step % 24 : 5 * time_step % 24 + 8] = (200, 40 + time_step, 30)
    actions = np.random.default_rng(0).normal(size=(total, 2)).astype(np.float32)
    video = root / f"videos/{CAMERA}/chunk-000/file-000.mp4"
    video.parent.mkdir(parents=True)
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "5", "g": "4"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for time_step, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = time_step, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())

    ends = np.cumsum(lengths)
    begins = ends - lengths
    owner = np.repeat(np.arange(len(lengths)), lengths)
    data = {
        "action": pa.FixedSizeListArray.from_arrays(pa.array(actions.reshape(-1)), 2),
        "observation.state": pa.array(actions.astype(np.float64).tolist()),
        "timestamp": ((np.arange(total) - begins[owner]) / 10).astype(np.float32),
        "frame_index": np.arange(total) - begins[owner],
        "episode_index": owner,
        "index": np.arange(total),
        "task_index": np.zeros(total, np.int64),
    }
    features: dict[str, Any] = {
        CAMERA: {"dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "channels"]},
        "action": {"dtype": "float32", "shape": [2], "names": {"motors": ["shoulder", "elbow"]}},
        "observation.state": {"dtype": "float64", "shape": [2], "names": None},
    }
    for name in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        features[name] = {"dtype": "int64", "shape": [1], "names": None}
    if with_success:
        # Episode 1 ends in success; episode 3 loses it again.
        data["next.success"] = ((owner == 1) & (data["frame_index"] >= 7)) | ((owner == 3) & (data["frame_index"] == 3))
        features["next.success"] = {"dtype": "bool", "shape": [1], "names": None}
    (root / "data/chunk-000").mkdir(parents=True)
    pq.write_table(pa.table(data), root / "data/chunk-000/file-000.parquet", row_group_size=7)
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    rows = {
        "episode_index": np.arange(len(lengths)),
        "length": np.array(lengths),
        "data/chunk_index": [0] * len(lengths),
        "data/file_index": [0] * len(lengths),
        "dataset_from_index": begins,
        "dataset_to_index": ends,
        f"videos/{CAMERA}/chunk_index": [0] * len(lengths),
        f"videos/{CAMERA}/file_index": [0] * len(lengths),
        f"videos/{CAMERA}/from_timestamp": begins / 10,
        f"videos/{CAMERA}/to_timestamp": ends / 10,
    }
    pq.write_table(pa.table(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    pq.write_table(pa.table({"task_index": [1, 0], "task": ["second", "first"]}), root / "meta/tasks.parquet")
    info = {
        "codebase_version": "v3.0",
        "fps": 10,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    return [(frames[a:b], actions[a:b]) for a, b in zip(begins, ends, strict=True)]


@pytest.mark.parametrize("with_success", [False, True])
def test_many_episodes_in_one_file_are_read(tmp_path: Path, with_success: bool) -> None:
    episodes = write_foreign(tmp_path, [5, 9, 6, 12], with_success)
    dataset = EpisodeDataset(tmp_path)
    assert (len(dataset), dataset.num_frames, dataset.fps, dataset.instruction) == (4, 32, 10, "first")
    assert (dataset.action_names, dataset.image_size) == (("shoulder", "elbow"), (24, 32))
    assert dataset.kinds == ["unknown"] * 4
    assert dataset.successes.tolist() == [False, with_success, False, False]
    for index in (2, 0, 3, 1):
        frames, actions = episodes[index]
        episode = dataset.episode(index)
        np.testing.assert_array_equal(episode.actions, actions)
        np.testing.assert_array_equal(episode.columns["observation.state"], actions.astype(np.float64))
        assert episode.split == split_of(index)
        read = dataset.frames(index).astype(int)
        assert read.shape == frames.shape
        # Each frame is nearer to itself than to its neighbours, so none is off by one.
        assert np.abs(read - frames).mean() < 6
        assert (np.abs(read[:-1] - frames[:-1]).mean((1, 2, 3)) < np.abs(read[:-1] - frames[1:]).mean((1, 2, 3))).all()


@pytest.fixture(scope="module")
def lerobot_python() -> str:
    python = os.environ.get("RLA_GYM_LEROBOT_PYTHON")
    if not python:
        pytest.skip("RLA_GYM_LEROBOT_PYTHON does not name the interpreter of an environment with lerobot 0.4.4")
    return python


def run_lerobot(python: str, script: str, *arguments: str, home: Path) -> dict[str, Any]:
    """What `script` prints on its last line, as JSON; lerobot works offline, with its caches in `home`."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "PYTHONPATH": ""}
    command = [python, "-c", script, *arguments]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, **offline}, timeout=120
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


LOAD = """
import json, sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

root, out = sys.argv[1:]
dataset = LeRobotDataset(repo_id="local/lift", root=root, video_backend="pyav", delta_timestamps={"action": [0, 0.05]})
camera, = dataset.meta.camera_keys
items = [dataset[i] for i in range(len(dataset))]
np.savez(
    out,
    frames=np.stack([(item[camera] * 255).round().byte().permute(1, 2, 0).numpy() for item in items]),
    **{name: np.stack([item[name].numpy() for item in items])
       for name in ("action", "observation.state", "timestamp", "index", "frame_index", "episode_index")},
)
print(json.dumps({
    "episodes": dataset.num_episodes, "frames": dataset.num_frames, "fps": dataset.fps, "camera": camera,
    "tasks": sorted({item["task"] for item in items}), "names": dataset.features["action"]["names"],
    "robot": dataset.meta.robot_type, "mean": dataset.meta.stats[camera]["mean"].shape,
    "kinds": list(dataset.meta.episodes["kind"]),
    "subset": len(LeRobotDataset("local/lift", root=root, episodes=[1, 3])),
}))
"""


def test_lerobot_loads_the_dataset(dataset: EpisodeDataset, lerobot_python: str, tmp_path: Path) -> None:
    printed = run_lerobot(lerobot_python, LOAD, str(dataset.root), str(tmp_path / "items.npz"), home=tmp_path / "hf")
    assert printed == {
        "episodes": len(dataset),
        "frames": dataset.num_frames,
        "fps": 20,
        "camera": CAMERA,
        "tasks": ["lift the red cube"],
        "names": ["x", "y", "z", "gripper"],
        "robot": "panda",
        "mean": [3, 1, 1],
        "kinds": dataset.kinds,
        "subset": int(dataset.lengths[[1, 3]].sum()),
    }
    items = np.load(tmp_path / "items.npz")
    episodes = [dataset.episode(index) for index in range(len(dataset))]
    actions = [episode.actions for episode in episodes]
    following = [np.concatenate([values[1:], values[-1:]]) for values in actions]  # clamped inside the episode
    np.testing.assert_array_equal(items["action"][:, 0], np.concatenate(actions))
    np.testing.assert_array_equal(items["action"][:, 1], np.concatenate(following))
    states = [episode.columns["observation.state"] for episode in episodes]
    np.testing.assert_array_equal(items["observation.state"], np.concatenate(states))
    steps = np.concatenate([np.arange(length) for length in dataset.lengths])
    np.testing.assert_allclose(items["timestamp"], steps / 20, atol=1e-6)
    np.testing.assert_array_equal(items["frame_index"], steps)
    np.testing.assert_array_equal(items["index"], np.arange(dataset.num_frames))
    np.testing.assert_array_equal(items["episode_index"], np.repeat(np.arange(len(dataset)), dataset.lengths))
    frames = np.concatenate([dataset.frames(index) for index in range(len(dataset))])
    assert np.abs(items["frames"].astype(int) - frames).max() <= 3  # two decoders round differently


CREATE = """
import json, sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

features = {
    "observation.images.top": {"dtype": "video", "shape": (64, 96, 3), "names": ["height", "width", "channels"]},
    "observation.state": {"dtype": "float32", "shape": (1,), "names": ["height"]},
    "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
}
dataset = LeRobotDataset.create("local/made", fps=15, features=features, root=sys.argv[1])
for episode in range(4):
    for step in range(6 + episode):
        value = 40 * episode + 5 * step
        dataset.add_frame({
            "observation.images.top": np.full((64, 96, 3), value, np.uint8), "task": "stack",
            "observation.state": np.array([step], np.float32), "action": np.array([episode, step], np.float32),
        })
    dataset.save_episode()
dataset.finalize()
print(json.dumps({}))
"""


def test_reads_what_lerobot_writes(lerobot_python: str, tmp_path: Path) -> None:
    run_lerobot(lerobot_python, CREATE, str(tmp_path / "made"), home=tmp_path / "hf")
    dataset = EpisodeDataset(tmp_path / "made")
    assert len(list((tmp_path / "made").glob("videos/*/*/*.mp4"))) == 1
    assert (dataset.fps, dataset.instruction, dataset.image_size) == (15, "stack", (64, 96))
    assert dataset.lengths.tolist() == [6, 7, 8, 9]
    for index in (3, 1, 2, 0):
        steps = np.arange(6 + index)
        episode = dataset.episode(index)
        np.testing.assert_array_equal(episode.actions, np.stack([np.full_like(steps, index), steps], 1))
        np.testing.assert_array_equal(episode.columns["observation.state"], steps[:, None])
        brightness = dataset.frames(index).mean((1, 2, 3))
        assert np.abs(brightness - (40 * index + 5 * steps)).max() < 2.4, "a frame off by one is 5 levels away"
