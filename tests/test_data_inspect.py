"""`rla-gym data inspect`: every problem at once, for any version of LeRobot's, and nothing written but the report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rla_gym import cli
from rla_gym.data import readers
from rla_gym.data.dimensions import describe, scale_for
from rla_gym.data.inspect import InspectConfig, inspect_data
from rla_gym.data.inspect_report import Report
from rla_gym.data.lerobot_folder import LeRobotFolder
from rla_gym.data.problem_list import ProblemList, runs
from rla_gym.data.source import Problem, Source, SourceEpisode, SourceFacts
from tests.media import picture_width
from tests.synthetic_dataset import write_moving_square
from world_models.data.episodes import EpisodeDataset

CAMERA = "observation.images.front"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moving_square(tmp_path_factory.mktemp("good"), episodes=20, length=20).root


@pytest.fixture
def root(good: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(good, tmp_path / "data")


@pytest.fixture(scope="module")
def version_21(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same episodes in the layout of LeRobotDataset v2.1."""
    root = tmp_path_factory.mktemp("version_21")
    info = json.loads((good / "meta/info.json").read_text())
    info |= {
        "codebase_version": "v2.1",
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (root / "meta").mkdir()
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "move the square"}) + "\n")
    lines = [{"episode_index": index, "tasks": ["move the square"], "length": 20} for index in range(20)]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    videos = root / f"videos/chunk-000/{CAMERA}"
    videos.mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    for index in range(20):
        shutil.copy(rows_file(good, index), root / f"data/chunk-000/episode_{index:06d}.parquet")
        shutil.copy(video_file(good, index), videos / f"episode_{index:06d}.mp4")
    return root


def rows_file(root: Path, episode: int) -> Path:
    return root / f"data/chunk-000/file-{episode:03d}.parquet"


def video_file(root: Path, episode: int) -> Path:
    return root / f"videos/{CAMERA}/chunk-000/file-{episode:03d}.mp4"


def change_column(path: Path, name: str, change: Callable[[list[Any]], list[Any]]) -> None:
    table = pq.read_table(path)
    values = pa.array(change(table.column(name).to_pylist()))
    pq.write_table(table.set_column(table.column_names.index(name), name, values), path)


def change_info(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def inspect(root: Path, out: Path) -> Report:
    return inspect_data(InspectConfig(root, out, episodes=2, times=3))


def found(problems: list[Problem], *words: str) -> Problem:
    """The one problem that has all these words."""
    fitting = [problem for problem in problems if all(word in problem.what for word in words)]
    assert len(fitting) == 1, (words, [problem.what for problem in problems])
    assert fitting[0].fix
    return fitting[0]


def write_video(path: Path, frames: int, size: tuple[int, int], fps: int = 20) -> None:
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for time in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), time, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


# ---- datasets that are well


