"""Ray, on a cluster of two workers on this machine: results as without it, also when a worker is killed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from agents.blind import BlindConfig, make_blind
from agents.evaluate import EvaluateConfig, evaluate
from agents.policies.token_policy import TokenPolicy
from rla_gym.ground_truth.collect import CollectConfig, collect
from rla_gym.ground_truth.gl import choose_gl_backend
from tests.conftest import tiny_config
from tests.mortal_workers import DeadlyPolicy, Squares
from tests.synthetic_dataset import write_moving_square
from world_models.data.feature_cache import cache_features
from world_models.distributed.ray_map import ray_map
from world_models.encoders.features import FeatureEncoder
from world_models.encoders.state import StateEncoder

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # beside other work, workers of Ray's low priority take for ever
    ray.init(num_cpus=2, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As a worker has: how a product is split among threads shows in the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def simulator_or_skip() -> None:
    pytest.importorskip("robosuite", reason="no simulator here")
    try:
        choose_gl_backend()
    except ImportError as error:
        pytest.skip(f"no simulator here: {error}")


@contextmanager
def a_worker_killed() -> Iterator[Callable[[], bool]]:
    """Kills, meanwhile, the first worker of the cluster that is seen at work; gives whether one was."""
    stop, killed = threading.Event(), []

    def kill() -> None:
        while not stop.is_set() and not killed:
            for process in psutil.Process().children(recursive=True):
                try:
                    if "_Worker.work" in process.name() or "_Worker.work" in " ".join(process.cmdline()):
                        process.kill()
                        killed.append(process.pid)
                        return
                except psutil.NoSuchProcess:
                    continue
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield lambda: bool(killed)
    finally:
        stop.set()
        thread.join()


def test_results_come_in_order_although_a_worker_is_killed_until_one_raises(tmp_path: Path) -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in [*range(20), -1]:
            taken.append(item)
            yield item

    results = ray_map(partial(Squares, tmp_path / "killed"), items(), 2)
    first = next(results)
    assert len(taken) <= 5  # items are taken as they are needed
    rest = [next(results) for _ in range(19)]
    assert (tmp_path / "killed").exists()
    assert [square for square, _ in [first, *rest]] == [item**2 for item in range(20)]
    assert len({process for _, process in [first, *rest]}) >= 2
    with pytest.raises(ValueError, match="-1 is negative"):
        next(results)


def test_collected_episodes_are_those_of_one_machine_although_a_worker_is_killed(tmp_path: Path) -> None:
    simulator_or_skip()
    settings = {"episodes": 5, "length": 24, "policy": 0.5, "expert": 0.5, "noisy": 0, "near_miss": 0, "play": 0}
    killed = tmp_path / "killed"
    on_ray = collect(CollectConfig(out=tmp_path / "ray", ray=True, **settings), DeadlyPolicy(killed))
    assert killed.exists()
    alone = collect(CollectConfig(out=tmp_path / "alone", workers=1, **settings), DeadlyPolicy(killed))
    assert on_ray.kinds == alone.kinds
    assert "policy" in alone.kinds
    files = [path.relative_to(alone.root) for path in sorted(alone.root.rglob("*.*")) if path.is_file()]
    assert any(path.suffix == ".mp4" for path in files)
    files.remove(Path("collect.json"))
    for path in files:
        assert (on_ray.root / path).read_bytes() == (alone.root / path).read_bytes(), path


def test_features_are_those_of_one_machine(tmp_path: Path) -> None:
    dataset = write_moving_square(tmp_path / "data")
    torch.manual_seed(0)
    encoder = StateEncoder(FeatureEncoder(tiny_config().encoder), proprioception=2)
    on_ray = cache_features(dataset, encoder, tmp_path / "ray", ray=True)
    np.testing.assert_array_equal(on_ray, cache_features(dataset, encoder, tmp_path / "alone"))
    assert np.abs(on_ray.astype(np.float32)).max() > 0


@pytest.mark.parametrize("env", ["RLAWM-Lift-v0", "Robosuite-Lift-v0"])
def test_evaluation_is_that_of_one_machine_although_a_worker_is_killed(env: str, world: str, tmp_path: Path) -> None:
    simulated = env.startswith("Robosuite")
    if simulated:
        simulator_or_skip()
        folder = make_blind(BlindConfig(out=tmp_path / "policy"))
    else:
        torch.manual_seed(0)
        policy = TokenPolicy(16, 8, 8, 4, width=32)
        policy.facts = {"method": "random", "world": world}
        folder = policy.save(tmp_path / "policy")
    config = EvaluateConfig(folder, env, episodes=10, num_envs=1 if simulated else 3, seed_start=500_000)
    config.progress = False
    config.out = tmp_path / "alone.json"
    alone = evaluate(config)
    config.ray, config.out = True, tmp_path / "ray.json"
    with a_worker_killed() as killed:
        on_ray = evaluate(config)
        assert killed()
    for name in ("seeds", "successes", "returns", "control_steps"):
        np.testing.assert_array_equal(getattr(on_ray, name), getattr(alone, name))
    assert np.ptp(alone.control_steps if simulated else alone.returns) > 0
