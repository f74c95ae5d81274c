"""The paper's model: what its parts promise, and that it generates where the future is open."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import pytest
import torch
import tyro
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.proper_scores import energy_score
from tests.conftest import tiny_config
from tests.synthetic_dataset import write_moving_square
from tests.two_futures import CHANNELS, LEFT, SIDE, Crossing, train
from world_models.encoders.features import EncoderConfig, FeatureEncoder
from world_models.encoders.state import StateEncoder
from world_models.heads.rgb_decoder import RGBDecoderConfig
from world_models.io import load_model, save_model
from world_models.mixer.regression import MixerRegression, RegressionConfig, token_loss
from world_models.rla_wm.autoencoder import RLAConfig, RLAutoencoder
from world_models.rla_wm.dynamics import RLAWMConfig, RLAWorldModel
from world_models.rla_wm.latent_flow import LatentFlow, LatentFlowConfig
from world_models.training.optimisation import OptimisationConfig
from world_models.training.train import TrainConfig
from world_models.training.train import train as train_world


@pytest.fixture(scope="module")
def trained() -> tuple[Crossing, RLAutoencoder, LatentFlow, MixerRegression]:
    torch.manual_seed(0)
    world, generator = Crossing(), torch.Generator().manual_seed(1)
    tokens = SIDE * SIDE
    rla = RLAutoencoder(RLAConfig(latents=2, latent_dim=4, width=48, depth=2, heads=4), tokens, CHANNELS)
    flow = LatentFlow(LatentFlowConfig(width=48, state_depth=1, flow_depth=2, heads=4), tokens, CHANNELS, 2, 2, 4)
    regression = MixerRegression(RegressionConfig(width=32, depth=2), tokens, CHANNELS, 2)

    def rebuild() -> Tensor:
        states, _, later, _ = world.sample(64, generator)
        return token_loss(rla(states, later), later)

    def match() -> Tensor:
        states, actions, later, _ = world.sample(128, generator)
        return flow.loss(*flow.read(states, actions), rla.encode(states, later), generator)

    def regress() -> Tensor:
        states, actions, later, _ = world.sample(64, generator)
        return regression.loss(regression(states, actions), states, later)

    train(rla, rebuild, 300)
    states, _, later, _ = world.sample(1024, generator)
    flow.fit_latents(rla.encode(states, later))
    train(flow, match, 350)
    train(regression, regress, 200)
    return world, rla, flow, regression


def test_samples_fall_into_both_futures_in_their_shares_and_none_between(trained) -> None:
    world, rla, flow, _ = trained
    generator = torch.Generator().manual_seed(2)
    states, actions, _, row = world.sample(1000, generator)
    noise = torch.randn(1000, 2, 4, generator=generator)
    samples = rla.decode(states, flow.sample(*flow.read(states, actions), noise, 8))
    left, right = (world.states(row, torch.full_like(row, column)) for column in (0, 2))
    gap = (left - right).abs().mean(dim=(1, 2))
    to_left, to_right = ((samples - future).abs().mean(dim=(1, 2)) / gap for future in (left, right))
    assert float((torch.minimum(to_left, to_right) > 0.25).float().mean()) < 0.02  # none between
    share = float((to_left < to_right).float().mean())
    # 95 % of a thousand draws lie within 3 points; the rest is what a short training leaves.
    assert share == pytest.approx(LEFT, abs=0.08)


def test_the_regression_has_a_worse_energy_score_by_a_wide_margin(trained) -> None:
    world, rla, flow, regression = trained
    generator = torch.Generator().manual_seed(3)
    states, actions, later, _ = world.sample(300, generator)
    hidden, chunk = flow.read(states, actions)
    draws = [
        rla.decode(states, flow.sample(hidden, chunk, torch.randn(300, 2, 4, generator=generator), 8))
        for _ in range(16)
    ]
    predicted = states + regression(states, actions).residual
    sampled = energy_score(torch.stack(draws, dim=1).flatten(2), later.flatten(1)).mean()
    regressed = energy_score(predicted.flatten(1)[:, None], later.flatten(1)).mean()
    assert float(sampled) < 0.75 * float(regressed)


def test_the_autoencoder_rests_at_first_and_reads_no_action(trained) -> None:
    fresh = RLAutoencoder(RLAConfig(latents=2, latent_dim=4, width=32, depth=1, heads=2), 9, 4)
    states, later = torch.randn(5, 9, 4), torch.randn(5, 9, 4)
    assert fresh.encode(states, later).shape == (5, 2, 4)
    assert torch.equal(fresh(states, later), states)  # the decoder's output is zero at first
    world, rla, _, _ = trained
    states, _, later, _ = world.sample(200, torch.Generator().manual_seed(4))
    error, still = (rla(states, later) - later).abs().mean(), (states - later).abs().mean()
    assert float(error) < 0.15 * float(still)


def test_a_chunk_of_any_length_conditions_and_padding_does_not(trained) -> None:
    _, _, flow, _ = trained
    states, actions = torch.randn(2, 9, 4), torch.randn(2, 4, 2)
    padded = actions.clone()
    padded[:, 3:] = 7.0
    for one, other in zip(
        flow.read(states, padded, torch.tensor([3, 3])), flow.read(states, actions[:, :3]), strict=True
    ):
        torch.testing.assert_close(one, other)
    assert not torch.allclose(flow.read(states, actions)[0], flow.read(states, -actions)[0])


def test_a_world_of_the_papers_model_opens_as_any_other(world: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = replace(
        tiny_config(),
        dynamics={
            "rla_wm": RLAWMConfig(RLAConfig(4, 4, 32, 1, 2, 8), LatentFlowConfig(32, 1, 1, 2, solver_steps=2)),
        },
    )
    model = RLAWorldModel(config, StateEncoder(FeatureEncoder(config.encoder)))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    for file in Path(world).glob("*"):
        if not file.name.startswith(("config", "model")):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    save_model(tmp_path, model)
    loaded = load_model(tmp_path, "rla_wm")
    assert loaded.stochastic
    features, actions = torch.randn(2, 16, 8), torch.rand(2, 8, 4)
    noises = torch.randn(2, 2, *loaded.noise_shape)  # type: ignore[misc]
    one, other = (loaded.predict(features, actions, noise).features for noise in noises)
    torch.testing.assert_close(one, model.eval().predict(features, actions, noises[0]).features)
    assert float((one - other).abs().mean()) > 0.01
    env = gym.make_vec("RLAWM-v0", num_envs=2, world=str(tmp_path), dynamics="rla_wm", task=None)
    observation, _ = env.reset(seed=0)
    observation, *_, info = env.step(env.action_space.sample())
    assert observation.shape == (2, 16, 8)
    assert bool((info["uncertainty"] > 0).all())
    env.close()


def test_the_energy_score_is_proper_and_equals_the_distance_of_one_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(4000, 1, generator=generator)
    scores = {
        scale: float(energy_score(scale * torch.randn(4000, 32, 1, generator=generator), truth).mean())
        for scale in (0.01, 0.5, 1.0, 2.0)
    }
    assert min(scores, key=scores.__getitem__) == 1.0
    assert scores[1.0] == pytest.approx(1 / math.sqrt(math.pi), rel=0.03)  # CRPS of a Gaussian, in expectation
    one = torch.randn(5, 1, 3, generator=generator)
    torch.testing.assert_close(energy_score(one, torch.zeros(5, 3)), one[:, 0].norm(dim=1))


def test_the_papers_preset_trains_over_a_local_checkpoint(tmp_path: Path) -> None:
    """The flags of `make world-paper` with smaller networks, three iterations and random DINOv2 weights in a file."""
    makefile = (Path(__file__).parent.parent / "Makefile").read_text().replace("\\\n", " ")
    (preset,) = (line.split(":=")[1].split() for line in makefile.splitlines() if line.startswith("PAPER :="))
    config: TrainConfig = tyro.cli(
        TrainConfig, args=["--data", str(tmp_path / "data"), "--out", str(tmp_path / "world"), *preset]
    )
    assert config.rla_wm.autoencoder.horizon == 100
    assert config.encoder.channels is None
    write_moving_square(tmp_path / "data")
    arguments: dict[str, int] = {"depth": 1, "embed_dim": 48, "num_heads": 2}
    encoder = EncoderConfig("vit_small_patch14_dinov2.lvd142m", arguments, 56, pretrained=False, channels=None)
    save_file(FeatureEncoder(encoder).backbone.state_dict(), tmp_path / "weights.safetensors")
    few = OptimisationConfig(3, batch_size=4, warmup=1, validate_every=10, bf16=False)
    small = RLAWMConfig(
        replace(config.rla_wm.autoencoder, width=32, depth=2, heads=2),
        replace(config.rla_wm.flow, width=32, state_depth=1, flow_depth=1, heads=2),
    )
    metrics = train_world(
        replace(
            config, device="cpu", threads=1, demonstrations=2, rla_wm=small, rgb_decoder=RGBDecoderConfig(16),
            encoder=replace(encoder, checkpoint=str(tmp_path / "weights.safetensors")), rla_optimisation=few,
            latent_flow_optimisation=few, rgb_optimisation=few, error_optimisation=few,
        )
    )  # fmt: skip
    assert metrics["rla"]["iterations"] == metrics["latent_flow"]["iterations"] == 3
    model = load_model(tmp_path / "world", "rla_wm")
    assert (model.num_tokens, model.channels) == (17, 48)
    assert model.noise_shape == (32, 64)
