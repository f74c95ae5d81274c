"""`bench speed` counts control steps of every contender, and compares what ran in the same rounds."""

from __future__ import annotations

import json
import time
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from benchmarks.contenders import CameraRobosuite, Contender, dream, video_diffusion
from benchmarks.speed import SpeedConfig, run, take_turns
from tests.media import picture_width


def test_turns_alternate_and_speeds_are_of_control_steps() -> None:
    called: list[str] = []

    def contender(name: str, pause: float, control_steps: int) -> Contender:
        def call() -> None:
            called.append(name)
            time.sleep(pause)

        return Contender(name, "", control_steps, call)

    slow, fast = take_turns([contender("slow", 0.03, 8), contender("fast", 0.002, 8)], rounds=3, seconds=0.02)
    turns = [name for name, _ in groupby(called)]
    assert turns == ["slow", "fast"] * 4  # once to warm up, then once a round
    assert called.count("fast") > 6  # a turn is as many calls as it has time for
    assert len(slow) == len(fast) == 3
    assert bool((slow <= 8 / 0.03).all())
    assert bool((fast > slow).all())
    assert bool((fast <= 8 / 0.002).all())


def test_a_dream_counts_the_control_steps_of_its_chunks(world: str) -> None:
    contender = dream(3, "cpu", world, dynamics="regression", chunk_length=4)
    contender.call()
    contender.close()
    assert contender.control_steps == 3 * 4
    assert contender.frames == 3
    assert contender.setting == "envs=3,device=cpu,chunk_length=4"


def test_the_table_holds_every_contender(world: str, tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    run(SpeedConfig(world, "cpu", 2, (1, 3), (1, 4), (2, 8), (0.5, 1), rounds=2, seconds=0.001,
                    robosuite=False, video_diffusion=False, out=out, progress=False))  # fmt: skip
    rows = json.loads(out.read_text())

    def row(method: str, setting: str, metric: str) -> dict[str, float]:
        (one,) = [row for row in rows if (row["method"], row["setting"], row["metric"]) == (method, setting, metric)]
        return one

    three, once = (f"envs=2,device=cpu,solver_steps={steps}" for steps in (3, 1))
    speed = row("residual_flow", three, "control_steps_per_second")
    assert speed["low"] <= speed["value"] <= speed["high"]
    assert 0 < row("residual_flow", three, "share_of_peak")["value"] < 1.5
    gflops = "gflops_per_predicted_frame"
    assert row("residual_flow", three, gflops)["value"] > row("residual_flow", once, gflops)["value"]
    assert row("regression", "envs=2,device=cpu,precision=bfloat16", "control_steps_per_second")["value"] > 0
    for grown in ("envs=4,device=cpu", "envs=2,device=cpu,chunk_length=8", "envs=2,device=cpu,patch_tokens=4"):
        assert row("residual_flow", f"growth,{grown}", "control_steps_per_second")["value"] > 0
    few, many = (row("residual_flow", f"envs={envs},device=cpu", "peak_memory_mib")["value"] for envs in (1, 4))
    assert 50 < few < 1.5 * many
    assert row("matrix_product", "device=cpu,precision=bfloat16", "gflops_per_second")["value"] > 0
    assert 0 < row("residual_flow", "precision=bfloat16,chunks=6", "difference_vs_error")["value"] < 1
    chunk = row("residual_flow", "growth,envs=2,device=cpu,chunk_length=2", "control_steps_per_second")
    assert chunk["low"] <= chunk["value"] <= chunk["high"]
    assert picture_width(out.with_suffix(".png")) > 1500
    for precision in ("float32", "bfloat16"):
        shares = [row for row in rows if row["setting"].startswith("operator=") and precision in row["setting"]]
        assert sum(row["value"] for row in shares) == pytest.approx(1)
        assert "addmm" in " ".join(row["setting"] for row in shares)
    assert picture_width(tmp_path / "speed_operators.png") > 1000


def test_robosuites_own_camera_gives_a_picture_after_every_control_step() -> None:
    pytest.importorskip("robosuite", reason='the simulator is not installed: pip install "rla-gym[robosuite]"')
    env = CameraRobosuite("Lift")
    first, _ = env.reset(seed=0)
    assert env.observation_space.contains(first)
    for _ in range(5):
        later, *_ = env.step(np.ones(env.action_space.shape, np.float32))
    assert (later != first).any()
    env.close()


def test_bad_settings_are_refused_before_anything_is_opened() -> None:
    with pytest.raises(ValueError, match="rounds"):
        run(SpeedConfig(rounds=0))
    with pytest.raises(ValueError, match="growth_envs must be at least 1, got nothing"):
        run(SpeedConfig(growth_envs=()))
    with pytest.raises(ValueError, match="growth_image_scales"):
        run(SpeedConfig(growth_image_scales=(0.1,)))
    with pytest.raises(ValueError, match="longest chunk is 8"):
        run(SpeedConfig(growth_chunk_lengths=(9,)))


def test_video_diffusion_predicts_a_frame_per_control_step() -> None:
    pytest.importorskip("diffusers", reason='pip install "rla-gym[speed]"')
    contender = video_diffusion(size=32, frames=2, device="cpu")
    assert contender.call().shape == (2, 3, 32, 32)
    assert contender.control_steps == contender.frames == 2
