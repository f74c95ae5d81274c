"""Training windows: what is drawn from the frames of many episodes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """Training windows over cached features: pairs of states some frames apart, with the actions between.

    Attributes:
        features: ``(F, L, C)`` float16 of all frames, on the training device, or memory-mapped where they do not fit.
        actions: ``(F, A)`` float32 of all frames, on the training device, where samples are given.
        first_frames: ``(M,)`` int64, frames at which a window may start.
        remaining: ``(M,)`` int64, frames between such a frame and the end of its episode, at least 1.
        weights: ``(M,)`` float32, chance of each of them, on the CPU.
        longest_rollout: most chunks of a run, however long the episodes are.
    """

    features: Tensor
    actions: Tensor
    first_frames: Tensor
    remaining: Tensor
    weights: Tensor
    longest_rollout: int
    _cumulative: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def over(
        cls,
        features: Tensor,
        actions: Tensor,
        offsets: np.ndarray,
        episodes: np.ndarray,
        *,
        motion_share: float = 0.7,
        first_share: float = 0.15,
        longest_rollout: int = 9,
    ) -> Windows:
        """Windows inside some episodes, drawn in proportion to motion for ``motion_share`` of the time.

        Most frames of a robot video show no contact (arXiv 2605.07079 trains on interaction 90 % of the time).

        Args:
            features: ``(F, L, C)``.
            actions: ``(F, A)``.
            offsets: ``(N + 1,)`` first frame of each episode.
            episodes: indices of the episodes to draw from.
            motion_share: 0 draws uniformly.
            first_share: part of the windows that start at an episode's first frame. Imagined episodes begin there, and
                what is lost in the first chunk stays lost.
            longest_rollout: most chunks of a run.
        """
        spans = [(int(offsets[index]), int(offsets[index + 1])) for index in episodes]
        starts = torch.cat([torch.arange(first, last - 1) for first, last in spans])
        remaining = torch.cat([torch.arange(last - 1 - first, 0, -1) for first, last in spans])
        weights = torch.full((len(starts),), 1 / len(starts))
        if motion_share:
            weights = _motion_weights(features, starts, remaining, motion_share)
        first = torch.isin(starts, torch.tensor([span[0] for span in spans]))
        weights = (1 - first_share) * weights + first_share * first / first.sum()
        return cls(features, actions, starts, remaining, weights, longest_rollout)

    def longest_run(self, horizon: int) -> int:
        """Chunks of ``horizon`` frames that the longest episode holds, at most :attr:`longest_rollout`."""
        return min(self.longest_rollout, int(self.remaining.max()) // horizon)

    def draw(self, count: int, generator: torch.Generator, span: int = 1) -> Tensor:
        """Rows ``(count,)`` int64 of :attr:`first_frames` by their chances, of those with ``span`` frames after them.

        Raises:
            ValueError: there is none.
        """
        if span not in self._cumulative:
            # torch.multinomial would do the same, for up to 2^24 starts.
            self._cumulative[span] = (self.weights.double() * (self.remaining >= span)).cumsum(0)
        cumulative = self._cumulative[span]
        if not cumulative[-1] > 0:
            raise ValueError(f"no episode has {span} frames after one; train on longer episodes, or shorter chunks")
        drawn = torch.rand(count, dtype=torch.float64, generator=generator) * cumulative[-1]
        return torch.searchsorted(cumulative, drawn, right=True)

    def sample_sequence(
        self, batch: int, horizon: int, chunks: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw runs of several full chunks.

        Args:
            batch: runs B.
            horizon: frames H in a chunk.
            chunks: chunks M in a run.
            generator: source of randomness, on the CPU.

        Returns:
            First states ``(B, L, C)`` float32, actions ``(B, M, H, A)``, states after each chunk ``(B, M, L, C)``.

        Raises:
            ValueError: no episode is that long.
        """
        span = chunks * horizon
        first = self.first_frames[self.draw(batch, generator, span)]
        frames = (first[:, None] + torch.arange(span)).view(batch, chunks, horizon)
        after = first[:, None] + horizon * torch.arange(1, chunks + 1)
        return self._states(first), self.actions[frames.to(self.actions.device)], self._states(after)

    def sample(
        self,
        batch: int,
        horizon: int,
        generator: torch.Generator,
        *,
        full_share: float = 0.5,
        shortest: int = 1,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw windows.

        Args:
            batch: windows B.
            horizon: most frames H between the two states.
            generator: source of randomness, on the CPU.
            full_share: part of the windows with exactly ``horizon`` frames; the others are uniform in shortest..H.
            shortest: least number of frames between the two states, where the episode has so many left.

        Returns:
            states ``(B, L, C)`` float32, later states ``(B, L, C)`` float32, actions ``(B, H, A)`` zero past the
            window, frames between the states ``(B,)`` int64.
        """
        row = self.draw(batch, generator)
        drawn = torch.randint(shortest, horizon + 1, (batch,), generator=generator)
        full = torch.rand(batch, generator=generator) < full_share
        lengths = torch.minimum(torch.where(full, horizon, drawn), self.remaining[row])
        first = self.first_frames[row]
        steps = torch.arange(horizon)
        inside = steps < lengths[:, None]
        frames = torch.where(inside, first[:, None] + steps, first[:, None])
        device = self.actions.device
        actions = self.actions[frames.to(device)] * inside[..., None].to(device)
        return self._states(first), self._states(first + lengths), actions, lengths.to(device)

    def _states(self, frames: Tensor) -> Tensor:
        """States ``(..., L, C)`` float32 of frames ``(...)``, on the training device."""
        return self.features[frames.to(self.features.device)].to(self.actions.device).float()


def _motion_weights(features: Tensor, starts: Tensor, remaining: Tensor, share: float) -> Tensor:
    """Chances ``(M,)`` of starts, in proportion to motion for a share of them, on the CPU."""
    later = starts + remaining.clamp_max(8)
    # The tokens that move most say whether something happens; a mean over all tokens would follow the arm alone.
    most = min(8, features.shape[1])
    motion = torch.cat(
        [
            (features[b].float() - features[a].float()).abs().mean(-1).topk(most).values.mean(-1)
            for a, b in zip(starts.split(2048), later.split(2048), strict=True)
        ]
    )
    # On the CPU, like the generator: the same seed draws the same windows on every device.
    weights = ((1 - share) + share * motion / motion.mean()).cpu()
    return weights / weights.sum()
