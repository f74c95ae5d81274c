"""Part of a sampler's noise stays the same through an episode: what is hidden in a scene does not change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rla_gym import RLAWMVectorEnv
from tests.conftest import add_detector, save_tiny_world
from tests.dreams import actions_for, assert_same, rollout
from world_models.base import WorldModel
from world_models.io import load_encoder, load_model, read_config, save_model
from world_models.mixer.dynamics import ScoreSamplerWorldModel
from world_models.mixer.score_sampler import ScoreSamplerConfig
from world_models.open_loop import open_loop, rollout_noise

NOISE = 6


def sampler_world(folder: Path, lasting: int) -> Path:
    """The tiny world with a sampler of random weights, large enough for its noise to be seen."""
    save_tiny_world(folder, spread=0.4)
    config, encoder = read_config(folder), load_encoder(folder)
    sizes = {**config.dynamics, "score_sampler": ScoreSamplerConfig(16, 1, NOISE, lasting)}
    torch.manual_seed(1)
    model = ScoreSamplerWorldModel(replace(config, dynamics=sizes), encoder)
    for parameter in model.score_sampler.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    save_model(folder, model)
    return add_detector(folder)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sampler_world(tmp_path_factory.mktemp("half"), NOISE // 2)


@pytest.fixture(scope="module")
def all_of_it(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sampler_world(tmp_path_factory.mktemp("all"), NOISE)


def env_of(folder: Path, num_envs: int = 3, **more: object) -> RLAWMVectorEnv:
    return RLAWMVectorEnv(num_envs, world=folder, dynamics="score_sampler", initial_states="first", **more)


@pytest.mark.parametrize("prediction_length", [8, 3])
def test_a_rollouts_noise_lasts_in_its_first_numbers_alone(half: Path, prediction_length: int) -> None:
    model = load_model(half, "score_sampler", prediction_length=prediction_length)
    noise = rollout_noise(model, 2, 5, torch.Generator().manual_seed(0))
    assert noise is not None
    predictions = -(-8 // prediction_length)
    assert noise.shape == (2, 5, predictions, NOISE)
    lasting, fresh = noise.flatten(1, 2).split(NOISE // 2, dim=2)
    assert lasting.eq(lasting[:, :1]).all()
    assert len(fresh.unique()) == fresh.numel()
    assert not lasting[0].eq(lasting[1]).any()


def lasting_seen(model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The noise of every prediction that follows."""
    seen: list[torch.Tensor] = []
    predict = type(model)._predict_once

    def watched(self: WorldModel, features, actions, noise, *rest):  # type: ignore[no-untyped-def]
        seen.append(noise[:, 0].clone())
        return predict(self, features, actions, noise, *rest)

    monkeypatch.setattr(type(model), "_predict_once", watched)
    return seen


def test_an_environments_noise_lasts_until_the_episode_ends(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = env_of(half, max_chunks=3, terminate_on_success=False, autoreset_mode="SameStep")
    seen = lasting_seen(load_model(half, "score_sampler"), monkeypatch)
    rollout(env, actions_for(env, 6), seed=0)
    noise = torch.stack(seen)  # (steps, slots, numbers)
    assert noise.shape == (6, 3, NOISE)
    for episode in (noise[:3], noise[3:]):
        assert episode[:, :, : NOISE // 2].eq(episode[:1, :, : NOISE // 2]).all()
        assert not episode[0, :, NOISE // 2 :].eq(episode[1, :, NOISE // 2 :]).any()
    assert not noise[0].eq(noise[3]).any()
    env.close()


def test_further_draws_have_hidden_numbers_of_their_own(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = env_of(half, draws=3)
    seen = lasting_seen(load_model(half, "score_sampler"), monkeypatch)
    rollout(env, actions_for(env, 1), seed=0)
    assert len(seen) == 3
    assert len(torch.stack(seen).unique()) == 3 * 3 * NOISE
    env.close()


def test_dreams_are_reproducible_in_any_number_of_slots_and_after_a_restore(half: Path) -> None:
    one, many = env_of(half, 2), env_of(half, 5)
    actions = actions_for(many, 4)
    few = rollout(one, actions[:, :2], seed=3)
    for left, right in zip(few, rollout(many, actions, seed=3), strict=True):
        np.testing.assert_allclose(left[0], right[0][:2], atol=1e-4)
    one.reset(seed=3)
    one.step(actions[0, :2])
    state = one.get_state()
    onward = [one.step(action) for action in actions[1:, :2]]
    one.set_state(state)
    assert_same(tuple(onward), tuple(one.step(action) for action in actions[1:, :2]))
    one.close()
    many.close()


def test_episodes_differ_even_if_nothing_but_what_lasts_is_drawn(all_of_it: Path) -> None:
    model = load_model(all_of_it, "score_sampler")
    start = torch.randn(1, model.num_tokens, model.channels).expand(4, -1, -1)
    actions = torch.zeros(4, 3, 8, model.action_dim)
    states = open_loop(model, start, actions).features
    assert (states[1:] - states[:1]).abs().amax(dim=(2, 3)).gt(1e-3).all()


@pytest.mark.parametrize("lasting", [-1, NOISE + 1])
def test_more_than_there_is_cannot_last(lasting: int) -> None:
    with pytest.raises(ValueError, match=f"lasting={lasting} must be between 0 and {NOISE}"):
        ScoreSamplerConfig(16, 1, NOISE, lasting)
