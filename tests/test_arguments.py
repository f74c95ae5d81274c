"""What users hand in: odd values get one line that names the argument, odd layouts of memory are taken as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from rla_gym import RLAWMEnv
from tests.dreams import Make

LARGE = float(np.finfo(np.float64).max)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_chunks": float("nan")}, "max_chunks=nan must be an integer"),
        ({"max_chunks": 1.5}, "max_chunks=1.5 must be an integer"),
        ({"max_chunks": 10**9}, "max_chunks=1000000000 must be at most"),
        ({"chunk_length": True}, "chunk_length=True must be an integer"),
        ({"solver_steps": 10**7}, "solver_steps=10000000 must be at most"),
        ({"success_bonus": float("nan")}, "success_bonus=nan must be a number"),
        ({"success_bonus": LARGE}, "success_bonus=1.79.* must be at most"),
        ({"max_uncertainty": float("nan")}, "max_uncertainty=nan must be a number"),
        ({"terminate_on_success": 1}, "terminate_on_success=1: choose True or False"),
        ({"dynamics": ["regression"]}, "dynamics=.*: give a name"),
        ({"output": ["numpy"]}, "output=.*: choose one of"),
        ({"reward": None}, "unknown reward None"),
        ({"task": 3}, "unknown task 3"),
        ({"obs": 3}, "obs=3: choose one of"),
        ({"world": ""}, "world='' names no world"),
        ({"device": "meta"}, "device='meta' is not usable"),
        ({"device": 3}, "device='3' is not usable"),
    ],
)
def test_bad_values_are_named(world: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        RLAWMEnv(**{"world": world, **arguments})
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("name", ["num_envs", "first_slot", "autoreset_mode"])
def test_a_single_environment_names_what_only_several_take(world: str, name: str) -> None:
    with pytest.raises(TypeError, match=f"RLAWMEnv has no argument '{name}'"):
        RLAWMEnv(world=world, **{name: 1})


@pytest.mark.parametrize("seed", [np.int64(3), np.uint32(3), torch.tensor(3), np.array(3), 2**70])
def test_single_and_vector_take_the_same_seeds(make: Make, world: str, seed: Any) -> None:
    single = RLAWMEnv(world=world)
    observation = single.reset(seed=seed)[0]
    np.testing.assert_allclose(observation, make(2).reset(seed=seed)[0][0], atol=1e-5)
    assert single.np_random_seed == int(seed)
    single.close()


@pytest.mark.parametrize("seed", [3.0, "3", True, -1, [1, 2, 3], {}])
def test_a_refused_seed_changes_nothing(make: Make, world: str, seed: Any) -> None:
    single, several = RLAWMEnv(world=world), make(2)
    for env in (single, several):
        env.reset(seed=0)
        env.step(np.zeros(env.action_space.shape, np.float32))
        before = env.get_state().slots
        with pytest.raises((TypeError, ValueError), match="seed"):
            env.reset(seed=seed)
        after = env.get_state().slots
        assert all(np.array_equal(before[name], after[name]) for name in before)
    single.close()


@pytest.mark.parametrize(
    "action",
    [
        torch.zeros(2, 32, device="meta"),
        torch.zeros(2, 32).to_sparse(),
        torch.zeros(2, 32).to(torch.float8_e4m3fn),
        torch.zeros(2, 32, dtype=torch.complex64),
        np.full((2, 32), LARGE),
        np.ma.masked_less(np.zeros((2, 32), np.float32), 1),
        np.full((2, 32), None),
        [[0.0] * 32, [0.0]],
        "up",
        None,
    ],
    ids=["meta", "sparse", "float8", "complex", "beyond float32", "masked", "objects", "ragged", "text", "None"],
)
def test_actions_that_are_none_are_refused_and_change_nothing(make: Make, action: Any) -> None:
    env = make(2)
    env.reset(seed=0)
    before = env.get_state().slots
    with pytest.raises(ValueError, match="actions"):
        env.step(action)
    after = env.get_state().slots
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_views_of_any_strides_are_taken(make: Make) -> None:
    env, plain = make(2), make(2)
    actions = np.random.default_rng(0).uniform(-1, 1, (2, 32)).astype(np.float32)
    frame = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    for view in (frame[..., ::-1], np.flipud(frame), frame.transpose(1, 0, 2)):
        first = env.reset(seed=0, options={"rgb": view})[0]
        np.testing.assert_array_equal(first, plain.reset(seed=0, options={"rgb": view.copy()})[0])
    for view in (actions[:, ::-1], np.asfortranarray(actions), actions.astype(">f4"), actions.astype(np.float16)):
        env.reset(seed=0)
        plain.reset(seed=0)
        copied = np.ascontiguousarray(view, dtype=np.float32)
        np.testing.assert_array_equal(env.step(view)[0], plain.step(copied)[0])
    env.reset(options={"reset_mask": np.array([True, False])[::-1], "demo": np.array([0, 1])[::-1]})


def test_a_mask_of_another_dtype_is_a_type_error(make: Make) -> None:
    env = make(2)
    env.reset(seed=0)
    with pytest.raises(TypeError, match="reset_mask has dtype float64"):
        env.reset(options={"reset_mask": np.ones(2)})


def test_tensors_handed_out_can_be_edited_and_infos_are_gymnasiums(make: Make, world: str) -> None:
    tensors = make(2, output="torch")
    observation, _ = tensors.reset(seed=0)
    assert not observation.is_inference()
    observation.add_(1)
    env = make(2)
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape, np.float32)
    several = gym.make_vec("RLAWM-Lift-v0", num_envs=2, vectorization_mode="sync", world=world)
    several.reset(seed=0)
    ours, theirs = env.step(action)[4], several.step(action)[4]
    assert {name: array.dtype for name, array in ours.items()} == {name: array.dtype for name, array in theirs.items()}
    several.close()


@pytest.mark.parametrize("obs", ["features", "rgb"])
def test_a_default_dtype_of_float64_changes_nothing(make: Make, obs: str) -> None:
    action = np.zeros((2, 32), np.float32)
    torch.set_default_dtype(torch.float64)
    try:
        env = make(2, obs=obs)
        env.reset(seed=0)
        outputs = env.step(action)
    finally:
        torch.set_default_dtype(torch.float32)
    env.close()  # so that the world is loaded again
    expected = make(2, obs=obs)
    expected.reset(seed=0)
    for ours, theirs in zip(outputs[:4], expected.step(action)[:4], strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_a_worker_that_has_imported_nothing_finds_the_id(world: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "if __name__ == '__main__':\n"
        "    from stable_baselines3.common.env_util import make_vec_env\n"
        "    from stable_baselines3.common.vec_env import SubprocVecEnv\n"
        f"    arguments = {{'world': {world!r}}}\n"
        "    envs = make_vec_env('rla_gym:RLAWM-Lift-v0', 1, vec_env_cls=SubprocVecEnv, env_kwargs=arguments)\n"
        "    print(envs.reset().shape)\n"
        "    envs.close()\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip() == "(1, 16, 8)", done.stderr[-1000:]


def test_the_twin_refuses_the_same_actions() -> None:
    checked_actions = pytest.importorskip("rla_gym.ground_truth.actions").checked_actions
    for action in (
        torch.zeros(32).to_sparse(),
        torch.zeros(32, device="meta"),
        np.ma.masked_less(np.zeros(32, np.float32), 1),
        [[0.0], [0.0, 1.0]],
        "up",
        np.full(32, np.inf),
    ):
        with pytest.raises(ValueError, match="actions"):
            checked_actions(action, (32,), "(K*A,)")
    for action in (torch.full((32,), 2.0, dtype=torch.bfloat16), np.full(64, 2.0)[::-2], torch.full((32,), 2.0)):
        np.testing.assert_array_equal(checked_actions(action, (32,), "(K*A,)"), np.ones(32))
