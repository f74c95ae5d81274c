"""Statistics against known values, and evaluation in the dream and in the simulator."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from agents.blind import BlindConfig, make_blind
from agents.evaluate import EvaluateConfig, evaluate, print_table
from agents.policies.token_policy import TokenPolicy
from agents.rollouts import first_pictures
from agents.statistics import bootstrap_mean, paired_difference, wilson_interval
from rewards.success import SuccessDetector

ROW = {
    "bench",
    "task",
    "method",
    "metric",
    "setting",
    "value",
    "low",
    "high",
    "n",
    "seeds",
    "unit",
    "hardware",
    "date",
    "command",
}


@pytest.fixture(scope="module")
def world(tiny_world_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world with a success detector that some of its dreams satisfy."""
    folder = tmp_path_factory.mktemp("evaluate") / "world"
    shutil.copytree(tiny_world_folder, folder)
    torch.manual_seed(0)
    SuccessDetector(16, 8, threshold=0.56).save(folder)
    return folder


@pytest.fixture(scope="module")
def policy(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    policy = TokenPolicy(16, 8, 8, 4, width=32)
    policy.facts = {"method": "random", "world": str(world)}
    return policy.save(tmp_path_factory.mktemp("policy"))


# ---- statistics


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe (1998), table I, and R's prop.test(..., correct = FALSE)
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (9, 9, 0.7009, 1.0),
    ],
)
def test_wilson_interval_has_published_values(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson_interval(successes, n)
    assert interval == pytest.approx((low, high), abs=6e-5)


def test_wilson_interval_is_symmetric_and_narrows() -> None:
    low, high = wilson_interval(30, 100)
    assert wilson_interval(70, 100) == pytest.approx((1 - high, 1 - low))
    narrower = wilson_interval(300, 1000)
    assert low < narrower[0] < 0.3 < narrower[1] < high
    assert wilson_interval(30, 100, confidence=0.5)[0] > low
    for successes, n in ((1, 0), (5, 4), (-1, 4)):
        with pytest.raises(ValueError, match="0 <= successes <= n"):
            wilson_interval(successes, n)


def test_bootstrap_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(2.0, 1.0, 400)
    mean, low, high = bootstrap_mean(values)
    half = 1.96 * values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.01)
    assert bootstrap_mean(values) == (mean, low, high)
    assert bootstrap_mean(values, seed=1) != (mean, low, high)
    assert bootstrap_mean([0.25]) == (0.25, 0.25, 0.25)
    for bad in ([], [1.0, float("nan")], [[1.0]]):
        with pytest.raises(ValueError, match="finite"):
            bootstrap_mean(bad)


def test_a_paired_interval_is_narrower_than_two_of_their_own() -> None:
    generator = np.random.default_rng(0)
    before = generator.random(100) < 0.5
    after = before | (generator.random(100) < 0.15)  # succeeds wherever the other did, and a little more
    difference, low, high = paired_difference(after, before)
    assert difference == pytest.approx(after.mean() - before.mean())
    assert 0 < low < difference < high
    assert wilson_interval(int(after.sum()), 100)[0] < wilson_interval(int(before.sum()), 100)[1]
    assert paired_difference(before, after) == pytest.approx((-difference, -high, -low), abs=0.01)
    assert paired_difference(before, before) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="same episodes"):
        paired_difference([True], [True, False])


# ---- in the dream


@pytest.fixture
def dream(policy: Path, tmp_path: Path) -> EvaluateConfig:
    return EvaluateConfig(
        policy, env="RLAWM-Lift-v0", episodes=12, out=tmp_path / "rows.json", device="cpu", progress=False
    )


def test_dream_episodes_do_not_depend_on_num_envs(dream: EvaluateConfig) -> None:
    results = [evaluate(dataclasses.replace(dream, num_envs=count)) for count in (1, 5, 12)]
    assert 0 < results[0].successes.sum() < 12
    for other in results[1:]:
        assert np.array_equal(results[0].successes, other.successes)
        assert np.array_equal(results[0].control_steps, other.control_steps)
        assert np.allclose(results[0].returns, other.returns, atol=1e-4)
    moved = evaluate(dataclasses.replace(dream, seed_start=7))
    assert not np.allclose(results[0].returns, moved.returns)


def test_rows_and_episodes_are_written(dream: EvaluateConfig) -> None:
    result = evaluate(dream)
    assert dream.out is not None
    (row,) = json.loads(dream.out.read_text())
    assert row == result.row
    assert set(row) == ROW
    assert row["bench"] == "evaluate"
    assert row["task"] == "Lift"
    assert row["method"] == "random"
    assert row["metric"] == "dream_success_rate"
    assert (row["n"], row["seeds"]) == (12, "1000000-1000011")
    assert row["value"] == pytest.approx(result.successes.mean())
    assert (row["low"], row["high"]) == wilson_interval(int(result.successes.sum()), 12)
    episodes = json.loads(dream.out.with_suffix(".episodes.json").read_text())
    assert [episode["success"] for episode in episodes] == result.successes.tolist()
    assert [episode["seed"] for episode in episodes] == list(range(1_000_000, 1_000_012))
    assert sorted(path.name for path in dream.out.parent.iterdir()) == [
        "rows.episodes.json",
        "rows.json",
    ]  # nothing temporary


