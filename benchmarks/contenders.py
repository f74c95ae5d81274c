"""What `rla-gym bench speed` sets side by side: dreams, robosuite, and video diffusion, each as a thing to call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

import rla_gym  # noqa: F401  registers the environments
from rla_gym.ground_truth.gl import choose_gl_backend
from rla_gym.ground_truth.processes import start_processes
from rla_gym.ground_truth.simulator import quiet_robosuite
from rla_gym.tasks import dream_id, get_task, simulator_id
from world_models.encoders.state import StateEncoder
from world_models.io import DYNAMICS, default_dynamics, read_config, world_folder

SAME_STEP = gym.vector.AutoresetMode.SAME_STEP
"""Every call moves on: with NEXT_STEP the one after an episode's end would only reset."""
DIFFUSION_CHANNELS = (64, 64, 64, 64)
DIFFUSION_STEPS = 3
DIFFUSION_CONTEXT = 4
"""Channels per level, denoising steps and frames of context of DIAMOND (arXiv 2405.12399), a pixel world model."""


@dataclass
class Contender:
    """Something that moves a scene on.

    Attributes:
        method, setting: as in the result rows.
        control_steps: control steps that one call is worth.
        call: moves on once.
        frames: predicted states or frames in one call; 0 where a simulator computes them.
        precision: what its arithmetic is done in.
        close: frees what it uses.
    """

    method: str
    setting: str
    control_steps: int
    call: Callable[[], Any]
    frames: int = 0
    precision: str = "float32"
    close: Callable[[], None] = field(default=lambda: None)


def dream(num_envs: int, device: str, world: str, *, task: str = "Lift", **arguments: Any) -> Contender:
    """The dream, stepped with random actions through ``gym.make_vec``; observations are features, on the device.

    Args:
        num_envs: slots.
        device, world, task: of the environment.
        arguments: further ones of the environment, ``dynamics``, ``solver_steps``, ``precision`` and ``chunk_length``;
            those given are named in the setting.
    """
    envs = gym.make_vec(
        dream_id(task), num_envs, device=device, world=world, output="torch", initial_states="first",
        autoreset_mode=SAME_STEP, **arguments,
    )  # fmt: skip
    envs.reset(seed=0)
    random = np.random.default_rng(0).uniform(-1, 1, envs.action_space.shape).astype(np.float32)
    actions = torch.from_numpy(random).to(device)

    def call() -> None:
        envs.step(actions)
        _wait_for(device)

    named = {name: value for name, value in arguments.items() if name != "dynamics"}
    chunk_length = envs.unwrapped.chunk_length  # type: ignore[attr-defined]
    setting = ",".join(f"{name}={value}" for name, value in {"envs": num_envs, "device": device, **named}.items())
    method = default_dynamics(world, arguments.get("dynamics"))
    precision = arguments.get("precision", "float32")
    return Contender(method, setting, num_envs * chunk_length, call, num_envs, precision, envs.close)


def prediction(num_envs: int, device: str, world: str, image_size: int) -> Contender:
    """Predictions alone, by a world's default dynamics with random weights, for pictures of another size.

    Args:
        num_envs: states that are predicted side by side.
        device, world: where, and of which sizes.
        image_size: side of the pictures in pixels, a multiple of a token's side; their number of tokens follows from
            it.
    """
    config = read_config(world_folder(world))
    config = replace(config, encoder=replace(config.encoder, image_size=image_size))
    encoder = StateEncoder.from_config(config.encoder, config.proprioception, config.views)
    name = default_dynamics(world)
    model = DYNAMICS[name](config, encoder).to(device).eval()
    features = torch.randn(num_envs, model.num_tokens, model.channels, device=device)
    actions = torch.rand(num_envs, model.chunk_length, model.action_dim, device=device) * 2 - 1
    shape = model.noise_shape
    noise = None if shape is None else torch.randn(num_envs, *shape, device=device)

    @torch.inference_mode()
    def call() -> None:
        model.predict(features, actions, noise)
        _wait_for(device)

    setting = f"envs={num_envs},device={device},patch_tokens={encoder.patch_tokens}"
    return Contender(name, setting, num_envs * model.chunk_length, call, num_envs)


