"""`rla-gym demo`: clone, train in the dream, evaluate in the simulator. Minutes, on two cores."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from agents.policies.io import load_policy
from agents.video import write_comparison
from benchmarks.transfer import TransferConfig, run, train_policy
from rla_gym.ground_truth.seeds import REPORT_SEEDS
from rla_gym.tasks import simulator_id
from world_models.files import beside
from world_models.io import read_config, world_folder


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the demo.

    Attributes:
        world: bundled name, path or ``hf://owner/name``.
        demonstrations: demonstrations that are cloned.
        iterations: PPO iterations in the dream.
        episodes: simulator episodes before and after.
        seed: of the training.
        out: folder of policies, rows, picture and video.
        device: for policies and dream.
    """

    world: str = "lift"
    demonstrations: int = 10
    iterations: int = 200
    episodes: int = 50
    seed: int = 0
    out: Path = Path("runs/demo")
    device: str = "auto"


def demo(config: DemoConfig) -> None:
    """Train in the dream, evaluate before and after in the simulator; print the table, write PNG, JSON and video."""
    began = time.monotonic()
    transfer = TransferConfig(
        world=config.world,
        demonstrations=config.demonstrations,
        methods=("blind", "bc", "ppo"),
        training_seeds=(config.seed,),
        iterations=config.iterations,
        episodes=config.episodes,
        device=config.device,
        runs=config.out / "policies",
        out=config.out / "transfer.json",
    )
    run(transfer)
    policy = train_policy(transfer, "ppo", config.seed)
    video = config.out / "dream_and_real.mp4"
    task = read_config(world_folder(config.world)).task
    seeds = [REPORT_SEEDS.start + offset for offset in range(4)]
    write_comparison(video, load_policy(policy), seeds, env=simulator_id(task), world=config.world)
    console = Console()
    console.print(
        f"\nTrained on the actions of {config.demonstrations} demonstrations and in the dream, never in the simulator."
    )
    for name, path in (("rows", transfer.out), ("picture", beside(transfer.out, ".png")), ("dream | real", video)):
        console.print(f"  {name:12} {path}")
    console.print(f"  took         {(time.monotonic() - began) / 60:.1f} minutes")
