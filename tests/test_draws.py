"""``draws``: the probability of success is a mean over several next states; the episode itself stays the same."""

from __future__ import annotations

import numpy as np
import pytest

from tests.dreams import Make, actions_for


def test_further_draws_change_the_probability_and_nothing_else(make: Make) -> None:
    one, several = make(4), make(4, draws=8)
    actions = actions_for(one, 3)
    for env in (one, several):
        env.reset(seed=0)
    different = 0
    for action in actions:
        alone, mean = one.step(action), several.step(action)
        for left, right in zip(alone[:4], mean[:4], strict=True):
            np.testing.assert_array_equal(left, right)
        assert bool(((mean[4]["success_probability"] >= 0) & (mean[4]["success_probability"] <= 1)).all())
        different += int((alone[4]["success_probability"] != mean[4]["success_probability"]).sum())
    assert different > 0


def test_draws_are_reproducible_and_do_not_depend_on_the_number_of_slots(make: Make) -> None:
    few, many = make(2, draws=3), make(5, draws=3)
    action = actions_for(many, 1)[0]
    few.reset(seed=1)
    many.reset(seed=1)
    np.testing.assert_allclose(
        few.step(action[:2])[4]["success_probability"], many.step(action)[4]["success_probability"][:2], atol=1e-5
    )


def test_dynamics_without_chance_draw_one(make: Make) -> None:
    one, several = make(2, dynamics="regression"), make(2, dynamics="regression", draws=8)
    action = actions_for(one, 1)[0]
    for env in (one, several):
        env.reset(seed=0)
    np.testing.assert_array_equal(
        one.step(action)[4]["success_probability"], several.step(action)[4]["success_probability"]
    )


def test_a_bad_number_is_named(make: Make) -> None:
    with pytest.raises(ValueError, match="draws=0 must be at least 1"):
        make(2, draws=0)
