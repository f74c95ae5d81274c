"""What all stages of a training share: the dataset, and for each frame of it pixels, features and actions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import all_actions, episode_offsets
from world_models.data.windows import Windows


@dataclass(frozen=True)
class TrainingData:
    """A dataset, ready for a device.

    Attributes:
        dataset: the episodes.
        frames: ``(F, H, W, 3)`` uint8, memory-mapped.
        features: states ``(F, L, C)`` float16.
        actions: ``(F, A)`` float32, on the training device.
        offsets: ``(N + 1,)`` first frame of each episode.
        first_frame_share: part of the training windows that start at an episode's first frame.
        longest_rollout: most chunks of a run.
        span: frames that an episode must have after its first, to be drawn from.
    """

    dataset: EpisodeDataset
    frames: np.ndarray
    features: Tensor
    actions: Tensor
    offsets: np.ndarray
    first_frame_share: float
    longest_rollout: int
    span: int = 1

    @classmethod
    def of(
        cls,
        dataset: EpisodeDataset,
        frames: np.ndarray,
        features: np.ndarray,
        device: torch.device,
        *,
        first_frame_share: float,
        longest_rollout: int = 9,
        span: int = 1,
    ) -> TrainingData:
        """Cached frames ``(F, H, W, 3)`` and features ``(F, L, C)`` with the actions, ready for a device.

        Features lie on a GPU where they take less than half of its free memory; else batches are read from the file.
        """
        states = torch.from_numpy(features)
        if device.type != "cuda" or states.nbytes < 0.5 * torch.cuda.mem_get_info(device)[0]:
            states = states.to(device)
        actions, offsets = torch.from_numpy(all_actions(dataset)).to(device), episode_offsets(dataset.lengths)
        return cls(dataset, frames, states, actions, offsets, first_frame_share, longest_rollout, span)

    @cached_property
    def train(self) -> Windows:
        """Windows of the training episodes, drawn mostly where something moves, and often at first frames."""
        return self._windows("train", motion_share=0.7, first_share=self.first_frame_share)

    @cached_property
    def validation(self) -> Windows:
        """Windows of the validation episodes, all as likely."""
        return self._windows("validation", motion_share=0.0, first_share=0.0)

    def _windows(self, split: str, *, motion_share: float, first_share: float) -> Windows:
        return Windows.over(
            self.features, self.actions, self.offsets, self.dataset.split(split, self.span), motion_share=motion_share,
            first_share=first_share, longest_rollout=self.longest_rollout,
        )  # fmt: skip
