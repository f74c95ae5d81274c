"""Frames decoded and features encoded once, and the windows that training draws from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import tiny_config
from tests.synthetic_dataset import write_moving_square
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import cache_features, cache_frames, episode_offsets, proprioception_of
from world_models.data.windows import Windows
from world_models.encoders.features import FeatureEncoder
from world_models.encoders.state import StateEncoder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    return write_moving_square(tmp_path_factory.mktemp("data"))


def test_cache_is_keyed_by_data_and_encoder(dataset: EpisodeDataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = StateEncoder(FeatureEncoder(tiny_config().encoder), proprioception=2)
    features = cache_features(dataset, encoder, tmp_path)
    assert features.shape == (dataset.num_frames, 17, 8)
    assert features.dtype == np.float16
    frames, values = cache_frames(dataset, tmp_path), proprioception_of(dataset, 0)[3:5]
    np.testing.assert_allclose(
        features[3:5],
        encoder(torch.from_numpy(frames[3:5]), values).numpy(),
        atol=5e-3,
        rtol=5e-3,
    )
    files = set(tmp_path.glob("features-*"))
    with torch.no_grad():
        encoder.visual.mean.add_(1)
    shifted = cache_features(dataset, encoder, tmp_path)
    assert len(set(tmp_path.glob("features-*")) - files) == 1
    assert abs(float(shifted.astype(np.float32).mean() - features.astype(np.float32).mean())) > 0.5


def test_an_interrupted_cache_goes_on(dataset: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.array(cache_frames(dataset, tmp_path / "whole"))
    decode, calls = EpisodeDataset.frames, []

    def failing(self: EpisodeDataset, index: int) -> np.ndarray:
        calls.append(index)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return decode(self, index)

    monkeypatch.setattr(EpisodeDataset, "frames", failing)
    with pytest.raises(KeyboardInterrupt):
        cache_frames(dataset, tmp_path / "broken")
    assert not list((tmp_path / "broken").glob("*.npy"))
    assert np.array_equal(cache_frames(dataset, tmp_path / "broken"), whole)


def test_a_grown_dataset_decodes_and_encodes_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = StateEncoder(FeatureEncoder(tiny_config().encoder), proprioception=2)
    first = write_moving_square(tmp_path / "first", episodes=3)
    grown = write_moving_square(tmp_path / "grown", episodes=5)
    assert grown.fingerprints()[2] == first.fingerprint()
    whole = np.array(cache_features(grown, encoder, tmp_path / "whole"))
    cache_features(first, encoder, tmp_path / "cache")

    decode, decoded = EpisodeDataset.frames, []

    def watched(self: EpisodeDataset, index: int) -> np.ndarray:
        decoded.append(index)
        return decode(self, index)

    monkeypatch.setattr(EpisodeDataset, "frames", watched)
    np.testing.assert_array_equal(cache_features(grown, encoder, tmp_path / "cache"), whole)
    assert decoded == [3, 4]


def test_windows_stay_inside_their_episode(dataset: EpisodeDataset) -> None:
    offsets = episode_offsets(dataset.lengths)
    # Each frame's feature is its own number, so a sample tells where it came from.
    features = torch.arange(dataset.num_frames).view(-1, 1, 1).float().half().expand(-1, 16, 8)
    actions = torch.arange(dataset.num_frames).view(-1, 1).float().expand(-1, 4)
    windows = Windows.over(features, actions, offsets, dataset.split("train"))
    states, later, chunk, lengths = windows.sample(512, 8, torch.Generator().manual_seed(0))
    first, last = states[:, 0, 0].long(), later[:, 0, 0].long()
    assert torch.equal(last - first, lengths)
    assert lengths.min() >= 1
    assert lengths.max() == 8
    episode = np.searchsorted(offsets, first.numpy(), side="right") - 1
    assert np.array_equal(episode, np.searchsorted(offsets, last.numpy(), side="right") - 1)
    assert set(episode) <= set(dataset.split("train"))
    for row in range(20):
        n = int(lengths[row])
        assert torch.equal(chunk[row, :n, 0].long(), torch.arange(int(first[row]), int(first[row]) + n))
        assert chunk[row, n:].eq(0).all()
    for share in (0.0, 0.5):
        windows = Windows.over(features, actions, offsets, dataset.split("train"), first_share=share)
        begins = windows.sample(512, 8, torch.Generator().manual_seed(0))[0][:, 0, 0].long().numpy()
        among_all = 1 / (offsets[1] - offsets[0] - 1)
        assert np.isin(begins, offsets).mean() == pytest.approx(share + (1 - share) * among_all, abs=0.06)


def test_windows_are_drawn_from_many_starts_by_their_chances() -> None:
    many = 2**24 + 8  # more than torch.multinomial takes: 233 hours at 20 frames a second
    weights = torch.zeros(many)
    weights[[5, many - 2, many - 1]] = torch.tensor([0.25, 0.25, 0.5])
    remaining = torch.ones(many, dtype=torch.int64)
    remaining[many - 1] = 3
    windows = Windows(torch.zeros(1), torch.zeros(1), torch.arange(many), remaining, weights, longest_rollout=9)
    drawn = windows.draw(4000, torch.Generator().manual_seed(0))
    rows, counts = drawn.unique(return_counts=True)
    assert rows.tolist() == [5, many - 2, many - 1]
    np.testing.assert_allclose(counts / 4000, [0.25, 0.25, 0.5], atol=0.03)
    assert windows.draw(9, torch.Generator(), span=3).unique().tolist() == [many - 1]


def test_runs_of_chunks_are_whole(dataset: EpisodeDataset) -> None:
    offsets = episode_offsets(dataset.lengths)
    features = torch.arange(dataset.num_frames).view(-1, 1, 1).float().half().expand(-1, 16, 8)
    actions = torch.arange(dataset.num_frames).view(-1, 1).float().expand(-1, 4)
    windows = Windows.over(features, actions, offsets, dataset.split("train"))
    states, run, later = windows.sample_sequence(64, 4, 3, torch.Generator().manual_seed(0))
    assert run.shape == (64, 3, 4, 4)
    first = states[:, 0, 0].long()
    assert torch.equal(run[..., 0].flatten(1).long(), first[:, None] + torch.arange(12))
    assert torch.equal(later[:, :, 0, 0].long(), first[:, None] + torch.tensor([4, 8, 12]))
    assert bool((first % 24 + 12 < 24).all())
    with pytest.raises(ValueError, match="no episode has 40 frames"):
        windows.sample_sequence(1, 8, 5, torch.Generator())
