"""Videos: any frames as mp4, and the same actions in the dream and in the simulator, side by side."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

import gymnasium as gym
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from agents.policies.base import Policy
from rewards.success import SuccessDetector
from world_models.base import WorldModel
from world_models.io import World, load_world
from world_models.open_loop import rollout_noise

try:
    import av
except ImportError as error:
    raise ImportError(f'videos are written with PyAV ({error}): pip install "rla-gym[train]"') from error

if TYPE_CHECKING:
    from rla_gym.ground_truth.env import RobosuiteEnv

_PANEL = 384
_BAR = 40


def write_comparison(
    path: Path,
    policy: Policy,
    seeds: list[int],
    *,
    env: str,
    world: str,
    dynamics: str | None = None,
    placement: str = "standard",
    max_chunks: int | None = None,
    device: str | torch.device = "cpu",
) -> Path:
    """Write an mp4, dream on the left, simulator on the right, one episode per seed, at the control rate.

    The policy acts in the simulator. The dream starts from the simulator's first camera frame and gets the same actions
    open loop, without any further frame. Frames inside a chunk are predicted from the chunk's start with the same noise
    and the chunk's first actions alone.

    Args:
        path: mp4 to write (atomically).
        policy: acts in the simulator.
        seeds: reset seeds; take them by rule, not by result.
        env: id of a simulator environment.
        world: bundled world's name or a world folder.
        dynamics: of the world; None for its default.
        placement: of the simulator's object.
        max_chunks: chunks per episode; None takes the task's.
        device: of dream and policy.

    Returns:
        ``path``.

    Raises:
        ValueError: the dream does not fit the policy.
        ImportError: the simulator is not installed.
    """
    loaded = load_world(world, dynamics=dynamics, device=device)
    detector = SuccessDetector.load(loaded.folder, device)
    real = gym.make(env, obs="rgb", placement=placement, chunk_length=policy.chunk_length, max_chunks=max_chunks)
    simulator = cast("RobosuiteEnv", real.unwrapped)
    fps = simulator.task.control_hz
    frames: list[np.ndarray] = []
    try:
        for seed in seeds:
            with torch.inference_mode():
                frames += _episode(policy, loaded, detector, simulator, seed, device)
            frames += [frames[-1]] * fps  # a second to read the verdict
    finally:
        real.close()
    return write_frames(path, frames, fps)


def write_frames(path: Path, frames: list[np.ndarray], fps: int) -> Path:
    """Write (H, W, 3) uint8 frames, H and W even, as an H.264 mp4, atomically; returns ``path``.

    Raises:
        ValueError: no frames, or an odd height or width, which most players cannot show.
    """
    if not frames or frames[0].shape[0] % 2 or frames[0].shape[1] % 2:
        raise ValueError(f"{path} needs frames of even height and width, got {frames[0].shape if frames else 'none'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    try:
        # An absolute path: in a relative one FFmpeg takes what stands before a colon for a protocol.
        with av.open(os.path.abspath(temporary), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _episode(
    policy: Policy,
    world: World,
    detector: SuccessDetector,
    real: RobosuiteEnv,
    seed: int,
    device: str | torch.device,
) -> list[np.ndarray]:
    model, chunk_length = world.model, policy.chunk_length
    noise = rollout_noise(model, 1, real.max_chunks, torch.Generator().manual_seed(seed))
    frame, _ = real.reset(seed=seed)
    imagined = _state(model, real, frame, device)
    dream_success = real_success = False
    sheets: list[np.ndarray] = []

    def show(step: int, left: str = "dream", right: str = "simulator") -> None:
        footer = f"{policy.method}, seed {seed}, step {step}/{real.max_chunks * chunk_length}"
        sheets.append(compose(model.decode(imagined)[0].cpu().numpy(), frame, left, right, footer))

    show(0)
    step = 0
    for chunk in range(real.max_chunks):
        action = policy.act(_state(model, real, frame, device), torch.tensor([chunk], device=device))
        actions = action.view(1, chunk_length, policy.action_dim)
        of_chunk = None if noise is None else noise[:, chunk].to(device)
        start = imagined
        for k in range(1, chunk_length + 1):
            real.control_step(actions[0, k - 1].cpu().numpy())
            frame = real.render_frame()
            imagined = model.predict(start, actions[:, :k], of_chunk).features
            step += 1
            show(step)
        dream_success = dream_success or bool(detector.imagined_success(imagined, model.name)[0])
        real_success = real.is_success()
        if real_success:
            break
    words = {True: "success", False: "no success"}
    show(step, f"dream: {words[dream_success]}", f"simulator: {words[real_success]}")
    return sheets


def _state(model: WorldModel, real: RobosuiteEnv, frame: np.ndarray, device: str | torch.device) -> torch.Tensor:
    """The simulator's present state ``(1, L, C)`` in the world's features."""
    proprioception = torch.from_numpy(real.proprioception())[None].to(device) if model.proprioception_dim else None
    return model.encode(torch.from_numpy(frame)[None].to(device), proprioception)


def compose(left: np.ndarray, right: np.ndarray, left_label: str, right_label: str, footer: str) -> np.ndarray:
    """Two (H, W, 3) uint8 pictures of any size as one labelled sheet (464, 768, 3) uint8."""
    sheet = Image.new("RGB", (2 * _PANEL, _PANEL + 2 * _BAR), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(20)
    for column, (picture, label) in enumerate(((left, left_label), (right, right_label))):
        panel = Image.fromarray(picture).resize((_PANEL, _PANEL), Image.Resampling.BICUBIC)
        sheet.paste(panel, (column * _PANEL, _BAR))
        draw.text((column * _PANEL + _PANEL // 2, _BAR // 2), label, fill="black", font=font, anchor="mm")
    draw.text((_PANEL, _PANEL + _BAR + _BAR // 2), footer, fill="black", font=font, anchor="mm")
    return np.asarray(sheet)
