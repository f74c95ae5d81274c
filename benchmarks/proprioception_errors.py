"""How far the proprioception of imagined states is from what the robot measured, in the robot's units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.held_out import Recorded
from world_models.base import WorldModel
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import episode_offsets, proprioception_of


@dataclass(frozen=True)
class ProprioceptionErrors:
    """Absolute errors of P values of E imagined episodes after each of M chunks.

    Attributes:
        values: ``(E, M, P)``, each in the robot's own unit.
        standardised: mean over the values ``(E, M)``, each divided by its spread in the training data.
    """

    values: np.ndarray
    standardised: np.ndarray


def measured_values(dataset: EpisodeDataset, recorded: Recorded) -> Tensor:
    """Proprioception with its change that the robot measured, first and after each chunk: ``(E, M + 1, R)`` float32."""
    rows = recorded.frames - torch.from_numpy(episode_offsets(dataset.lengths)[recorded.episodes])[:, None]
    pairs = zip(recorded.episodes, rows, strict=True)
    return torch.stack([proprioception_of(dataset, int(index))[places] for index, places in pairs])


@torch.inference_mode()
def proprioception_errors(model: WorldModel, imagined: Tensor, measured: Tensor) -> ProprioceptionErrors:
    """Compare what a world reads off imagined states with what was measured.

    Args:
        model: of the world that imagined.
        imagined: states ``(E, M, L, C)`` after each chunk.
        measured: ``(E, M, R)`` of the same frames, see :func:`measured_values`.

    Raises:
        ValueError: the world was trained from video alone.
    """
    read = model.read_proprioception(imagined.flatten(0, 1)).unflatten(0, imagined.shape[:2])
    # The second half is the change since the step before, which follows from the values.
    token = model.encoder.proprioception
    assert token is not None  # else it could not be read
    errors = (read - measured).abs()[:, :, : token.size]
    return ProprioceptionErrors(errors.numpy(), (errors / token.std[: token.size]).mean(dim=2).numpy())