def test_names_with_dots_share_no_file(dream: EvaluateConfig, tmp_path: Path) -> None:
    names = ("lr_0.1", "lr_0.2")
    for name in names:
        evaluate(dataclasses.replace(dream, out=tmp_path / "rows" / name, episodes=2))
    files = {path.name for path in (tmp_path / "rows").iterdir()}
    assert files == {*names, *(f"{name}.episodes.json" for name in names)}


def test_table_fits_a_terminal(dream: EvaluateConfig) -> None:
    console = Console(width=80, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    print_table([evaluate(dream).row], console)
    text = console.export_text()
    assert "random" in text
    assert "in the dream" in text
    assert "…" not in text


def test_a_blind_policy_is_given_the_chunk_index(dream: EvaluateConfig, world: Path, tmp_path: Path) -> None:
    blind = make_blind(BlindConfig(world=str(world), out=tmp_path / "blind"))
    result = evaluate(dataclasses.replace(dream, policy=blind))
    assert result.method == "blind"
    assert result.control_steps.max() <= 48


def test_errors_name_the_fix(dream: EvaluateConfig, tmp_path: Path, world: Path) -> None:
    with pytest.raises(ValueError, match=r"RLAWM-Lift-v0, .*Robosuite-Lift-v0"):
        evaluate(dataclasses.replace(dream, env="Lift-v0"))
    with pytest.raises(ValueError, match="episodes must be at least 1"):
        evaluate(dataclasses.replace(dream, episodes=0))
    with pytest.raises(ValueError, match=r"policy for Lift, but Robosuite-Stack-v0 shows Stack: choose Robosuite-Lift"):
        evaluate(dataclasses.replace(dream, env="Robosuite-Stack-v0"))
    with pytest.raises(ValueError, match="Robosuite id"):
        evaluate(dataclasses.replace(dream, video=tmp_path / "video.mp4"))
    with pytest.raises(FileNotFoundError, match="no policy folder"):
        evaluate(dataclasses.replace(dream, policy=tmp_path / "nothing"))
    other = TokenPolicy(16, 9, 8, 4, width=32)
    other.facts = {"world": str(world)}
    with pytest.raises(ValueError, match="--world"):
        evaluate(dataclasses.replace(dream, policy=other.save(tmp_path / "other")))


# ---- in the simulator


def test_simulator_episodes_do_not_depend_on_num_envs(policy: Path, tmp_path: Path) -> None:
    pytest.importorskip("robosuite")
    av = pytest.importorskip("av")
    config = EvaluateConfig(
        policy,
        episodes=3,
        seed_start=500_000,
        num_envs=2,
        vectorization="sync",
        max_chunks=1,
        video=tmp_path / "video.mp4",
        video_episodes=1,
        out=tmp_path / "rows.json",
        device="cpu",
        progress=False,
    )
    two = evaluate(config)
    one = evaluate(dataclasses.replace(config, num_envs=1, video=None))
    assert np.array_equal(one.successes, two.successes)
    assert np.array_equal(one.control_steps, two.control_steps)
    assert one.control_steps.tolist() == [8, 8, 8]
    assert two.row["metric"] == "success_rate"
    assert two.row["setting"] == "placement=standard"
    with av.open(str(config.video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert frames[0].shape == (464, 768, 3)
    assert len(frames) == 1 + 8 + 1 + 20  # first frame, a chunk, the verdict and a second to read it
    assert frames[0].std() > 10


def test_a_video_may_show_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("robosuite")
    import agents.video

    in_video: list[int] = []
    monkeypatch.setattr(agents.video, "write_comparison", lambda path, policy, seeds, **rest: in_video.extend(seeds))
    config = EvaluateConfig(
        make_blind(BlindConfig(out=tmp_path / "blind")), episodes=8, seed_start=500_000, num_envs=1,
        video=tmp_path / "video.mp4", video_of="failures", video_episodes=3, progress=False,
    )  # fmt: skip
    result = evaluate(config)
    assert 0 < result.successes.sum() < 8
    assert in_video == result.seeds[~result.successes][:3].tolist()


def test_a_dream_goes_on_from_the_simulators_first_pictures(dream: EvaluateConfig) -> None:
    pytest.importorskip("robosuite")
    config = dataclasses.replace(dream, initial_states="simulator", episodes=4, seed_start=500_000)
    one, two = (evaluate(dataclasses.replace(config, num_envs=count)) for count in (1, 4))
    assert np.allclose(one.returns, two.returns, atol=1e-4)
    assert one.row["setting"] == "dynamics=residual_flow,placement=standard"
    pictures = first_pictures("Lift", "standard", 500_000, 4)
    assert pictures["rgb"].shape[0] == 4
    assert not np.array_equal(pictures["rgb"][0], pictures["rgb"][1])
    elsewhere = evaluate(dataclasses.replace(config, placement="wide"))
    assert not np.allclose(one.returns, elsewhere.returns)
