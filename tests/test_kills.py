"""kill -9 at any moment: what a run leaves goes on to the very result of a run that nobody stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from agents.bc import BCConfig, train_bc
from agents.ppo import PPOConfig, train_ppo


def kill_when(reached: Callable[[], bool], *command: str) -> None:
    """Start Python with these arguments as a group of processes, and kill them all as soon as ``reached`` holds."""
    # One thread, as here: another number rounds otherwise.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *command], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 240
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    running = process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    errors = process.communicate()[1]
    assert reached(), errors[-1000:]
    assert running, "the run had ended before it could be killed"


def test_ppo_goes_on_to_the_same_policy(world: str, tmp_path: Path) -> None:
    clone = BCConfig(
        world=world, out=tmp_path / "bc", demonstrations=3, gradient_steps=2, width=32, device="cpu", progress=False
    )
    config = PPOConfig(
        policy=train_bc(clone), out=tmp_path / "ppo", num_envs=4, iterations=30, warmup_iterations=1,
        checkpoint_every=2, device="cpu", progress=False,
    )  # fmt: skip
    script = (
        "from pathlib import Path; from agents.ppo import PPOConfig, train_ppo; "
        f"train_ppo(PPOConfig(policy=Path({str(config.policy)!r}), out=Path({str(config.out)!r}), num_envs=4, "
        "iterations=30, warmup_iterations=1, checkpoint_every=2, device='cpu', progress=False))"
    )
    kill_when((config.out / "checkpoint.safetensors").is_file, "-c", script)
    config.resume = True
    resumed = load_file(train_ppo(config) / "policy.safetensors")
    config.resume, config.out = False, tmp_path / "whole"
    whole = load_file(train_ppo(config) / "policy.safetensors")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_a_collection_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("robosuite", reason='the simulator is not installed: pip install "rla-gym[robosuite]"')
    from rla_gym.ground_truth.collect import CollectConfig, collect

    script = tmp_path / "script.py"
    script.write_text(
        "import pathlib, sys\n"
        "from rla_gym.ground_truth.collect import CollectConfig, collect\n"
        "if __name__ == '__main__':\n"
        "    collect(CollectConfig(episodes=200, length=4, workers=1, out=pathlib.Path(sys.argv[1])))\n",
        encoding="utf-8",
    )
    killed = tmp_path / "killed"
    kill_when(lambda: len(list(killed.glob("data/*/file-*.parquet"))) >= 2, str(script), str(killed))
    there = len(list(killed.glob("data/*/file-*.parquet")))
    resumed = collect(CollectConfig(episodes=there + 1, length=4, workers=1, out=killed))
    whole = collect(CollectConfig(episodes=there + 1, length=4, workers=1, out=tmp_path / "whole"))
    assert resumed.fingerprint() == whole.fingerprint()
    assert not list(killed.rglob("*.tmp"))
