"""World models through their public interface: shapes, save and load, determinism, errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.conftest import tiny_config
from world_models.data.demonstrations import Demonstrations
from world_models.data.quantisation import dequantise, quantise
from world_models.encoders.features import EncoderConfig, FeatureEncoder
from world_models.encoders.proprioception import ProprioceptionToken, tile, untile, with_change
from world_models.encoders.state import StateEncoder
from world_models.heads.rgb_decoder import RGBDecoder, RGBDecoderConfig
from world_models.io import load_encoder, load_model, load_world, save_model, world_folder
from world_models.layers.samplers import euler
from world_models.mixer.blocks import Mixer
from world_models.mixer.dynamics import ResidualFlowWorldModel
from world_models.mixer.latent_projection import LatentProjection
from world_models.mixer.regression import MixerRegression, RegressionConfig
from world_models.mixer.residual_flow import ResidualFlow, ResidualFlowConfig
from world_models.open_loop import open_loop
from world_models.training.calibration import fit_power_law


@pytest.mark.parametrize("dynamics", ["residual_flow", "regression"])
def test_predict_and_decode_shapes(tiny_world_folder: Path, dynamics: str) -> None:
    model = load_model(tiny_world_folder, dynamics)
    rgb = torch.randint(0, 256, (3, 40, 56, 3), dtype=torch.uint8)
    features = model.encode(rgb)
    assert features.shape == (3, model.num_tokens, model.channels)
    assert features.dtype == torch.float32
    noise = torch.randn(3, *model.noise_shape) if model.noise_shape else None
    for length in (1, 8):
        predicted, error, uncertainty = model.predict(features, torch.rand(3, length, 4), noise)
        assert predicted.shape == features.shape
        assert not torch.equal(predicted, features)
        assert error.shape == features.shape[:2]
        assert uncertainty.shape == (3,)
        assert bool((error > 0).all())
        assert bool((uncertainty > 0).all())
    frames = model.decode(features)
    assert frames.shape == (3, 32, 32, 3)
    assert frames.dtype == torch.uint8


def test_prediction_depends_on_noise_and_actions_and_on_nothing_else(tiny_world_folder: Path) -> None:
    model = load_model(tiny_world_folder)
    features, actions, noise = torch.randn(2, 16, 8), torch.rand(2, 8, 4), torch.randn(2, 4, 4)
    first = model.predict(features, actions, noise).features
    assert torch.equal(first, model.predict(features, actions, noise).features)
    assert not torch.equal(first, model.predict(features, actions, noise + 1).features)
    assert not torch.equal(first, model.predict(features, -actions, noise).features)
    alone = model.predict(features[1:], actions[1:], noise[1:]).features
    torch.testing.assert_close(first[1:], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dynamics", ["residual_flow", "regression"])
def test_many_states_are_predicted_as_few_are(
    tiny_world_folder: Path, dynamics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_world_folder, dynamics)
    features, actions, error = torch.randn(5, 16, 8), torch.rand(5, 8, 4), torch.rand(5, 16)
    noise = torch.randn(5, *model.noise_shape) if model.noise_shape else None
    at_once = model.predict(features, actions, noise, error=error)
    monkeypatch.setattr("world_models.base.CPU_ROWS", 2)
    for mine, theirs in zip(model.predict(features, actions, noise, error=error), at_once, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dynamics", ["residual_flow", "regression"])
def test_a_chunk_may_take_several_predictions(tiny_world_folder: Path, dynamics: str) -> None:
    whole, parts = (load_model(tiny_world_folder, dynamics, prediction_length=length) for length in (None, 3))
    features, actions = torch.randn(2, 16, 8), torch.rand(2, 8, 4)
    noise = torch.randn(2, *parts.noise_shape) if parts.noise_shape else None
    assert parts.noise_shape in (None, (3 * 4, 4))
    by_hand, error = features, None
    for number, (first, last) in enumerate(((0, 3), (3, 6), (6, 8))):
        part_noise = None if noise is None else noise[:, 4 * number : 4 * number + 4]
        by_hand, error, uncertainty = whole.predict(by_hand, actions[:, first:last], part_noise, error=error)
    for mine, theirs in zip(parts.predict(features, actions, noise), (by_hand, error, uncertainty), strict=True):
        torch.testing.assert_close(mine, theirs)
    short = parts.predict(features, actions[:, :2], noise).features
    torch.testing.assert_close(short, whole.predict(features, actions[:, :2], noise).features)
    with pytest.raises(ValueError, match="prediction_length=9 must be between 1 and 8"):
        load_model(tiny_world_folder, dynamics, prediction_length=9)


@pytest.mark.parametrize("shape", [(2, 9, 4), (2, 8, 5), (2, 32), (2, 0, 4)])
def test_wrong_actions_are_named(tiny_world_folder: Path, shape: tuple[int, ...]) -> None:
    model = load_model(tiny_world_folder)
    with pytest.raises(ValueError, match=r"this world takes \(B, k, 4\)"):
        model.predict(torch.randn(2, 16, 8), torch.zeros(shape), torch.randn(2, 4, 4))


def test_a_world_holds_both_dynamics_and_survives_a_round_trip(tiny_world_folder: Path, tmp_path: Path) -> None:
    flow = load_model(tiny_world_folder, "residual_flow")
    save_model(tmp_path, flow)
    with pytest.raises(ValueError, match="regression"):
        load_model(tmp_path, "regression")
    save_model(tmp_path, load_model(tiny_world_folder, "regression"))
    for dynamics in ("residual_flow", "regression"):
        before, after = load_model(tiny_world_folder, dynamics), load_model(tmp_path, dynamics)
        for name, tensor in before.state_dict().items():
            assert torch.equal(tensor, after.state_dict()[name]), name
    assert not list(tmp_path.glob("*.tmp"))


def test_half_precision_on_disk_stays_close(tiny_world_folder: Path, tmp_path: Path) -> None:
    model = load_model(tiny_world_folder)
    save_model(tmp_path / "half", model, torch.float16)
    half = load_model(tmp_path / "half")
    arguments = torch.randn(2, 16, 8), torch.rand(2, 8, 4), torch.randn(2, 4, 4)
    torch.testing.assert_close(
        half.predict(*arguments).features, model.predict(*arguments).features, atol=2e-2, rtol=1e-2
    )
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 0.7 * (
        tiny_world_folder / "model.safetensors"
    ).stat().st_size


def test_encoder_alone_equals_the_models(tiny_world_folder: Path) -> None:
    rgb = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    encoder, model = load_encoder(tiny_world_folder), load_model(tiny_world_folder)
    assert torch.equal(encoder(rgb), model.encode(rgb))
    assert encoder.fingerprint() == model.encoder.fingerprint()


def test_unknown_world_and_other_format_are_named(tmp_path: Path, tiny_world_folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="rla-gym train"):
        world_folder(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="nobody/nothing"):
        world_folder("nobody/nothing")
    with pytest.raises(ValueError, match="loaded in float32"):
        save_model(tmp_path / "reduced", load_model(tiny_world_folder, precision="bfloat16"))
    with pytest.raises(ValueError, match="unknown dynamics 'magic'"):
        load_world(tiny_world_folder, dynamics="magic")
    config = json.loads((tiny_world_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(ValueError, match="format 6"):
        load_model(tmp_path)


def test_frames_of_a_wrong_kind_are_named() -> None:
    encoder = FeatureEncoder(tiny_config().encoder)
    with pytest.raises(ValueError, match="uint8 of shape"):
        encoder(torch.rand(2, 32, 32, 3))
    with pytest.raises(ValueError, match="uint8 of shape"):
        encoder(torch.zeros(32, 32, 3, dtype=torch.uint8))


def test_encoder_loads_a_local_checkpoint_through_timm(tmp_path: Path) -> None:
    plain = EncoderConfig("vit_tiny_patch16_224", {"depth": 1}, image_size=32, pretrained=False, channels=None)
    source = FeatureEncoder(plain)
    # With a classifier, as such files have one.
    head = {"head.weight": torch.zeros(1000, 192), "head.bias": torch.zeros(1000)}
    save_file({**source.backbone.state_dict(), **head}, tmp_path / "weights.safetensors")
    loaded = FeatureEncoder(
        EncoderConfig(
            "vit_tiny_patch16_224", {"depth": 1}, 32, False, str(tmp_path / "weights.safetensors"), channels=16
        )
    )
    for name, tensor in source.backbone.state_dict().items():
        assert torch.equal(tensor, loaded.backbone.state_dict()[name]), name
    batches = [torch.randint(0, 256, (32, 32, 32, 3), dtype=torch.uint8)]
    loaded.fit_projection(batches)
    loaded.fit_statistics(batches)
    features = loaded(batches[0])
    assert features.shape == (32, 4, 16)
    torch.testing.assert_close(features.mean(dim=(0, 1)), torch.zeros(16), atol=1e-3, rtol=0)
    torch.testing.assert_close(features.std(dim=(0, 1)), torch.ones(16), atol=2e-2, rtol=0)


def test_encoder_takes_convolutional_and_distilled_vit_backbones() -> None:
    maps = EncoderConfig("tf_efficientnet_lite0", {"out_indices": [3]}, 64, pretrained=False, channels=8)
    encoder = FeatureEncoder(maps)
    assert encoder(torch.zeros(1, 64, 64, 3, dtype=torch.uint8)).shape == (1, 16, 8)
    dino = EncoderConfig("vit_small_patch14_dinov2", {"depth": 1}, 56, pretrained=False, channels=None)
    assert FeatureEncoder(dino).num_tokens == 16


def test_unknown_backbone_and_missing_checkpoint_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no backbone 'vit_nonsense'"):
        FeatureEncoder(EncoderConfig("vit_nonsense"))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        FeatureEncoder(EncoderConfig(checkpoint=str(tmp_path / "none.pth")))


def test_latent_projection_finds_what_moves_and_rests_at_zero() -> None:
    torch.manual_seed(0)
    projection = LatentProjection(16, 8, latents=4, latent_dim=4)
    # Residuals of 16 dimensions inside the 128 of a state: as many as the latent action has.
    motions = torch.randn(300, 16) @ torch.randn(16, 128)
    projection.fit(motions[:200].view(-1, 16, 8))
    states = torch.randn(100, 16, 8)
    later = states + motions[200:].view(-1, 16, 8)
    latent = projection.encode(states, later)
    assert latent.shape == (100, 4, 4)
    torch.testing.assert_close(states + projection.decode(latent), later, atol=1e-3, rtol=1e-3)
    assert projection.encode(states, states).eq(0).all()
    # Orthonormal: an error of the latent action is the error of the state.
    noise = torch.randn(100, 4, 4)
    torch.testing.assert_close(projection.decode(noise).flatten(1).norm(dim=1), noise.flatten(1).norm(dim=1))
    with pytest.raises(ValueError, match="more than the 16 numbers"):
        LatentProjection(2, 8, latents=8, latent_dim=4)


@pytest.mark.parametrize("mixing", ["positions", "attention"])
def test_mixers_start_alike_and_follow_their_condition(mixing: str) -> None:
    torch.manual_seed(0)
    mixer = Mixer(6, 5, 32, 2, modulated=True, mixing=mixing)  # type: ignore[arg-type]
    tokens, condition = torch.randn(3, 6, 5), torch.randn(3, 32)
    assert torch.equal(mixer(tokens, condition), mixer(tokens, -condition))  # gates are closed at first
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    assert not torch.allclose(mixer(tokens, condition), mixer(tokens, -condition))
    changed = tokens.clone()
    changed[:, 0] += torch.randn(5)
    assert bool((mixer(changed, condition) - mixer(tokens, condition))[:, 1:].abs().amax(dim=2).gt(0).all())
    with pytest.raises(ValueError, match="unknown mixing"):
        Mixer(6, 5, 32, 1, mixing="magic")  # type: ignore[arg-type]


def test_proprioception_fills_a_token_and_comes_back() -> None:
    values = torch.randn(50, 6) * 3 + 1
    token = ProprioceptionToken(3, 20)
    token.fit(values)
    made = token(values)
    assert made.shape == (50, 1, 20)
    torch.testing.assert_close(untile(made, 6), (values - values.mean(dim=0)) / values.std(dim=0))
    torch.testing.assert_close(token.values(made), values)
    assert made[..., 18:].eq(0).all()
    torch.testing.assert_close(tile(untile(made, 6), 20), made)
    with pytest.raises(ValueError, match=r"takes \(B, 6\)"):
        token(values[:, :3])
    with pytest.raises(ValueError, match="do not fit 8 channels"):
        ProprioceptionToken(5, 8)


def test_nothing_has_changed_where_an_episode_begins() -> None:
    values = torch.tensor([[1.0], [3.0], [10.0], [11.0]])
    changes = with_change(values, torch.tensor([True, False, True, False]))
    assert changes[:, 1].tolist() == [0.0, 2.0, 0.0, 1.0]


def test_a_world_with_proprioception_needs_it_and_one_from_video_alone_refuses_it(
    tiny_world_folder: Path, proprioceptive_world: str
) -> None:
    rgb, values = torch.zeros(2, 32, 32, 3, dtype=torch.uint8), torch.randn(2, 8)
    video_alone, model = load_model(tiny_world_folder), load_model(Path(proprioceptive_world))
    assert (video_alone.num_tokens, model.num_tokens) == (16, 17)
    state = model.encode(rgb, values)
    assert state.shape == (2, 17, 8)
    assert torch.equal(state[:, :16], video_alone.encode(rgb))
    torch.testing.assert_close(model.read_proprioception(state), values, atol=1e-5, rtol=1e-5)
    noise = torch.randn(2, *model.noise_shape)  # type: ignore[misc]
    assert model.predict(state, torch.rand(2, 8, 4), noise).features.shape == (2, 17, 8)
    assert model.decode(state).shape == (2, 32, 32, 3)
    with pytest.raises(ValueError, match=r"give \(B, 8\) values"):
        model.encode(rgb)
    with pytest.raises(ValueError, match="video alone"):
        video_alone.encode(rgb, values)
    assert load_encoder(proprioceptive_world).fingerprint() != load_encoder(tiny_world_folder).fingerprint()


def test_euler_is_exact_for_a_straight_flow_and_converges_for_a_curved_one() -> None:
    data, noise = torch.randn(3, 4, 4), torch.randn(3, 4, 4)
    for steps in (1, 3):
        torch.testing.assert_close(euler(lambda x, time: noise - data, noise, steps), data, atol=1e-5, rtol=1e-5)
    # dx/dt = x from t = 1 to 0 shrinks by e.
    errors = [float((euler(lambda x, time: x, noise, n) - noise / np.e).abs().max()) for n in (4, 16, 64)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    with pytest.raises(ValueError, match="at least 1"):
        euler(lambda x, time: x, noise, 0)


def test_one_solver_step_gives_the_mean_and_more_give_samples() -> None:
    torch.manual_seed(0)
    flow = ResidualFlow(
        ResidualFlowConfig(width=32, base_depth=1, flow_depth=1, latents=2, latent_dim=2), 4, 8, action_dim=1
    )
    with torch.no_grad():
        context = flow.context(flow.base(torch.zeros(64, 4, 8), torch.zeros(64, 2, 1)))
    optimiser = torch.optim.Adam(flow.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        # Nothing tells which of the two it is.
        latent = (torch.randint(0, 2, (64, 1, 1), generator=generator) * 4.0 - 2.0).expand(64, 2, 2)
        loss = flow.loss(context, latent, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        flow.update_latent_scale(lambda power: power)
    flow.eval().requires_grad_(False)
    noise = torch.randn(64, 2, 2, generator=generator)
    assert flow.sample(context, noise, 1).abs().mean() < 0.4
    samples = flow.sample(context, noise, 16)
    assert 1.5 < samples.abs().mean() < 2.5
    assert 0.1 < (samples > 0).float().mean() < 0.9


def test_the_flow_does_not_train_its_base_predictor(tiny_world_folder: Path) -> None:
    model = load_model(tiny_world_folder, "residual_flow")
    assert isinstance(model, ResidualFlowWorldModel)
    flow = model.residual_flow.train().requires_grad_(True)
    predicted = flow.base(torch.randn(4, 16, 8), torch.rand(4, 8, 4))
    flow.loss(flow.context(predicted), torch.randn(4, 4, 4), torch.Generator().manual_seed(0)).backward()
    assert all(parameter.grad is None for parameter in flow.base.parameters())
    assert any(parameter.grad is not None for parameter in flow.flow.parameters())


def test_padded_steps_of_a_chunk_do_not_matter() -> None:
    torch.manual_seed(0)
    config = tiny_config(proprioception=2)
    model = ResidualFlowWorldModel(config, StateEncoder(FeatureEncoder(config.encoder), 2))
    actions, values, tokens = torch.rand(2, 8, 4), torch.randn(2, 4), torch.randn(2, 16, 8)
    lengths = torch.tensor([3, 8])
    changed = actions.clone()
    changed[0, 3:] = 7.0
    encode = model.base_predictor.chunk_encoder
    encoded = encode(actions, lengths, values, tokens)
    for one, other in zip(encoded, encode(changed, lengths, values, tokens), strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(encoded, encode(actions[:1, :3], None, values[:1], tokens[:1]), strict=True):
        torch.testing.assert_close(one[:1], other)


def test_predicted_proprioception_depends_on_what_is_in_the_way() -> None:
    """Two-way grasps: a value stays where it is if token 3 says so; learned within seconds, from tokens alone."""
    torch.manual_seed(0)
    stage = MixerRegression(RegressionConfig(32, 1), num_tokens=17, channels=8, action_dim=4, proprioception_dim=4)
    optimiser = torch.optim.Adam(stage.parameters(), lr=3e-3)
    for _ in range(300):
        features, actions = torch.randn(64, 17, 8), torch.zeros(64, 8, 4)
        blocked = (features[:, 3, 0] > 0).float()
        target = features.clone()
        target[:, -1] += 1.0 - blocked[:, None]
        loss = stage.proprioception_loss(features, actions, torch.full((64,), 8), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    free, contact = stage(features, actions).proprioception.unbind(1)
    present = untile(features[:, -1:], 4)
    assert (contact - present - (1.0 - blocked[:, None])).abs().mean() < 0.15
    assert (free - present - (1.0 - blocked[:, None])).abs().mean() > 0.3


def test_open_loop_feeds_predictions_back(tiny_world_folder: Path) -> None:
    model = load_model(tiny_world_folder, "regression")
    features, actions = torch.randn(2, 16, 8), torch.rand(2, 3, 8, 4)
    states, error, uncertainty = open_loop(model, features, actions)
    assert states.shape == (2, 3, 16, 8)
    assert error.shape == (2, 3, 16)
    assert uncertainty.shape == (2, 3)
    third = model.predict(states[:, 1], actions[:, 2], error=error[:, 1])
    for fed_back, alone in zip((states, error, uncertainty), third, strict=True):
        torch.testing.assert_close(fed_back[:, 2], alone)


def test_calibration_follows_a_power_law_and_never_turns_the_ranking_round() -> None:
    expected = torch.linspace(0.1, 2.0, 100)
    factor, power = fit_power_law(expected, 3 * expected**0.7)
    assert float(factor) == pytest.approx(3.0, rel=1e-3)
    assert float(power) == pytest.approx(0.7, rel=1e-3)
    factor, power = fit_power_law(0.3 + 1e-6 * expected, expected)
    assert float(factor * 0.3**power) == pytest.approx(float(expected.mean()), rel=1e-2)
    factor, power = fit_power_law(expected, 1 / expected)
    assert float(power) > 0
    assert float((factor * expected**power).mean()) == pytest.approx(float((1 / expected).mean()), rel=1e-3)


def test_demonstrations_hold_their_last_frame_and_round_trip(tmp_path: Path) -> None:
    features = [torch.randn(5, 4, 3), torch.randn(3, 4, 3)]
    actions = [torch.rand(5, 2), torch.rand(3, 2)]
    demonstrations = Demonstrations.stack(features, actions)
    late = demonstrations.at(torch.tensor([1, 1, 0]), torch.tensor([2, 99, -1]))
    torch.testing.assert_close(late[0], late[1])
    torch.testing.assert_close(late[2], features[0][0].half().float())
    torch.testing.assert_close(demonstrations.goal()[1], features[1][-1].half().float())
    assert demonstrations.actions[1, 3:].eq(0).all()
    demonstrations.save(tmp_path)
    loaded = Demonstrations.load(tmp_path)
    assert torch.equal(loaded.actions, demonstrations.actions)
    assert torch.equal(loaded.lengths, demonstrations.lengths)
    with pytest.raises(FileNotFoundError, match="rla-gym train"):
        Demonstrations.load(tmp_path / "none")
    with pytest.raises(ValueError, match="do not agree"):
        Demonstrations(demonstrations.features, demonstrations.actions[:1], demonstrations.lengths)


def test_rgb_decoder_refuses_sizes_that_do_not_fit() -> None:
    assert RGBDecoder(RGBDecoderConfig(16), 16, 8, 64)(torch.randn(2, 16, 8)).shape == (2, 3, 64, 64)
    with pytest.raises(ValueError, match="square grid"):
        RGBDecoder(RGBDecoderConfig(16), 15, 8, 64)
    assert RGBDecoder(RGBDecoderConfig(16), 16, 8, 50)(torch.randn(2, 16, 8)).shape == (2, 3, 50, 50)


def test_models_say_whether_noise_matters(tiny_world_folder: Path) -> None:
    """``stochastic`` is a promise in both directions: noise changes a sample, or there is none to give."""
    features, actions = torch.randn(2, 16, 8), torch.rand(2, 8, 4)
    for dynamics, stochastic in (("residual_flow", True), ("regression", False)):
        model = load_model(tiny_world_folder, dynamics)
        assert model.stochastic is stochastic
        if not stochastic:
            assert model.noise_shape is None
            assert torch.equal(model.predict(features, actions).features, model.predict(features, actions).features)
            continue
        noises = torch.randn(2, 2, *model.noise_shape)  # type: ignore[misc]
        one, other = (model.predict(features, actions, noise).features for noise in noises)
        assert float((one - other).abs().mean()) > 0
        with pytest.raises(ValueError, match="need noise"):
            model.predict(features, actions)


@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 100), frames=st.integers(1, 20), constant=st.booleans())
def test_states_in_eight_bits_differ_by_less_than_a_level(seed: int, scale: float, frames: int, constant: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = scale * torch.randn(frames, 3, 4, generator=generator)
    if constant:
        states = states[:1].expand(frames, 3, 4)
    restored = dequantise(*quantise(states))
    level = (states.amax(dim=0) - states.amin(dim=0)) / 254
    half_precision = 1e-3 * states.abs().amax(dim=0)
    assert bool(((restored.float() - states).abs() <= 0.5 * level + half_precision + 1e-6).all())
