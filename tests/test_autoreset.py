"""Autoreset: the vector environment against Gymnasium's own over single environments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

import rla_gym
from rla_gym import RLAWMEnv, RLAWMVectorEnv
from tests.dreams import Make, actions_for, assert_same, rollout


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"terminate_on_success": False, "max_chunks": 2},
        {"obs": "rgb"},
        {"obs": ("features", "last_action", "remaining_time")},
    ],
)
def test_autoreset_is_gymnasiums_own(make: Make, world: str, mode: AutoresetMode, arguments: dict[str, Any]) -> None:
    count = 3
    env = make(count, autoreset_mode=mode, **arguments)
    reference = SyncVectorEnv(
        [lambda slot=slot: RLAWMEnv(slot=slot, world=world, **arguments) for slot in range(count)], autoreset_mode=mode
    )
    assert env.metadata == reference.metadata
    assert env.observation_space == reference.observation_space
    assert env.action_space == reference.action_space
    actions = actions_for(env, 20)
    ours, theirs = rollout(env, actions, seed=11), rollout(reference, actions, seed=[11] * count)
    for step, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert_same(one, other, f"step {step} ")
    ends = np.array([[step[2], step[3]] for step in ours[1:]])
    assert ends[:, 1].any()
    assert arguments.get("terminate_on_success") is False or ends[:, 0].any()

    mask = np.array([False, True, False])
    assert_same(
        env.reset(options={"reset_mask": mask}), reference.reset(options={"reset_mask": mask.copy()}), "masked reset"
    )
    assert_same(env.step(actions[0]), reference.step(actions[0]), "after masked reset")
    assert_same(
        env.reset(seed=[None, 3, None], options={"reset_mask": mask}),
        reference.reset(seed=[None, 3, None], options={"reset_mask": mask.copy()}),
    )
    assert_same(env.step(actions[0]), reference.step(actions[0]), "after seeded masked reset")
    reference.close()


def test_next_step_reset_ignores_the_action_and_gives_no_reward(make: Make) -> None:
    env = make(2, max_chunks=1, terminate_on_success=False, initial_states="first")
    actions = actions_for(env, 2)
    env.reset(seed=0)
    assert env.step(actions[0])[3].all()
    obs, reward, terminated, truncated, info = env.step(actions[1])
    assert not reward.any()
    assert not terminated.any()
    assert not truncated.any()
    assert not info["control_steps"].any()
    first = rla_gym.load_world(env.world).demonstrations.features[info["demonstration"], 0].float()
    np.testing.assert_allclose(obs, first)


@given(
    seeds=st.lists(st.integers(0, 2**40), min_size=3, max_size=3),
    mode=st.sampled_from([AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]),
    max_chunks=st.integers(1, 4),
    terminate=st.booleans(),
    masks=st.lists(st.lists(st.booleans(), min_size=3, max_size=3).filter(any), min_size=8, max_size=8),
)
def test_any_mixture_of_steps_and_masked_resets_is_gymnasiums(
    world: str, seeds: list[int], mode: AutoresetMode, max_chunks: int, terminate: bool, masks: list[list[bool]]
) -> None:
    arguments: dict[str, Any] = {"world": world, "max_chunks": max_chunks, "terminate_on_success": terminate}
    env = RLAWMVectorEnv(3, autoreset_mode=mode, **arguments)
    reference = SyncVectorEnv(
        [lambda slot=slot: RLAWMEnv(slot=slot, **arguments) for slot in range(3)], autoreset_mode=mode
    )
    assert_same(env.reset(seed=seeds), reference.reset(seed=seeds))
    for step, (action, mask) in enumerate(zip(actions_for(env, 8, seeds[0]), masks, strict=True)):
        assert_same(env.step(action), reference.step(action), f"step {step} ")
        if step % 3 == 2:
            options = [{"reset_mask": np.array(mask)} for _ in range(2)]  # Gymnasium takes the mask out of its own
            assert_same(env.reset(options=options[0]), reference.reset(options=options[1]), f"reset {step} ")
    reference.close()
    env.close()
