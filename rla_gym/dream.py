"""Episodes dreamed side by side: how they begin, and the one batched world-model step that moves them all on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewards.video_aligned import make_reward
from rla_gym import counter_noise, infos
from rla_gym.dream_state import VERSION, DreamState
from rla_gym.observations import pool
from rla_gym.reset_options import ResetOptions
from rla_gym.slots import Slots
from rla_gym.starts import Starts, nearest_demonstration
from rla_gym.world_cache import OpenWorld

# Streams of random numbers within an episode's key.
_STARTS, _NOISE = 0, 1


class Dream:
    """B slots of one world. Neither :meth:`step` nor :meth:`next_episode` waits for the device.

    Args:
        opened: the world.
        device: where it is.
        num_envs, first_slot, reward, success_bonus, terminate_on_success, starts, chunk_length, max_chunks,
            solver_steps, max_uncertainty: as in :class:`rla_gym.vector_env.RLAWMVectorEnv`.

    Attributes:
        chunk_length: K.
        slots: the present state.
        everyone: (B,) bool, True.

    Raises:
        ValueError: the world was not trained on chunks of that length.
    """

    def __init__(
        self,
        opened: OpenWorld,
        device: torch.device,
        *,
        num_envs: int,
        first_slot: int,
        reward: str,
        success_bonus: float,
        terminate_on_success: bool,
        starts: str,
        chunk_length: int | None,
        max_chunks: int,
        solver_steps: int | None,
        max_uncertainty: float | None,
    ) -> None:
        model = opened.world.model
        self.chunk_length = model.chunk_length if chunk_length is None else chunk_length
        if not 1 <= self.chunk_length <= model.chunk_length:
            raise ValueError(
                f"chunk_length={chunk_length} must be between 1 and {model.chunk_length}, the longest chunk that the "
                f"world {opened.world.folder} was trained on"
            )
        action_size = self.chunk_length * model.action_dim
        self.slots = Slots(num_envs, first_slot, (model.num_tokens, model.channels), action_size, device)
        self.everyone = torch.ones(num_envs, dtype=torch.bool, device=device)
        self._opened, self._model, self._detector = opened, model, opened.detector
        self._demonstrations = opened.world.demonstrations
        self._lengths: np.ndarray = self._demonstrations.lengths.cpu().numpy()
        self._alignment = make_reward(reward, self._demonstrations, self._detector)
        with torch.no_grad():
            solved = self._detector.first_success(self._demonstrations)
        self._starts = Starts(self._demonstrations, starts, self.chunk_length, solved)
        self._bonus, self._terminate = success_bonus, terminate_on_success
        self._max_chunks, self._solver_steps = max_chunks, solver_steps
        self._max_uncertainty = math.inf if max_uncertainty is None else max_uncertainty

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
            options, self._lengths, len(seeds), self._model.readings, everyone=everyone, device=self.everyone.device
        )
        own_picture = None
        if chosen.rgb is not None:
            own_picture = self._model.encode(chosen.rgb, chosen.proprioception).expand(len(seeds), -1, -1)
        self.slots.reseed(seeds, chosen.mask)
        if chosen.demonstration is not None and chosen.frame is not None:
            demonstration, start = chosen.demonstration, chosen.frame
            features = self._demonstrations.at(demonstration, start) if own_picture is None else own_picture
        elif own_picture is not None:
            features, demonstration = own_picture, nearest_demonstration(self._demonstrations, own_picture)
            start = torch.zeros_like(demonstration)
        else:
            features, demonstration, start = self._drawn()
        self._enter(chosen.mask, features, demonstration, start)
        return chosen.mask

    def next_episode(self, mask: Tensor) -> None:
        """The slots in ``mask`` (B,) bool go on to the next episode of their seed."""
        self.slots.advance(mask)
        self._enter(mask, *self._drawn())

    def step(self, chunk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One action chunk on in every slot: (B, K, A) float32 in [-1, 1].

        Returns:
            Reward (B,) float32, terminated and truncated (B,) bool.
        """
        slots = self.slots
        noise = self._noise(counter_noise.fold(slots.key, _NOISE, slots.taken))
        with torch.inference_mode():
            slots.features, slots.error, uncertainty = self._model.predict(
                slots.features, chunk, noise, self._solver_steps, slots.error
            )
        slots.taken = slots.taken + 1
        slots.last_action = chunk.flatten(1)
        time = slots.start + slots.taken * self.chunk_length
        alignment = self._alignment(slots.features, slots.demonstration, time)
        probability = self._detector.probability(slots.features)
        success = probability >= self._opened.dream_threshold
        paid = self._bonus * success.float()
        slots.info = {
            "success": success,
            "success_probability": probability,
            "uncertainty": uncertainty,
            "reward_alignment": alignment,
            "reward_success": paid,
        }
        terminated = success & self._terminate
        cut = (slots.taken >= self._max_chunks) | (uncertainty > self._max_uncertainty)
        return alignment + paid, terminated, cut & ~terminated

    def parts(self) -> dict[str, Callable[[], Tensor]]:
        """What each observation of :class:`rla_gym.observations.Observations` is at present, B rows each."""
        slots = self.slots
        return {
            # Copies of what is kept, so that nobody who edits an observation edits the dream.
            "features": lambda: slots.features.clone(),
            "pooled": lambda: pool(slots.features),
            "rgb": self.decode,
            "proprioception": lambda: self._model.sense(slots.features),
            "last_action": lambda: slots.last_action.clone(),
            "remaining_time": lambda: (1 - slots.taken[:, None] / self._max_chunks).clamp_min(0.0),
        }

    def infos(self, mask: Tensor) -> dict[str, Any]:
        """Infos of the slots in ``mask`` (B,) bool, in Gymnasium's vector convention."""
        known = {"control_steps": self.slots.taken * self.chunk_length, "demonstration": self.slots.demonstration}
        return infos.masked({**self.slots.info, **known}, mask)

    def decode(self) -> Tensor:
        """The present states as pictures, (B, H, W, 3) uint8."""
        return self._model.decode(self.slots.features)

    def save(self) -> DreamState:
        """The present state, on the host."""
        fingerprint, folder = self._opened.fingerprint, str(self._opened.world.folder)
        return DreamState(VERSION, folder, fingerprint, self.chunk_length, self.slots.arrays())

    def restore(self, state: Any, seeds: Sequence[int | None]) -> None:
        """Goes back to a saved state; a seed that is not None replaces the slot's own.

        Raises:
            TypeError, ValueError: it does not fit, see :meth:`rla_gym.dream_state.DreamState.check`.
        """
        world, fingerprint = str(self._opened.world.folder), self._opened.fingerprint
        DreamState.check(
            state, world=world, fingerprint=fingerprint, chunk_length=self.chunk_length, num_envs=len(seeds)
        )
        self.slots.restore(state.slots, seeds)

    def _noise(self, key: Tensor) -> Tensor | None:
        """Noise of a chunk from keys (B,) int64; each prediction's has a key of its own. None if none is needed."""
        whole, one = self._model.noise_shape, self._model.prediction_noise
        if whole is None or one is None:
            return None
        keys = [counter_noise.fold(key, number) if number else key for number in range(whole[0] // one[0])]
        return torch.cat([counter_noise.normal(own, one) for own in keys], dim=1)

    def _drawn(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._starts.draw(counter_noise.fold(self.slots.key, _STARTS))

    def _enter(self, mask: Tensor, features: Tensor, demonstration: Tensor, start: Tensor) -> None:
        self.slots.enter(mask, features, demonstration, start, self._detector.probability(features))
