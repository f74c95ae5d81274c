"""The blind policy: the mean action sequence of the demonstrations, played whatever the camera shows.

It is the floor of every comparison: a task that it solves often needs no seeing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from agents.bc import choose_chunk_length, choose_demonstrations, world_reference
from agents.policy import Policy
from world_models.data.demonstrations import Demonstrations
from world_models.world_model import read_config, world_folder


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


class BlindPolicy(Policy):
    """Plays a fixed table of action chunks by the step index; past its end the last chunk is repeated.

    Args:
        num_tokens: L of the observations it ignores.
        channels: C of the observations it ignores.
        chunk_length: K control steps in a chunk.
        action_dim: A numbers in a control step.
        num_chunks: chunks in the table.
    """

    kind = "blind"
    SIZES = (*Policy.SIZES, "num_chunks")
    actions: Tensor

    def __init__(self, num_tokens: int, channels: int, chunk_length: int, action_dim: int, num_chunks: int) -> None:
        super().__init__(num_tokens, channels, chunk_length, action_dim)
        self.num_chunks = num_chunks
        self.register_buffer("actions", torch.zeros(num_chunks, self.action_size))

    def forward(self, features: Tensor, step: Tensor | None = None) -> Tensor:
        if step is None:
            raise ValueError("the blind policy plays by the clock: call act(features, step) with the chunk index (B,)")
        return self.actions[step.to(self.actions.device).long().clamp(0, self.num_chunks - 1)]


def make_blind(config: BlindConfig) -> Path:
    """Average the demonstrations of ``config.world`` into a blind policy folder; returns the folder.

    Raises:
        ValueError: the world has fewer demonstrations than asked for.
        FileNotFoundError: no such world.
    """
    folder = world_folder(config.world)
    world, demonstrations = read_config(folder), Demonstrations.load(folder / "starts.safetensors")
    count = len(demonstrations.lengths) if config.demonstrations is None else config.demonstrations
    chosen = choose_demonstrations(demonstrations, count, config.seed)
    chunk_length = choose_chunk_length(config.chunk_length, world.chunk_length)
    policy = blind_policy(demonstrations, chosen, chunk_length)
    policy.facts = {
        "method": "blind",
        "world": world_reference(config.world),
        "task": world.task,
        "training": {"demonstrations": count, "seed": config.seed, "demonstration_indices": chosen.tolist()},
    }
    return policy.save(config.out)


def blind_policy(demonstrations: Demonstrations, indices: Tensor, chunk_length: int) -> BlindPolicy:
    """The mean of the chosen demonstrations' actions, frame by frame; a demonstration that ended holds its last one."""
    lengths = demonstrations.lengths[indices]
    num_chunks = -(-int(lengths.max()) // chunk_length)
    times = torch.arange(num_chunks * chunk_length).expand(len(indices), -1)
    held = torch.minimum(times, lengths[:, None] - 1)
    mean = demonstrations.actions[indices[:, None], held].float().mean(0)
    num_tokens, channels = demonstrations.features.shape[2:]
    policy = BlindPolicy(num_tokens, channels, chunk_length, mean.shape[1], num_chunks)
    policy.actions.copy_(mean.reshape(num_chunks, -1))
    return policy.eval()