def tuned_robosuite(processes: int, world: str, *, task: str = "Lift") -> Contender:
    """The ground-truth twin on all cores: our renderer, one picture a chunk, its features encoded in one batch."""
    envs = gym.make_vec(simulator_id(task), processes, world=world, vectorization="async", autoreset_mode=SAME_STEP)
    envs.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, envs.action_space.shape).astype(np.float32)
    steps = processes * envs.unwrapped.chunk_length  # type: ignore[attr-defined]
    setting = f"envs={processes},device=cpu,processes={processes}"
    return Contender("robosuite_tuned", setting, steps, lambda: envs.step(actions), close=envs.close)


def camera_robosuite(processes: int, *, task: str = "Lift") -> Contender:
    """robosuite as its documentation has it: its own camera observation at every control step, on all cores."""
    envs = start_processes(partial(CameraRobosuite, task), processes, SAME_STEP)
    envs.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, envs.action_space.shape).astype(np.float32)
    setting = f"envs={processes},device=cpu,processes={processes}"
    return Contender("robosuite_camera", setting, processes, lambda: envs.step(actions), close=envs.close)


class CameraRobosuite(gym.Env[np.ndarray, np.ndarray]):
    """A task as robosuite itself makes it: all of its controller's actions, its camera's picture after every one.

    Args:
        task: name of a task in :mod:`rla_gym.tasks`, for its robot, control frequency and picture size.
    """

    def __init__(self, task: str) -> None:
        choose_gl_backend()
        quiet_robosuite()
        import robosuite

        spec = get_task(task)
        size = spec.camera.size
        self._env = robosuite.make(
            spec.robosuite_name, robots=spec.robot, has_renderer=False, has_offscreen_renderer=True,
            use_camera_obs=True, use_object_obs=False, camera_names="agentview", camera_heights=size,
            camera_widths=size, control_freq=spec.control_hz, hard_reset=False, seed=0,
        )  # fmt: skip
        self.observation_space = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (self._env.action_dim,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """The first picture of the next episode; robosuite's own seed is that of its making, 0."""
        super().reset(seed=seed)
        return self._env.reset()["agentview_image"], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One control step, action (D,) in [-1, 1], and the picture after it."""
        observation, reward, done, _ = self._env.step(action)
        return observation["agentview_image"], float(reward), False, bool(done), {}

    def close(self) -> None:
        """Frees simulation and renderer."""
        self._env.close()


def video_diffusion(size: int, frames: int, device: str) -> Contender:
    """A pixel world model's step: every control step's frame is denoised anew from the frames before it.

    A `diffusers` UNet of DIAMOND's channels and denoising steps, with random weights and without the actions (which
    cost next to nothing), at the videos' resolution, where DIAMOND has 64 pixels.

    Args:
        size: of a frame, pixels.
        frames: denoised side by side.
        device: where.

    Raises:
        ImportError: diffusers is missing; ``pip install "rla-gym[speed]"``.
    """
    try:
        from diffusers import UNet2DModel
    except ImportError as error:
        raise ImportError('video diffusion needs diffusers: pip install "rla-gym[speed]"') from error
    levels = len(DIFFUSION_CHANNELS)
    unet: Any = UNet2DModel(
        sample_size=size, in_channels=3 * (DIFFUSION_CONTEXT + 1), out_channels=3, layers_per_block=2,
        block_out_channels=DIFFUSION_CHANNELS, down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels, add_attention=False,
    )  # fmt: skip
    unet.to(device).eval()
    context = torch.rand(frames, 3 * DIFFUSION_CONTEXT, size, size, device=device)
    at = torch.zeros(frames, device=device)

    @torch.inference_mode()
    def call() -> Tensor:
        frame = torch.randn(frames, 3, size, size, device=device)
        for _ in range(DIFFUSION_STEPS):
            frame = unet(torch.cat([frame, context], dim=1), at).sample
        _wait_for(device)
        return frame

    millions = sum(parameter.numel() for parameter in unet.parameters()) / 1e6
    setting = f"envs={frames},device={device},solver_steps={DIFFUSION_STEPS},size={size},parameters={millions:.1f}M"
    return Contender("video_diffusion", setting, frames, call, frames)


def matrix_product(device: str, precision: str) -> Contender:
    """A plain square matrix product, whose "control steps" are floating-point operations: this machine's peak."""
    size, repeats = (2048, 1) if device == "cpu" else (8192, 16)
    left = torch.rand(size, size, device=device).to(getattr(torch, precision))

    def call() -> None:
        for _ in range(repeats):
            left @ left
        _wait_for(device)

    return Contender("matrix_product", f"device={device},precision={precision}", 2 * size**3 * repeats, call)


def _wait_for(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)
