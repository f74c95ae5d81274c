"""Shares of environments: what the processes take of a minibatch is together the minibatch, each sample once."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from agents.env_shards import EnvShards
from world_models.distributed.processes import Processes

STEPS, ENVS = 3, 6


class OneOf:
    """What EnvShards asks of the processes, for one of them."""

    def __init__(self, count: int, rank: int) -> None:
        self.count, self.rank = count, rank


def shards(count: int) -> list[EnvShards]:
    return [EnvShards(ENVS, cast(Processes, OneOf(count, rank))) for rank in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_shares_of_a_minibatch_make_up_the_minibatch(count: int) -> None:
    samples = torch.arange(STEPS * ENVS)  # of all environments, numbered by step, then environment
    minibatch = samples[torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))[:10]]
    taken = []
    for shard in shards(count):
        local = samples.view(STEPS, ENVS)[:, shard.local.start : shard.local.stop].flatten()
        rows, mask = shard.locate(minibatch)
        assert torch.equal(local[rows], minibatch[mask])
        taken.append(local[rows])
    assert torch.equal(torch.cat(taken).sort().values, minibatch.sort().values)


def test_every_environment_has_one_process() -> None:
    rows = torch.randn(ENVS, 4)
    assert torch.equal(torch.cat([shard.take(rows) for shard in shards(3)]), rows)
    assert [list(shard.local) for shard in shards(2)] == [[0, 1, 2], [3, 4, 5]]


def test_one_process_has_the_samples_of_all_in_their_order() -> None:
    steps = torch.arange(STEPS * ENVS).view(STEPS, ENVS)
    assert torch.equal(EnvShards(ENVS, Processes("cpu")).concatenate(steps), steps.flatten())


def test_environments_that_cannot_be_shared_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match="num_envs=6 cannot be shared evenly by 4 processes"):
        shards(4)
