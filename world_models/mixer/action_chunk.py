"""Encoder of action chunks: what the mixer's dynamics are conditioned on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from world_models.layers.linear import zero_linear
from world_models.mixer.hand_attention import HandAttention


class ActionChunkEncoder(nn.Module):
    """Per-step MLP, then a GRU over the steps (arXiv 2605.07079); the number of steps K may vary between calls.

    With proprioception the recurrence starts from its present values and predicts those after the chunk, twice: as if
    nothing were in the hand's way, and after a look at what is (:class:`HandAttention`). The second decides a grasp:
    fingers that meet an object stay open. It enters the embedding as sines of several frequencies. A model that is
    given where the hand will be, and what the robot will measure, need not infer that from the tokens.

    Args:
        action_dim: dimensions A of one action.
        width: channels W of the embedding.
        proprioception_dim: standardised proprioceptive values R of a state (P values and their change); 0 for none.
        num_tokens: visual tokens of a state, to look at where there is proprioception.
        channels: channels C of a token.
        octaves: frequencies of the sines.
    """

    frequencies: Tensor

    def __init__(
        self,
        action_dim: int,
        width: int,
        proprioception_dim: int = 0,
        num_tokens: int = 0,
        channels: int = 0,
        octaves: int = 6,
    ) -> None:
        super().__init__()
        self.proprioception_dim = proprioception_dim
        self.step = nn.Sequential(nn.Linear(2 * action_dim, width), nn.SiLU(), nn.Linear(width, width))
        self.recurrence = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, width)
        if proprioception_dim:
            size = proprioception_dim
            self.initial = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))
            self.free_change = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, size))
            waves = 2 * size * (1 + 2 * octaves)
            self.hand_attention = HandAttention(num_tokens, channels, waves + width, width)
            self.contact_change = zero_linear(width, size)
            self.waves = nn.Sequential(nn.Linear(waves + width, width), nn.SiLU(), nn.Linear(width, width))
            # On the CPU also where only a structure is built: no file holds it.
            frequencies = 2.0 ** torch.arange(octaves, dtype=torch.float32, device="cpu")
            self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(
        self,
        actions: Tensor,
        lengths: Tensor | None = None,
        proprioception: Tensor | None = None,
        tokens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Actions ``(B, K, A)`` to an embedding ``(B, W)`` and the predicted proprioception.

        Args:
            actions: chunk; steps past a sample's length are ignored.
            lengths: valid steps ``(B,)`` int64 of each sample; None means all K.
            proprioception: standardised values of the state ``(B, R)``, where the world has them.
            tokens: visual tokens of the state ``(B, L, C)``, given with the proprioception.

        Returns:
            Embedding ``(B, W)``; proprioception after the chunk ``(B, 2, R)``, with nothing in the way and with what
            is there, None for a world from video alone.
        """
        # Positions are sums of velocities: giving both spares the recurrence the adding.
        steps = self.step(torch.cat([actions, actions.cumsum(dim=1) / 4], dim=-1))
        initial = None if proprioception is None else self.initial(proprioception).unsqueeze(0)
        states, _ = self.recurrence(steps, initial)
        last = states[:, -1] if lengths is None else states[torch.arange(len(states)), lengths - 1]
        embedding = self.out(last)
        if proprioception is None or tokens is None:
            return embedding, None
        free, present = proprioception + self.free_change(last), self._waves(proprioception)
        path = torch.cat([present, self._waves(free.detach()), last.to(present.dtype)], dim=1)
        seen = self.hand_attention(tokens, path)
        contact = free.detach() + self.contact_change(seen)
        embedding = embedding + self.waves(
            torch.cat([present, self._waves(contact.detach()), seen.to(present.dtype)], dim=1)
        )
        return embedding, torch.stack([free, contact], dim=1)

    def _waves(self, proprioception: Tensor) -> Tensor:
        angles = (proprioception[..., None] * self.frequencies).flatten(1)
        return torch.cat([proprioception, angles.sin(), angles.cos()], dim=1)
