"""Demonstrations in feature space: what rewards, initial states and behaviour cloning need, and all that ships."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from world_models.data.quantisation import dequantise, quantise
from world_models.files import save_tensors

DEMONSTRATIONS_FILE = "demonstrations.safetensors"


@dataclass(frozen=True)
class Demonstrations:
    """A batch of demonstrations of different lengths.

    Attributes:
        features: ``(N, T, L, C)`` float16 or float32, padded with each demonstration's last frame.
        actions: ``(N, T, A)`` float32, zero past the end; row t is taken after frame t.
        lengths: ``(N,)`` int64, frames of each demonstration.
        first_states: ``(M, L, C)``, the first states of M further episodes, whatever became of them: more places to
            start from than there are demonstrations. None where there are none.
    """

    features: Tensor
    actions: Tensor
    lengths: Tensor
    first_states: Tensor | None = None

    def __post_init__(self) -> None:
        if not len(self.features) == len(self.actions) == len(self.lengths) or len(self.lengths) == 0:
            raise ValueError(
                f"demonstrations do not agree: {len(self.features)} features, {len(self.actions)} action rows, "
                f"{len(self.lengths)} lengths; give one of each per demonstration and at least one"
            )

    @classmethod
    def stack(cls, features: list[Tensor], actions: list[Tensor], first_states: Tensor | None = None) -> Demonstrations:
        """Pad and stack lists of ``(T_i, L, C)`` features and ``(T_i, A)`` actions; features become float16."""
        lengths = torch.tensor([len(item) for item in features])
        longest = int(lengths.max())
        padded = [torch.cat([item, item[-1:].expand(longest - len(item), -1, -1)]) for item in features]
        zeros = [torch.cat([item, item.new_zeros(longest - len(item), item.shape[1])]) for item in actions]
        first_states = None if first_states is None else first_states.half()
        return cls(torch.stack(padded).half(), torch.stack(zeros).float(), lengths, first_states)

    def __len__(self) -> int:
        return len(self.lengths)

    def at(self, index: Tensor, time: Tensor) -> Tensor:
        """Features ``(B, L, C)`` float32 of demonstration ``index (B,)`` at frame ``time (B,)``, held at the end."""
        clamped = torch.minimum(time.clamp_min(0), self.lengths[index] - 1)
        return self.features[index, clamped].float()

    def goal(self) -> Tensor:
        """Last frames ``(N, L, C)`` float32."""
        return self.features[:, -1].float()

    def to(self, device: torch.device | str) -> Demonstrations:
        """The same demonstrations on ``device``."""
        return Demonstrations(**{name: tensor.to(device) for name, tensor in self._tensors().items()})

    def save(self, folder: Path) -> None:
        """Write them into a world folder, atomically; states are rounded to eight bits on disk."""
        tensors = {"actions": self.actions, "lengths": self.lengths}
        for name, states in (("features", self.features), ("first_states", self.first_states)):
            if states is not None:
                tensors[name], tensors[f"{name}_scale"], tensors[f"{name}_offset"] = quantise(states)
        save_tensors(Path(folder) / DEMONSTRATIONS_FILE, tensors)

    @classmethod
    def load(cls, folder: Path) -> Demonstrations:
        """Read what :meth:`save` wrote; states are float16.

        Raises:
            FileNotFoundError: the folder has no demonstrations.
        """
        path = Path(folder) / DEMONSTRATIONS_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; `rla-gym train` writes it beside the world's weights")
        tensors = load_file(path)
        states = {
            name: dequantise(tensors[name], tensors[f"{name}_scale"], tensors[f"{name}_offset"])
            for name in ("features", "first_states")
            if name in tensors
        }
        return cls(actions=tensors["actions"], lengths=tensors["lengths"], **states)

    def _tensors(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}
