"""Full disks and disks that cannot be written: one line before work starts, with place, size and option."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from agents.bc import BCConfig, train_bc
from agents.blind import BlindConfig, make_blind
from agents.evaluate import EvaluateConfig, evaluate
from agents.iql import IQLConfig, train_iql
from agents.planner import PlannerConfig, make_planner
from agents.play import PlayConfig, play
from agents.ppo import PPOConfig, train_ppo
from rla_gym.ground_truth.collect import CollectConfig, collect
from tests.synthetic_dataset import write_moving_square
from tests.test_train import tiny_training
from world_models.data.array_file import ArrayFile
from world_models.disk_space import check_file_writable, check_room, check_writable, clear_disk_errors
from world_models.files import beside, save_json
from world_models.training.train import train

resource = pytest.importorskip("resource")


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 64 KiB; what is beyond is an error, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def no_space(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_only(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def nearly_full(free: int) -> Callable[[Any], Any]:
    return lambda _: shutil._ntuple_diskusage(1 << 40, (1 << 40) - free, free)  # type: ignore[attr-defined]


def large_file(folder: Path) -> ArrayFile:
    return ArrayFile(folder / "numbers.npy", np.array([0, 1000, 2000]), (1000,), np.uint8)


def never(first: int) -> NoReturn:
    raise AssertionError(f"block {first} is made though there is no room")


@pytest.mark.usefixtures("small_files")
def test_space_is_taken_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(
        OSError, match=r"numbers\.partial, 2 MB, does not fit .* are free; .* by --cache FOLDER"
    ) as caught:
        large_file(tmp_path).fill(never, "make", "row")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [".numbers.npy.lock"]


def test_a_disk_without_room_is_named_with_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", nearly_full(1_500_000))
    message = r"has 1\.5 MB free, and 2 MB are needed there for numbers\.partial: free space, or .* --cache FOLDER"
    with pytest.raises(OSError, match=message) as caught:
        large_file(tmp_path).fill(never, "make", "row")
    assert caught.value.errno == errno.ENOSPC
    check_room(tmp_path / "not" / "yet", 1_500_000, "rows")


def test_where_space_cannot_be_reserved_files_are_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: int) -> NoReturn:
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    rows = [np.full((1000, 1000), value, np.uint8) for value in (1, 2)]
    assert large_file(tmp_path).fill(lambda first: iter(rows[first:]), "make", "row").sum() == 3_000_000


def test_a_read_only_disk_is_named_with_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    with pytest.raises(
        OSError, match=r"numbers cannot be written \(Read-only file system\): .* --cache FOLDER"
    ) as caught:
        large_file(tmp_path / "numbers").fill(never, "make", "row")
    assert caught.value.errno == errno.EROFS
    assert not list(tmp_path.iterdir())


def test_checking_leaves_nothing_and_says_what_is_in_the_way(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "newer")
    check_file_writable(tmp_path / "new" / "rows.json")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"file is a file, where a folder is needed: .* --out"):
        check_writable(tmp_path / "file" / "below")
    with pytest.raises(IsADirectoryError, match="is a folder, where a file is to be written"):
        check_file_writable(tmp_path)


@pytest.mark.parametrize("failing", [no_space, read_only])
def test_small_files_that_do_not_fit_leave_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: Callable[..., NoReturn]
) -> None:
    path = tmp_path / "rows.json"
    save_json(path, [1])
    monkeypatch.setattr(Path, "write_text", failing)
    with pytest.raises(OSError, match=rf"{path}.* by --out"):
        save_json(path, [2])
    assert path.read_text(encoding="utf-8") == "[\n  1\n]\n"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_that_speak_for_themselves_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^no such world$"), clear_disk_errors(tmp_path):
        raise FileNotFoundError("no such world")


def test_training_looks_at_its_folders_before_it_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_moving_square(tmp_path / "data", episodes=4)
    for path in dataset.root.glob("videos/**/*.mp4"):
        path.write_bytes(b"never looked at")
    config = tiny_training(dataset.root, tmp_path / "world")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", nearly_full(100_000))
        message = r"data/cache has 0\.1 MB free, and .* MB are needed there for decoded frames.* by --cache FOLDER"
        with pytest.raises(OSError, match=message):
            train(config)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="--out"):
        train(replace(config, out=tmp_path / "file" / "world"))
    with pytest.raises(NotADirectoryError, match="--cache FOLDER"):
        train(replace(config, cache=tmp_path / "file" / "cache"))
    assert {path.name for path in tmp_path.iterdir()} == {"data", "file"}
    assert not (dataset.root / "cache").exists()


def test_commands_look_at_their_output_before_they_work(tmp_path: Path, world: str) -> None:
    (tmp_path / "file").touch()
    out, missing = tmp_path / "file" / "below", str(tmp_path / "missing")
    commands: list[Callable[[], object]] = [
        lambda: train_bc(BCConfig(world=missing, out=out)),
        lambda: train_ppo(PPOConfig(world=missing, out=out)),
        lambda: train_iql(IQLConfig(data=tmp_path / "missing", world=missing, out=out)),
        lambda: make_blind(BlindConfig(world=missing, out=out)),
        lambda: make_planner(PlannerConfig(policy=tmp_path / "missing", out=out)),
        lambda: play(PlayConfig(world=missing, out=out)),
        lambda: collect(CollectConfig(out=out, episodes=1)),
    ]
    for command in commands:
        with pytest.raises(NotADirectoryError, match=r"file is a file, where a folder is needed: .* --out"):
            command()
    policy = make_blind(BlindConfig(world=world, out=tmp_path / "blind"))
    asked = EvaluateConfig(policy, env="RLAWM-Lift-v0", episodes=10**9, progress=False, device="cpu")
    with pytest.raises(NotADirectoryError, match="--out"):
        evaluate(replace(asked, out=out))
    with pytest.raises(IsADirectoryError, match="--out"):
        evaluate(replace(asked, out=tmp_path))
    with pytest.raises(NotADirectoryError, match="--video"):
        evaluate(replace(asked, env="Robosuite-Lift-v0", out=tmp_path / "rows.json", video=out))


def test_names_with_dots_are_kept_whole() -> None:
    assert beside(Path("rows/lr_0.1"), ".png") == Path("rows/lr_0.1.png")
    assert beside(Path("rows/lr_0.2.json"), ".episodes.json") == Path("rows/lr_0.2.episodes.json")
    assert beside(Path("fidelity.json"), "_film_strip.png") == Path("fidelity_film_strip.png")


def test_files_are_utf8_whatever_the_locale(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from tests.synthetic_dataset import write_moving_square
from world_models.data.episodes import EpisodeDataset, EpisodeWriter
from world_models.files import read_json, save_json
root = Path(sys.argv[1])
EpisodeWriter(root / "new", fps=20, instruction="heb den W\\u00fcrfel \\u2192", camera="observation.images.front",
              image_size=32, action_names=("\\u00e4",), columns={}, robot_type="\\u00f6")
dataset = write_moving_square(root / "moving", episodes=2, length=3)
assert dataset.frames(0).shape == (3, 32, 32, 3)
assert EpisodeDataset(root / "moving").instruction == "move the square"
save_json(root / "facts.json", {"w\\u00fcrfel": 1})
assert read_json(root / "facts.json", fix="") == {"w\\u00fcrfel": 1}
"""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [
        sys.executable,
        "-X",
        "warn_default_encoding",
        "-W",
        "error::EncodingWarning",
        "-c",
        script,
        str(tmp_path),
    ]
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Würfel →" in (tmp_path / "new/meta/tasks.parquet").read_bytes().decode("utf-8", errors="ignore")
