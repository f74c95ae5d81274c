"""Same seed, same dream: beside any other slots, and in any process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st

import rla_gym
from rla_gym import RLAWMVectorEnv
from tests.dreams import Make, actions_for, assert_same, rollout


def test_the_same_seed_gives_the_same_episodes_and_another_does_not(make: Make) -> None:
    env = make(3)
    actions = actions_for(env, 15)
    first, again, other = (rollout(env, actions, seed=seed) for seed in (7, 7, 8))
    assert data_equivalence(first, again, exact=True)
    assert not data_equivalence(first[1], other[1])
    assert data_equivalence(first, rollout(make(3), actions, seed=7), exact=True)


def test_reset_without_a_seed_goes_on_to_the_next_episode(make: Make) -> None:
    env, twin = make(3, initial_states="first"), make(3, initial_states="first")
    action = actions_for(env, 1)
    one = [rollout(env, action, seed=4), rollout(env, action), rollout(env, action)]
    two = [rollout(twin, action, seed=4), rollout(twin, action), rollout(twin, action)]
    assert data_equivalence(one, two, exact=True)
    assert not data_equivalence(one[0], one[1])
    assert not data_equivalence(one[1], one[2])
    unseeded, other = make(3), make(3)
    assert not data_equivalence(rollout(unseeded, action), rollout(other, action))
    assert data_equivalence(rollout(make(3), action), rollout(make(3), action, seed=None)) is False
    assert unseeded.np_random_seed != other.np_random_seed
    repeat = rollout(other, action, seed=unseeded.np_random_seed)
    unseeded.reset(seed=unseeded.np_random_seed)
    assert data_equivalence(repeat[-1], unseeded.step(action[0]), exact=True)


@pytest.fixture(scope="module")
def crowds(world: str) -> Iterator[dict[int, RLAWMVectorEnv]]:
    mode = AutoresetMode.SAME_STEP
    envs = {n: RLAWMVectorEnv(n, world=world, autoreset_mode=mode, max_chunks=3) for n in (1, 7, 64)}
    yield envs
    for env in envs.values():
        env.close()


@given(seed=st.integers(0, 2**63), action_seed=st.integers(0, 999), steps=st.integers(1, 5))
def test_a_slot_is_the_same_beside_any_others(
    crowds: dict[int, RLAWMVectorEnv], seed: int, action_seed: int, steps: int
) -> None:
    """Up to rounding: matmuls of other batch sizes add in another order (``assert_same`` states the tolerance)."""
    actions = actions_for(crowds[64], steps, action_seed)
    most = rollout(crowds[64], actions, seed=seed)
    for count in (1, 7):
        few = rollout(crowds[count], actions[:, :count], seed=seed)
        for one, other in zip(few, most, strict=True):
            for value, values in zip(one[:-1], other[:-1], strict=True):
                assert_same(value, values[:count])
            for key in one[-1].keys() & other[-1].keys() - {"final_info", "_final_info"}:
                assert_same(one[-1][key], other[-1][key][:count], key)


@given(seed=st.integers(0, 2**40), slot=st.integers(0, 6))
def test_any_slot_can_be_another_workers(crowds: dict[int, RLAWMVectorEnv], world: str, seed: int, slot: int) -> None:
    actions = actions_for(crowds[7], 4)
    crowd = rollout(crowds[7], actions, seed=seed)
    worker = RLAWMVectorEnv(1, world=world, first_slot=slot, autoreset_mode=AutoresetMode.SAME_STEP, max_chunks=3)
    for one, other in zip(rollout(worker, actions[:, slot : slot + 1], seed=seed), crowd, strict=True):
        for value, values in zip(one[:-1], other[:-1], strict=True):
            assert_same(value, values[slot : slot + 1])
    worker.close()


def test_slots_differ(make: Make) -> None:
    env = make(16)
    env.reset(seed=0, options={"demo": 0})
    obs = env.step(np.zeros(env.action_space.shape, np.float32))[0]
    assert len(np.unique(obs[:, 0, 0])) == 16
    regression = make(16, dynamics="regression")
    regression.reset(seed=0, options={"demo": 0})
    obs = regression.step(np.zeros(env.action_space.shape, np.float32))[0]
    np.testing.assert_allclose(obs, obs[:1].repeat(16, 0), atol=1e-5)


@given(seed=st.integers(0, 2**63), action_seed=st.integers(0, 999))
def test_equal_batches_are_equal_to_the_bit(crowds: dict[int, RLAWMVectorEnv], seed: int, action_seed: int) -> None:
    actions = actions_for(crowds[7], 4, action_seed)
    first = rollout(crowds[7], actions, seed=seed)
    assert data_equivalence(first, rollout(crowds[7], actions, seed=seed), exact=True)
    alone = rollout(crowds[1], actions[:, 3:4], seed=seed)
    rollout(crowds[1], actions[:, :1])  # whatever came between
    assert data_equivalence(alone, rollout(crowds[1], actions[:, 3:4], seed=seed), exact=True)


def test_another_process_gives_the_same_slots(make: Make) -> None:
    env = make(4, max_chunks=3)
    everything = rollout(env, actions_for(env, 5), seed=17)
    code = (
        "import sys, numpy as np; from rla_gym import RLAWMVectorEnv\n"
        "from tests.dreams import actions_for, rollout\n"
        "first = int(sys.argv[2])\n"
        "env = RLAWMVectorEnv(2, first_slot=first, world=sys.argv[1], max_chunks=3)\n"
        "actions = np.random.default_rng(0).uniform(-1, 1, (5, 4, 32)).astype(np.float32)[:, first : first + 2]\n"
        "np.save(sys.argv[3], np.stack([step[0] for step in rollout(env, actions, seed=17)]))"
    )
    home = Path(rla_gym.__file__).parent.parent
    path = Path(env.world) / "slots.npy"
    subprocess.run([sys.executable, "-c", code, env.world, "2", str(path)], cwd=home, check=True)
    assert_same(np.load(path), np.stack([step[0][2:] for step in everything]))
    path.unlink()
