"""What any dataset tells of imagined episodes: their pictures, their proprioception, and whether they succeed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.fidelity_rows import FidelityRows
from benchmarks.held_out import Recorded
from benchmarks.picture_errors import PictureErrors, background_of, decoded, picture_errors, sized
from benchmarks.proprioception_errors import ProprioceptionErrors, measured_values, proprioception_errors
from benchmarks.success_agreement import agreement, commoner_label, last_states, real_last_states
from rewards import SuccessDetector
from world_models.base import WorldModel
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import episode_offsets

BACKGROUND_ONLY = 0.95
"""Error of decoded real states over that of the background from which on the decoder is said to show nothing else. The
background that a decoder learned is not quite the median, so that one which shows it alone may lie just below 1."""
_DECODED = 17
"""Real frames of an episode that the decoder is judged on."""
_BASELINE, _REAL = "persistence", "real frames"


class DataFidelity:
    """Measures worlds on recorded pictures, proprioception and labels, world by world.

    Args:
        dataset: the episodes.
        frames: ``(F, H, W, 3)`` uint8 of all of them; may be memory-mapped.
        seed: of the noise.
    """

    def __init__(self, dataset: EpisodeDataset, frames: np.ndarray, seed: int) -> None:
        self._dataset, self._frames, self._seed = dataset, frames, seed
        self._background = background_of(dataset, frames)
        self._decoder: list[PictureErrors] = []
        self._pictures: dict[str, list[PictureErrors]] = {}
        self._proprioception: dict[str, list[tuple[ProprioceptionErrors, ProprioceptionErrors]]] = {}
        self._agreed: dict[tuple[str, str], list[np.ndarray]] = {}

    def measure(
        self, folder: Path, models: Mapping[str, WorldModel], features: Tensor, recorded: Recorded,
        imagined: Mapping[str, Tensor],
    ) -> None:  # fmt: skip
        """Measure one world; a line says so if its decoder shows the background only.

        Args:
            folder: of the world.
            models: its dynamics by name.
            features: states ``(F, L, C)`` of all frames, by its encoder.
            recorded: the episodes that were rolled out.
            imagined: states ``(E, M, L, C)`` of each of its dynamics.
        """
        model = next(iter(models.values()))  # the decoder is one for all
        self._measure_decoder(folder, model, features, recorded)
        real = sized(self._frames[recorded.frames.numpy()], model.frame_shape)
        background = sized(self._background, model.frame_shape)
        shown = {name: decoded(model, states) for name, states in imagined.items()}
        shown[_BASELINE] = real[:, :1].expand_as(real[:, 1:])
        shown[_REAL] = decoded(model, recorded.real)
        for method, pictures in shown.items():
            self._pictures.setdefault(method, []).append(picture_errors(pictures, real, background))
        if model.proprioception_dim:
            self._measure_proprioception(model, recorded, imagined)

    def measure_success(
        self, models: Mapping[str, WorldModel], detector: SuccessDetector, features: Tensor, recorded: Recorded
    ) -> None:
        """Compare what one world's detector says of last states with the episodes' labels.

        Args:
            models: dynamics of the world by name.
            detector: of the world.
            features: states ``(F, L, C)`` of all frames, by its encoder.
            recorded: which episodes.
        """
        labels = self._dataset.successes[recorded.episodes]
        real = detector.success(real_last_states(self._dataset, features, recorded))
        given = {
            (_REAL, "last frame"): agreement(real, labels),
            ("commoner label", "last frame"): commoner_label(labels),
        }
        for chunks in range(1, recorded.actions.shape[1] + 1):
            for name, model in models.items():
                imagined = last_states(model, self._dataset, features, recorded, chunks, self._seed)
                found = detector.imagined_success(imagined, name)
                given[name, f"chunks={chunks}"] = agreement(found, labels)
        for key, agreed in given.items():
            self._agreed.setdefault(key, []).append(agreed)

    def add_rows(self, rows: FidelityRows) -> None:
        """Add the rows of all worlds that were measured."""
        rows.add_decoder_row(self._decoder)
        for method, pictures in self._pictures.items():
            rows.add_picture_rows(method, pictures)
        for method, pairs in self._proprioception.items():
            rows.add_proprioception_rows(method, [ours for ours, _ in pairs], [still for _, still in pairs])
        for (method, setting), agreed in self._agreed.items():
            rows.add_agreement_row(method, setting, np.stack(agreed))

    def _measure_decoder(self, folder: Path, model: WorldModel, features: Tensor, recorded: Recorded) -> None:
        """Compare decoded real states with their frames, over whole episodes."""
        offsets = episode_offsets(self._dataset.lengths)
        places = np.stack(
            [np.linspace(offsets[i], offsets[i + 1] - 1, _DECODED).astype(np.int64) for i in recorded.episodes]
        )
        real, background = (sized(pictures, model.frame_shape) for pictures in (self._frames[places], self._background))
        errors = picture_errors(decoded(model, features[torch.from_numpy(places[:, 1:])]), real, background)
        self._decoder.append(errors)
        ratio = float(errors.pixel.mean() / errors.background.mean())
        if ratio >= BACKGROUND_ONLY:
            print(
                f"{folder}: the RGB decoder shows hardly more than the background (pixel_l1_vs_background {ratio:.2f} "
                "on real frames), so pictures do not tell what moves; train it longer by --rgb-optimisation.iterations"
            )

    def _measure_proprioception(self, model: WorldModel, recorded: Recorded, imagined: Mapping[str, Tensor]) -> None:
        """Compare proprioception; persistence is what was measured in the first frame."""
        measured = measured_values(self._dataset, recorded)
        states = {**imagined, _BASELINE: recorded.start[:, None].expand_as(recorded.real)}
        errors = {name: proprioception_errors(model, of, measured[:, 1:]) for name, of in states.items()}
        for method, ours in errors.items():
            self._proprioception.setdefault(method, []).append((ours, errors[_BASELINE]))