def test_a_clean_dataset_has_nothing_to_mend(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = inspect(good, tmp_path / "out")
    assert report.trainable
    assert [problem.what for problem in report.problems] == []
    assert report.commands == [f"rla-gym train {good} --out worlds/{good.name}"]
    assert "Nothing must be fixed first" in capsys.readouterr().out
    assert report.facts.fps == 20
    assert sum(bool(episode["success"]) for episode in report.episodes) == 10
    assert report.cache_bytes == 20 * 20 * 32 * 32 * 3


def test_what_is_written_lies_in_out_alone(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in good.rglob("*")}
    report = inspect(good, tmp_path / "a/b")
    assert {path: path.stat().st_mtime_ns for path in good.rglob("*")} == before
    written = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert written == set(report.files)
    assert {path.name for path in written} == {"contact_sheet.png", "action_histograms.png", "report.json"}
    assert picture_width(tmp_path / "a/b/contact_sheet.png") > 200
    assert picture_width(tmp_path / "a/b/action_histograms.png") > 200
    content = json.loads((tmp_path / "a/b/report.json").read_text())
    assert content["trainable"]
    assert content["cameras"][0]["codec"] == "h264"
    assert [dimension["name"] for dimension in content["actions"]] == ["x", "y", "z", "gripper"]
    assert len(content["episodes"]) == 20


def test_version_21_is_read_as_version_3_is(version_21: Path, good: Path, tmp_path: Path) -> None:
    report = inspect(version_21, tmp_path / "out")
    assert report.problems == []
    assert report.facts.details["version"] == "v2.1"
    assert report.facts.details["task"] == "move the square"
    source, other = LeRobotFolder(version_21), LeRobotFolder(good)
    for index in (0, 7):
        one, two = source.episode(index), other.episode(index)
        np.testing.assert_array_equal(one.actions, two.actions)
        np.testing.assert_array_equal(list(one.frames[CAMERA]()), list(two.frames[CAMERA]()))
        assert one.success == two.success == (index % 2 == 0)


def test_episodes_are_those_of_the_strict_reader(good: Path) -> None:
    source, dataset = LeRobotFolder(good), EpisodeDataset(good)
    assert len(dataset) == source.facts().episodes
    episode = source.episode(3)
    np.testing.assert_array_equal(episode.actions, dataset.episode(3).actions)
    np.testing.assert_array_equal(list(episode.frames[CAMERA]()), dataset.frames(3))
    np.testing.assert_array_equal(source.picture(3, CAMERA, 11), dataset.frames(3)[11])


# ---- all problems at once


def test_many_problems_are_reported_together(root: Path, tmp_path: Path) -> None:
    def nan(values: list[Any]) -> list[Any]:
        values[4] = [values[4][0], float("nan"), *values[4][2:]]
        return values

    change_column(rows_file(root, 1), "action", nan)
    change_column(rows_file(root, 2), "timestamp", lambda values: [*values[:5], values[5] + 0.04, *values[6:]])
    change_column(rows_file(root, 3), "frame_index", lambda values: [*values[:-1], values[-1] + 3])
    change_column(rows_file(root, 4), "next.success", lambda values: [7, *map(int, values[1:])])
    for episode in (5, 6, 7, 12):
        video_file(root, episode).unlink()
    rows_file(root, 8).unlink()
    rows_file(root, 9).write_bytes(b"PAR1 no more")
    video_file(root, 10).write_bytes(b"no video")
    write_video(video_file(root, 11), frames=12, size=(32, 32))
    write_video(video_file(root, 13), frames=20, size=(48, 64))
    copied = pq.read_table(rows_file(root, 14))
    for name in ("action", "observation.state"):
        table = pq.read_table(rows_file(root, 15))
        table = table.set_column(table.column_names.index(name), name, copied.column(name))
        pq.write_table(table, rows_file(root, 15))
    pq.write_table(pq.read_table(rows_file(root, 16)).slice(0, 15), rows_file(root, 16))
    change_info(root, lambda info: info["features"].update(force={"dtype": "float32", "shape": [6], "names": None}))
    change_info(root, lambda info: info["features"][CAMERA]["info"].update({"video.codec": "av1"}))
    change_info(root, lambda info: info["features"]["observation.state"].update(shape=[3]))

    report = inspect(root, tmp_path / "out")
    problems = report.problems
    assert not report.trainable
    nan_found = found(problems, "action has numbers that are not finite in episode 1")
    assert "frame 4, y: nan" in nan_found.what
    found(problems, "timestamps do not grow evenly in episode 2")
    found(problems, "a row is missing or there twice in episode 3", "after 18")
    found(problems, "next.success has values that are no label", "episode 4", "frame 0: 7")
    missing = found(problems, "the video of", "is missing in 4 episodes: 5-7, 12")
    assert "--skip-missing" in missing.fix
    assert not missing.stops
    found(problems, "the data file is missing in episode 8")
    found(problems, "the data file cannot be read in episode 9")
    found(problems, "cannot be opened in episode 10")
    found(problems, "is shorter than the rows in episode 11", "0.600 s")
    found(problems, "not 32 x 32 as most are, but 64 x 48", "episode 13")
    found(problems, "same actions and state as an earlier one in episode 15", "15 is 14")
    found(problems, "other rows than meta/episodes says in episode 16", "has 15, the table says 20")
    found(problems, "no column 'force' in 18 episodes")
    found(problems, "info.json says codec av1", "are h264")
    found(problems, "'observation.state' is not as meta/info.json says in 18 episodes", "has 2 numbers a row")
    assert "--skip-missing" in report.commands[-1]
    assert [problem.stops for problem in problems] == sorted((problem.stops for problem in problems), reverse=True)


def test_units_names_and_labels_ask_for_flags(good: Path, tmp_path: Path) -> None:
    """As a real robot's data are: other names, degrees, an idle arm, no labels."""
    root = shutil.copytree(good, tmp_path / "my robot")
    rng = np.random.default_rng(0)
    for index in range(20):
        table = pq.read_table(rows_file(root, index))
        moving = rng.uniform(-170, 170, (20, 2))
        idle = 45 + rng.normal(0, 0.01, (20, 1)) + index / 10
        rows = np.concatenate([moving, idle, np.full((20, 1), 250.0)], axis=1)
        table = table.drop_columns(["next.success", "action"])
        pq.write_table(table.append_column("joint_actions", pa.array(rows.tolist())), rows_file(root, index))

    def rename(info: dict[str, Any]) -> None:
        features = info["features"]
        features["joint_actions"] = features.pop("action")
        features.pop("next.success")

    change_info(root, rename)
    table = pq.read_table(root / EPISODES)
    pq.write_table(table.drop_columns(["success"]), root / EPISODES)
    report = inspect(root, tmp_path / "out")
    assert report.trainable
    assert report.commands == [
        f"rla-gym train '{root}' --out worlds/my_robot --action-column joint_actions --action-scale minmax "
        "--success goal_frames"
    ]
    found(report.problems, "4 of 4 action dimensions go outside [-1, 1]")
    found(report.problems, "1 of 4 action dimensions never change: gripper")
    found(report.problems, "1 of 4 action dimensions hardly move: z")
    found(report.problems, "nothing says which episodes succeeded")
    found(report.problems, "'joint_actions', not 'action'")


@pytest.mark.parametrize("text", ["{ no json", "[]", "{}", '{"codebase_version": "v9.0", "features": 3, "fps": -1}'])
def test_a_broken_description_does_not_hide_the_rest(root: Path, tmp_path: Path, text: str) -> None:
    (root / "meta/info.json").write_text(text)
    video_file(root, 3).unlink()
    report = inspect(root, tmp_path / "out")
    assert not report.trainable
    assert "info.json" in report.problems[0].what
    found(report.problems, f"the video of {CAMERA} is missing in episode 3")
    assert len(report.actions) == 4
    assert (tmp_path / "out/contact_sheet.png").is_file()


def test_broken_tables_of_version_21_are_named(version_21: Path, tmp_path: Path) -> None:
    root = shutil.copytree(version_21, tmp_path / "data")
    lines = (root / "meta/episodes.jsonl").read_text().splitlines()
    lines[2], lines[5] = "{", json.dumps({"episode_index": 5, "tasks": [], "length": -3})
    (root / "meta/episodes.jsonl").write_text("\n".join(lines))
    (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "one"}\n{"task_index": 1, "task": "two"}\n')
    report = inspect(root, tmp_path / "out")
    found(report.problems, "episodes.jsonl has no JSON object in line 3")
    found(report.problems, "no row in episode 2")
    found(report.problems, "length -3", "episode 5")
    found(report.problems, "3 tasks", "'one'; 'two'")


def test_files_outside_of_the_folder_are_never_opened(root: Path, tmp_path: Path) -> None:
    change_info(root, lambda info: info.update(video_path="../{video_key}.mp4", data_path="{episode_index.__class__}"))
    change_info(root, lambda info: info["features"].update({"../secret": {"dtype": "video"}}))
    report = inspect(root, tmp_path / "out")
    found(report.problems, "video_path '../{video_key}.mp4'")
    found(report.problems, "data_path '{episode_index.__class__}'")
    found(report.problems, "'../secret', which is no name")
    assert report.facts.cameras == (CAMERA,)


def test_of_several_cameras_one_is_proposed(root: Path, tmp_path: Path) -> None:
    wrist = "observation.images.a_wrist"
    shutil.copytree(root / f"videos/{CAMERA}", root / f"videos/{wrist}")
    (root / f"videos/{wrist}/chunk-000/file-003.mp4").unlink()
    change_info(root, lambda info: info["features"].update({wrist: info["features"][CAMERA]}))
    table = pq.read_table(root / EPISODES)
    for name in table.column_names:
        if name.startswith(f"videos/{CAMERA}/"):
            table = table.append_column(name.replace(CAMERA, wrist), table.column(name))
    pq.write_table(table, root / EPISODES)
    report = inspect(root, tmp_path / "out")
    assert report.commands == [f"rla-gym train {root} --out worlds/data --camera {CAMERA}"]
    found(report.problems, "there are 2 cameras", f"{CAMERA}, {wrist}")
    found(report.problems, f"the video of {wrist} is missing in episode 3")
    counts = [(camera.key, camera.videos, camera.missing) for camera in report.cameras]
    assert counts == [(CAMERA, 20, 0), (wrist, 19, 1)]
    (root / f"videos/{wrist}/chunk-000/file-004.mp4").write_bytes(b"no video")
    report = inspect(root, tmp_path / "out")
    assert report.trainable  # with the camera that is proposed
    found(report.problems, f"the video of {wrist} cannot be opened in episode 4")


def test_episodes_may_share_a_data_file(root: Path, tmp_path: Path) -> None:
    together = pa.concat_tables([pq.read_table(rows_file(root, index)) for index in (0, 1, 2)])
    for index in (1, 2):
        rows_file(root, index).unlink()
    pq.write_table(together, rows_file(root, 0))
    table = pq.read_table(root / EPISODES)
    files = [0 if index < 3 else index for index in range(20)]
    place = table.column_names.index("data/file_index")
    pq.write_table(table.set_column(place, "data/file_index", pa.array(files)), root / EPISODES)
    assert inspect(root, tmp_path / "out").problems == []
    pq.write_table(together.take([*range(30, 60), *range(30)]), rows_file(root, 0))
    moved = found(inspect(root, tmp_path / "out").problems, "not where dataset_from_index says in 3 episodes: 0-2")
    assert "leave them out of data and meta/episodes" in moved.fix


def test_a_video_of_an_unknown_codec_is_named(root: Path, tmp_path: Path) -> None:
    content = video_file(root, 0).read_bytes()
    assert b"avc1" in content
    video_file(root, 0).write_bytes(content.replace(b"avc1", b"zzzz"))
    report = inspect(root, tmp_path / "out")
    found(report.problems, "cannot be opened in episode 0", "a codec that cannot be decoded here")
    assert (tmp_path / "out/contact_sheet.png").is_file()


def test_videos_in_a_folder_of_another_name_are_pointed_at(root: Path, tmp_path: Path) -> None:
    (root / "videos").rename(root / "video")
    report = inspect(root, tmp_path / "out")
    problem = found(report.problems, f"all videos of {CAMERA} are missing", f"there is video/{CAMERA}")
    assert "rename the folder" in problem.fix


def test_rates_and_descriptions_that_do_not_fit(root: Path, tmp_path: Path) -> None:
    def change(info: dict[str, Any]) -> None:
        info.update(fps=10, total_frames=7, total_episodes=22)
        info["features"][CAMERA]["info"].update({"video.pix_fmt": "yuv420p"})
        info["features"][CAMERA]["shape"] = [64, 48, 3]
        info["features"]["picture"] = {"dtype": "image", "shape": [8, 8, 3]}

    change_info(root, change)
    report = inspect(root, tmp_path / "out")
    found(report.problems, "other steps than fps 10", "20 episodes: 0-19", "20 rows/s")
    found(report.problems, "have 20 pictures/s", "fps 10")
    found(report.problems, "total_frames 7", "adds up to 400")
    found(report.problems, "meta/episodes has no row in 2 episodes: 20, 21")
    found(report.problems, "pix_fmt yuv420p", "are yuv444p")
    assert found(report.problems, "says 48 x 64", "are 32 x 32").stops
    assert not any("shorter" in problem.what for problem in report.problems)
    assert not found(report.problems, "picture holds single images").stops


def test_all_failures_and_several_tasks(root: Path, tmp_path: Path) -> None:
    change_column(root / EPISODES, "success", lambda values: [False for _ in values])
    tasks = pa.table({"task_index": [0, 1], "task": ["lift the cube", "test_3 "]})
    pq.write_table(tasks, root / "meta/tasks.parquet")
    report = inspect(root, tmp_path / "out")
    assert report.commands[-1].endswith("--success goal_frames")
    found(report.problems, "all 20 episodes are labelled as failures")
    found(report.problems, "3 tasks", "'lift the cube'; 'test_3 '; 'move the square'")


def test_short_and_few_episodes(tmp_path: Path) -> None:
    root = write_moving_square(tmp_path / "data", episodes=4, length=10).root
    report = inspect(root, tmp_path / "out")
    assert found(report.problems, "fewer than the 17 rows", "4 episodes: 0-3").stops
    assert found(report.problems, "0 episodes are long enough").stops


# ---- other formats, the command line, and the parts


class Folder(Source):
    """A format of two arrays, through the interface alone."""

    format = "test format"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.suffix == ".test"

    def facts(self) -> SourceFacts:
        return SourceFacts(20, 10.0, ("front",), ("x", "y"))

    def problems(self) -> list[Problem]:
        return [Problem("no success is noted", "--success", stops=False)]

    def episode(self, index: int) -> SourceEpisode:
        if index == 3:
            raise ValueError("demo_3 is damaged")
        actions = np.random.default_rng(index).uniform(-5, 5, (30, 2))

        def frames() -> Iterator[np.ndarray]:
            yield from (np.full((24, 32, 3), row * 8, np.uint8) for row in range(30))

        return SourceEpisode(f"demo_{index}", {"front": frames}, actions)


def test_other_formats_are_converted_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "READERS", (LeRobotFolder, Folder))
    (tmp_path / "mine.test").write_text("")
    report = inspect(tmp_path / "mine.test", tmp_path / "out")
    found(report.problems, "the numbers cannot be read in episode 3", "demo_3 is damaged")
    found(report.problems, "no success is noted")
    assert (report.cameras[0].height, report.cameras[0].width) == (24, 32)
    assert report.commands == [
        f"rla-gym data convert {tmp_path}/mine.test --out data/mine",
        "rla-gym train data/mine --out worlds/mine --fit letterbox --action-scale minmax --success goal_frames",
    ]
    assert (tmp_path / "out/contact_sheet.png").is_file()


