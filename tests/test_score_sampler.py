"""The sampler around a regression: its draws follow the chances of what may come, and it trains by a proper score."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import tiny_config
from tests.synthetic_dataset import write_moving_square
from tests.two_futures import CHANNELS, LEFT, SIDE, Crossing, train
from world_models.config import WorldConfig
from world_models.encoders.features import EncoderConfig
from world_models.heads.rgb_decoder import RGBDecoderConfig
from world_models.io import load_model
from world_models.mixer.dynamics import RegressionWorldModel
from world_models.mixer.regression import MixerRegression, RegressionConfig
from world_models.mixer.score_sampler import ScoreSampler, ScoreSamplerConfig, energy_score
from world_models.training.optimisation import OptimisationConfig
from world_models.training.train import TrainConfig
from world_models.training.train import train as train_world


@pytest.fixture(scope="module")
def trained() -> tuple[Crossing, MixerRegression, ScoreSampler]:
    torch.manual_seed(0)
    world, generator = Crossing(), torch.Generator().manual_seed(1)
    regression = MixerRegression(RegressionConfig(width=32, depth=2), SIDE * SIDE, CHANNELS, 2)
    sizes = ScoreSamplerConfig(width=32, depth=2, noise=4, lasting=2)
    sampler = ScoreSampler(sizes, regression.config, SIDE * SIDE, CHANNELS, 2)

    def regress() -> Tensor:
        states, actions, later, _ = world.sample(64, generator)
        return regression.loss(regression(states, actions), states, later)

    def score() -> Tensor:
        states, actions, later, _ = world.sample(64, generator)
        noise = torch.randn(64, 4, 4, generator=generator)
        return sampler.loss(states, actions, later, noise)

    train(regression, regress, 200)
    sampler.base.load_state_dict(regression.state_dict())
    train(sampler, score, 400)
    return world, regression, sampler


def draws_of(trained: tuple[Crossing, MixerRegression, ScoreSampler], count: int, seed: int) -> tuple[Tensor, ...]:
    world, _, sampler = trained
    generator = torch.Generator().manual_seed(seed)
    states, actions, later, row = world.sample(count, generator)
    noise = torch.randn(count, 8, 4, generator=generator)
    return states[:, None] + sampler(states, actions, noise).change, later, row


def test_draws_fall_into_both_futures_in_their_shares(trained) -> None:
    draws, _, row = draws_of(trained, 500, seed=2)
    left, right = (trained[0].states(row, torch.full_like(row, column)) for column in (0, 2))
    gap = (left - right).abs().mean(dim=(1, 2))[:, None]
    to_left, to_right = ((draws - future[:, None]).abs().mean(dim=(2, 3)) / gap for future in (left, right))
    # A pass is continuous in its noise and cannot jump: some draws lie between the two.
    assert float((torch.minimum(to_left, to_right) > 0.25).float().mean()) < 0.2
    assert float((to_left < to_right).float().mean()) == pytest.approx(LEFT, abs=0.08)


def test_draws_score_better_than_the_regression_that_they_are_around(trained) -> None:
    draws, later, _ = draws_of(trained, 300, seed=3)
    world, regression, _ = trained
    states, actions, _, _ = world.sample(300, torch.Generator().manual_seed(3))
    single = (states + regression(states, actions).residual)[:, None].expand(-1, 2, -1, -1)
    assert float(energy_score(draws, later)) < 0.75 * float(energy_score(single, later))


def test_the_energy_score_prefers_the_true_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(2000, 3, 2, generator=generator)
    scores = {
        scale: float(energy_score(scale * torch.randn(2000, 6, 3, 2, generator=generator), truth))
        for scale in (0.1, 0.6, 1.0, 1.6)
    }
    assert min(scores, key=scores.__getitem__) == 1.0


def test_training_adds_it_to_a_world_and_leaves_the_regression(tmp_path: Path) -> None:
    write_moving_square(tmp_path / "data")
    sizes: WorldConfig = tiny_config()
    few = OptimisationConfig(3, batch_size=4, warmup=1, validate_every=10, bf16=False)
    none = replace(few, iterations=0)
    encoder = EncoderConfig(
        "vit_tiny_patch16_224", dict(sizes.encoder.backbone_arguments), 32, pretrained=False, channels=8
    )
    config = TrainConfig(
        tmp_path / "data", tmp_path / "first", threads=1, demonstrations=2, dynamics=("regression",), encoder=encoder,
        regression=RegressionConfig(16, 1), rgb_decoder=RGBDecoderConfig(16), regression_optimisation=few,
        rgb_optimisation=few, error_optimisation=few, device="cpu",
    )  # fmt: skip
    config = replace(config, distillation=replace(config.distillation, optimisation=few))
    train_world(config)
    with pytest.raises(ValueError, match="pass --dynamics regression score_sampler"):
        train_world(replace(config, out=tmp_path / "wrong", dynamics=("score_sampler",)))
    metrics = train_world(
        replace(
            config, out=tmp_path / "second", start_from=str(tmp_path / "first"),
            dynamics=("regression", "score_sampler"),
            score_sampler=ScoreSamplerConfig(16, 1, noise=4, lasting=2), score_sampler_optimisation=few,
            regression_optimisation=none, rgb_optimisation=none,
        )
    )  # fmt: skip
    assert metrics["score_sampler"]["energy_score"] > 0
    before = load_model(tmp_path / "first", "regression")
    model, after = (load_model(tmp_path / "second", name) for name in ("score_sampler", "regression"))
    assert isinstance(after, RegressionWorldModel)
    assert isinstance(before, RegressionWorldModel)
    for name, tensor in before.regression.state_dict().items():
        if not name.startswith("expected_error"):
            torch.testing.assert_close(after.regression.state_dict()[name], tensor)
    features, actions = torch.randn(2, model.num_tokens, model.channels), torch.rand(2, 8, model.action_dim)
    noises = torch.randn(2, 2, *model.noise_shape)  # type: ignore[misc]
    one, other = (model.predict(features, actions, noise).features for noise in noises)
    assert not torch.equal(one, other)
