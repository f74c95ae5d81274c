"""What is wrong in a dataset is refused before decoding, by file, episode, frame, column and value."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agents.video import write_frames
from tests.synthetic_dataset import write_moving_square
from tests.test_train import tiny_training
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import cache_frames
from world_models.training.checks import check_data, possible_pushed_chunks
from world_models.training.train import train

CAMERA = "observation.images.front"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
LENGTH = 12


def rows_file(root: Path, episode: int) -> Path:
    return root / f"data/chunk-000/file-{episode:03d}.parquet"


def video_file(root: Path, episode: int) -> Path:
    return root / f"videos/{CAMERA}/chunk-000/file-{episode:03d}.mp4"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes: 0 and 1 of the training split, 2 of the validation split and 3 of the report split."""
    return write_moving_square(tmp_path_factory.mktemp("good"), episodes=4, length=LENGTH).root


@pytest.fixture
def root(good: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(good, tmp_path / "data")


def change_column(path: Path, name: str, change: Callable[[list[Any]], Any]) -> None:
    table = pq.read_table(path)
    values = change(table.column(name).to_pylist())
    pq.write_table(table.set_column(table.column_names.index(name), name, pa.array(values)), path)


def change_info(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = root / "meta/info.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    change(info)
    path.write_text(json.dumps(info), encoding="utf-8")


def put(position: int, value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [*values[:position], value, *values[position + 1 :]]


# ---- labels


@pytest.mark.parametrize(
    "labels",
    [
        ["success", "failure", "success", "failure"],
        ["True", "False", "1", "0"],
        [1.0, float("nan"), 0.0, 0.0],
        [1, -1, 0, 0],
        [True, None, False, False],
        [1, 0.5, 0, 0],
    ],
)
def test_what_is_no_label_is_refused(root: Path, labels: list[Any]) -> None:
    change_column(root / EPISODES, "success", lambda _: labels)
    with pytest.raises(ValueError, match=r"meta/episodes has success .* for episode [01]; .*true or false, or 1 or 0"):
        EpisodeDataset(root)


@pytest.mark.parametrize("labels", [[1, 0, 0, 1], [1.0, 0.0, 0.0, 1.0], [True, False, False, True]])
def test_labels_are_taken_for_what_they_say(root: Path, labels: list[Any]) -> None:
    change_column(root / EPISODES, "success", lambda _: labels)
    assert EpisodeDataset(root).successes.tolist() == [True, False, False, True]


@pytest.mark.parametrize("wrong", [float("nan"), -1.0, "failure", "0"])
def test_a_row_without_a_label_is_refused(root: Path, wrong: Any) -> None:
    pq.write_table(pq.read_table(root / EPISODES).drop_columns(["success"]), root / EPISODES)
    as_type = str if isinstance(wrong, str) else float
    for episode in range(4):
        change_column(rows_file(root, episode), "next.success", lambda values: [as_type(value) for value in values])
        if isinstance(wrong, str):
            change_column(rows_file(root, episode), "next.success", lambda values: ["success"] * len(values))
    change_column(rows_file(root, 1), "next.success", put(5, wrong))
    dtype = "string" if isinstance(wrong, str) else "float32"
    change_info(root, lambda info: info["features"]["next.success"].update(dtype=dtype))
    with pytest.raises(ValueError, match=r"next\.success of episode [01], frame [05]: a label is true or false"):
        EpisodeDataset(root)


# ---- numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), None])
@pytest.mark.parametrize("column", ["action", "observation.state"])
def test_numbers_that_are_not_finite_are_refused_before_decoding(root: Path, column: str, value: float | None) -> None:
    path = rows_file(root, 1)
    change_column(path, column, lambda rows: put(7, [value, *rows[7][1:]])(rows))
    video_file(root, 0).write_bytes(b"never looked at")
    with pytest.raises(ValueError, match=rf"file-001\.parquet .* in {column} of episode 1, frame 7: .*finite"):
        check_data(EpisodeDataset(root), 8, proprioception=True)


def test_columns_that_nobody_needs_may_be_anything(root: Path) -> None:
    for episode in range(4):
        path = rows_file(root, episode)
        change_column(path, "simulator.eef_position", lambda rows: [row[: t % 3] for t, row in enumerate(rows)])
        change_column(path, "simulator.cube_position", put(3, [float("nan")] * 3))
    dataset = EpisodeDataset(root)
    check_data(dataset, 8, proprioception=True)
    assert dataset.episode(1, ["observation.state"]).columns["observation.state"].shape == (LENGTH, 2)
    with pytest.raises(ValueError, match=r"several lengths in the column 'simulator\.eef_position'"):
        dataset.episode(1, ["simulator.eef_position"])
    with pytest.raises(ValueError, match=r"nan.* in simulator\.cube_position of episode 1, frame 3"):
        dataset.episode(1)


def test_actions_must_be_there_by_their_name(root: Path) -> None:
    for episode in range(4):
        table = pq.read_table(rows_file(root, episode))
        names = ["actions" if name == "action" else name for name in table.column_names]
        pq.write_table(table.rename_columns(names), rows_file(root, episode))
    with pytest.raises(ValueError, match=r"file-000\.parquet has no column 'action', but actions"):
        check_data(EpisodeDataset(root), 8, proprioception=False)
    change_info(root, lambda info: info["features"].update(actions=info["features"].pop("action")))
    check_data(EpisodeDataset(root), 8, proprioception=False)
    change_info(root, lambda info: info["features"].update(torque=info["features"].pop("actions")))
    with pytest.raises(ValueError, match=r"no column `action` of numbers, but .*torque.*--action-column"):
        check_data(EpisodeDataset(root), 8, proprioception=False)


def test_actions_out_of_range_name_their_row(root: Path) -> None:
    change_column(rows_file(root, 1), "action", put(4, [0.0, 1.5, 0.0, 0.0]))
    with pytest.raises(ValueError, match=r"actions up to 1\.5, first in episode 1, frame 4"):
        check_data(EpisodeDataset(root), 8, proprioception=False)


# ---- metadata


@pytest.mark.parametrize("split", ["test", "Train"])
def test_unknown_splits_are_refused(root: Path, split: str) -> None:
    change_column(root / EPISODES, "split", put(2, split))
    with pytest.raises(ValueError, match=f"the split '{split}' for episode 2; use train, validation, report"):
        EpisodeDataset(root)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("length", 0, r"length 0 for episode 1; 1 or more rows"),
        ("length", 5, r"episode 1: a row is missing|12 rows of episode 1, meta/episodes says 5"),
        ("dataset_from_index", -3, "dataset_from_index -3 for episode 1"),
        ("episode_index", 2, "episode 2 more than once"),
        (f"videos/{CAMERA}/from_timestamp", float("nan"), "from_timestamp nan for episode 1"),
    ],
)
def test_rows_of_episodes_must_make_sense(root: Path, column: str, value: float, message: str) -> None:
    change_column(root / EPISODES, column, put(1, value))
    with pytest.raises(ValueError, match=message):
        EpisodeDataset(root).check()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fps", 0), ("fps", -20), ("fps", float("nan")), ("fps", "20"), ("fps", True), ("fps", None),
        ("data_path", "../{file_index}.parquet"), ("data_path", "/etc/{file_index}"), ("data_path", "{root.parent}"),
        ("data_path", "{file_index:99999999d}"), ("video_path", "{video_key!r:>9}"), ("features", ["action"]),
    ],
)  # fmt: skip
def test_malformed_info_is_refused(root: Path, name: str, value: Any) -> None:
    change_info(root, lambda info: info.update({name: value}))
    with pytest.raises(ValueError, match=rf"info\.json (has {name} .* is needed|is no JSON .*NaN is no number)"):
        EpisodeDataset(root)


