"""Whether two recorded datasets hold the same: every byte of the files, and the videos' pixels up to rounding."""

from __future__ import annotations

import numpy as np

from world_models.data.episodes import EpisodeDataset

VIDEO_LEVELS = 16
"""x264, although with one thread, now and then encodes the very same frames a little otherwise (one small video in some
hundred, more often on a busy machine; seen with PyAV 18.1). Decoded, such videos differ by up to 4 of 255 levels or a
little more, another frame by far more than this."""


def assert_same_dataset(one: EpisodeDataset, other: EpisodeDataset, *, but: tuple[str, ...] = ()) -> None:
    """Raises AssertionError where the files of two datasets differ; those named in ``but`` are not compared."""
    files = [
        sorted(path.relative_to(dataset.root) for path in dataset.root.rglob("*.*") if path.is_file())
        for dataset in (one, other)
    ]
    assert files[0] == files[1]
    for path in files[0]:
        if path.suffix != ".mp4" and path.name not in but:
            assert (one.root / path).read_bytes() == (other.root / path).read_bytes(), path
    assert any(path.suffix == ".mp4" for path in files[0])
    for index in range(len(one)):
        apart = np.abs(one.frames(index).astype(int) - other.frames(index).astype(int))
        assert apart.max() <= VIDEO_LEVELS, f"episode {index}"
