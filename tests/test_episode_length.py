"""How long episodes are: Gymnasium's ``max_episode_steps`` and ours, on every way to make an environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import rla_gym


def steps_until_truncated(env: Any, most: int = 20) -> int:
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape, np.float32)
    return next(step for step in range(1, most) if np.all(env.step(action)[3]))


@pytest.mark.parametrize("steps", [None, 3, 6, 9])
@pytest.mark.parametrize("vector", [False, True], ids=["make", "make_vec"])
def test_max_episode_steps_shortens_and_lengthens(world: str, steps: int | None, vector: bool) -> None:
    arguments: dict[str, Any] = {"world": world, "terminate_on_success": False, "obs": "remaining_time"}
    arguments |= {} if steps is None else {"max_episode_steps": steps}
    make = (
        (lambda **more: gym.make_vec("RLAWM-Lift-v0", 2, **more))
        if vector
        else (lambda **more: gym.make("RLAWM-Lift-v0", **more))
    )
    env = make(**arguments)
    expected = 6 if steps is None else steps
    assert steps_until_truncated(env) == expected
    assert env.spec.max_episode_steps == env.unwrapped.max_chunks == expected
    first = env.reset(seed=0)[0]
    after = env.step(np.zeros(env.action_space.shape, np.float32))[0]
    np.testing.assert_allclose(first - after, 1 / expected, rtol=1e-5)  # the observation knows the length, too
    env.close()


def test_a_limit_that_would_cut_what_was_asked_for_is_refused(world: str) -> None:
    with pytest.raises(ValueError, match=r"max_chunks=10 is beyond the 6 steps.*give max_episode_steps=10"):
        gym.make("RLAWM-Lift-v0", world=world, max_chunks=10)
    env = gym.make("RLAWM-Lift-v0", world=world, max_chunks=4, max_episode_steps=8, terminate_on_success=False)
    assert steps_until_truncated(env) == 4
    env.close()


def test_gymnasiums_time_wrapper_finds_the_length(world: str) -> None:
    env = gym.wrappers.TimeAwareObservation(gym.make("RLAWM-Lift-v0", world=world, obs="pooled"))
    assert env.reset(seed=0)[0][-1] == 0
    env.close()


def test_the_spec_of_an_environment_makes_it_again(world: str) -> None:
    env = gym.make("RLAWM-v0", world=Path(world), max_episode_steps=9, success_bonus=np.float32(0.5))
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.max_chunks == 9
    assert again.unwrapped.spec.kwargs["world"] == world
    envs = gym.make_vec("RLAWM-v0", num_envs=2, world=Path(world), autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
    assert '"autoreset_mode": "SameStep"' in envs.spec.to_json()
    for one in (env, again, envs):
        one.close()


def test_the_flat_ids_are_flat_boxes_of_the_same_episode(world: str) -> None:
    for identity in ("RLAWM-Lift-Flat-v0", "Robosuite-Lift-Flat-v0", "RLAWM-Stack-Flat-v0", "Robosuite-Stack-Flat-v0"):
        spec = gym.spec(identity)
        long = gym.spec(identity.replace("-Flat", ""))
        task = rla_gym.get_task(spec.kwargs["task"])
        assert spec.max_episode_steps * spec.kwargs["chunk_length"] == long.max_episode_steps * task.chunk_length
    env = gym.make("RLAWM-Lift-Flat-v0", world=world, terminate_on_success=False)
    assert len(env.observation_space.shape) == 1
    assert env.action_space.shape == (16,)
    assert steps_until_truncated(env) == 12
    env.close()
