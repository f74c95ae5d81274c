"""Which dimensions of a robot move."""

from __future__ import annotations

import numpy as np

from world_models.data.motion import motions, moving_dimensions


def test_a_motion_in_small_units_is_none_of_an_idle_arm() -> None:
    rng, steps = np.random.default_rng(0), np.linspace(0, 1, 40)
    episodes = []
    for _ in range(8):
        joint = rng.uniform(-40, 40) + 60 * steps  # degrees
        gripper = np.where(steps > rng.uniform(0.3, 0.7), 0.08, 0.0)  # metres
        tremor = 12 + rng.normal(0, 0.05, 40)
        parked = np.full(40, 90 + rng.normal()) + 0.01 * steps  # an idle arm, parked anew for each episode
        episodes.append(np.stack([joint, gripper, tremor, parked, np.full(40, 3.0)], axis=1))
    words, within = motions(episodes)
    assert words == ["moves", "moves", "hardly", "hardly", "constant"]
    assert moving_dimensions(episodes) == (0, 1)
    np.testing.assert_allclose(within[[0, 1, 4]], [60, 0.08, 0])


def test_numbers_that_are_not_finite_are_passed_over() -> None:
    good, bad = np.arange(6.0).reshape(3, 2), np.array([[np.nan, 1.0], [2.0, np.inf], [0.0, 1.0]])
    assert motions([good, bad])[0] == ["moves", "moves"]
