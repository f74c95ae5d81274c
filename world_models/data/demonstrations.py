"""Demonstrations in feature space: what rewards, initial states and behaviour cloning need, and all that ships."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from world_models.data.quantisation import dequantise, quantise
from world_models.files import all_finite, check_tensors, read_tensors, save_tensors

DEMONSTRATIONS_FILE = "demonstrations.safetensors"
FIX = "`rla-gym train` writes this file beside the world's weights: train the world anew, or fetch it again"


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
            OSError: the folder has no demonstrations, or they cannot be read.
            ValueError: the file is damaged.
        """
        path = Path(folder) / DEMONSTRATIONS_FILE
        tensors = read_tensors(path, fix=FIX)
        _check_stored(tensors, path)
        states = {
            name: dequantise(tensors[name], tensors[f"{name}_scale"], tensors[f"{name}_offset"])
            for name in ("features", "first_states")
            if name in tensors
        }
        if not all(map(all_finite, states.values())):
            raise ValueError(f"{path} has states that are not finite; {FIX}")
        return cls(actions=tensors["actions"].float(), lengths=tensors["lengths"], **states)

    def _tensors(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}


def _check_stored(tensors: dict[str, Tensor], path: Path) -> None:
    """Raise ValueError unless a file's tensors are those that :meth:`Demonstrations.save` writes."""
    shape = tensors["features"].shape if "features" in tensors else torch.Size()
    if len(shape) != 4 or not shape.numel():
        raise ValueError(
            f"{path}: tensor 'features' must be (N, T, L, C) with no dimension of 0, not {tuple(shape)}; {FIX}"
        )
    states: list[tuple[str, torch.Size]] = [("features", shape)]
    if any(name.startswith("first_states") for name in tensors):
        count = len(tensors["first_states"]) if "first_states" in tensors and tensors["first_states"].ndim else 0
        states.append(("first_states", torch.Size((max(1, count), *shape[2:]))))
    action_dim = tensors["actions"].shape[-1] if "actions" in tensors and tensors["actions"].ndim else 0
    with torch.device("meta"):
        expected = {
            "actions": torch.empty(*shape[:2], action_dim, dtype=torch.float32),
            "lengths": torch.empty(shape[0], dtype=torch.int64),
        }
        for name, wanted in states:
            expected[name] = torch.empty(wanted, dtype=torch.int8)
            expected |= {f"{name}_{part}": torch.empty(shape[2:], dtype=torch.float32) for part in ("scale", "offset")}
    check_tensors(tensors, expected, source=str(path), fix=FIX)
    lengths = tensors["lengths"]
    if bool(((lengths < 1) | (lengths > shape[1])).any()):
        raise ValueError(f"{path}: lengths {lengths.tolist()[:8]} must be from 1 to {shape[1]}; {FIX}")
