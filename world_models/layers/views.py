"""Several cameras as one wide picture: their views, all squares, side by side from left to right."""

from __future__ import annotations

from torch import Tensor


def split_views(frames: Tensor, views: int) -> Tensor:
    """Wide frames ``(B, H, V*W, 3)`` to single views ``(B*V, H, W, 3)``; the views of a frame follow one another.

    Raises:
        ValueError: their width is no multiple of the views.
    """
    if views == 1:
        return frames
    width = frames.shape[2]
    if width % views:
        raise ValueError(
            f"frames have shape {tuple(frames.shape)}; this world sees {views} cameras side by side: give frames of "
            f"{views} pictures of one size, laid in a row"
        )
    return frames.unflatten(2, (views, width // views)).transpose(1, 2).flatten(0, 1)


def join_views(frames: Tensor, views: int) -> Tensor:
    """The inverse of :func:`split_views`."""
    return frames if views == 1 else frames.unflatten(0, (-1, views)).transpose(1, 2).flatten(2, 3)
