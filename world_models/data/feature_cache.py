"""Frames decoded once and features encoded once: memory-mapped arrays that cannot go stale silently."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from world_models.data.array_file import ArrayFile
from world_models.data.column_names import STATE_COLUMNS
from world_models.distributed.ray_map import ray_map
from world_models.encoders.proprioception import with_change
from world_models.encoders.state import StateEncoder

if TYPE_CHECKING:
    from world_models.data.episodes import EpisodeDataset


CPU_BATCH = 16
"""Frames that a CPU encodes at once. Maps of more are so large that each is memory fresh from the kernel, which takes a
third of the time (125 against 216 frames a second on one core, EfficientNet-Lite0 at 128 px)."""
PROPRIOCEPTION = STATE_COLUMNS[0]
"""LeRobot's name of the column with proprioception, by which it is read whatever it is called on disk."""


def episode_offsets(lengths: np.ndarray) -> np.ndarray:
    """First frame of each episode in the concatenation of all, and the total: ``(N + 1,)`` int64."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def cache_frames(dataset: EpisodeDataset, folder: Path) -> np.ndarray:
    """All frames of a dataset as one memory-mapped array ``(F, H, W, 3)`` uint8, decoded once.

    The file's name carries the dataset's fingerprint; an interrupted decoding goes on where it stopped, and that of a
    dataset that has grown where it ended before. Of several processes one decodes, and the others wait.

    Raises:
        FileNotFoundError, ValueError: rows or videos are not as they must be, see :meth:`EpisodeDataset.check`.
        OSError: the folder cannot be written, or has no room.
    """
    dataset.check()

    def decoded(first: int) -> Iterator[np.ndarray]:
        return map(dataset.frames, range(first, len(dataset)))

    names = [f"frames-{fingerprint}.npy" for fingerprint in dataset.fingerprints()]
    files = _files(dataset, folder, names, (*dataset.image_size, 3), np.uint8)
    return files[-1].fill(decoded, "decode frames", "frame", files[:-1])


def frame_file(dataset: EpisodeDataset, folder: Path, fingerprint: str) -> ArrayFile:
    """The file of :func:`cache_frames`, of a dataset with this fingerprint."""
    offsets = episode_offsets(dataset.lengths)
    return ArrayFile(Path(folder) / f"frames-{fingerprint}.npy", offsets, (*dataset.image_size, 3), np.uint8)


def cache_features(
    dataset: EpisodeDataset, encoder: StateEncoder, folder: Path, *, batch_size: int = 128, ray: bool = False
) -> np.ndarray:
    """States of all frames as one memory-mapped array ``(F, L, C)`` float16, encoded once.

    The file's name carries the fingerprints of the data and of the encoder's weights, so that neither can change
    under a cache. An interrupted pass goes on where it stopped, and that of a dataset that has grown where it ended
    before.

    Args:
        dataset: the episodes.
        encoder: encodes on its device.
        folder: of the files.
        batch_size: frames encoded at once on a GPU; a CPU takes :data:`CPU_BATCH`.
        ray: encode on a Ray cluster, on its GPUs if the encoder is on one; this process decodes and writes.

    Raises:
        FileNotFoundError, ValueError: rows or videos are not as they must be, or the encoder takes proprioception that
            the dataset does not have.
        OSError: the folder cannot be written, or has no room.
    """
    if encoder.proprioception_dim:
        check_proprioception(dataset, encoder.proprioception_dim // 2)
    frames = cache_frames(dataset, folder)
    names = [f"features-{fingerprint}-{encoder.fingerprint()}.npy" for fingerprint in dataset.fingerprints()]
    files = _files(dataset, folder, names, (encoder.num_tokens, encoder.channels), np.float16)

    def episodes(first: int) -> Iterator[EncodableEpisode]:
        offsets = episode_offsets(dataset.lengths)
        for index in range(first, len(dataset)):
            values = proprioception_of(dataset, index) if encoder.proprioception_dim else None
            yield np.array(frames[offsets[index] : offsets[index + 1]]), values

    def encoded(first: int) -> Iterator[np.ndarray]:
        if not ray:
            return encode_episodes(encoder, episodes(first), batch_size)
        on_gpu = encoder.device.type == "cuda"
        encode = partial(_EpisodeEncoder, deepcopy(encoder).cpu(), batch_size, on_gpu)
        return ray_map(encode, episodes(first), gpus=on_gpu)

    return files[-1].fill(encoded, "encode features", "frame", files[:-1])


EncodableEpisode = tuple[np.ndarray, Tensor | None]
"""Frames ``(T, H, W, 3)`` uint8 of an episode, and its proprioception ``(T, R)`` where a world takes it."""


def encode_episodes(
    encoder: StateEncoder, episodes: Iterable[EncodableEpisode], batch_size: int = 128
) -> Iterator[np.ndarray]:
    """States ``(T, L, C)`` float16 of one episode after the other.

    A CPU encodes an episode on each core: small convolutions share the work on one badly.

    Args:
        encoder: encodes on its device.
        episodes: what to encode.
        batch_size: frames encoded at once on a GPU; a CPU takes :data:`CPU_BATCH`.
    """
    encode = _EpisodeEncoder(encoder, batch_size)
    if encoder.device.type != "cpu":
        yield from map(encode, episodes)
        return
    threads = torch.get_num_threads()
    pending: deque[Future[np.ndarray]] = deque()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for episode in episodes:
                pending.append(pool.submit(encode, episode))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
    finally:
        torch.set_num_threads(threads)


class _EpisodeEncoder:
    """Encodes the frames of one episode after the other."""

    def __init__(self, encoder: StateEncoder, batch_size: int, on_gpu: bool = False) -> None:
        self._encoder = encoder.to("cuda") if on_gpu else encoder
        self._batch_size = min(batch_size, CPU_BATCH) if self._encoder.device.type == "cpu" else batch_size

    @torch.inference_mode()
    def __call__(self, episode: EncodableEpisode) -> np.ndarray:
        """States ``(T, L, C)`` float16."""
        frames, values = episode
        batches = torch.from_numpy(frames).split(self._batch_size)
        parts = [None] * len(batches) if values is None else values.split(self._batch_size)
        encoder = self._encoder
        states = [encoder(batch.to(encoder.device), part).cpu() for batch, part in zip(batches, parts, strict=True)]
        return torch.cat(states).half().numpy()


def all_actions(dataset: EpisodeDataset) -> np.ndarray:
    """Actions ``(F, A)`` of all frames."""
    return np.concatenate([dataset.episode(index, ()).actions for index in range(len(dataset))])


def check_proprioception(dataset: EpisodeDataset, count: int) -> None:
    """Raise ValueError unless a dataset has so many finite proprioceptive values in every row."""
    if PROPRIOCEPTION not in dataset.columns:
        raise ValueError(
            f"{dataset.root} has no column {PROPRIOCEPTION}, so this world's states cannot be made of it; "
            "train one with --no-proprioception"
        )
    shape = dataset.columns[PROPRIOCEPTION]
    if np.prod(shape, dtype=np.int64) != count:
        raise ValueError(
            f"{dataset.root} has {PROPRIOCEPTION} of shape {list(shape)}, and this world's states take {count} values: "
            "use a dataset of the same robot, or train a world on this one"
        )
    dataset.check((PROPRIOCEPTION,))


def proprioception_of(dataset: EpisodeDataset, index: int) -> Tensor:
    """Proprioception of an episode with its change, ``(T, 2 P)`` float32, of a dataset that has it."""
    values = torch.from_numpy(dataset.episode(index, (PROPRIOCEPTION,)).columns[PROPRIOCEPTION]).float().flatten(1)
    return with_change(values, torch.arange(len(values)) == 0)


def _files(
    dataset: EpisodeDataset, folder: Path, names: list[str], row_shape: tuple[int, ...], dtype: type
) -> list[ArrayFile]:
    """Files of the first episode, of the first two and so on, by their names."""
    offsets = episode_offsets(dataset.lengths)
    return [
        ArrayFile(Path(folder) / name, offsets[: count + 1], row_shape, dtype) for count, name in enumerate(names, 1)
    ]
