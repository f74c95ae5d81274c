"""1e5 env steps (1,563 of 64 slots): memory stays flat and every number finite."""

from __future__ import annotations

import sys

import pytest

from benchmarks.soak import SoakConfig, soak


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_hundred_thousand_random_steps(world: str) -> None:
    result = soak(SoakConfig(world=world, env_steps=100_000, num_envs=64))
    assert result.env_steps == 100_032
    assert result.episodes > 10_000
    assert result.finite
    assert result.growth < 8  # MiB; the observations alone that were returned add up to 50
