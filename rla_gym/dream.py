"""Imagined episodes side by side: how they begin, and the one batched prediction that moves them all on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewards.video_aligned import make_reward
from rla_gym import counter_noise, infos
from rla_gym.dream_config import DreamConfig
from rla_gym.dream_state import VERSION, DreamState
from rla_gym.initial_states import InitialStates, nearest_demonstration
from rla_gym.observations import pool
from rla_gym.reset_options import ResetOptions
from rla_gym.slots import Slots
from rla_gym.tasks import episode_chunks
from rla_gym.world_cache import OpenWorld

# Streams of random numbers within an episode's key.
_INITIAL_STATE, _NOISE, _OTHER_DRAWS, _LASTING = 0, 1, 2, 3


class Dream:
    """B slots of one world. Neither :meth:`step` nor :meth:`next_episode` waits for the device.

    Args:
        opened: the world.
        device: where it is.
        config: of the episodes; the world has been loaded by it.
        num_envs: B.
        first_slot: number of the first slot.

    Attributes:
        chunk_length: K.
        max_chunks: env steps after which an episode is truncated.
        slots: the present state.
        everyone: (B,) bool, True.

    Raises:
        ValueError: the world was not trained on chunks of that length.
    """

    def __init__(
        self, opened: OpenWorld, device: torch.device, config: DreamConfig, *, num_envs: int, first_slot: int
    ) -> None:
        model = opened.world.model
        self.chunk_length = model.chunk_length if config.chunk_length is None else config.chunk_length
        if not 1 <= self.chunk_length <= model.chunk_length:
            raise ValueError(
                f"chunk_length={config.chunk_length} must be between 1 and {model.chunk_length}, the longest chunk "
                f"that the world {opened.world.folder} was trained on"
            )
        action_size = self.chunk_length * model.action_dim
        self.slots = Slots(num_envs, first_slot, (model.num_tokens, model.channels), action_size, device)
        self.everyone = torch.ones(num_envs, dtype=torch.bool, device=device)
        self._opened, self._model, self._detector = opened, model, opened.detector
        self._demonstrations = opened.world.demonstrations
        self._lengths: np.ndarray = self._demonstrations.lengths.cpu().numpy()
        self._reward = make_reward(config.reward, self._demonstrations, self._detector)
        with torch.no_grad():
            solved = self._detector.first_success(self._demonstrations)
        self._initial_states = InitialStates(self._demonstrations, config.initial_states, self.chunk_length, solved)
        self._config = config
        self.max_chunks = config.max_chunks or episode_chunks(model.config.task, model.config.max_chunks)
        self._max_uncertainty = math.inf if config.max_uncertainty is None else config.max_uncertainty

    def begin(self, seeds: Sequence[int | None], options: Any, *, everyone: bool) -> Tensor:
        """New episodes: the first of a slot's seed, or the next of the one in use where the seed is None.

        Args:
            seeds: one per slot.
            options: reset options as users give them.
            everyone: whether every slot is due.

        Returns:
            The slots that began, (B,) bool.

        Raises:
            ValueError: bad options, see :meth:`rla_gym.reset_options.ResetOptions.read`; nothing has changed then.
        """
        chosen = ResetOptions.read(
            options,
            self._lengths,
            len(seeds),
            self._model.proprioception_dim,
            everyone=everyone,
            device=self.everyone.device,
        )
        encoded = None
        if chosen.rgb is not None:
            encoded = self._model.encode(chosen.rgb, chosen.proprioception).expand(len(seeds), -1, -1)
        self.slots.reseed(seeds, chosen.mask)
        if chosen.demonstration is not None and chosen.frame is not None:
            demonstration, frame = chosen.demonstration, chosen.frame
            features = self._demonstrations.at(demonstration, frame) if encoded is None else encoded
        elif encoded is not None:
            features, demonstration = encoded, nearest_demonstration(self._demonstrations, encoded)
            frame = torch.zeros_like(demonstration)
        else:
            features, demonstration, frame = self._draw()
        self._enter(chosen.mask, features, demonstration, frame)
        return chosen.mask

    def next_episode(self, mask: Tensor) -> None:
        """The slots in ``mask`` (B,) bool go on to the next episode of their seed."""
        self.slots.advance(mask)
        self._enter(mask, *self._draw())

    def step(self, chunk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One action chunk on in every slot: (B, K, A) float32 in [-1, 1].

        Returns:
            Reward (B,) float32, terminated and truncated (B,) bool.
        """
        slots = self.slots
        others = self._other_probabilities(chunk)
        noise = self._noise(counter_noise.fold(slots.key, _NOISE, slots.taken))
        with torch.inference_mode():
            slots.features, slots.error, uncertainty = self._model.predict(
                slots.features, chunk, noise, self._config.solver_steps, slots.error
            )
        slots.taken = slots.taken + 1
        slots.last_action = chunk.flatten(1)
        time = slots.start + slots.taken * self.chunk_length
        alignment = self._reward(slots.features, slots.demonstration, time)
        probability = self._detector.probability(slots.features)
        success = probability >= self._opened.success_threshold
        bonus = self._config.success_bonus * success.float()
        slots.info = {
            "success": success,
            "success_probability": torch.stack([probability, *others]).mean(dim=0),
            "uncertainty": uncertainty,
            "reward_alignment": alignment,
            "reward_success": bonus,
        }
        terminated = success & self._config.terminate_on_success
        # Time is up whether or not the task is solved, as in Gymnasium's TimeLimit, which `gym.make` wraps around.
        truncated = (slots.taken >= self.max_chunks) | ((uncertainty > self._max_uncertainty) & ~terminated)
        return alignment + bonus, terminated, truncated

    def parts(self) -> dict[str, Callable[[], Tensor]]:
        """What each observation of :class:`rla_gym.observations.Observations` is at present, B rows each."""
        slots = self.slots
        return {
            # Copies, so that editing an observation does not edit the state of the dream.
            "features": lambda: slots.features.clone(),
            "pooled": lambda: pool(slots.features, self._model.encoder.views),
            "rgb": self.decode,
            "proprioception": lambda: self._model.read_proprioception(slots.features),
            "last_action": lambda: slots.last_action.clone(),
            "remaining_time": lambda: (1 - slots.taken[:, None] / self.max_chunks).clamp_min(0.0),
        }

    def infos(self, mask: Tensor) -> dict[str, Any]:
        """Infos of the slots in ``mask`` (B,) bool, in Gymnasium's vector convention."""
        more = {
            "control_steps": self.slots.taken * self.chunk_length,
            "demonstration": self.slots.demonstration,
            "is_success": self.slots.info["success"],  # by this name Stable-Baselines3 and its tools look for it
        }
        return infos.masked({**self.slots.info, **more}, mask)

    def decode(self) -> Tensor:
        """The present states as pictures, (B, H, W, 3) uint8."""
        return self._model.decode(self.slots.features)

    def save(self) -> DreamState:
        """The present state, on the host."""
        fingerprint, folder = self._opened.fingerprint, str(self._opened.world.folder)
        return DreamState(VERSION, folder, fingerprint, self.chunk_length, self.slots.arrays())

    def restore(self, state: Any, seeds: Sequence[int | None]) -> None:
        """Goes back to a saved state; a seed that is not None replaces the slot's saved one.

        Raises:
            TypeError, ValueError: it does not fit, see :meth:`rla_gym.dream_state.DreamState.check`.
        """
        world, fingerprint = str(self._opened.world.folder), self._opened.fingerprint
        DreamState.check(
            state,
            world=world,
            fingerprint=fingerprint,
            chunk_length=self.chunk_length,
            columns=self.slots.columns(),
            lengths=self._lengths,
        )
        self.slots.restore(state.slots, seeds)

    def _other_probabilities(self, chunk: Tensor) -> list[Tensor]:
        """Probabilities (B,) of success of further draws of the next state, with noise of their own."""
        slots, probabilities = self.slots, []
        for draw in range(1, self._config.draws if self._model.stochastic else 1):
            noise = self._noise(counter_noise.fold(slots.key, _OTHER_DRAWS, slots.taken, draw), draw)
            with torch.inference_mode():
                drawn = self._model.predict(slots.features, chunk, noise, self._config.solver_steps)
                probabilities.append(self._detector.probability(drawn.features))
        return probabilities

    def _noise(self, key: Tensor, draw: int = 0) -> Tensor | None:
        """Noise of a chunk from keys (B,) int64, a key for each of its predictions; None if the model takes none.

        What lasts through an episode is a matter of the episode, and of the number of the draw.
        """
        of_chunk, of_prediction = self._model.noise_shape, self._model.prediction_noise
        if of_chunk is None or of_prediction is None:
            return None
        predictions = of_chunk[0] // of_prediction[0]
        keys = [counter_noise.fold(key, number) if number else key for number in range(predictions)]
        noise = torch.cat([counter_noise.normal(prediction_key, of_prediction) for prediction_key in keys], dim=1)
        if not self._model.lasting_noise:
            return noise
        lasting_key = counter_noise.fold(self.slots.key, _LASTING, draw)
        lasting = counter_noise.normal(lasting_key, (of_prediction[0], self._model.lasting_noise))
        return self._model.with_lasting(noise, lasting)

    def _draw(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._initial_states.draw(counter_noise.fold(self.slots.key, _INITIAL_STATE))

    def _enter(self, mask: Tensor, features: Tensor, demonstration: Tensor, frame: Tensor) -> None:
        self.slots.enter(mask, features, demonstration, frame, self._detector.probability(features))
