"""Saving, restoring and branching: the restored dream goes on as the original does."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import given
from hypothesis import strategies as st

from rla_gym import RLAWMEnv, RLAWMVectorEnv
from tests.dreams import Make, actions_for, assert_same

MODES = ("NextStep", "SameStep", "Disabled")


@pytest.fixture(scope="module")
def pairs(world: str) -> Iterator[dict[str, tuple[RLAWMVectorEnv, RLAWMVectorEnv]]]:
    """For each autoreset mode an environment, and another to restore into."""
    obs = ("features", "last_action", "remaining_time")
    made = {
        mode: tuple(RLAWMVectorEnv(3, world=world, obs=obs, autoreset_mode=mode, max_chunks=4) for _ in range(2))
        for mode in MODES
    }
    yield made  # type: ignore[misc]
    for pair in made.values():
        for env in pair:
            env.close()


@given(
    mode=st.sampled_from(MODES),
    seed=st.integers(0, 2**40),
    before=st.integers(0, 6),
    through_pickle=st.booleans(),
    after=st.integers(1, 6),
)
def test_restored_and_original_go_on_identically(
    pairs: dict[str, tuple[RLAWMVectorEnv, RLAWMVectorEnv]],
    mode: str,
    seed: int,
    before: int,
    through_pickle: bool,
    after: int,
) -> None:
    env, other = pairs[mode]
    actions = actions_for(env, before + after, seed % 1000)
    outputs: Any = env.reset(seed=seed)
    for action in actions[:before]:
        outputs = env.step(action)
    state = env.get_state()
    if through_pickle:
        state = pickle.loads(pickle.dumps(state))
    restored, _ = other.set_state(state)
    assert data_equivalence(restored, outputs[0], exact=True)
    for action in actions[before:]:
        assert data_equivalence(env.step(action), other.step(action), exact=True)
    assert data_equivalence(env.reset(), other.reset(), exact=True)  # on to the next episode
    # Once more, in the environment that saved it and has gone on since.
    env.set_state(state)
    other.set_state(state)
    for action in actions[before:]:
        assert data_equivalence(env.step(action), other.step(action), exact=True)


def test_one_slot_branches_into_many(make: Make) -> None:
    env, branches = make(4, terminate_on_success=False), make(8, terminate_on_success=False)
    env.reset(seed=1)
    env.step(actions_for(env, 1)[0])
    state = env.get_state()
    actions = actions_for(branches, 1)[0]
    actions[4:] = actions[:4]
    branches.set_state(state[[2] * 8])
    obs, reward, *_ = branches.step(actions)
    assert_same(obs[:4], obs[4:])  # the same noise: branches differ by their actions alone
    assert len(np.unique(reward[:4])) == 4
    env.step(np.repeat(actions[:1], 4, axis=0))
    assert_same(branches.get_state().slots["features"][0], env.get_state().slots["features"][2])
    branches.set_state(state[[2] * 8], seed=5)
    separate = branches.step(np.repeat(actions[:1], 8, axis=0))[0]
    assert len(np.unique(separate[:, 0, 0])) == 8  # each slot draws its own noise
    branches.set_state(state[[2] * 8], seed=5)
    assert data_equivalence(branches.step(np.repeat(actions[:1], 8, axis=0))[0], separate, exact=True)


def test_states_are_indexed_as_arrays_are(make: Make) -> None:
    env = make(5)
    env.reset(seed=0, options={"demo": [0, 1, 2, 3, 4]})
    state = env.get_state()
    demonstrations = {
        len(part): part.slots["demonstration"].tolist()
        for part in (state[3], state[1:3], state[[4, 0, 0]], state[np.array([True, True, True, True, False])])
    }
    assert demonstrations == {1: [3], 2: [1, 2], 3: [4, 0, 0], 4: [0, 1, 2, 3]}
    assert len(state) == 5
    with pytest.raises(IndexError):
        state[5]


def test_a_state_is_a_copy(make: Make) -> None:
    env = make(2)
    env.reset(seed=0)
    state, action = env.get_state(), actions_for(env, 1)[0]
    expected = env.step(action)
    state.slots["features"].setflags(write=False)
    env.set_state(state)
    assert data_equivalence(env.step(action), expected, exact=True)
    env.set_state(state)
    assert data_equivalence(env.step(action), expected, exact=True)


def test_single_environments_save_and_restore(make: Make, world: str) -> None:
    env, fresh = gym.make("RLAWM-Lift-v0", world=world), RLAWMEnv(world=world)
    env.reset(seed=3)
    env.step(env.action_space.sample())
    state = env.unwrapped.get_state()
    obs, info = fresh.set_state(state)  # no reset needed
    assert obs in fresh.observation_space
    assert info["control_steps"] == 8
    action = env.action_space.sample()
    assert data_equivalence(env.step(action), fresh.step(action), exact=True)
    assert data_equivalence(env.reset(), fresh.reset(), exact=True)
    many = make(3)
    many.set_state(state[[0] * 3])
    fresh.set_state(state)
    assert_same(many.step(np.stack([action] * 3))[0][1], fresh.step(action)[0])
    env.close()
    fresh.close()


def test_bad_states_change_nothing(make: Make) -> None:
    env, action = make(2), actions_for(make(2), 1)[0]
    with pytest.raises(gym.error.ResetNeeded, match=r"reset\(\) before get_state"):
        env.get_state()
    env.reset(seed=0)
    state = env.get_state()
    foreign: list[tuple[Any, type[Exception], str]] = [
        ({}, TypeError, r"state is a dict: give what get_state\(\) returned"),
        (dataclasses.replace(state, version=7), ValueError, "version 7, this rla-gym reads version 2"),
        (state[0], ValueError, r"has 1 slots, this environment 2: .* state\[\[0\] \* 2\]"),
        (
            _state_of(make(2, dynamics="regression")),
            ValueError,
            "saved in world .*, this environment has world .*same files",
        ),
        (_state_of(make(2, chunk_length=3)), ValueError, "chunk_length=3, this environment has 8: make one with"),
    ]
    for bad, kind, message in foreign:
        with pytest.raises(kind, match=message):
            env.set_state(bad)
    with pytest.raises(ValueError, match="give integers from 0 on"):
        env.set_state(state, seed=-1)
    untouched = make(2)
    untouched.reset(seed=0)
    assert data_equivalence(env.step(action), untouched.step(action), exact=True)


def test_states_are_numpy_whatever_the_output(make: Make) -> None:
    env = make(2, output="torch")
    env.reset(seed=0)
    state = env.get_state()
    assert all(isinstance(array, np.ndarray) for array in state.slots.values())
    obs, _ = env.set_state(state)
    assert isinstance(obs, torch.Tensor)


def _state_of(env: RLAWMVectorEnv) -> Any:
    env.reset(seed=0)
    return env.get_state()