def test_the_command_says_in_one_line_what_it_cannot_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, words in ((tmp_path / "nothing", "does not exist"), (tmp_path, "no format that is known")):
        monkeypatch.setattr("sys.argv", ["rla-gym", "data", "inspect", str(path)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert words in str(stopped.value)
        assert "Traceback" not in str(stopped.value)


def test_the_command_prints_the_report(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["rla-gym", "data", "inspect", str(good), "--times", "2"])
    cli.main()
    assert f"rla-gym train {good}" in capsys.readouterr().out
    assert (tmp_path / f"runs/inspect_{good.name}/report.json").is_file()


def test_a_gripper_in_other_units_moves() -> None:
    rng = np.random.default_rng(0)
    episodes = [
        np.stack([*rng.uniform(-90, 90, (4, 50)), np.repeat([0.0, 0.08], 25), 7 + rng.normal(0, 0.01, 50) + index], 1)
        for index in range(5)
    ]
    motions = [dimension.motion for dimension in describe("abcdgi", episodes)]
    assert motions == ["moves"] * 5 + ["hardly"]


def test_outliers_ask_for_quantiles() -> None:
    values = np.linspace(-1, 1, 1000)[:, None]
    assert scale_for(describe("a", [values])) is None
    assert scale_for(describe("a", [values * 5])) == "minmax"
    assert scale_for(describe("a", [np.append(values, [[60.0]], axis=0)])) == "quantile"


def test_problems_of_many_episodes_are_one() -> None:
    problems = ProblemList()
    for episode in (7, 1, 2, 3):
        problems.add_episode(episode, "x", "fix", first=f"file {episode}", stops=False)
    problems.add("y", "fix")
    assert problems.problems() == [
        Problem("y", "fix"),
        Problem("x in 4 episodes: 1-3, 7 (first: file 1)", "fix", stops=False),
    ]
    assert runs(range(0, 60, 2)).endswith("24, 26, ...")
