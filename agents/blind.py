"""The blind policy: the mean action sequence of the demonstrations, whatever the state is.

It is the lower bound of every comparison: a task that it often solves needs no observations.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from agents.cloning_data import choose_chunk_length, choose_demonstrations
from agents.policies.base import facts_of_world
from agents.policies.blind import BlindPolicy
from world_models.data.demonstrations import Demonstrations
from world_models.disk_space import check_writable
from world_models.io import read_config, world_folder


@dataclass
class BlindConfig:
    """Settings of `make_blind`."""

    world: str = "lift"
    """Bundled world's name or a world folder."""
    out: Path = Path("runs/blind")
    """Policy folder to write."""
    demonstrations: int | None = None
    """How many demonstrations to average, chosen as behaviour cloning chooses them; None takes all."""
    seed: int = 0
    """Of the choice of demonstrations."""
    chunk_length: int | None = None
    """Control steps per action chunk; None takes the world's."""


def make_blind(config: BlindConfig) -> Path:
    """Average the demonstrations of ``config.world`` into a blind policy folder; returns the folder.

    Raises:
        ValueError: the world has fewer demonstrations than asked for.
        FileNotFoundError: no such world.
    """
    check_writable(config.out)
    folder = world_folder(config.world)
    world, demonstrations = read_config(folder), Demonstrations.load(folder)
    count = len(demonstrations.lengths) if config.demonstrations is None else config.demonstrations
    chosen = choose_demonstrations(demonstrations, count, config.seed)
    chunk_length = choose_chunk_length(config.chunk_length, world.chunk_length)
    policy = blind_policy(demonstrations, chosen, chunk_length)
    policy.facts = {
        "method": "blind",
        **facts_of_world(config.world, world),
        "training": {"demonstrations": count, "seed": config.seed, "demonstration_indices": chosen.tolist()},
    }
    return policy.save(config.out)


def blind_policy(demonstrations: Demonstrations, indices: Tensor, chunk_length: int) -> BlindPolicy:
    """The mean of the chosen demonstrations' actions, frame by frame; after its end one counts with its last action.

    Args:
        demonstrations: all of a world.
        indices: the chosen ones, (N,) int64.
        chunk_length: control steps K in a chunk; the table ends with the chunk in which the longest one ends.
    """
    lengths = demonstrations.lengths[indices]
    num_chunks = -(-int(lengths.max()) // chunk_length)
    times = torch.arange(num_chunks * chunk_length).expand(len(indices), -1)
    frames = torch.minimum(times, lengths[:, None] - 1)
    mean = demonstrations.actions[indices[:, None], frames].float().mean(0)
    num_tokens, channels = demonstrations.features.shape[2:]
    policy = BlindPolicy(num_tokens, channels, chunk_length, mean.shape[1], num_chunks)
    policy.actions.copy_(mean.reshape(num_chunks, -1))
    return policy.eval()
