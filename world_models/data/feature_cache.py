"""Frames decoded once and features encoded once: memory-mapped arrays that cannot go stale silently."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from world_models.checkpoint import save_json
from world_models.proprioception import with_change
from world_models.ray_map import ray_map
from world_models.state import StateEncoder

if TYPE_CHECKING:
    from world_models.data.episodes import EpisodeDataset


CPU_BATCH = 16
"""Frames that a CPU encodes at once. Maps of more are so large that each is memory fresh from the kernel, which takes a
third of the time (125 against 216 frames a second on one core, EfficientNet-Lite0 at 128 px)."""
MOST_CHUNKS = 9
"""Longest roll-outs that training and calibration ask for: an episode of the longest task."""
PROPRIOCEPTION = "observation.state"
"""LeRobot's name of the column with the robot's own senses."""


def episode_offsets(lengths: np.ndarray) -> np.ndarray:
    """First frame of each episode in the concatenation of all, and the total: ``(N + 1,)`` int64."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def cache_frames(dataset: EpisodeDataset, folder: Path) -> np.ndarray:
    """All frames of a dataset as one memory-mapped array ``(F, H, W, 3)`` uint8, decoded once.

    The file's name carries the dataset's fingerprint; an interrupted decoding goes on where it stopped, and that of a
    dataset that has grown where it ended before.
    """
    height, width = dataset.image_size
    paths = [Path(folder) / f"frames-{fingerprint}.npy" for fingerprint in dataset.fingerprints()]
    shape = (dataset.num_frames, height, width, 3)

    def decoded(first: int) -> Iterator[np.ndarray]:
        return map(dataset.frames, range(first, len(dataset)))

    return _fill(paths, shape, np.uint8, dataset, "decode frames", decoded)


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
    """
    frames = cache_frames(dataset, folder)
    names = [f"features-{fingerprint}-{encoder.fingerprint()}.npy" for fingerprint in dataset.fingerprints()]
    paths = [Path(folder) / name for name in names]
    shape = (dataset.num_frames, encoder.num_tokens, encoder.channels)

    def episodes(first: int) -> Iterator[EncodableEpisode]:
        offsets = episode_offsets(dataset.lengths)
        for index in range(first, len(dataset)):
            sensed = readings(dataset, index) if encoder.readings else None
            yield np.array(frames[offsets[index] : offsets[index + 1]]), sensed

    def encoded(first: int) -> Iterator[np.ndarray]:
        if not ray:
            return encode_episodes(encoder, episodes(first), batch_size)
        on_gpu = encoder.device.type == "cuda"
        encode = partial(_EpisodeEncoder, deepcopy(encoder).cpu(), batch_size, on_gpu)
        return ray_map(encode, episodes(first), gpus=on_gpu)

    return _fill(paths, shape, np.float16, dataset, "encode features", encoded)


EncodableEpisode = tuple[np.ndarray, Tensor | None]
"""Frames ``(T, H, W, 3)`` uint8 of an episode, and its readings ``(T, R)`` where a world has such."""


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
        frames, sensed = episode
        batches = torch.from_numpy(frames).split(self._batch_size)
        parts = [None] * len(batches) if sensed is None else sensed.split(self._batch_size)
        encoder = self._encoder
        states = [encoder(batch.to(encoder.device), part).cpu() for batch, part in zip(batches, parts, strict=True)]
        return torch.cat(states).half().numpy()


def all_actions(dataset: EpisodeDataset) -> np.ndarray:
    """Actions ``(F, A)`` of all frames."""
    return np.concatenate([dataset.episode(index).actions for index in range(len(dataset))])


def readings(dataset: EpisodeDataset, index: int) -> Tensor:
    """Proprioceptive readings of an episode with their change, ``(T, 2 P)`` float32.

    Raises:
        ValueError: the dataset has no column ``observation.state``.
    """
    columns = dataset.episode(index).columns
    if PROPRIOCEPTION not in columns:
        raise ValueError(
            f"{dataset.root} has no column {PROPRIOCEPTION}, so this world's states cannot be made of it; "
            "train one with --no-proprioception"
        )
    values = torch.from_numpy(columns[PROPRIOCEPTION]).float().flatten(1)
    return with_change(values, torch.arange(len(values)) == 0)


def _fill(
    paths: list[Path],
    shape: tuple[int, ...],
    dtype: type,
    dataset: EpisodeDataset,
    title: str,
    made: Callable[[int], Iterator[np.ndarray]],
) -> np.ndarray:
    """Fill an array episode by episode under a temporary name; the finished file alone has the right name.

    ``paths`` name the arrays of the first episode, of the first two and so on; the last one is what is asked for.
    ``made`` gives the rows of one episode after the other, from the one with this number on.
    """
    path = paths[-1]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, progress = path.with_suffix(".partial"), path.with_suffix(".progress")
        done = int(progress.read_text()) if partial.is_file() and progress.is_file() else 0
        array = np.lib.format.open_memmap(partial, "r+" if done else "w+", dtype, shape)
        offsets = episode_offsets(dataset.lengths)
        before = next((count for count in range(len(paths), done, -1) if paths[count - 1].is_file()), done)
        if before > done:
            array[: offsets[before]] = np.load(paths[before - 1], mmap_mode="r")
            done = before
        with tqdm(total=shape[0], initial=int(offsets[done]), desc=title, unit="frame") as bar:
            for index, rows in enumerate(made(done), start=done):
                span = slice(int(offsets[index]), int(offsets[index + 1]))
                array[span] = rows
                bar.update(span.stop - span.start)
                if index % 50 == 49:
                    array.flush()
                    save_json(progress, index + 1)
        array.flush()
        del array
        partial.replace(path)
        progress.unlink(missing_ok=True)
    return np.load(path, mmap_mode="c")


@dataclass(frozen=True)
class Windows:
    """Training windows over cached features: pairs of states some frames apart, with the actions between.

    Attributes:
        features: ``(F, L, C)`` float16 of all frames, on the training device, or memory-mapped where they do not fit.
        actions: ``(F, A)`` float32 of all frames, on the training device, where samples are given.
        starts: ``(M,)`` int64, frames at which a window may start.
        remaining: ``(M,)`` int64, frames between a start and the end of its episode, at least 1.
        weights: ``(M,)`` float32, chance of each start, on the CPU.
    """

    features: Tensor
    actions: Tensor
    starts: Tensor
    remaining: Tensor
    weights: Tensor
    _cumulative: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def over(
        cls,
        features: Tensor,
        actions: Tensor,
        offsets: np.ndarray,
        episodes: np.ndarray,
        *,
        motion_share: float = 0.7,
        first_share: float = 0.15,
    ) -> Windows:
        """Windows inside some episodes, drawn in proportion to motion for ``motion_share`` of the time.

        Most frames of a robot video show no contact (arXiv 2605.07079 trains on interaction 90 % of the time).

        Args:
            features: ``(F, L, C)``.
            actions: ``(F, A)``.
            offsets: ``(N + 1,)`` first frame of each episode.
            episodes: indices of the episodes to draw from.
            motion_share: 0 draws uniformly.
            first_share: part of the windows that start at an episode's first frame. Dreams begin there, and what is
                lost in the first chunk stays lost.
        """
        spans = [(int(offsets[index]), int(offsets[index + 1])) for index in episodes]
        starts = torch.cat([torch.arange(first, last - 1) for first, last in spans])
        remaining = torch.cat([torch.arange(last - 1 - first, 0, -1) for first, last in spans])
        weights = torch.full((len(starts),), 1 / len(starts))
        if motion_share:
            weights = _motion_weights(features, starts, remaining, motion_share)
        first = torch.isin(starts, torch.tensor([span[0] for span in spans]))
        weights = (1 - first_share) * weights + first_share * first / first.sum()
        return cls(features, actions, starts, remaining, weights)

    def longest_run(self, horizon: int) -> int:
        """Chunks of ``horizon`` frames that the longest episode holds, at most :data:`MOST_CHUNKS`."""
        return min(MOST_CHUNKS, int(self.remaining.max()) // horizon)

    def draw(self, count: int, generator: torch.Generator, span: int = 1) -> Tensor:
        """Rows ``(count,)`` int64 of :attr:`starts` by their chances, of those with ``span`` frames after them.

        Raises:
            ValueError: there is none.
        """
        if span not in self._cumulative:
            # torch.multinomial would do the same, for up to 2^24 starts.
            self._cumulative[span] = (self.weights.double() * (self.remaining >= span)).cumsum(0)
        cumulative = self._cumulative[span]
        if not cumulative[-1] > 0:
            raise ValueError(f"no episode has {span} frames after one; train on longer episodes, or shorter chunks")
        drawn = torch.rand(count, dtype=torch.float64, generator=generator) * cumulative[-1]
        return torch.searchsorted(cumulative, drawn, right=True)

    def sample_sequence(
        self, batch: int, horizon: int, chunks: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw runs of several full chunks.

        Args:
            batch: runs B.
            horizon: frames H in a chunk.
            chunks: chunks M in a run.
            generator: source of randomness, on the CPU.

        Returns:
            First states ``(B, L, C)`` float32, actions ``(B, M, H, A)``, states after each chunk ``(B, M, L, C)``.

        Raises:
            ValueError: no episode is that long.
        """
        span = chunks * horizon
        first = self.starts[self.draw(batch, generator, span)]
        frames = (first[:, None] + torch.arange(span)).view(batch, chunks, horizon)
        after = first[:, None] + horizon * torch.arange(1, chunks + 1)
        return self._states(first), self.actions[frames.to(self.actions.device)], self._states(after)

    def sample(
        self, batch: int, horizon: int, generator: torch.Generator, *, full_share: float = 0.5
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw windows.

        Args:
            batch: windows B.
            horizon: most frames H between the two states.
            generator: source of randomness, on the CPU.
            full_share: part of the windows with exactly ``horizon`` frames; the others are uniform in 1..H.

        Returns:
            states ``(B, L, C)`` float32, later states ``(B, L, C)`` float32, actions ``(B, H, A)`` zero past the
            window, frames between the states ``(B,)`` int64.
        """
        row = self.draw(batch, generator)
        drawn = torch.randint(1, horizon + 1, (batch,), generator=generator)
        full = torch.rand(batch, generator=generator) < full_share
        lengths = torch.minimum(torch.where(full, horizon, drawn), self.remaining[row])
        first = self.starts[row]
        steps = torch.arange(horizon)
        inside = steps < lengths[:, None]
        frames = torch.where(inside, first[:, None] + steps, first[:, None])
        device = self.actions.device
        actions = self.actions[frames.to(device)] * inside[..., None].to(device)
        return self._states(first), self._states(first + lengths), actions, lengths.to(device)

    def _states(self, frames: Tensor) -> Tensor:
        """States ``(..., L, C)`` float32 of frames ``(...)``, on the training device."""
        return self.features[frames.to(self.features.device)].to(self.actions.device).float()


def _motion_weights(features: Tensor, starts: Tensor, remaining: Tensor, share: float) -> Tensor:
    """Chances ``(M,)`` of starts, in proportion to motion for a share of them, on the CPU."""
    later = starts + remaining.clamp_max(8)
    # The tokens that move most say whether something happens; a mean over all tokens would follow the arm alone.
    most = min(8, features.shape[1])
    motion = torch.cat(
        [
            (features[b].float() - features[a].float()).abs().mean(-1).topk(most).values.mean(-1)
            for a, b in zip(starts.split(2048), later.split(2048), strict=True)
        ]
    )
    # On the CPU, like the generator: the same seed draws the same windows on every device.
    weights = ((1 - share) + share * motion / motion.mean()).cpu()
    return weights / weights.sum()
