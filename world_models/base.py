"""What every world model offers: encode frames, predict the state after a chunk of actions, decode it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from world_models.config import WorldConfig
from world_models.data.frame_fit import fit_frames
from world_models.encoders.state import StateEncoder
from world_models.heads.expected_error import ExpectedErrorHead
from world_models.heads.rgb_decoder import RGBDecoder
from world_models.layers.views import join_views, split_views

CPU_ROWS = 128
"""States that a CPU predicts from at once. With 1,024, activations are so large that each is memory fresh from the
kernel, and a prediction costs half as much again."""


class Prediction(NamedTuple):
    """What a world model says of the state after a chunk.

    Attributes:
        features: states ``(B, L, C)``, float32.
        error: mean absolute error ``(B, L)`` that the model expects of each token, float32; the next prediction takes
            it, so that errors add up along a rollout.
        uncertainty: mean absolute error ``(B,)`` of a number of the state, from that and calibrated on held-out
            episodes, float32.
    """

    features: Tensor
    error: Tensor
    uncertainty: Tensor


class WorldModel(nn.Module):
    """What every world model shares; subclasses say how a chunk of actions moves the state.

    Args:
        config: of the world; its ``dynamics`` must hold the subclass's own config.
        encoder: of its states.
        rgb_decoder: shared with another model of the same world; None makes one.

    Attributes:
        name: of the dynamics, and of the submodule that holds their weights.
        config_type: dataclass of their config.
        parts: names of the submodules, which a world's weights are stored by.
        requires: names of other dynamics of the world, whose sizes it shares; its training begins with their weights.
        stochastic: whether two predictions of the same chunk may differ, by their noise.
        num_tokens: tokens L of a state.
        channels: channels C of a token.
        proprioception_dim: values R that a state takes beside the frame: proprioception and its change.
        action_dim: dimensions A of an action.
        chunk_length: most actions K in a chunk.
        prediction_length: actions after which a prediction is made; those of a longer chunk follow one another.
        image_size: side of decoded views in pixels.
        frame_shape: (height, width) of decoded frames in pixels, whose views lie side by side.
    """

    name: ClassVar[str]
    config_type: ClassVar[type]
    parts: ClassVar[tuple[str, ...]] = ("encoder", "rgb_decoder")
    requires: ClassVar[tuple[str, ...]] = ()
    stochastic: ClassVar[bool] = False
    prediction_noise: tuple[int, int] | None = None
    """Shape (n, d) of the noise of a prediction; None for a deterministic model."""
    lasting_noise: int = 0
    """How many of the d numbers, the first ones, stay as they are through an episode: what a picture hides of a scene,
    as its friction, does not change from chunk to chunk."""

    def __init__(self, config: WorldConfig, encoder: StateEncoder, rgb_decoder: RGBDecoder | None = None) -> None:
        super().__init__()
        for name in (self.name, *self.requires):
            if name not in config.dynamics:
                raise ValueError(f"the world's config has no dynamics {name!r}; train them first")
        self.config = config
        self.encoder = encoder
        self.num_tokens, self.channels = encoder.num_tokens, encoder.channels
        self.proprioception_dim = encoder.proprioception_dim
        self.image_size = config.frame_size
        self.frame_shape = config.frame_size, encoder.views * config.frame_size
        self.action_dim, self.chunk_length = len(config.action_names), config.chunk_length
        self.prediction_length = config.prediction_length or config.chunk_length
        self.rgb_decoder = rgb_decoder or RGBDecoder(
            config.rgb_decoder, encoder.patch_tokens, self.channels, self.image_size, encoder.views
        )

    def encode(self, rgb: Tensor, proprioception: Tensor | None = None) -> Tensor:
        """Frames and proprioception to states; see :meth:`world_models.encoders.state.StateEncoder.forward`.

        Frames of another shape become squares as those did that the world was trained on.
        """
        fit, views = self.config.reading.fit, self.encoder.views
        if fit is not None:
            rgb = join_views(fit_frames(split_views(rgb, views), fit, self.image_size), views)
        return self.encoder(rgb, proprioception)

    def to_robot(self, actions: np.ndarray) -> np.ndarray:
        """Actions ``(..., A)`` in [-1, 1] in the robot's own units and dimensions, ``(..., N)``."""
        scale = self.config.reading.action_scale
        return np.asarray(actions) if scale is None else scale.to_robot(actions)

    def from_robot(self, actions: np.ndarray) -> np.ndarray:
        """The robot's actions ``(..., N)``, in its own units, as this world takes them: ``(..., A)`` in [-1, 1]."""
        scale = self.config.reading.action_scale
        return np.asarray(actions) if scale is None else scale.from_robot(actions)

    @property
    def noise_shape(self) -> tuple[int, int] | None:
        """Shape (P n, d) of the noise that a chunk takes, n for each of its P predictions; None if deterministic."""
        if self.prediction_noise is None:
            return None
        tokens, channels = self.prediction_noise
        return -(-self.chunk_length // self.prediction_length) * tokens, channels

    def with_lasting(self, noise: Tensor, lasting: Tensor) -> Tensor:
        """The noise of a chunk in an episode whose lasting numbers were drawn before.

        Args:
            noise: standard normal ``(B, *noise_shape)``.
            lasting: standard normal ``(B, n, lasting_noise)``, the same for every chunk of an episode; of a chunk's own
                noise, that is ``noise[:, :n, :lasting_noise]``.
        """
        repeated = lasting.repeat(1, noise.shape[1] // lasting.shape[1], 1)
        return torch.cat([repeated, noise[:, :, self.lasting_noise :]], dim=2)

    def predict(
        self,
        features: Tensor,
        actions: Tensor,
        noise: Tensor | None = None,
        solver_steps: int | None = None,
        error: Tensor | None = None,
    ) -> Prediction:
        """The state after a chunk of actions.

        Args:
            features: states ``(B, L, C)``, float32.
            actions: chunks ``(B, k, A)`` in [-1, 1], 1 <= k <= K.
            noise: standard normal ``(B, *noise_shape)``; None for a deterministic model.
            solver_steps: Euler steps of a flow; None for the world's own number.
            error: :attr:`Prediction.error` of ``features``, where these were predicted; None for real states.

        Raises:
            ValueError: actions of another shape, or no noise where it is needed.
        """
        self.check_actions(actions)
        if features.device.type == "cpu" and len(features) > CPU_ROWS:
            return self._predict_by_rows(features, actions, noise, solver_steps, error)
        parts = actions.split(self.prediction_length, dim=1)
        noises: Sequence[Tensor | None] = [None] * len(parts)
        if self.prediction_noise is not None:
            if noise is None:
                raise ValueError(
                    f"these dynamics need noise of shape (B, {', '.join(map(str, self.noise_shape or ()))}); draw it "
                    "from a seeded generator"
                )
            noises = noise.split(self.prediction_noise[0], dim=1)
        for part, part_noise in zip(parts, noises, strict=False):  # short chunks leave noise over
            prediction = self._predict_once(features, part, part_noise, solver_steps, error)
            features, error = prediction.features, prediction.error
        return prediction

    def decode(self, features: Tensor) -> Tensor:
        """Features ``(B, L, C)`` to uint8 frames ``(B, H, V*W, 3)`` of V views."""
        return self.rgb_decoder.to_rgb(features[:, : self.encoder.patch_tokens])

    def read_proprioception(self, features: Tensor) -> Tensor:
        """Proprioception and its change ``(B, R)`` of states ``(B, L, C)``, in the robot's own units."""
        return self.encoder.read_proprioception(features)

    @property
    def expected_error(self) -> ExpectedErrorHead:
        """The head that expects the errors of predictions."""
        raise NotImplementedError

    def use_precision(self, dtype: torch.dtype) -> None:
        """Compute in ``dtype`` where nearly all of a prediction's arithmetic is; states stay float32."""
        raise NotImplementedError

    def check_actions(self, actions: Tensor) -> None:
        """Raise ValueError unless ``actions`` is ``(B, k, A)`` with 1 <= k <= K."""
        if actions.ndim != 3 or actions.shape[2] != self.action_dim or not 1 <= actions.shape[1] <= self.chunk_length:
            raise ValueError(
                f"actions have shape {tuple(actions.shape)}; this world takes (B, k, {self.action_dim}) "
                f"with k from 1 to {self.chunk_length}"
            )

    def _predict_by_rows(
        self, features: Tensor, actions: Tensor, noise: Tensor | None, solver_steps: int | None, error: Tensor | None
    ) -> Prediction:
        """What :meth:`predict` says, from :data:`CPU_ROWS` states after another."""
        predictions = []
        for first in range(0, len(features), CPU_ROWS):
            rows = slice(first, first + CPU_ROWS)
            noise_rows, error_rows = (None if part is None else part[rows] for part in (noise, error))
            predictions.append(self.predict(features[rows], actions[rows], noise_rows, solver_steps, error_rows))
        return Prediction(*(torch.cat(parts) for parts in zip(*predictions, strict=True)))

    def _predict_once(
        self, features: Tensor, actions: Tensor, noise: Tensor | None, solver_steps: int | None, error: Tensor | None
    ) -> Prediction:
        """The state after at most ``prediction_length`` actions; arguments as of :meth:`predict`."""
        raise NotImplementedError
