"""Scores of whole episodes: independent of speed, one of order too, and never better than a demonstration itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.episode_alignment import frame_distances, transport_score, warping_score
from world_models.data.demonstrations import Demonstrations

SHAPE = (4, 3)


@pytest.fixture
def demonstrations() -> Demonstrations:
    """Two of different lengths, along different ways."""
    torch.manual_seed(0)
    features = [torch.linspace(0, 1, n)[:, None, None] * 4 * torch.randn(1, *SHAPE) for n in (9, 17)]
    return Demonstrations.stack(features, [torch.zeros(len(part), 4) for part in features])


def scores(episodes: Tensor, demonstrations: Demonstrations, stride: int = 1) -> tuple[Tensor, Tensor]:
    distances = frame_distances(episodes, demonstrations, stride)
    return warping_score(*distances), transport_score(*distances)


def test_distances_are_token_l1_up_to_each_end(demonstrations: Demonstrations) -> None:
    distances, inside = frame_distances(torch.randn(5, 3, *SHAPE), demonstrations, 8)
    assert distances.shape == (5, 2, 3, 3)
    assert inside.tolist() == [[True, True, False], [True, True, True]]
    state = demonstrations.features[1, 16].float()
    distances, _ = frame_distances(state[None, None], demonstrations, 8)
    assert float(distances[0, 1, 0, 2]) == 0
    torch.testing.assert_close(distances[0, 0, 0, 1], (state - demonstrations.features[0, 8].float()).abs().mean())


@pytest.mark.parametrize("speed", [1, 2, 4])
def test_a_demonstration_at_any_speed_is_better_than_one_that_stops_halfway(
    demonstrations: Demonstrations, speed: int
) -> None:
    whole = demonstrations.features[1:, ::speed].float()
    halfway = demonstrations.features[1:, (torch.arange(whole.shape[1]) * speed).clamp_max(8)].float()
    for score in scores(torch.cat([whole, halfway]), demonstrations):
        assert score[0] > score[1]
        assert score[0] <= 0


def test_the_nearest_demonstration_counts(demonstrations: Demonstrations) -> None:
    itself = demonstrations.features[:1, :9].float()
    warping, transport = scores(itself, demonstrations)
    assert float(warping) == 0
    assert float(transport) == pytest.approx(0, abs=0.02)


def test_order_matters_to_warping_alone(demonstrations: Demonstrations) -> None:
    forward = demonstrations.features[1:, :17].float()
    warping, transport = scores(torch.cat([forward, forward.flip(1)]), demonstrations)
    assert warping[0] > warping[1] + 0.1
    torch.testing.assert_close(transport[0], transport[1], atol=1e-4, rtol=0)
