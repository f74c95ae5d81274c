"""Encoder of action chunks: what every world model is conditioned on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from world_models.hand_attention import HandAttention
from world_models.mixer import zero_linear


class ActionChunkEncoder(nn.Module):
    """Per-step MLP, then a GRU over the steps (arXiv 2605.07079); the number of steps K may vary between calls.

    With proprioception the recurrence starts from the readings and foretells those after the chunk, twice: as if
    nothing were in the hand's way, and after a look at what is (:class:`HandAttention`). The second is where a grasp is
    decided: fingers that meet an object stay open. It goes into the embedding in sines of several frequencies: a
    model that is told where the hand will be, and what it will feel, need not work it out from the tokens.

    Args:
        action_dim: dimensions A of one action.
        width: channels W of the embedding.
        readings: standardised proprioceptive values R of a state (P readings and their change); 0 for none.
        num_tokens: visual tokens of a state, to look at where there are readings.
        channels: channels C of a token.
        octaves: frequencies of the sines.
    """

    frequencies: Tensor

    def __init__(
        self, action_dim: int, width: int, readings: int = 0, num_tokens: int = 0, channels: int = 0, octaves: int = 6
    ) -> None:
        super().__init__()
        self.readings = readings
        self.step = nn.Sequential(nn.Linear(2 * action_dim, width), nn.SiLU(), nn.Linear(width, width))
        self.recurrence = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, width)
        if readings:
            self.begin = nn.Sequential(nn.Linear(readings, width), nn.SiLU(), nn.Linear(width, width))
            self.foretell = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, readings))
            waves = 2 * readings * (1 + 2 * octaves)
            self.look = HandAttention(num_tokens, channels, waves + width, width)
            self.feel = zero_linear(width, readings)
            self.waves = nn.Sequential(nn.Linear(waves + width, width), nn.SiLU(), nn.Linear(width, width))
            self.register_buffer("frequencies", 2.0 ** torch.arange(octaves), persistent=False)

    def forward(
        self,
        actions: Tensor,
        lengths: Tensor | None = None,
        readings: Tensor | None = None,
        tokens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Actions ``(B, K, A)`` to an embedding ``(B, W)`` and the foretold readings.

        Args:
            actions: chunk; steps past a sample's length are ignored.
            lengths: valid steps ``(B,)`` int64 of each sample; None means all K.
            readings: standardised readings of the state ``(B, R)``, where the world has them.
            tokens: visual tokens of the state ``(B, L, C)``, given with the readings.

        Returns:
            Embedding ``(B, W)``; readings after the chunk ``(B, 2, R)``, with nothing in the way and with what is
            there, None without proprioception.
        """
        # Positions are sums of velocities: giving both spares the recurrence the adding.
        steps = self.step(torch.cat([actions, actions.cumsum(dim=1) / 4], dim=-1))
        start = None if readings is None else self.begin(readings).unsqueeze(0)
        states, _ = self.recurrence(steps, start)
        last = states[:, -1] if lengths is None else states[torch.arange(len(states)), lengths - 1]
        embedding = self.out(last)
        if readings is None or tokens is None:
            return embedding, None
        free, present = readings + self.foretell(last), self._waves(readings)
        seen = self.look(tokens, torch.cat([present, self._waves(free.detach()), last.to(present.dtype)], dim=1))
        felt = free.detach() + self.feel(seen)
        embedding = embedding + self.waves(
            torch.cat([present, self._waves(felt.detach()), seen.to(present.dtype)], dim=1)
        )
        return embedding, torch.stack([free, felt], dim=1)

    def _waves(self, readings: Tensor) -> Tensor:
        angles = (readings[..., None] * self.frequencies).flatten(1)
        return torch.cat([readings, angles.sin(), angles.cos()], dim=1)
