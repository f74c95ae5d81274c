"""Animated previews in TensorBoard, without a video encoder."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter


def add_animation(writer: SummaryWriter, tag: str, frames: np.ndarray, step: int, *, fps: float = 4.0) -> None:
    """Write frames ``(T, H, W, 3)`` uint8 as an animated GIF, which TensorBoard plays among its images."""
    pictures = [Image.fromarray(frame) for frame in frames]
    stream = io.BytesIO()
    pictures[0].save(stream, "GIF", save_all=True, append_images=pictures[1:], duration=int(1000 / fps), loop=0)
    height, width = frames.shape[1:3]
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=stream.getvalue())
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