def test_hidden_files_are_no_episodes(root: Path) -> None:
    for path in (root / EPISODES, rows_file(root, 0), video_file(root, 0)):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7 of a file manager")
    dataset = EpisodeDataset(root)
    dataset.check()
    assert len(dataset) == 4


def test_damaged_files_are_one_clear_error(root: Path) -> None:
    content = rows_file(root, 1).read_bytes()
    rows_file(root, 1).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"file-001\.parquet cannot be read .*collect it again"):
        EpisodeDataset(root).check()
    video_file(root, 0).write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"file-000\.mp4 cannot be decoded .*collect it again"):
        EpisodeDataset(root).frames(0)
    (root / EPISODES).write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"meta/episodes/.* cannot be read"):
        EpisodeDataset(root)


# ---- rows


def test_rows_are_read_in_the_order_of_their_frames(root: Path, good: Path) -> None:
    table = pq.read_table(rows_file(root, 1))
    pq.write_table(table.take(np.random.default_rng(0).permutation(LENGTH)), rows_file(root, 1))
    shuffled, whole = EpisodeDataset(root), EpisodeDataset(good)
    shuffled.check()
    np.testing.assert_array_equal(shuffled.episode(1).actions, whole.episode(1).actions)
    np.testing.assert_array_equal(shuffled.frames(1), whole.frames(1))


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("frame_index", put(5, 4), "frame_index 4 after 4 in episode 1: a row is missing or there twice"),
        ("frame_index", lambda values: [*values[:5], *(value + 1 for value in values[5:])], "frame_index 6 after 4"),
        ("timestamp", put(5, float("nan")), r"timestamps 0\.15, 0\.2, nan, 0\.3 from frame 3"),
        ("timestamp", lambda values: [*values[:5], *(value + 0.05 for value in values[5:])], "must grow evenly"),
        ("episode_index", put(5, 0), "11 rows of episode 1, meta/episodes says 12"),
    ],
)
def test_rows_without_their_place_or_time_are_refused(
    root: Path, column: str, change: Callable[[list[Any]], list[Any]], message: str
) -> None:
    change_column(rows_file(root, 1), column, change)
    with pytest.raises(ValueError, match=message):
        EpisodeDataset(root).check()


