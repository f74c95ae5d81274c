"""Held-out episodes of the bundled worlds: real states that no training has seen, in eight bits.

``python -m tests.held_out`` records them anew: it collects with a seed of its own, encodes, and keeps the states
between the chunks.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from world_models.data.quantisation import dequantise, quantise
from world_models.files import save_tensors

FOLDER = Path(__file__).parent / "fixtures"
SEED = 2026
"""Of the collection; the bundled worlds' data were collected with seed 0."""
EPISODES = {"Lift": 36, "Stack": 20}


@dataclass(frozen=True)
class HeldOutEpisodes:
    """E episodes of M chunks.

    Attributes:
        states: ``(E, M + 1, L, C)`` float32, before the first chunk and after each.
        actions: ``(E, M, K, A)`` float32.
        succeeded: whether the task was achieved after the last chunk, ``(E,)`` bool.
    """

    states: Tensor
    actions: Tensor
    succeeded: Tensor


def load_held_out(task: str) -> HeldOutEpisodes:
    """The episodes of a task, as the bundled world's encoder gives them."""
    tensors = load_file(FOLDER / f"held_out_{task.lower()}.safetensors")
    states = dequantise(tensors["states"], tensors["scale"], tensors["offset"]).float()
    return HeldOutEpisodes(states, tensors["actions"], tensors["succeeded"])


def record(task: str) -> None:
    """Collect, encode and write the episodes of a task; needs the simulator."""
    from rla_gym.ground_truth.collect import CollectConfig, collect
    from rla_gym.tasks import bundled_world, get_task
    from world_models.data.feature_cache import cache_features, episode_offsets
    from world_models.io import load_encoder

    spec = get_task(task)
    span = spec.max_chunks * spec.chunk_length
    placement = "mixed" if task == "Lift" else "standard"
    with tempfile.TemporaryDirectory() as folder:
        config = CollectConfig(
            task=task, episodes=EPISODES[task], out=Path(folder), seed=SEED, placement=placement, length=span + 1,
            expert=0.4, noisy=0.1, near_miss=0.3, play=0.0, grasp=0.2,
        )  # fmt: skip
        dataset = collect(config)
        features = cache_features(dataset, load_encoder(bundled_world(task)), Path(folder) / "cache")
        frames = episode_offsets(dataset.lengths)[:-1, None] + spec.chunk_length * np.arange(spec.max_chunks + 1)
        levels, scale, offset = quantise(torch.from_numpy(features[frames]))
        episodes = [dataset.episode(index) for index in range(len(dataset))]
    actions = np.stack([episode.actions[:span] for episode in episodes])
    tensors = {
        "states": levels,
        "scale": scale,
        "offset": offset,
        "actions": torch.from_numpy(actions).unflatten(1, (spec.max_chunks, spec.chunk_length)),
        "succeeded": torch.tensor([bool(episode.columns["next.success"][span - 1]) for episode in episodes]),
    }

    save_tensors(FOLDER / f"held_out_{task.lower()}.safetensors", tensors)


if __name__ == "__main__":
    for name in EPISODES:
        record(name)
