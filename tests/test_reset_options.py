"""``reset(options=...)``: what it starts, and one clear error before anything changes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence

import rla_gym
from tests.dreams import Make, actions_for


def test_an_episode_starts_from_a_users_picture(make: Make) -> None:
    env = make(2, output="torch")
    model = rla_gym.load_world(env.world).model
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    obs, info = env.reset(seed=0, options={"rgb": picture})
    torch.testing.assert_close(obs, model.encode(torch.from_numpy(picture)[None]).expand(2, -1, -1))
    first = rla_gym.load_world(env.world).demonstrations.features[:, 0].float()
    nearest = (obs[0] - first).abs().mean((1, 2)).argmin()
    assert info["demonstration"].tolist() == [int(nearest)] * 2
    pictures = np.stack([picture, 255 - picture])
    obs, info = env.reset(options={"rgb": pictures, "demo": 4})
    torch.testing.assert_close(obs, model.encode(torch.from_numpy(pictures)))
    assert info["demonstration"].tolist() == [4, 4]
    before = env.reset(seed=1)[0]
    after, info = env.reset(options={"rgb": torch.from_numpy(pictures), "reset_mask": torch.tensor([False, True])})
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1], obs[1])
    assert info["_demonstration"].tolist() == [False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"demos": 1}, "unknown reset option 'demos': use 'demo', 't', 'rgb', 'proprioception', 'reset_mask'"),
        ({"t": 3}, "t=3 needs 'demo'"),
        ({"t": 3, "rgb": np.zeros((32, 32, 3), np.uint8)}, "t=3 needs 'demo'"),
        (
            ["demo"],
            r"options=\['demo'\]: give a dict with keys among 'demo', 't', 'rgb', 'proprioception'",
        ),
        ({"demo": 6}, "demo=6: this world has demonstrations 0 to 5"),
        ({"demo": -1}, "demo=-1"),
        ({"demo": 0.5}, "demo=0.5: give one integer"),
        ({"demo": [0, 1, 2]}, r"integer array \(2,\)"),
        ({"demo": [0, 5], "t": 20}, "t=20: demonstration 0 has frames 0 to 19"),
        ({"rgb": np.zeros((32, 32), np.uint8)}, r"rgb has shape \(32, 32\): give one frame \(H, W, 3\)"),
        ({"rgb": np.zeros((3, 32, 32, 3), np.uint8)}, r"rgb has shape \(3, 32, 32, 3\)"),
        ({"rgb": np.zeros((32, 32, 3), np.float32)}, "rgb has dtype float32: give uint8"),
        ({"reset_mask": np.ones(3, bool)}, "reset_mask has dtype bool"),
        ({"reset_mask": np.zeros(2, bool)}, "at least one slot"),
        ({"reset_mask": np.array([True, False])}, "every slot the first time"),
    ],
)
def test_bad_options_change_nothing(make: Make, options: dict[str, Any], message: str) -> None:
    env = make(2)
    with pytest.raises(ValueError, match=message):
        env.reset(seed=0, options=options)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(actions_for(env, 1)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 5, "options": {"demo": 9}}, "demo=9"),
        ({"seed": [5, -1]}, r"seeds \[5, -1\]: give integers from 0 on"),
        ({"seed": -1}, "give integers from 0 on"),
        ({"seed": [5]}, "1 seeds for 2 slots"),
    ],
)
def test_an_environment_under_way_is_left_as_it_was(make: Make, arguments: dict[str, Any], message: str) -> None:
    env, untouched = make(2), make(2)
    actions = actions_for(env, 2)
    for one in (env, untouched):
        one.reset(seed=3)
        one.step(actions[0])
    with pytest.raises(ValueError, match=message):
        env.reset(**arguments)
    assert env.np_random_seed == untouched.np_random_seed
    assert data_equivalence(env.step(actions[1]), untouched.step(actions[1]), exact=True)
    assert data_equivalence(env.reset(), untouched.reset(), exact=True)


def test_a_world_with_proprioception_starts_from_a_picture_and_its_values(
    make: Make, proprioceptive_world: str
) -> None:
    env = make(2, world=proprioceptive_world, obs=("features", "proprioception"))
    picture, values = np.full((48, 48, 3), 90, np.uint8), np.linspace(-1, 1, 8).astype(np.float32)
    obs, _ = env.reset(seed=0, options={"rgb": picture, "proprioception": values})
    np.testing.assert_allclose(obs["proprioception"], np.stack([values] * 2), atol=1e-5)
    assert np.array_equal(obs["features"][0], obs["features"][1])
    both = np.stack([values, -values])
    obs, _ = env.reset(options={"rgb": picture, "proprioception": both})
    np.testing.assert_allclose(obs["proprioception"], both, atol=1e-5)
    before = env.get_state()
    for options, message in (
        ({"rgb": picture}, "needs 'proprioception' too"),
        ({"proprioception": values}, "needs 'rgb' too"),
        ({"rgb": picture, "proprioception": values[:3]}, r"give \(8,\)"),
        ({"rgb": picture, "proprioception": values * np.nan}, "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            env.reset(options=options)
    for name, array in before.slots.items():
        np.testing.assert_array_equal(array, env.get_state().slots[name])
    with pytest.raises(ValueError, match="video alone"):
        make(2).reset(options={"rgb": picture, "proprioception": values})
