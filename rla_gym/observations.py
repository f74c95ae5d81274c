"""Observations by name: their spaces, and how they are built from their parts. The dream and its twin share this.

torch is imported only when features are pooled: simulators whose observations are pictures alone run without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from rla_gym.arguments import brief

if TYPE_CHECKING:
    from torch import Tensor

OBSERVATIONS = ("features", "pooled", "rgb", "proprioception", "last_action", "remaining_time")
GRID = 4
"""Cells a side to which ``pooled`` averages the image's tokens."""


class Observations:
    """The observation space of ``obs``, and observations made from their parts.

    ===================  ======================  =======  ==========================================================
    name                 shape                   dtype    content
    ===================  ======================  =======  ==========================================================
    ``features``         (L, C)                  float32  patch tokens, row by row of the picture, and proprioception
    ``pooled``           (see :func:`pool`,)     float32  the tokens averaged over a 4 x 4 grid of the picture, flat
    ``rgb``              (H, W, 3)               uint8    the picture, 0 to 255
    ``proprioception``   (R,)                    float32  proprioception and its change in the last control step
    ``last_action``      (K*A,)                  float32  the chunk that led here, within [-1, 1]; zeros after a reset
    ``remaining_time``   (1,)                    float32  share of the episode's chunks that is left: 1 after a reset
    ===================  ======================  =======  ==========================================================

    Policies that attend to tokens take ``features``. Policies that flatten their observation (Stable-Baselines3's
    "MlpPolicy") do best with ``pooled``: unlike a mean over all tokens it keeps where things are, it has a quarter of
    the numbers of 64 flattened tokens, and a small MLP reads positions from it more accurately than from those. With
    ``obs=("pooled", "remaining_time")`` and "MultiInputPolicy" the value function also has the time left until
    truncation. ``rgb`` of a dream is decoded from its features at every step: slower, and without more information.

    Args:
        obs: one name, which makes the observation that array; or a sequence of names, which makes it a dict of them.
        tokens: (L, C); not read where no features are asked for.
        frame_shape: H and W of a frame, in pixels; of V views side by side W is V times H.
        action_size: K*A.
        proprioception_dim: R; 0 for a world from video alone.

    Attributes:
        names: what is observed.
        space: the space of one observation.
    """

    def __init__(
        self,
        obs: str | Sequence[str],
        *,
        tokens: tuple[int, int],
        frame_shape: tuple[int, int],
        action_size: int,
        proprioception_dim: int,
    ) -> None:
        self.names, self._is_dict = check_obs(obs), not isinstance(obs, str)
        if "proprioception" in self.names and proprioception_dim == 0:
            raise ValueError(f"obs={obs!r}: this world was trained from video alone and has no proprioception")
        pooled = pooled_size(*tokens, frame_shape[1] // frame_shape[0])
        by_name: dict[str, spaces.Space[Any]] = {
            "features": spaces.Box(-np.inf, np.inf, tokens, np.float32),
            "pooled": spaces.Box(-np.inf, np.inf, (pooled,), np.float32),
            "rgb": spaces.Box(0, 255, (*frame_shape, 3), np.uint8),
            "proprioception": spaces.Box(-np.inf, np.inf, (proprioception_dim,), np.float32),
            "last_action": spaces.Box(-1.0, 1.0, (action_size,), np.float32),
            "remaining_time": spaces.Box(0.0, 1.0, (1,), np.float32),
        }
        chosen = {name: by_name[name] for name in self.names}
        self.space: spaces.Space[Any] = spaces.Dict(chosen) if self._is_dict else chosen[self.names[0]]

    def build(self, parts: Mapping[str, Callable[[], Any]]) -> Any:
        """The observation: ``parts`` gives an array or tensor for each name, and only those observed are called."""
        observed = {name: parts[name]() for name in self.names}
        return observed if self._is_dict else observed[self.names[0]]


def check_obs(obs: str | Sequence[str]) -> tuple[str, ...]:
    """The names in ``obs``, sorted as Gymnasium sorts a dict space.

    Raises:
        ValueError: there are none, one is unknown, or one comes twice.
    """
    several = isinstance(obs, Sequence | Set) and not isinstance(obs, str | bytes)
    names = tuple(obs) if several else (obs,)
    known = ", ".join(map(repr, OBSERVATIONS))
    for name in names:
        if not isinstance(name, str) or name not in OBSERVATIONS:
            raise ValueError(f"obs={brief(name)}: choose one of {known}, or several for a dict")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"obs={brief(obs)}: give one name, or several different ones for a dict, of {known}")
    return tuple(sorted(map(str, names)))


def pool(features: Tensor, views: int = 1) -> Tensor:
    """Tokens averaged over a grid of each picture and flattened: (B, L, C) -> (B, D) with D of :func:`pooled_size`.

    The first tokens are those of the views, squares one after the other; tokens beyond them (proprioception, say) are
    kept as they are.
    """
    from torch import cat
    from torch.nn.functional import adaptive_avg_pool2d

    side = math.isqrt(features.shape[1] // views)
    seen = views * side * side
    pictures = features[:, :seen].unflatten(1, (views, side, side)).flatten(0, 1).permute(0, 3, 1, 2)
    cells = adaptive_avg_pool2d(pictures, min(side, GRID)).flatten(2).transpose(1, 2)
    return cat((cells.unflatten(0, (-1, views)).flatten(1, 2), features[:, seen:]), dim=1).flatten(1)


def pooled_size(num_tokens: int, channels: int, views: int = 1) -> int:
    """Length D of a pooled observation: C values for each grid cell of a view, and for each token beyond the views."""
    side = math.isqrt(num_tokens // views)
    return (views * min(side, GRID) ** 2 + num_tokens - views * side * side) * channels


def by_slot(observations: Any, mask: np.ndarray) -> np.ndarray:
    """Observations (B, ...), or a dict of them, as a (B,) object array: None outside ``mask`` (B,) bool."""
    objects = np.full(len(mask), None, dtype=object)
    for slot in np.flatnonzero(mask):
        objects[slot] = row(observations, slot)
    return objects


def row(observations: Any, slot: int) -> Any:
    """One slot's observation of a batch, array or dict."""
    if isinstance(observations, dict):
        return {name: value[slot] for name, value in observations.items()}
    return observations[slot]