# ---- pictures


def write_video(path: Path, levels: list[int], times: list[Fraction]) -> None:
    """Grey pictures of these levels at these times in seconds, with a key frame now and then."""
    with av.open(str(path.resolve()), "w") as container:
        stream = container.add_stream("libx264", rate=20, options={"g": "4", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 60_000)
        for level, time in zip(levels, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(time * 60_000), Fraction(1, 60_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def seen(dataset: EpisodeDataset, episode: int) -> list[int]:
    """The levels of an episode's frames."""
    return [round(float(frame.mean()) / 10) * 10 for frame in dataset.frames(episode)]


LEVELS = [20 + 10 * time for time in range(LENGTH)]


@pytest.mark.parametrize("rate", [20.0, 29.97, 14.99, 0.5])
def test_fractional_rates_are_kept(root: Path, rate: float) -> None:
    change_info(root, lambda info: info.update(fps=rate))
    change_column(rows_file(root, 1), "timestamp", lambda values: [np.float32(t / rate) for t in range(len(values))])
    write_video(video_file(root, 1), LEVELS, [t / Fraction(rate) for t in range(LENGTH)])
    dataset = EpisodeDataset(root)
    assert dataset.fps == rate
    assert seen(dataset, 1) == LEVELS


def test_a_faster_video_gives_the_pictures_at_the_rows_times(root: Path) -> None:
    write_video(video_file(root, 1), [10 + level // 2 * 2 for level in range(3 * LENGTH)], [
        Fraction(t, 60) for t in range(3 * LENGTH)
    ])  # fmt: skip
    frames = EpisodeDataset(root).frames(1).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(frames, [10 + 3 * t // 2 * 2 for t in range(LENGTH)], atol=1.1)


@pytest.mark.parametrize(
    ("kept", "shift", "row"),
    [
        ([t for t in range(LENGTH) if t != 4], Fraction(0), 4),  # one was dropped
        (range(0, LENGTH, 2), Fraction(0), 1),  # half the rate
        (range(LENGTH - 2), Fraction(0), LENGTH - 2),  # it ends early
        (range(LENGTH), Fraction(1, 50), 0),  # it begins late
    ],
)
def test_rows_without_a_picture_of_their_own_are_refused(root: Path, kept: Any, shift: Fraction, row: int) -> None:
    write_video(video_file(root, 1), [LEVELS[t] for t in kept], [Fraction(t, 20) + shift for t in kept])
    dataset = EpisodeDataset(root)
    message = rf"file-001\.mp4 has no picture of its own for row {row} of episode 1, at {row / 20:.4f} s"
    with pytest.raises(ValueError, match=message):
        dataset.frames(1)
    with pytest.raises(ValueError, match=message):
        cache_frames(dataset, root / "cache")
    assert not list((root / "cache").glob("*.npy"))


def test_a_colon_in_a_relative_path_is_a_letter(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(good, "2024-05-01T10:30"))
    np.testing.assert_array_equal(EpisodeDataset(folder).frames(1), EpisodeDataset(good).frames(1))
    assert write_frames(Path("at:noon.mp4"), [np.zeros((32, 32, 3), np.uint8)] * 2, 4).stat().st_size


def test_a_camera_of_several_can_be_chosen(root: Path) -> None:
    wrist = "observation.images.wrist"
    shutil.copytree(root / f"videos/{CAMERA}", root / f"videos/{wrist}")
    write_video(root / f"videos/{wrist}/chunk-000/file-001.mp4", LEVELS, [Fraction(t, 20) for t in range(LENGTH)])
    table = pq.read_table(root / EPISODES)
    for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp"):
        table = table.append_column(f"videos/{wrist}/{name}", table.column(f"videos/{CAMERA}/{name}"))
    pq.write_table(table, root / EPISODES)
    change_info(root, lambda info: info["features"].update({wrist: info["features"][CAMERA]}))
    for usual in (None, "gone"):
        with pytest.raises(ValueError, match=rf"has 2 cameras: choose one or more by --camera: {CAMERA}, {wrist}"):
            EpisodeDataset(root, usual_camera=usual)
    assert EpisodeDataset(root, camera=wrist).cameras == (CAMERA, wrist)
    for dataset in (EpisodeDataset(root, camera=wrist), EpisodeDataset(root, usual_camera=wrist)):
        assert seen(dataset, 1) == LEVELS
    with pytest.raises(ValueError, match=f"camera is 'wrist', but .* has {CAMERA}, {wrist}; choose among"):
        EpisodeDataset(root, camera="wrist")


# ---- lengths


def test_short_episodes_are_refused_before_decoding(root: Path) -> None:
    video_file(root, 0).write_bytes(b"never looked at")
    dataset = EpisodeDataset(root)
    check_data(dataset, LENGTH - 1, proprioception=False)
    with pytest.raises(ValueError, match=r"no episode longer than 12 frames in its train split, whose longest has 12"):
        check_data(dataset, LENGTH, proprioception=False)
    assert [possible_pushed_chunks(dataset, 4, asked) for asked in (0, 1, 2)] == [0, 1, 1]
    assert possible_pushed_chunks(dataset, 11, 3) == 0


def test_training_on_short_episodes_pushes_fewer_chunks_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write_moving_square(tmp_path / "data", episodes=4, length=9)
    config = replace(tiny_training(dataset.root, tmp_path / "world", 2), pushed_chunks=3, dynamics=("residual_flow",))
    train(config)
    note = "pushed_chunks=3 needs a training episode of 33 frames or more, so it is 0"
    assert note in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling link"])
def test_a_table_that_is_no_file_is_refused_at_once(root: Path, kind: str) -> None:
    path = next((root / "meta/episodes").rglob("*.parquet"))
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(root / "nothing")
    with pytest.raises(OSError, match=rf"{path.name} .*; fetch or collect it again"):
        EpisodeDataset(root)
