"""Collection: what episodes hold, that they depend on seed and index alone, and that stopping is safe."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rla_gym.ground_truth.behaviours import BEHAVIOURS, KINDS, make_behaviour
from rla_gym.ground_truth.collect import CollectConfig, collect
from rla_gym.ground_truth.env import RobosuiteEnv
from rla_gym.ground_truth.recording import PolicyBehaviour, record_episode
from rla_gym.ground_truth.seeds import COLLECT_SEED_RANGE
from rla_gym.tasks import TASKS
from world_models.data.episodes import EpisodeDataset


@pytest.fixture(scope="module")
def env() -> Iterator[RobosuiteEnv]:
    try:
        made = RobosuiteEnv(obs="rgb")
    except ImportError as error:
        pytest.skip(f"no simulator here: {error}")
    yield made
    made.close()


def ends(env: RobosuiteEnv, kind: str, seeds: range, steps: int = 48) -> list[bool]:
    results = []
    for seed in seeds:
        env.reset(seed=seed, options={"placement": "wide"})
        behaviour = make_behaviour(kind, np.random.default_rng(seed))
        for _ in range(steps):
            env.control_step(behaviour.act(env.simulator_state()))
        results.append(env.is_success())
    return results


def test_expert_lifts_within_six_chunks(env: RobosuiteEnv) -> None:
    assert all(ends(env, "expert", range(5)))


@pytest.mark.parametrize("kind", ["near_miss", "grasp", "hasty_grasp"])
def test_near_misses_have_both_outcomes(env: RobosuiteEnv, kind: str) -> None:
    assert 0 < sum(ends(env, kind, range(8))) < 8


@pytest.mark.parametrize("kind", ["expert", "noisy", "near_miss", "play", "grasp", "hasty_grasp"])
def test_behaviours_are_deterministic_and_within_bounds(env: RobosuiteEnv, kind: str) -> None:
    runs = []
    for _ in range(2):
        env.reset(seed=1)
        behaviour = make_behaviour(kind, np.random.default_rng([0, 7]))
        actions = []
        for _ in range(25):
            actions.append(behaviour.act(env.simulator_state()))
            env.control_step(actions[-1])
        runs.append(np.stack(actions))
    np.testing.assert_array_equal(*runs)
    assert runs[0].shape == (25, 4)
    assert np.abs(runs[0]).max() <= 1.0


@pytest.mark.parametrize("task", TASKS)
def test_the_error_of_an_unknown_kind_lists_the_kinds_of_its_task(task: str) -> None:
    with pytest.raises(ValueError, match=f"no kind 'dance' of {task} episodes") as error:
        make_behaviour("dance", np.random.default_rng(0), task)
    assert ("'place'" in str(error.value)) == (task == "Stack")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_behaviours_that_collection_can_ask_for(task: str) -> None:
    assert {"expert", "near_miss", "play"} <= set(BEHAVIOURS[task]) <= set(KINDS) - {"policy"}


def test_a_kind_of_another_task_is_refused_before_work_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no kind 'place' of Lift episodes"):
        collect(CollectConfig(episodes=1, place=1.0, out=tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_recording_pairs_frames_and_actions(env: RobosuiteEnv) -> None:
    first, _ = env.reset(seed=0, options={"placement": "standard"})
    recording = record_episode(env, make_behaviour("expert", np.random.default_rng(0)), 40)
    assert recording.frames.shape == (40, 128, 128, 3)
    assert recording.frames.dtype == np.uint8
    np.testing.assert_array_equal(recording.frames[0], first)
    columns = recording.columns
    np.testing.assert_array_equal(columns["observation.state"][:, :3], columns["simulator.eef_position"])
    np.testing.assert_array_equal(columns["observation.state"][:, 3:], columns["simulator.gripper_opening"])
    # next.success[t] is what holds in frame t+1, and the episode's success what holds in its last frame.
    lifted = columns["simulator.cube_position"][:, 2] > 0.84
    np.testing.assert_array_equal(columns["next.success"][:-1, 0], lifted[1:])
    assert recording.success == lifted[-1]
    assert recording.success
    # The recorded actions are those that were executed.
    env.reset(seed=0)
    for action in recording.actions[:10]:
        env.control_step(action)
    np.testing.assert_array_equal(env.simulator_state()["state"].astype(np.float32), columns["simulator.state"][10])


def test_policy_rollout(env: RobosuiteEnv) -> None:
    calls = []

    def policy(rgb: np.ndarray, proprioception: np.ndarray, step: int) -> np.ndarray:
        assert proprioception.shape == (env.task.proprioception_dim,) == (8,)
        calls.append((rgb.shape, step))
        return np.full(32, 0.5)

    env.reset(seed=0)
    recording = record_episode(env, PolicyBehaviour(env, policy, np.random.default_rng(1), noise=0.1), 24)
    assert [shape for shape, _ in calls] == [(128, 128, 3)] * len(calls)
    assert [step for _, step in calls] == [0, 1, 2]
    assert 0.01 < np.std(recording.actions[-8:]) < 0.3


def test_kinds_keep_their_shares_at_any_length() -> None:
    config = CollectConfig(expert=2, noisy=1, near_miss=1, play=0)
    kinds = [config.kind(index) for index in range(200)]
    for start in (0, 37, 150):
        count = Counter(kinds[start : start + 40])
        assert abs(count["expert"] - 20) <= 3
        assert abs(count["noisy"] - 10) <= 3
        assert count["play"] == 0
    seeds = {config.reset_seed(index) for index in range(1000)}
    assert len(seeds) == 1000
    assert all(seed in COLLECT_SEED_RANGE for seed in seeds)
    first = [CollectConfig(seed=seed).reset_seed(0) for seed in range(12)]
    apart = [abs(one - other) for one, other in itertools.combinations(first, 2)]
    assert 10_000 < min(apart) < max(apart) < len(COLLECT_SEED_RANGE) - 10_000


@pytest.mark.parametrize(("task", "length"), [("Lift", 56), ("Stack", 80)])
def test_episodes_are_as_long_as_their_task_says(task: str, length: int) -> None:
    """A folder that records the length in numbers is the same collection as one that leaves it to the task."""
    config = CollectConfig(task=task)
    assert config.length is None
    assert config.episode_length == length == config.settings()["length"]
    assert config.settings() == CollectConfig(task=task, length=length).settings()
    assert config.settings() != CollectConfig(task=task, length=length + 1).settings()
    assert not {"out", "episodes", "workers", "ray"} & set(config.settings())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "Juggle"}, "unknown task 'Juggle'"),
        ({"placement": "far"}, "unknown placement 'far'.*or 'mixed'"),
        ({"episodes": 0}, "episodes must be from 1"),
        ({"length": 1}, "length must be at least 2"),
        ({"workers": -1}, "workers must be 0"),
        ({"seed": -1}, "seed must not be negative"),
        ({"play": -0.1}, "shares of the kinds"),
        ({"policy": 0.5}, "no policy was given"),
    ],
)
def test_bad_settings_are_named_before_any_work(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collect(CollectConfig(out=tmp_path / "data", **arguments))
    assert not (tmp_path / "data").exists()


def test_policies_that_cannot_travel_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="share of the episodes is 0"):
        collect(CollectConfig(out=tmp_path), policy=lambda rgb, step: np.zeros(32))
    with pytest.raises(ValueError, match="cannot be pickled"):
        collect(CollectConfig(out=tmp_path, policy=1.0), policy=lambda rgb, step: np.zeros(32))


def test_more_episodes_and_other_settings(env: RobosuiteEnv, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Two and then two more are the same as four at once, however many processes work."""
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    collect(CollectConfig(episodes=2, length=4, out=grown, workers=1))
    settings = json.loads((grown / "collect.json").read_text())
    del settings[0]["settings"]["hasty_grasp"]  # collected before there were any
    (grown / "collect.json").write_text(json.dumps(settings))
    dataset = collect(CollectConfig(episodes=4, length=4, out=grown, workers=1))
    assert len(dataset) == 4
    assert dataset.lengths.tolist() == [4] * 4
    assert dataset.episode(0).columns["simulator.state"].shape == (4, 32)
    assert dataset.fingerprint() == collect(CollectConfig(episodes=4, length=4, out=whole, workers=2)).fingerprint()
    assert "all                4       16" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"other settings .*seed=0 there, 1 asked for.*ask for more episodes"):
        collect(CollectConfig(episodes=4, length=4, out=grown, seed=1))
    next((grown / "data").rglob("file-003.parquet")).unlink()
    with pytest.raises(ValueError, match="not complete: first collect its 4 episodes"):
        collect(CollectConfig(episodes=9, length=4, out=grown, placement="wide"))


def test_interrupted_collection_is_valid_and_goes_on(env: RobosuiteEnv, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import pathlib, signal, sys\n"
        "from rla_gym.ground_truth.collect import CollectConfig, collect\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a suite in the background inherits SIG_IGN
        "    collect(CollectConfig(episodes=300, length=4, workers=1, out=pathlib.Path(sys.argv[1])))\n"
    )
    out = tmp_path / "data"
    run = subprocess.Popen([sys.executable, str(script), str(out)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(list(out.glob("data/*/file-*.parquet"))) < 3 and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode != 0
    assert "run the same command again" in errors
    dataset = EpisodeDataset(out)
    there = len(dataset)
    assert 3 <= there < 300
    assert dataset.frames(there - 1).shape == (4, 128, 128, 3)
    before = dataset.episode(1).actions
    more = collect(CollectConfig(episodes=there + 1, length=4, workers=1, out=out))
    assert len(more) == there + 1
    np.testing.assert_array_equal(more.episode(1).actions, before)
