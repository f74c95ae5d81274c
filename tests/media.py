"""Reading back pictures and videos that commands wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def picture_width(path: Path) -> int:
    """Width in pixels of a PNG that opens and is not of one colour alone."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert np.ptp(np.asarray(picture.convert("L"))) > 0
        return picture.width


def video_shapes(path: Path) -> list[tuple[int, ...]]:
    """Shape ``(H, W, 3)`` of every frame of a video."""
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").shape for frame in container.decode(video=0)]
