"""The state of a world: patch tokens of a frame and, where the robot has it, one token of proprioception."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from world_models.encoders.features import EncoderConfig, FeatureEncoder
from world_models.encoders.proprioception import ProprioceptionToken
from world_models.layers.views import split_views


class StateEncoder(nn.Module):
    """Frames and proprioception to states.

    Args:
        visual: the frozen feature encoder.
        proprioception: number of values P; 0 for a world from video alone.
        views: cameras V whose pictures lie side by side in a frame; each is encoded alone.

    Attributes:
        num_tokens: tokens L of a state, that of proprioception (the last) included.
        patch_tokens: tokens that see the frame, view after view.
        channels: channels C of a token.
        proprioception_dim: values R = 2 P that a state takes beside the frame: proprioception and its change.
    """

    def __init__(self, visual: FeatureEncoder, proprioception: int = 0, views: int = 1) -> None:
        super().__init__()
        self.visual = visual
        self.proprioception = ProprioceptionToken(proprioception, visual.channels) if proprioception else None
        self.views = views
        self.patch_tokens, self.channels = views * visual.num_tokens, visual.channels
        self.proprioception_dim = 2 * proprioception
        self.num_tokens = self.patch_tokens + (1 if proprioception else 0)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def from_config(cls, config: EncoderConfig, proprioception: int = 0, views: int = 1) -> StateEncoder:
        """The structure alone, for weights that a world's own file brings."""
        return cls(FeatureEncoder(config, load_weights=False), proprioception, views)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.visual.mean.device

    def forward(self, rgb: Tensor, proprioception: Tensor | None = None) -> Tensor:
        """States ``(B, L, C)`` float32.

        Args:
            rgb: uint8 frames ``(B, H, W, 3)`` of any size; with V views ``(B, H, V*W, 3)``.
            proprioception: values and their change since the control step before ``(B, R)``, in the robot's units;
                None for a world from video alone.

        Raises:
            ValueError: proprioception is missing, not wanted, or of another shape.
        """
        tokens = self.visual(split_views(rgb, self.views)).unflatten(0, (-1, self.views)).flatten(1, 2)
        if self.proprioception is None:
            if proprioception is not None:
                raise ValueError("this world was trained from video alone; leave proprioception out")
            return tokens
        if proprioception is None:
            raise ValueError(
                f"this world's state has proprioception beside the frame; give (B, {self.proprioception_dim}) values: "
                f"{self.proprioception_dim // 2} and their change since the control step before (zero in the first)"
            )
        return torch.cat([tokens, self.proprioception(proprioception.to(tokens.device))], dim=1)

    def read_proprioception(self, features: Tensor) -> Tensor:
        """Proprioception and its change ``(B, R)``, in the robot's units, of states ``(B, L, C)``.

        Raises:
            ValueError: the world was trained from video alone.
        """
        if self.proprioception is None:
            raise ValueError("this world was trained from video alone and has no proprioception")
        return self.proprioception.values(features[:, -1:])

    def fingerprint(self) -> str:
        """Hex digest of structure and weights: two encoders that differ at all never share a feature cache."""
        digest = hashlib.sha256(self.visual.fingerprint().encode())
        if self.views > 1:
            digest.update(str(self.views).encode())
        if self.proprioception is not None:
            for tensor in self.proprioception.state_dict().values():
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]
